//! How fast a tokenizer encodes a corpus on one thread.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::clock::{Took, measure};
use crate::digest::Digest;
use crate::fs;
use crate::token::TokenId;
use crate::tokenize::{self, Config, Tokenizer};

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// A `tokenizer.json`.
    pub tokenizer: PathBuf,
    /// JSON Lines, each an object with a string `text`.
    pub corpus: PathBuf,
    /// Documents are read until the next would exceed this many bytes of text.
    pub text_bytes: u64,
    /// Times that all documents are encoded; the first finds caches empty.
    pub passes: usize,
    /// Who encodes.
    pub encoder: Encoder,
}

/// Who encodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoder {
    /// This program.
    Own,
    /// The `tokenizers` library, as the reference.
    Library,
}

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The path taken: a family with its instructions, or `library`.
    pub path: String,
    /// Documents encoded.
    pub documents: u64,
    /// Bytes of text.
    pub bytes: u64,
    /// Ids.
    pub tokens: u64,
    /// BLAKE3 of all ids in order, as little-endian u32.
    pub digest: Digest,
    /// Loading the tokenizer.
    pub load: Took,
    /// Encoding, pass by pass.
    pub passes: Vec<Pass>,
}

/// One pass over the documents.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Pass {
    /// Its time.
    #[serde(flatten)]
    pub took: Took,
    /// Bytes of text, in millions, a second of [`Took::cpu_seconds`].
    pub megabytes_per_cpu_second: f64,
}

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read.
    #[error(transparent)]
    File(#[from] fs::Error),
    /// The tokenizer is wrong, or refuses a text.
    #[error(transparent)]
    Tokenize(#[from] tokenize::Error),
    /// A line is no document.
    #[error("`{}`, line {line}: expected an object with a string `text`", path.display())]
    Line {
        /// The corpus.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What the parser said.
        #[source]
        source: serde_json::Error,
    },
    /// A document cannot be encoded.
    #[error("cannot encode document {document}")]
    Document {
        /// From 1.
        document: usize,
        /// Why.
        #[source]
        source: tokenize::Error,
    },
}

/// Measures encoding on this thread.
///
/// The ids of each document are made in the same memory and dropped, as a program
/// does that writes them out as it goes; they are hashed in a pass of its own.
pub fn run(options: &Options) -> Result<Report, Error> {
    let config = Config {
        file: Some(options.tokenizer.clone()),
        ..Config::default()
    };
    let (tokenizer, load) = measure(|| {
        let tokenizer = Tokenizer::from_file(&options.tokenizer, &config)?;
        match options.encoder {
            Encoder::Own => Ok(tokenizer),
            // It is loaded when it is first needed.
            Encoder::Library => {
                let loaded = tokenizer.encode_by_library("", &mut Vec::new());
                loaded.map(|()| tokenizer)
            }
        }
    });
    let tokenizer = tokenizer?;
    let documents = documents(&options.corpus, options.text_bytes)?;
    let bytes: u64 = documents.iter().map(|text| text.len() as u64).sum();
    let mut ids = Vec::new();
    let mut passes = Vec::new();
    for _ in 0..options.passes {
        let work = || each(&documents, &tokenizer, options.encoder, &mut ids, |_| {});
        let (result, took) = measure(work);
        result?;
        passes.push(Pass {
            took,
            megabytes_per_cpu_second: bytes as f64 / 1e6 / took.cpu_seconds,
        });
    }
    let (mut hasher, mut tokens) = (blake3::Hasher::new(), 0);
    each(&documents, &tokenizer, options.encoder, &mut ids, |ids| {
        tokens += ids.len() as u64;
        let bytes: Vec<u8> = ids.iter().flat_map(|id| id.0.to_le_bytes()).collect();
        hasher.update(&bytes);
    })?;
    Ok(Report {
        path: match options.encoder {
            Encoder::Own => tokenizer.path(),
            Encoder::Library => "library".into(),
        },
        documents: documents.len() as u64,
        bytes,
        tokens,
        digest: Digest(*hasher.finalize().as_bytes()),
        load,
        passes,
    })
}

fn each(
    documents: &[String],
    tokenizer: &Tokenizer,
    encoder: Encoder,
    ids: &mut Vec<TokenId>,
    mut see: impl FnMut(&[TokenId]),
) -> Result<(), Error> {
    for (index, text) in documents.iter().enumerate() {
        ids.clear();
        let result = match encoder {
            Encoder::Own => tokenizer.encode(text, ids),
            Encoder::Library => tokenizer.encode_by_library(text, ids),
        };
        result.map_err(|source| Error::Document {
            document: index + 1,
            source,
        })?;
        see(ids);
    }
    Ok(())
}

#[derive(Deserialize)]
struct Line {
    text: String,
}

fn documents(path: &Path, text_bytes: u64) -> Result<Vec<String>, Error> {
    let mut bytes = 0;
    let mut documents = Vec::new();
    for (index, line) in BufReader::new(fs::open(path)?).lines().enumerate() {
        let line = line.map_err(fs::Error::new("read", path))?;
        let Line { text } = serde_json::from_str(&line).map_err(|source| Error::Line {
            path: path.to_path_buf(),
            line: index + 1,
            source,
        })?;
        bytes += text.len() as u64;
        if text_bytes < bytes && !documents.is_empty() {
            break;
        }
        documents.push(text);
    }
    Ok(documents)
}

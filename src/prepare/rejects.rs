//! Dropped documents, kept in files: one a unit, JSON lines compressed with Zstandard.

use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Map, Value};

use crate::corpus::Corpus;
use crate::digest::Digest;
use crate::document::{DocumentId, Text};
use crate::fs;
use crate::manifest::{REJECTS, RejectsRecord};

/// What a file of rejects says of one document.
#[derive(Serialize)]
struct Line<'a> {
    /// The source file's name.
    file: &'a str,
    /// Its row in that file, from 0.
    row: u64,
    /// Why it was dropped.
    reason: &'a str,
    /// `text`, or `prefix` and `target`; normalised.
    #[serde(flatten)]
    text: Map<String, Value>,
}

/// Bytes that are compressed before they are written.
const BUFFER_BYTES: usize = 1 << 20;

/// A file of rejects while it is written; dropped without [`Rejects::finish`], it leaves nothing.
pub struct Rejects {
    path: PathBuf,
    name: String,
    encoder: zstd::Encoder<'static, Vec<u8>>,
    output: fs::Output,
    hasher: blake3::Hasher,
    documents: u64,
}

impl Rejects {
    /// Starts the file of a unit in the dataset's folder.
    pub fn create(folder: &Path, unit: usize) -> Result<Self, fs::Error> {
        let name = format!("unit-{unit:05}");
        let path = path(folder, &name);
        Ok(Self {
            encoder: zstd::Encoder::new(Vec::new(), 0).map_err(fs::Error::new("write", &path))?,
            output: fs::Output::create(&path)?,
            hasher: blake3::Hasher::new(),
            documents: 0,
            path,
            name,
        })
    }

    /// Appends a document.
    pub fn push(
        &mut self,
        corpus: &Corpus,
        id: DocumentId,
        reason: &str,
        text: &Text,
    ) -> Result<(), fs::Error> {
        let file = corpus.files.get(id.file as usize);
        let parts = match text {
            Text::Plain(text) => vec![("text", text)],
            Text::Example { prefix, target } => vec![("prefix", prefix), ("target", target)],
        };
        let parts = parts.into_iter();
        let line = Line {
            file: file.map_or("", |file| &file.name),
            row: id.row,
            reason,
            text: parts
                .map(|(key, text)| (key.into(), text.as_str().into()))
                .collect(),
        };
        let mut line = serde_json::to_vec(&line).unwrap_or_default();
        line.push(b'\n');
        self.documents += 1;
        self.encoder
            .write_all(&line)
            .map_err(fs::Error::new("write", &self.path))?;
        let ready = self.encoder.get_mut();
        if BUFFER_BYTES <= ready.len() {
            let ready = std::mem::take(ready);
            self.hasher.update(&ready);
            self.output.write_all(&ready)?;
        }
        Ok(())
    }

    /// Makes the file durable.
    pub fn finish(mut self) -> Result<RejectsRecord, fs::Error> {
        let rest = self
            .encoder
            .finish()
            .map_err(fs::Error::new("write", &self.path))?;
        self.hasher.update(&rest);
        self.output.write_all(&rest)?;
        self.output.publish()?;
        Ok(RejectsRecord {
            name: self.name,
            documents: self.documents,
            digest: Digest(*self.hasher.finalize().as_bytes()),
        })
    }
}

/// Where a file of rejects lies.
pub fn path(folder: &Path, name: &str) -> PathBuf {
    folder.join(REJECTS).join(format!("{name}.jsonl.zst"))
}

//! The tokenizer of a run: given, trained on the sources, or a checkpoint's own.

use std::path::Path;

use serde_json::json;

use super::{Error, purpose, to_json};
use crate::corpus::{self, Corpus};
use crate::digest::Digest;
use crate::document::Text;
use crate::fs;
use crate::manifest::Stage;
use crate::progress::{Progress, Unit};
use crate::recipe;
use crate::tokenize::{Config, Tokenizer};

/// Trains a tokenizer on a stage's sources, or finds the one trained before.
///
/// `folder` receives `tokenizer.json` and `tokenizer-origin.json`, the digest of
/// everything that decided it.
pub fn train(
    folder: &Path,
    config: &Config,
    stage: (Stage, &recipe::Stage),
    data_root: &Path,
    progress: &dyn Progress,
) -> Result<Tokenizer, Error> {
    let corpus = Corpus::resolve(&stage.1.sources, data_root, purpose(stage.0))?;
    let files: Vec<_> = corpus
        .files
        .iter()
        .map(|file| (&file.name, file.bytes))
        .collect();
    let origin = to_json(&json!({ "config": config, "sources": stage.1.sources, "files": files }));
    let (path, origin_path) = (
        folder.join("tokenizer.json"),
        folder.join("tokenizer-origin.json"),
    );
    if path.is_file() && fs::read(&origin_path).is_ok_and(|found| found == origin_line(&origin)) {
        return Ok(Tokenizer::from_file(&path, config)?);
    }
    let sample = config
        .train
        .as_ref()
        .map_or(0, |training| training.sample_bytes);
    let total = corpus.text_bytes().map(|bytes| bytes.min(sample));
    progress.start("tokenizer", total, Unit::Bytes);
    let mut texts = texts(&corpus, sample, progress);
    let tokenizer = Tokenizer::train(&mut texts, config)?;
    progress.finish();
    fs::remove_file(&origin_path)?;
    fs::write(&path, tokenizer.to_json())?;
    fs::write(&origin_path, &origin_line(&origin))?;
    Ok(tokenizer)
}

fn origin_line(origin: &[u8]) -> Vec<u8> {
    to_json(&json!({ "origin": Digest::of(origin) }))
}

type TextError = Box<dyn std::error::Error + Send + Sync>;

/// The first `sample` bytes of the corpus's documents.
fn texts<'a>(
    corpus: &'a Corpus,
    sample: u64,
    progress: &'a dyn Progress,
) -> impl Iterator<Item = Result<String, TextError>> + 'a {
    let mut seen = 0;
    let documents = corpus.documents(0..corpus.files.len());
    documents
        .take_while(move |document| {
            let before = seen;
            seen += document
                .as_ref()
                .map_or(0, |document| document.text.bytes() as u64);
            before < sample
        })
        .map(|document| {
            let document = document.map_err(|error: corpus::Error| Box::new(error) as TextError)?;
            progress.advance(document.text.bytes() as u64);
            Ok(match document.text {
                Text::Plain(text) => text,
                Text::Example { prefix, target } => prefix + &target,
            })
        })
}

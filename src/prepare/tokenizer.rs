//! The tokenizer of a run: given, trained on the sources, or a checkpoint's own.

use std::path::Path;

use serde_json::json;

use super::{Error, purpose, to_json};
use crate::corpus::{Corpus, File, Reach};
use crate::curate::{Curator, Rules};
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
    reach: &Reach,
    progress: &dyn Progress,
) -> Result<Tokenizer, Error> {
    let corpus = Corpus::resolve(&stage.1.sources, reach, purpose(stage.0))?;
    let files: Vec<_> = corpus
        .files
        .iter()
        .map(|file| (&file.name, file.bytes))
        .collect();
    let versions: Vec<_> = corpus.files.iter().filter_map(File::version).collect();
    let rules = stage.1.rules().of_texts();
    let mut origin = json!({ "config": config, "sources": stage.1.sources, "files": files });
    if rules != Rules::default()
        && let Some(origin) = origin.as_object_mut()
    {
        origin.insert("rules".into(), json!(rules));
    }
    if !versions.is_empty()
        && let Some(origin) = origin.as_object_mut()
    {
        origin.insert("versions".into(), json!(versions));
    }
    let origin = to_json(&origin);
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
    let curator = Curator::new(&rules, reach)?;
    let mut texts = texts(&corpus, &curator, sample, progress);
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

/// The first `sample` bytes of the documents that are kept, duplicates among them.
fn texts<'a>(
    corpus: &'a Corpus,
    curator: &'a Curator,
    sample: u64,
    progress: &'a dyn Progress,
) -> impl Iterator<Item = Result<String, TextError>> + 'a {
    let mut seen = 0;
    let kept = |document| -> Result<Option<Text>, TextError> {
        let judged = curator.judge(document)?;
        Ok(judged.reason.is_none().then_some(judged.document.text))
    };
    let documents = corpus.documents(0..corpus.files.len());
    let texts = documents.filter_map(move |document| match document {
        Ok(document) => kept(document).transpose(),
        Err(error) => Some(Err(error.into())),
    });
    texts
        .take_while(move |text| {
            let before = seen;
            seen += text.as_ref().map_or(0, |text| text.bytes() as u64);
            before < sample
        })
        .map(|text| {
            let text = text?;
            progress.advance(text.bytes() as u64);
            Ok(match text {
                Text::Plain(text) => text,
                Text::Example { prefix, target } => prefix + &target,
            })
        })
}

//! The proof: is this dataset whole, and is it what the recipe promises?
//!
//! Every check stands alone and says which file it looked at, so that one
//! damaged shard does not hide what is wrong with another. Nothing here trusts
//! the code that wrote the dataset: counts are taken again, masks are judged by
//! the paper's rule written out a second time, and text is decoded and compared.

mod drops;
mod files;
mod held;
mod notes;
mod online;
mod recount;
mod rows;
mod splits;
mod text;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::content::Content;
use crate::dataset::Dataset;
use crate::manifest::{self, Manifest, Split};
use crate::prepare::Origin;
use crate::progress::{Progress, Stop};
use crate::remote::Access;
use crate::{fs, pause, prepare};

/// What was found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The dataset.
    pub dataset: PathBuf,
    /// Its id, where its manifest is intact.
    pub digest: Option<crate::digest::Digest>,
    /// All checks, in order.
    pub checks: Vec<Check>,
    /// The digest of each split's rows, where the dataset is sound so far; any other
    /// reader of its files can take it again.
    pub content: BTreeMap<Split, Content>,
}

/// One thing that must hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What must hold.
    pub name: String,
    /// The file that was looked at, relative to the dataset.
    pub file: Option<String>,
    /// Whether it does.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// How a check ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", content = "detail", rename_all = "kebab-case")]
pub enum Outcome {
    /// It holds; the text says what was compared.
    Passed(String),
    /// It does not: what was expected, and what was found.
    Failed(String),
}

impl Report {
    /// How many checks hold.
    pub fn passed(&self) -> usize {
        self.checks.len() - self.failed()
    }

    /// How many do not.
    pub fn failed(&self) -> usize {
        self.checks
            .iter()
            .filter(|check| matches!(check.outcome, Outcome::Failed(_)))
            .count()
    }

    fn check(&mut self, name: &str, file: Option<&str>, result: Result<String, String>) {
        let outcome = match result {
            Ok(detail) => Outcome::Passed(detail),
            Err(detail) => Outcome::Failed(detail),
        };
        self.checks.push(Check {
            name: name.into(),
            file: file.map(String::from),
            outcome,
        });
    }
}

/// Which sources the text is compared with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sources {
    /// Those of the recipe.
    At {
        /// Where relative paths start; the data root used in preparing where it is absent.
        data_root: Option<PathBuf>,
        /// How those on other machines are reached.
        access: Access,
        /// Where duplicates are sorted; the dataset's folder where it is absent.
        temp_dir: Option<PathBuf>,
    },
    /// None: text is proved by the checksum of each document alone.
    Ignored,
}

/// Proves the dataset in `folder`, or says what is wrong with which file.
///
/// # Errors
/// Only where the folder is no sealed dataset, or a signal asked to stop; damage is a failed check.
///
/// `pause` is what its rows get when they are read, where that is not what its manifest says.
pub fn run(
    folder: &Path,
    pause: Option<&pause::Config>,
    sources: &Sources,
    progress: &dyn Progress,
    stop: &Stop,
) -> Result<Report, Error> {
    let mut report = Report {
        dataset: folder.to_path_buf(),
        digest: None,
        checks: Vec::new(),
        content: BTreeMap::new(),
    };
    let Some(manifest) = files::manifest(folder, &mut report)? else {
        return Ok(report);
    };
    files::tokenizer(folder, &manifest, &mut report);
    files::shards(folder, &manifest, progress, &mut report);
    files::rejects(folder, &manifest, &mut report);
    files::ledger(&manifest, &mut report);
    if 0 < report.failed() {
        return Ok(report); // Rows of a damaged dataset prove nothing.
    }
    let opened = Dataset::open(folder);
    let dataset = match (opened, pause) {
        (Ok(dataset), Some(pause)) => dataset.with_pause(pause.clone()),
        (opened, _) => opened,
    };
    let dataset = match dataset {
        Ok(dataset) => dataset,
        Err(error) => {
            report.check("the dataset opens", None, Err(chain(&error)));
            return Ok(report);
        }
    };
    splits::check(&dataset, &mut report);
    rows::check(&dataset, progress, stop, &mut report)?;
    online::check(&dataset, progress, stop, &mut report)?;
    rows::columns(&dataset, &mut report);
    let corpus = text::corpus(&dataset, sources, (progress, stop), &mut report)?;
    let temp_dir = match sources {
        Sources::At { temp_dir, .. } => temp_dir.as_deref(),
        Sources::Ignored => None,
    };
    let temp_dir = temp_dir.unwrap_or(folder);
    let curator = drops::curator(&dataset, &corpus, temp_dir, (progress, stop), &mut report)?;
    let sources = corpus
        .as_ref()
        .map(|(corpus, _)| corpus)
        .zip(curator.as_ref());
    drops::check(&dataset, sources, (progress, stop), &mut report)?;
    let files = corpus.as_ref().map(|(corpus, _)| corpus);
    notes::check(&dataset, files, stop, &mut report)?;
    text::check(&dataset, sources, progress, stop, &mut report)?;
    Ok(report)
}

/// Why the proof could not be attempted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] fs::Error),
    /// There is nothing to prove.
    #[error(transparent)]
    NotSealed(manifest::Error),
    /// There is no place for temporary files.
    #[error("cannot look for duplicates without a folder for temporary files")]
    Scratch(#[source] fs::Error),
    /// A signal asked to stop.
    #[error("stopped before the proof was complete")]
    Stopped,
}

/// An error with its causes, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// Where the sources were when the dataset was prepared.
fn origin(folder: &Path) -> Option<PathBuf> {
    let bytes = fs::read(&folder.join(prepare::ORIGIN)).ok()?;
    serde_json::from_slice::<Origin>(&bytes)
        .ok()
        .map(|origin| origin.data_root)
}

fn shard_path(folder: &Path, name: &str, ending: &str) -> PathBuf {
    folder
        .join(manifest::SHARDS)
        .join(format!("{name}.{ending}"))
}

/// Every shard record of a manifest.
fn shard_records(manifest: &Manifest) -> impl Iterator<Item = &manifest::ShardRecord> {
    manifest.splits.values().flat_map(|split| &split.shards)
}

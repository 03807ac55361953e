//! Curation of a whole corpus: what has to be read before the first document is judged.

use super::{Error, Job, ledger};
use crate::corpus::Corpus;
use crate::curate::{Curator, contamination, dedup};
use crate::digest::Digest;
use crate::fs;
use crate::manifest::ContaminationRecord;
use crate::progress::{Progress, Stop, Unit};

/// The evaluation sets that documents are compared with, before any text is read.
pub fn sets(job: &Job) -> Result<Vec<ContaminationRecord>, Error> {
    let Some(settings) = &job.recipe.decontaminate else {
        return Ok(Vec::new());
    };
    let sets = contamination::files(settings, job.reach)?.into_iter();
    let record = |(name, files)| ContaminationRecord {
        name,
        files,
        documents: 0,
        shown: Vec::new(),
    };
    Ok(sets.map(record).collect())
}

/// What judges the documents of a job.
///
/// Duplicates are found by whichever partition comes first; all would find the same.
pub fn curator(
    job: &Job,
    corpus: &Corpus,
    plan: Digest,
    progress: &dyn Progress,
    stop: &Stop,
) -> Result<Curator, Error> {
    let rules = job.recipe.rules();
    let curator = Curator::new(&rules, job.reach)?;
    for (name, found, short) in curator
        .pieces()
        .into_iter()
        .flat_map(|pieces| pieces.sets())
    {
        if 0 < *short {
            progress.note(&format!(
                "{short} of {} examples of `{name}` are too short to be looked for",
                found + short
            ));
        }
    }
    if rules.dedup.is_none() {
        return Ok(curator);
    }
    let path = job
        .folder
        .join(ledger::UNITS)
        .join(format!("duplicates-{plan}"));
    if let Some(duplicates) = dedup::Duplicates::open(&path)? {
        return Ok(curator.with_duplicates(duplicates));
    }
    // Duplicates are looked for in everything.
    corpus.fetch(std::iter::once(0..corpus.files.len()), progress, stop)?;
    progress.start("duplicates", corpus.bytes(), Unit::Bytes);
    let scratch = fs::Draft::create(&path)?;
    let normalize = rules.normalize.unwrap_or_default();
    let found = dedup::find(corpus, normalize, (&path, scratch.folder()), progress, stop);
    progress.finish();
    Ok(curator.with_duplicates(found?))
}

impl From<dedup::Error> for Error {
    fn from(error: dedup::Error) -> Self {
        match error {
            dedup::Error::File(error) => Self::File(error),
            dedup::Error::Corpus(error) => Self::Corpus(error),
            dedup::Error::Stopped => Self::Stopped,
        }
    }
}

//! The documents that are not there: each was dropped, and for its reason.

use std::path::Path;

use rayon::prelude::*;

use super::{Error, Report, chain, rows};
use crate::corpus::{Block, Corpus, Reach};
use crate::curate::{Curator, Rules, dedup};
use crate::dataset::Dataset;
use crate::manifest::Ledger;
use crate::prepare::judge::{Judge, Verdict};
use crate::prepare::ledger::Contamination;
use crate::progress::{Progress, Stop, Unit};
use crate::{fs, prepare, recipe};

/// Who is told of progress, and who may ask to stop.
type Watch<'a> = (&'a dyn Progress, &'a Stop);

/// What judged the documents when the dataset was prepared, made anew from the
/// recipe in the manifest; none where the sources are not at hand.
pub fn curator(
    dataset: &Dataset,
    sources: &Option<(Corpus, Reach)>,
    temp_dir: &Path,
    watch: Watch,
    report: &mut Report,
) -> Result<Option<Curator>, Error> {
    let Some((corpus, reach)) = sources else {
        return Ok(None);
    };
    match make(dataset, (corpus, reach), temp_dir, watch) {
        Ok(curator) => Ok(Some(curator)),
        Err(Wrong::Stopped) => Err(Error::Stopped),
        Err(Wrong::Scratch(error)) => Err(Error::Scratch(error)),
        Err(Wrong::Reason(reason)) => {
            report.check("documents can be judged again", None, Err(reason));
            Ok(None)
        }
    }
}

fn make(
    dataset: &Dataset,
    (corpus, reach): (&Corpus, &Reach),
    temp_dir: &Path,
    (progress, stop): Watch,
) -> Result<Curator, Wrong> {
    let rules: Rules = serde_json::from_value(dataset.manifest.recipe.clone())
        .map_err(|error| Wrong::Reason(error.to_string()))?;
    same_sets(dataset, &rules, reach)?;
    let curator = Curator::new(&rules, reach).map_err(|error| Wrong::Reason(chain(&error)))?;
    if rules.dedup.is_none() {
        return Ok(curator);
    }
    let scratch = fs::Draft::create(&temp_dir.join("duplicates")).map_err(Wrong::Scratch)?;
    let places = (scratch.folder().join("found"), scratch.folder());
    progress.start("verify duplicates", corpus.bytes(), Unit::Bytes);
    let normalize = rules.normalize.unwrap_or_default();
    let found = dedup::find(corpus, normalize, (&places.0, places.1), progress, stop);
    progress.finish();
    // What was opened can still be read when it has no name any more.
    Ok(curator.with_duplicates(found?))
}

/// The evaluation sets are the files that they were.
fn same_sets(dataset: &Dataset, rules: &Rules, reach: &Reach) -> Result<(), Wrong> {
    let Some(settings) = &rules.decontaminate else {
        return Ok(());
    };
    let now = crate::curate::contamination::files(settings, reach);
    let now = now.map_err(|error| Wrong::Reason(chain(&error)))?;
    let then = dataset.manifest.contamination.iter();
    let then: Vec<_> = then
        .map(|set| (set.name.clone(), set.files.clone()))
        .collect();
    match now == then {
        true => Ok(()),
        false => Err(Wrong::Reason(format!(
            "the evaluation sets are no longer the files that they were: expected {then:?}, found {now:?}"
        ))),
    }
}

enum Wrong {
    Stopped,
    Scratch(fs::Error),
    Reason(String),
}

impl From<dedup::Error> for Wrong {
    fn from(error: dedup::Error) -> Self {
        match error {
            dedup::Error::Stopped => Self::Stopped,
            error => Self::Reason(chain(&error)),
        }
    }
}

impl From<prepare::Error> for Wrong {
    fn from(error: prepare::Error) -> Self {
        Self::Reason(chain(&error))
    }
}

/// Judges every document of the sources again and compares the counts. That each
/// document in the shards is one that is kept is shown where its text is.
pub fn check(
    dataset: &Dataset,
    sources: Option<(&Corpus, &Curator)>,
    watch: Watch,
    report: &mut Report,
) -> Result<(), Error> {
    let manifest = &dataset.manifest;
    let Some((corpus, curator)) = sources else {
        return Ok(());
    };
    if manifest.ledger.dropped.is_empty() && !curator.drops() {
        return Ok(()); // All are kept, and each is compared with its text.
    }
    let name = "what is not there was dropped for its reason";
    let result = match tally(dataset, corpus, curator, watch) {
        Err(Wrong::Stopped) => return Err(Error::Stopped),
        Err(Wrong::Scratch(error)) => return Err(Error::Scratch(error)),
        Err(Wrong::Reason(reason)) => Err(reason),
        Ok(tally) => compare(dataset, &tally),
    };
    report.check(name, Some("manifest.json"), result);
    Ok(())
}

/// What judging all documents came to.
#[derive(Default)]
struct Tally {
    ledger: Ledger,
    contamination: Contamination,
}

fn tally(
    dataset: &Dataset,
    corpus: &Corpus,
    curator: &Curator,
    (progress, stop): Watch,
) -> Result<Tally, Wrong> {
    let tokenizer = dataset
        .tokenizer()
        .map_err(|error| Wrong::Reason(chain(&error)))?;
    let insertion = rows::cutting(dataset).map_err(Wrong::Reason)?;
    let stage = stage(dataset).map_err(|error| Wrong::Reason(error.to_string()))?;
    let judge = Judge {
        curator,
        tokenizer: &tokenizer,
        stage: &stage,
        corpus,
        insertions: &[&insertion],
    };
    progress.start("verify drops", corpus.bytes(), Unit::Bytes);
    let blocks = corpus.blocks(0..corpus.files.len()).par_bridge();
    let tally = blocks
        .map(|block| {
            if stop.requested() {
                return Err(Wrong::Stopped);
            }
            let block = block.map_err(|error| Wrong::Reason(chain(&error)))?;
            let read = block.read();
            let tally = of_block(&judge, block)?;
            progress.advance(read);
            Ok(tally)
        })
        .try_reduce(Tally::default, |mut sum, part| {
            sum.ledger += &part.ledger;
            sum.contamination.add(&part.contamination);
            Ok(sum)
        });
    progress.finish();
    tally
}

/// What the recipe in the manifest says about encoding.
fn stage(dataset: &Dataset) -> Result<recipe::Stage, serde_json::Error> {
    let recipe = &dataset.manifest.recipe;
    let keys = ["sources", "pause", "pack", "validation"];
    let keys = keys.map(|key| Some((key.to_string(), recipe.get(key)?.clone())));
    serde_json::from_value(serde_json::Value::Object(
        keys.into_iter().flatten().collect(),
    ))
}

fn of_block(judge: &Judge, block: Block) -> Result<Tally, prepare::Error> {
    let mut tally = Tally::default();
    for document in block {
        let judged = judge.judge(document?)?;
        tally.contamination.observe(judged.id, &judged.hits);
        match judged.verdict(0) {
            Verdict::Keep(_) => tally.ledger.keep(),
            Verdict::Drop { reason, .. } => tally.ledger.leave_out(reason),
        }
    }
    Ok(tally)
}

fn compare(dataset: &Dataset, tally: &Tally) -> Result<String, String> {
    let ledger = &dataset.manifest.ledger.before_weights();
    if *ledger != tally.ledger {
        return Err(format!("expected {:?}, found {ledger:?}", tally.ledger));
    }
    for (index, set) in dataset.manifest.contamination.iter().enumerate() {
        let found = tally
            .contamination
            .0
            .get(&index)
            .map_or(0, |found| found.documents);
        if found != set.documents {
            return Err(format!(
                "{found} documents hold pieces of `{}`, but the manifest says {}",
                set.name, set.documents
            ));
        }
    }
    let reasons = ledger.dropped.iter();
    let reasons: Vec<String> = reasons.map(|(reason, n)| format!("{n} {reason}")).collect();
    Ok(match reasons.as_slice() {
        [] => "nothing was dropped".into(),
        reasons => reasons.join(", "),
    })
}

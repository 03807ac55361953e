//! Corpora to sealed datasets.
//!
//! The input is cut into units by [`Corpus::units`]; each unit becomes shards of
//! its own, published together with a record, and the manifest is sealed when
//! every unit has one. A killed run loses the unit it was in and nothing else.

mod curation;
pub mod encode;
pub mod flow;
pub mod judge;
pub mod ledger;
pub mod rejects;
pub mod rows;
pub mod tokenizer;
pub mod unit;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::corpus::{self, Corpus};
use crate::curate::{self, Curator};
use crate::dataset::{self, Dataset};
use crate::digest::Digest;
use crate::manifest::{self, FileRecord, Manifest, Stage, TokenizerRecord};
use crate::pause::{self, Insertion};
use crate::progress::{Progress, Stop, Unit};
use crate::tokenize::{self, Tokenizer};
use crate::{fs, recipe, shard, token};

use ledger::UnitRecord;

/// Why preparing failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] fs::Error),
    /// The sources are wrong.
    #[error(transparent)]
    Corpus(#[from] corpus::Error),
    /// The tokenizer could not be made or refused a text.
    #[error(transparent)]
    Tokenize(#[from] tokenize::Error),
    /// A document could not be encoded.
    #[error("cannot encode document {row} of `{file}`")]
    Document {
        /// The source file.
        file: String,
        /// Its row, from 1.
        row: u64,
        /// What the tokenizer said.
        #[source]
        source: tokenize::Error,
    },
    /// A document cannot be curated.
    #[error("cannot curate document {row} of `{file}`")]
    Curate {
        /// The source file.
        file: String,
        /// Its row, from 1.
        row: u64,
        /// Why.
        #[source]
        source: curate::Error,
    },
    /// The pause policy does not fit the rows.
    #[error(transparent)]
    Pause(#[from] pause::Error),
    /// A shard could not be written.
    #[error(transparent)]
    Shard(#[from] shard::Error),
    /// The manifest could not be read or sealed.
    #[error(transparent)]
    Manifest(#[from] manifest::Error),
    /// A dataset that should be complete is not.
    #[error(transparent)]
    Dataset(#[from] dataset::Error),
    /// The folder holds a dataset of another recipe.
    #[error(
        "`{}` holds a dataset of another recipe: `{key}` was {old} and is now {new}",
        folder.display()
    )]
    OtherRecipe {
        /// The dataset.
        folder: PathBuf,
        /// Where the recipes differ.
        key: String,
        /// The value it was prepared with.
        old: String,
        /// The value asked for.
        new: String,
    },
    /// The sources yield nothing to train on.
    #[error(
        "the sources of [{stage}] yield no rows: {read} documents read, {dropped} dropped ({reasons})"
    )]
    Empty {
        /// `pretrain` or `finetune`.
        stage: &'static str,
        /// Documents read.
        read: u64,
        /// Documents dropped.
        dropped: u64,
        /// Why, with counts.
        reasons: String,
    },
    /// A record of finished work cannot be read.
    #[error("`{}` is damaged: {reason}", path.display())]
    Record {
        /// The record.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A signal asked to stop.
    #[error("stopped before the dataset was complete")]
    Stopped,
}

/// One dataset to make.
pub struct Job<'a> {
    /// What the rows are for.
    pub stage: Stage,
    /// Where the dataset goes.
    pub folder: &'a Path,
    /// Where relative source paths start.
    pub data_root: &'a Path,
    /// The experiment's seed.
    pub seed: u64,
    /// Everything in the recipe that decides the bytes; sealed into the manifest.
    pub part: &'a serde_json::Value,
    /// The stage of the recipe.
    pub recipe: &'a recipe::Stage,
    /// The tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// Which units to do.
    pub partition: Partition,
}

/// The units that one of several processes does: those with `unit % of == index`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Partition {
    /// This process, from 0.
    pub index: usize,
    /// How many processes there are; at least 1.
    pub of: usize,
}

impl Partition {
    /// One process does everything.
    pub const WHOLE: Self = Self { index: 0, of: 1 };

    fn takes(self, unit: usize) -> bool {
        unit % self.of.max(1) == self.index
    }
}

/// What [`run`] found or made.
pub enum Outcome {
    /// The dataset is sealed.
    Sealed {
        /// The opened dataset.
        dataset: Box<Dataset>,
        /// Whether it was made now.
        freshness: Freshness,
    },
    /// This partition is done; others are missing.
    Partial {
        /// Units still to do.
        missing: Vec<usize>,
    },
}

/// Whether work was done or found done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// Made by this call.
    Made,
    /// Made earlier from the same recipe and inputs.
    Found,
}

/// Where the sources of a dataset were when it was prepared; not part of its digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The data root, absolute.
    pub data_root: PathBuf,
}

/// The name of the file that holds the [`Origin`].
pub const ORIGIN: &str = "origin.json";

/// Makes the dataset, or the units of it that the partition takes.
///
/// Depends on the input and the recipe alone: any number of threads, any
/// partition and any number of kills and reruns give the same bytes.
pub fn run(job: &Job, progress: &dyn Progress, stop: &Stop) -> Result<Outcome, Error> {
    let corpus = Corpus::resolve(&job.recipe.sources, job.data_root, purpose(job.stage))?;
    let insertion = insertion(job)?;
    let draft = draft(job, &corpus)?;
    if let Some(dataset) = sealed(job, &draft)? {
        // A kill between the seal and the end leaves what only an unsealed dataset needs.
        clean(job.folder)?;
        return Ok(Outcome::Sealed {
            dataset: Box::new(dataset),
            freshness: Freshness::Found,
        });
    }
    fs::create_dir(job.folder)?;
    let plan = Digest::of(&to_json(&draft));
    let (mut records, mut missing, mut todo) = (Vec::new(), Vec::new(), Vec::new());
    for (index, files) in corpus.units().into_iter().enumerate() {
        if let Some(record) = UnitRecord::find(job.folder, index, &plan)? {
            records.push(record);
        } else if job.partition.takes(index) {
            todo.push((index, files));
        } else {
            missing.push(index);
        }
    }
    let curator = match todo.is_empty() {
        true => Curator::default(),
        false => curation::curator(job, &corpus, plan, progress, stop)?,
    };
    let work = |(index, files)| unit::Work {
        job,
        corpus: &corpus,
        insertion: &insertion,
        curator: &curator,
        plan,
        index,
        files,
    };
    let todo = todo.into_iter().map(work).collect();
    progress.start(stage_name(job.stage), corpus.bytes(), Unit::Bytes);
    for record in &records {
        progress.advance(
            record
                .documents
                .keys()
                .map(|file| corpus.bytes_of(*file))
                .sum(),
        );
    }
    records.extend(unit::prepare(todo, progress, stop)?);
    records.sort_by_key(|record| record.unit);
    progress.finish();
    if !missing.is_empty() {
        return Ok(Outcome::Partial { missing });
    }
    let manifest = ledger::merge(draft, &records);
    refuse_empty(job.stage, &manifest)?;
    let dataset = seal(job, &manifest)?;
    Ok(Outcome::Sealed {
        dataset: Box::new(dataset),
        freshness: Freshness::Made,
    })
}

/// What [`run`] would do: files, units and bytes, without reading any text.
pub fn survey(stage: Stage, recipe: &recipe::Stage, data_root: &Path) -> Result<Survey, Error> {
    let corpus = Corpus::resolve(&recipe.sources, data_root, purpose(stage))?;
    recipe.pause.validate(recipe.pack.seq_len)?;
    Ok(Survey {
        files: corpus
            .files
            .iter()
            .map(|file| (file.name.clone(), file.bytes))
            .collect(),
        units: corpus.units().len(),
    })
}

/// The inputs of a dataset, before it is made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Survey {
    /// Names and sizes in bytes.
    pub files: Vec<(String, u64)>,
    /// Units of work.
    pub units: usize,
}

/// How documents of a stage are read.
pub fn purpose(stage: Stage) -> corpus::Purpose {
    match stage {
        Stage::Pretrain => corpus::Purpose::Pretrain,
        Stage::Finetune => corpus::Purpose::Finetune,
    }
}

/// The recipe's name of a stage.
pub fn stage_name(stage: Stage) -> &'static str {
    match stage {
        Stage::Pretrain => "pretrain",
        Stage::Finetune => "finetune",
    }
}

fn insertion(job: &Job) -> Result<Insertion, Error> {
    let row_length = job.recipe.pack.seq_len;
    let policy = job.recipe.pause.clone();
    let insertion = Insertion::new(policy, job.tokenizer.reserved(), row_length)?;
    Ok(insertion.with_pieces(|| job.tokenizer.pieces())?)
}

/// The manifest as far as it is known before any text is read.
fn draft(job: &Job, corpus: &Corpus) -> Result<Manifest, Error> {
    let files = corpus.files.iter().map(|file| FileRecord {
        name: file.name.clone(),
        source: file.source,
        bytes: file.bytes,
        documents: 0,
    });
    Ok(Manifest {
        format: manifest::FORMAT,
        stage: job.stage,
        seed: job.seed,
        recipe: job.part.clone(),
        tokenizer: TokenizerRecord {
            digest: job.tokenizer.digest(),
            vocab_size: job.tokenizer.vocab_size(),
            reserved: job.tokenizer.reserved(),
        },
        id_width: token::IdWidth::for_vocabulary(job.tokenizer.vocab_size()),
        row_length: job.recipe.pack.seq_len,
        pause: job.recipe.pause.clone(),
        corpus: files.collect(),
        splits: Default::default(),
        ledger: Default::default(),
        contamination: curation::sets(job)?,
        rejects: Vec::new(),
    })
}

/// The dataset that already stands in the folder, if it is the one asked for.
fn sealed(job: &Job, draft: &Manifest) -> Result<Option<Dataset>, Error> {
    let manifest = match Manifest::open(job.folder) {
        Err(manifest::Error::NotSealed { .. }) => return Ok(None),
        other => other?.0,
    };
    let (mut old, mut new) = (manifest.clone(), draft.clone());
    for manifest in [&mut old, &mut new] {
        manifest.splits.clear();
        manifest.ledger = Default::default();
        manifest
            .corpus
            .iter_mut()
            .for_each(|file| file.documents = 0);
        manifest.rejects.clear();
        for set in &mut manifest.contamination {
            set.documents = 0;
            set.shown.clear();
        }
    }
    let value = |manifest: &Manifest| serde_json::to_value(manifest).unwrap_or_default();
    match ledger::difference("", &value(&old), &value(&new)) {
        None => Ok(Some(Dataset::open(job.folder)?)),
        Some((key, old, new)) => Err(Error::OtherRecipe {
            folder: job.folder.to_path_buf(),
            key,
            old,
            new,
        }),
    }
}

/// Writes what stands beside the shards, then the manifest, last.
fn seal(job: &Job, manifest: &Manifest) -> Result<Dataset, Error> {
    let root =
        std::path::absolute(job.data_root).map_err(fs::Error::new("resolve", job.data_root))?;
    fs::write(
        &job.folder.join(manifest::TOKENIZER_FILE),
        job.tokenizer.to_json(),
    )?;
    fs::write(
        &job.folder.join(ORIGIN),
        &to_json(&Origin { data_root: root }),
    )?;
    manifest.seal(job.folder)?;
    clean(job.folder)?;
    Ok(Dataset::open(job.folder)?)
}

/// Removes what a sealed dataset does not need.
fn clean(folder: &Path) -> Result<(), fs::Error> {
    fs::remove_dir(&folder.join(ledger::UNITS))?;
    fs::remove_temporaries(&folder.join(manifest::SHARDS))
}

fn refuse_empty(stage: Stage, manifest: &Manifest) -> Result<(), Error> {
    let rows = manifest
        .splits
        .get(&manifest::Split::Train)
        .map_or(0, |split| split.totals.rows);
    if 0 < rows {
        return Ok(());
    }
    let reasons = manifest
        .ledger
        .dropped
        .iter()
        .map(|(reason, n)| format!("{reason}: {n}"));
    let reasons = reasons.collect::<Vec<_>>().join(", ");
    Err(Error::Empty {
        stage: stage_name(stage),
        read: manifest.ledger.read,
        dropped: manifest.ledger.dropped.values().sum(),
        reasons: if reasons.is_empty() {
            "the sources are empty".into()
        } else {
            reasons
        },
    })
}

pub(crate) fn to_json(value: &impl Serialize) -> Vec<u8> {
    let mut bytes = serde_json::to_vec_pretty(value).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

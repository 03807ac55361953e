//! Corpora to sealed datasets.
//!
//! The input is cut into units by [`Corpus::units`]; each unit becomes shards of
//! its own, published together with a record, and the manifest is sealed when
//! every unit has one, by the same process or by [`finalize`]. A killed run loses the unit it was in and nothing else.

mod curation;
pub mod encode;
mod error;
pub mod flow;
pub mod judge;
pub mod ledger;
pub mod rejects;
pub mod rows;
pub mod tokenizer;
pub mod unit;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::corpus::{self, Corpus, Reach};
use crate::dataset::{Dataset, online};
use crate::digest::Digest;
use crate::manifest::{self, FileRecord, Manifest, Stage, TokenizerRecord};
use crate::pause::{self, Insertion};
use crate::progress::{Progress, Stop, Unit};
use crate::tokenize::{self, Tokenizer};
use crate::{fs, recipe, token};

pub use error::{Error, NotesProblem};
use ledger::UnitRecord;

/// One dataset to make.
pub struct Job<'a> {
    /// What the rows are for.
    pub stage: Stage,
    /// Where the dataset goes.
    pub folder: &'a Path,
    /// Where sources are looked for.
    pub reach: &'a Reach,
    /// The experiment's seed.
    pub seed: u64,
    /// Everything in the recipe that decides the bytes; sealed into the manifest.
    pub part: &'a serde_json::Value,
    /// The stage of the recipe.
    pub recipe: &'a recipe::Stage,
    /// The tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// Whether recipes with other pauses read the dataset too: where rows get them when
    /// they are read, its manifest names none.
    pub shared: bool,
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

/// Makes datasets, or the units of them that the partition takes.
///
/// The jobs differ in where pauses go and in nothing else: the text is read and
/// encoded once for all of them. What is made depends on the input and the recipe
/// alone: any number of threads, any partition, any number of kills and reruns, and
/// any company of other jobs give the same bytes. One of several partitions leaves
/// sealing to [`finalize`].
pub fn run(
    jobs: &[Job],
    partition: Partition,
    progress: &dyn Progress,
    stop: &Stop,
) -> Result<Vec<Outcome>, Error> {
    let Some(first) = jobs.first() else {
        return Ok(Vec::new());
    };
    let corpus = corpus(first.stage, first.recipe, first.reach)?;
    let mut makings = jobs
        .iter()
        .map(|job| Making::begin(job, &corpus))
        .collect::<Result<Vec<_>, _>>()?;
    make(&mut makings, &corpus, partition, progress, stop)?;
    makings
        .into_iter()
        .map(|making| match partition.of {
            1 => making.seal(),
            _ => making.leave(),
        })
        .collect()
}

/// Seals a dataset whose units are all done, by whichever processes.
///
/// # Errors
/// [`Error::Missing`] names the units that are not.
pub fn finalize(job: &Job) -> Result<Outcome, Error> {
    let corpus = corpus(job.stage, job.recipe, job.reach)?;
    Making::begin(job, &corpus)?.seal()
}

/// Makes the units that the partition takes and any of the datasets lacks.
fn make(
    makings: &mut [Making],
    corpus: &Corpus,
    partition: Partition,
    progress: &dyn Progress,
    stop: &Stop,
) -> Result<(), Error> {
    let lacks =
        |making: &Making, unit| making.found.is_none() && !making.records.contains_key(&unit);
    let units = corpus.units().into_iter().enumerate();
    let units: Vec<_> = units
        .filter(|(unit, _)| partition.takes(*unit))
        .filter(|(unit, _)| makings.iter().any(|making| lacks(making, *unit)))
        .collect();
    let Some(lacking) = makings.iter().find(|making| making.found.is_none()) else {
        return Ok(());
    };
    if units.is_empty() {
        return Ok(());
    }
    corpus.fetch(units.iter().map(|(_, files)| files.clone()), progress, stop)?;
    let curator = curation::curator(lacking.job, corpus, lacking.plan, progress, stop)?;
    let work = |(index, files): &(usize, std::ops::Range<usize>)| unit::Work {
        targets: makings
            .iter()
            .enumerate()
            .filter(|(_, making)| lacks(making, *index))
            .map(|(dataset, making)| making.target(dataset))
            .collect(),
        corpus,
        curator: &curator,
        index: *index,
        files: files.clone(),
    };
    let work: Vec<unit::Work> = units.iter().map(work).collect();
    let files = units
        .iter()
        .flat_map(|(_, files)| corpus.files.get(files.clone()));
    let bytes = |file: &corpus::File| file.path.is_some().then_some(file.bytes);
    let total = files.flatten().map(bytes).sum();
    progress.start(stage_name(lacking.job.stage), total, Unit::Bytes);
    let made = unit::prepare(work, progress, stop)?;
    progress.finish();
    for (dataset, record) in made {
        if let Some(making) = makings.get_mut(dataset) {
            making.records.insert(record.unit, record);
        }
    }
    Ok(())
}

/// One dataset on its way.
struct Making<'a> {
    job: &'a Job<'a>,
    /// The pauses that rows have on disk, and those that they have room for.
    insertion: Insertion,
    cutting: Insertion,
    draft: Manifest,
    /// Digest of the draft: records of another one count for nothing.
    plan: Digest,
    n_units: usize,
    /// What is done, by unit.
    records: BTreeMap<usize, UnitRecord>,
    /// The dataset that is sealed already.
    found: Option<Dataset>,
}

impl<'a> Making<'a> {
    /// Looks for what is done already.
    fn begin(job: &'a Job, corpus: &Corpus) -> Result<Self, Error> {
        let draft = draft(job, corpus)?;
        let (config, row_length) = (&job.recipe.pause, job.recipe.pack.seq_len);
        // Refused early where it cannot be carried out later.
        insertion(job, config)?;
        let mut making = Self {
            insertion: insertion(job, &config.on_disk())?,
            cutting: insertion(job, &config.cutting(row_length, recuts(job)))?,
            plan: Digest::of(&to_json(&draft)),
            n_units: corpus.units().len(),
            records: BTreeMap::new(),
            found: sealed(job, &draft)?,
            job,
            draft,
        };
        if making.found.is_some() {
            // A kill between the seal and the end leaves what only an unsealed dataset needs.
            clean(job.folder)?;
        } else {
            fs::create_dir(job.folder)?;
            for unit in 0..making.n_units {
                if let Some(record) = UnitRecord::find(job.folder, unit, &making.plan)? {
                    making.records.insert(unit, record);
                }
            }
        }
        Ok(making)
    }

    fn target(&self, dataset: usize) -> unit::Target<'_> {
        unit::Target {
            dataset,
            job: self.job,
            insertion: &self.insertion,
            cutting: &self.cutting,
            plan: self.plan,
        }
    }

    fn missing(&self) -> Vec<usize> {
        (0..self.n_units)
            .filter(|unit| !self.records.contains_key(unit))
            .collect()
    }

    /// Merges the records into a manifest, which makes the folder a dataset.
    fn seal(self) -> Result<Outcome, Error> {
        let missing = self.missing();
        let (dataset, freshness) = match self.found {
            Some(dataset) => (dataset, Freshness::Found),
            None if !missing.is_empty() => {
                return Err(Error::Missing {
                    folder: self.job.folder.to_path_buf(),
                    units: missing,
                    of: self.n_units,
                });
            }
            None => {
                let records: Vec<UnitRecord> = self.records.into_values().collect();
                let manifest = ledger::merge(self.draft, &records);
                refuse_empty(self.job.stage, &manifest)?;
                (seal(self.job, &manifest)?, Freshness::Made)
            }
        };
        Ok(Outcome::Sealed {
            dataset: Box::new(dataset),
            freshness,
        })
    }

    /// Leaves the sealing to others.
    fn leave(self) -> Result<Outcome, Error> {
        match self.found {
            Some(_) => self.seal(),
            None => Ok(Outcome::Partial {
                missing: self.missing(),
            }),
        }
    }
}

/// What [`run`] would do: files, units and bytes, without reading any text.
pub fn survey(stage: Stage, recipe: &recipe::Stage, reach: &Reach) -> Result<Survey, Error> {
    let corpus = corpus(stage, recipe, reach)?;
    recipe.pause.validate(recipe.pack.seq_len)?;
    let part = |file: &corpus::File| Input {
        name: file.name.clone(),
        span: file.span,
        bytes: file.bytes,
    };
    let units = corpus.units().into_iter().enumerate();
    let units = units.map(|(unit, files)| {
        let files = corpus.files.get(files).unwrap_or_default();
        UnitSurvey {
            unit,
            bytes: files.iter().map(|file| file.bytes).sum(),
            files: files.iter().map(part).collect(),
        }
    });
    Ok(Survey {
        units: units.collect(),
        text_bytes: corpus.text_bytes(),
    })
}

/// The inputs of a dataset, before it is made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Survey {
    /// Units of work.
    pub units: Vec<UnitSurvey>,
    /// About how many bytes of text there are; unknown where files are compressed or
    /// text is generated.
    pub text_bytes: Option<u64>,
}

/// One unit of work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UnitSurvey {
    /// Its number, from 0.
    pub unit: usize,
    /// Bytes to read.
    pub bytes: u64,
    /// What is read.
    pub files: Vec<Input>,
}

/// A file, or a part of one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Input {
    /// The file's name.
    pub name: String,
    /// Which part of it; none where it is all of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub span: Option<corpus::Span>,
    /// Bytes on disk; 0 where the text is generated.
    pub bytes: u64,
}

/// The files of a stage, cut into parts that units can share.
pub fn corpus(stage: Stage, recipe: &recipe::Stage, reach: &Reach) -> Result<Corpus, Error> {
    let whole = Corpus::resolve(&recipe.sources, reach, purpose(stage))?;
    Ok(whole.cut(recipe.pack.unit_bytes)?)
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

/// Whether the rows of a stage are cut again when they are read, where they can be.
fn recuts(job: &Job) -> bool {
    online::recuts(job.stage, job.recipe.pack.method)
}

fn insertion(job: &Job, config: &pause::Config) -> Result<Insertion, Error> {
    let placed = job.tokenizer.insertion(config, job.recipe.pack.seq_len);
    placed.map_err(|error| match error {
        tokenize::Error::Pause(error) => Error::Pause(error),
        error => Error::Tokenize(error),
    })
}

/// The manifest as far as it is known before any text is read.
fn draft(job: &Job, corpus: &Corpus) -> Result<Manifest, Error> {
    let files = corpus.files.iter().map(|file| FileRecord {
        name: file.name.clone(),
        source: file.source,
        bytes: file.bytes,
        span: file.span,
        version: file.version().map(String::from),
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
            begin: job.tokenizer.begin(),
        },
        id_width: token::IdWidth::for_vocabulary(job.tokenizer.vocab_size()),
        shard_format: job.recipe.pack.format,
        row_length: job.recipe.pack.seq_len,
        pause: match job.shared {
            true => job.recipe.pause.deciding(job.recipe.pack.seq_len),
            false => job.recipe.pause.clone(),
        },
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
        manifest.pause = manifest.pause.deciding(manifest.row_length);
    }
    let value = |manifest: &Manifest| serde_json::to_value(manifest).unwrap_or_default();
    match ledger::difference("", &value(&old), &value(&new)) {
        None if job.shared || manifest.pause == draft.pause => Ok(Some(Dataset::open(job.folder)?)),
        None => {
            // The same rows get other pauses when they are read.
            let pause = draft.pause.clone();
            Manifest { pause, ..manifest }.seal(job.folder)?;
            Ok(Some(Dataset::open(job.folder)?))
        }
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
    let root = &job.reach.data_root;
    let root = std::path::absolute(root).map_err(fs::Error::new("resolve", root))?;
    fs::write(
        &job.folder.join(manifest::TOKENIZER_FILE),
        job.tokenizer.to_json(),
    )?;
    fs::write(
        &job.folder.join(ORIGIN),
        &to_json(&Origin { data_root: root }),
    )?;
    remove_strangers(job.folder, manifest)?;
    manifest.seal(job.folder)?;
    clean(job.folder)?;
    Ok(Dataset::open(job.folder)?)
}

/// Removes shards that were made from another recipe and never sealed.
fn remove_strangers(folder: &Path, manifest: &Manifest) -> Result<(), Error> {
    let shards = manifest.splits.values().flat_map(|split| &split.shards);
    let known: BTreeSet<&str> = shards.map(|shard| shard.name.as_str()).collect();
    for path in fs::list(&folder.join(manifest::SHARDS))? {
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        let split = name.split('-').next().unwrap_or_default();
        if ["train", "validation"].contains(&split) && !known.contains(name.as_ref()) {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
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
    let ledger = &manifest.ledger;
    let reasons = ledger.dropped.iter();
    let mut reasons: Vec<String> = reasons
        .map(|(reason, n)| format!("{reason}: {n}"))
        .collect();
    if 0 < ledger.kept {
        reasons.push(format!("held out by `validation`: {}", ledger.kept));
    }
    if ledger.read == 0 {
        reasons.push("the sources are empty, or `select` leaves nothing of them".into());
    }
    Err(Error::Empty {
        stage: stage_name(stage),
        read: ledger.read,
        dropped: ledger.dropped.values().sum(),
        reasons: reasons.join(", "),
    })
}

pub(crate) fn to_json(value: &impl Serialize) -> Vec<u8> {
    let mut bytes = serde_json::to_vec_pretty(value).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

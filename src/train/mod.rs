//! Training: global batches from the loader, one optimizer step each.
//!
//! A run resumes by itself from its newest checkpoint, and continues as if it
//! had never stopped: the same losses and the same weights, bit for bit.

pub mod checkpoint;
mod data;
pub mod freeze;
pub mod optimizer;
pub mod record;
pub mod schedule;
mod start;
pub mod step;
pub mod validation;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use serde_json::json;

use crate::batch::LENGTH_STEP;
use crate::dataset::{self, Dataset};
use crate::digest::Digest;
use crate::fingerprint::{self, Fingerprint};
use crate::fs;
use crate::loader::{self, Clash, GlobalBatch, Loader};
use crate::manifest::{Stage, TOKENIZER_FILE};
use crate::model::config::{Config, NewRows};
use crate::model::{Device, hub};
use crate::pause::Habit;
use crate::progress::{Progress, Stop, Unit};
use crate::recipe::Train;
use crate::tokenize;
use crate::train::checkpoint::{Checkpoint, State, Store};
use crate::train::optimizer::Optimizer;
use crate::train::record::{Line, Log, Totals};
use crate::train::step::{Learner, NonFinite, Report};

/// Global batches that are made ready while a step computes.
const PREFETCHED: usize = 4;

/// Keys of `train` that may change between a run and one that continues it:
/// they decide what is written, not what is computed. All others may not, and
/// `steps` least of all, because the schedule ends with it. The loader's state has
/// the buckets and the mixture, whose datasets may be moved, and the model the attention.
const FREE: [&str; 9] = [
    "checkpoint_every",
    "keep",
    "validate_every",
    "validation_rows",
    "read",
    "mixture",
    "curriculum",
    "bucket",
    "attention",
];

/// What to train, on what, and where.
pub struct Job {
    /// The training folder; a run that was started in it is continued.
    pub folder: PathBuf,
    /// The rows, and their tokenizer.
    pub dataset: Arc<Dataset>,
    /// The datasets of `train.mixture`, `dataset` among them; none where it is alone.
    pub mixture: Vec<Arc<Dataset>>,
    /// The model's shape.
    pub config: Config,
    /// The weights to start from.
    pub start: Start,
    /// Where rows begin that a checkpoint lacks.
    pub new_rows: NewRows,
    /// How.
    pub train: Train,
    /// Decides the order of rows, and the weights of a fresh start.
    pub seed: u64,
    /// Where to compute.
    pub device: Device,
}

/// The weights to start from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// Random weights.
    Fresh,
    /// Those of a checkpoint, or of a training folder's newest.
    From(PathBuf),
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All steps are done.
    Finished,
    /// Somebody asked to stop; the run is saved and can be continued.
    Stopped {
        /// Steps done.
        step: u64,
    },
}

/// Training that failed. What was saved before is as it was.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The run that stands in the folder is another one.
    #[error(
        "cannot continue `{}`: {}",
        checkpoint.display(),
        fingerprint::told(differences)
    )]
    AnotherRun {
        /// The checkpoint.
        checkpoint: PathBuf,
        /// What differs; at least one part.
        differences: Vec<fingerprint::Difference>,
    },
    /// The numbers left the range of numbers.
    #[error("step {step} failed on global batch {batch} (rows {rows})")]
    NonFinite {
        /// The step.
        step: u64,
        /// The loader's global batch.
        batch: u64,
        /// Its rows, as the loader numbers them.
        rows: String,
        /// The last checkpoint before it.
        checkpoint: Option<PathBuf>,
        /// What is not finite.
        #[source]
        source: NonFinite,
    },
    /// A weight left the range of numbers; nothing was saved.
    #[error("weights are not finite after step {step}")]
    Weights {
        /// The step.
        step: u64,
    },
    /// The model cannot hold the dataset.
    #[error("the model's {what} is {model}, but the dataset's {needs} is {dataset}")]
    TooSmall {
        /// The key of the model.
        what: &'static str,
        /// Its value.
        model: usize,
        /// The property of the dataset.
        needs: &'static str,
        /// Its value, which is larger.
        dataset: usize,
    },
    /// The weights to start from belong to another tokenizer.
    #[error(
        "`{}` was trained with another tokenizer: its digest is {}, the dataset's {}",
        start.display(), found.short(), expected.short()
    )]
    AnotherTokenizer {
        /// The checkpoint.
        start: PathBuf,
        /// Its tokenizer's digest.
        found: Digest,
        /// The dataset's tokenizer's digest.
        expected: Digest,
    },
    /// The weights to start from belong to another shape.
    #[error("`{}` has another shape: {difference}", start.display())]
    AnotherShape {
        /// The checkpoint.
        start: PathBuf,
        /// The first difference.
        difference: fingerprint::Difference,
    },
    /// A checkpoint cannot be written or trusted.
    #[error(transparent)]
    Checkpoint(#[from] checkpoint::Error),
    /// The metrics cannot be written.
    #[error(transparent)]
    Record(#[from] record::Error),
    /// The optimizer's moments cannot be read.
    #[error(transparent)]
    Optimizer(#[from] optimizer::Error),
    /// A dataset of the mixture trains on what is held out.
    #[error(
        "`{}` trains on a text that `{}` holds out: document {document} of `{file}`",
        dataset.display(), own.display()
    )]
    Leak {
        /// The dataset.
        dataset: PathBuf,
        /// The stage's own.
        own: PathBuf,
        /// The input file of the text.
        file: String,
        /// Its document in the file, from 1.
        document: u64,
        /// The share that the stage holds out.
        share: f64,
    },
    /// Datasets that cannot be mixed.
    #[error(transparent)]
    Clash(#[from] Box<Clash>),
    /// The rows cannot be read.
    #[error(transparent)]
    Loader(#[from] loader::Error),
    /// The recipe trains what the model does not have.
    #[error(transparent)]
    NoTarget(#[from] freeze::NoTarget),
    /// A checkpoint's tokenizer cannot be read.
    #[error(transparent)]
    Tokenize(#[from] tokenize::Error),
    /// The dataset cannot be read.
    #[error(transparent)]
    Dataset(#[from] dataset::Error),
    /// The model's files cannot be read or written.
    #[error(transparent)]
    Hub(#[from] hub::Error),
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] fs::Error),
}

impl Error {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::AnotherRun { .. } => {
                Some("undo the change, or choose another `--out` to start a new run".into())
            }
            Self::NonFinite { checkpoint, .. } => Some(match checkpoint {
                Some(last) => format!(
                    "`{}` is the last good checkpoint; a lower `lr` or `clip` needs a new run",
                    last.display()
                ),
                None => "no checkpoint was made before; lower `lr` or `clip`".into(),
            }),
            Self::Leak { share, .. } => Some(format!(
                "prepare it with `validation = {share}` or more: then both hold out the same texts"
            )),
            Self::Checkpoint(error) => error.hint(),
            Self::Clash(clash) => Some(clash.hint().into()),
            Self::Loader(error) => error.hint().map(String::from),
            _ => None,
        }
    }
}

/// Trains, or goes on training, until all steps are done or `stop` is requested.
pub fn run(job: &Job, progress: &dyn Progress, stop: &Stop) -> Result<Outcome, Error> {
    check_room(job)?;
    let store = Store::open(&job.folder)?;
    let fingerprint = fingerprint(job)?;
    let latest = store.latest()?;
    let loader = Arc::new(data::loader(job)?);
    data::check_held_out(job)?;
    let mut learner = match &latest {
        Some(checkpoint) => resumed(job, checkpoint, &fingerprint, &loader)?,
        None => started(job, progress)?,
    };
    let mut saved = latest.map(|checkpoint| checkpoint.folder);
    let log = Log::open(&job.folder, learner.step)?;
    let Train {
        steps,
        checkpoint_every,
        validate_every,
        ..
    } = job.train;
    if let Some(note) = loader.bucket_note(learner.step..steps) {
        progress.note(&note);
    }
    progress.start(stage(job), Some(steps), Unit::Steps);
    progress.advance(learner.step);
    let mut clock = Clock::start();
    for batch in loader.clone().prefetch(learner.step, steps, PREFETCHED) {
        let batch = batch?;
        let data_wait_ms = clock.lap_ms();
        let report = learner
            .step(&batch, &job.train)
            .map_err(|source| non_finite(source, &learner, &loader, saved.clone()))?;
        let step_ms = clock.lap_ms();
        let line = line(&loader, &learner, &batch, report, [data_wait_ms, step_ms]);
        log.append(&Line::Train(line))?;
        progress.advance(1);
        progress.remark(&format!("loss {:.4}", report.loss));

        let (step, last) = (learner.step, learner.step == steps);
        if due(step, validate_every) || (last && 0 < validate_every) {
            validate(job, &learner, &log, progress)?;
        }
        let stopping = stop.requested();
        if due(step, checkpoint_every) || last || stopping {
            log.sync()?;
            saved = Some(save(job, &store, &learner, &fingerprint, &loader)?);
        }
        if stopping && !last {
            progress.finish();
            return Ok(Outcome::Stopped { step });
        }
        clock = Clock::start();
    }
    progress.finish();
    Ok(Outcome::Finished)
}

/// Checks that the model has an embedding for every id and a position for the longest row.
fn check_room(job: &Job) -> Result<(), Error> {
    let manifest = &job.dataset.manifest;
    let vocabulary = manifest.tokenizer.vocab_size as usize;
    let rooms = [
        (
            "vocab_size",
            job.config.vocab_size,
            "vocabulary",
            vocabulary,
        ),
        (
            "context",
            job.config.context,
            "longest row in a batch",
            data::row_length(job).next_multiple_of(LENGTH_STEP),
        ),
    ];
    for (what, model, needs, dataset) in rooms {
        if model < dataset {
            return Err(Error::TooSmall {
                what,
                model,
                needs,
                dataset,
            });
        }
    }
    Ok(())
}

/// Everything that decides the weights after a given step, but for the data, which
/// the loader's state tells.
fn fingerprint(job: &Job) -> Result<Fingerprint, Error> {
    let mut train = json!(job.train);
    if let Some(keys) = train.as_object_mut() {
        keys.retain(|key, _| !FREE.contains(&key.as_str()));
    }
    let start = match &job.start {
        Start::Fresh => "random weights".into(),
        Start::From(path) => {
            let weights = checkpoint::resolve(path)?.join(checkpoint::WEIGHTS_FILE);
            format!("weights {}", Digest::of_file(&weights)?)
        }
    };
    let mut fingerprint = Fingerprint::default();
    fingerprint.add("pausedata", &json!(env!("CARGO_PKG_VERSION")));
    fingerprint.add("start", &json!(start));
    if job.new_rows != NewRows::default() {
        fingerprint.add("new_rows", &json!(job.new_rows));
    }
    fingerprint.add("model", &json!(job.config));
    fingerprint.add("train", &train);
    Ok(fingerprint)
}

/// A learner that continues a checkpoint.
fn resumed(
    job: &Job,
    checkpoint: &Checkpoint,
    now: &Fingerprint,
    loader: &Loader,
) -> Result<Learner, Error> {
    let differences = data::differences(job, &checkpoint.state, now, loader);
    if !differences.is_empty() {
        return Err(Error::AnotherRun {
            checkpoint: checkpoint.folder.clone(),
            differences,
        });
    }
    let model = start::resumed(job, checkpoint)?;
    let moments = checkpoint.read(optimizer::FILE)?;
    Ok(Learner {
        optimizer: Optimizer::from_bytes(&moments, &model, &job.device)?,
        model,
        step: checkpoint.state.step,
        totals: checkpoint.state.totals,
    })
}

/// A learner before its first step.
fn started(job: &Job, progress: &dyn Progress) -> Result<Learner, Error> {
    let model = start::model(job, progress)?;
    Ok(Learner {
        optimizer: Optimizer::new(&model, &job.device),
        model,
        step: 0,
        totals: Totals::default(),
    })
}

/// Writes a checkpoint of the learner.
fn save(
    job: &Job,
    store: &Store,
    learner: &Learner,
    fingerprint: &Fingerprint,
    loader: &Loader,
) -> Result<PathBuf, Error> {
    let Learner {
        model,
        optimizer,
        step,
        totals,
        ..
    } = learner;
    let manifest = &job.dataset.manifest;
    let (reserved, habit) = (manifest.tokenizer.reserved, manifest.pause.habit());
    let told = habit != Habit::default() || !reserved.extra.is_none();
    let state = State {
        format: checkpoint::FORMAT,
        step: *step,
        totals: *totals,
        reserved,
        pauses: told.then_some(habit),
        loader: Some(loader.state(*step)),
        fingerprint: fingerprint.clone(),
    };
    if !learner.is_finite() {
        return Err(Error::Weights { step: *step });
    }
    let (config, weights) = hub::to_hub(&model.values(), &model.config)?;
    let files = [
        (
            checkpoint::CONFIG_FILE,
            format!("{config:#}\n").into_bytes(),
        ),
        (checkpoint::WEIGHTS_FILE, weights),
        (
            TOKENIZER_FILE,
            fs::read(&job.dataset.folder.join(TOKENIZER_FILE))?,
        ),
        (optimizer::FILE, optimizer.to_bytes(model)?),
    ];
    let adapter = start::adapter_files(model)?;
    let adapter = adapter
        .iter()
        .map(|(name, bytes)| (name.as_str(), bytes.clone()));
    let files: Vec<_> = files.into_iter().chain(adapter).collect();
    Ok(store.save(&state, &files, job.train.keep)?)
}

/// Measures the loss on rows held out, where there are any.
fn validate(job: &Job, learner: &Learner, log: &Log, progress: &dyn Progress) -> Result<(), Error> {
    let sample = validation::Sample {
        rows: job.train.validation_rows,
        rows_per_batch: data::loading(job).rows_per_micro_batch,
    };
    if let Some(loss) = validation::loss(&learner.model, &*job.dataset, sample)? {
        progress.note(&format!(
            "step {}: validation loss {:.4}",
            learner.step, loss.mean
        ));
        log.append(&Line::Validation(record::Validation {
            step: learner.step,
            loss: loss.mean,
            rows: loss.rows,
            scored: loss.scored,
        }))?;
    }
    Ok(())
}

fn stage(job: &Job) -> &'static str {
    match job.dataset.manifest.stage {
        Stage::Pretrain => "pretrain",
        Stage::Finetune => "finetune",
    }
}

/// The metrics of the step that the learner has just done.
fn line(
    loader: &Loader,
    learner: &Learner,
    batch: &GlobalBatch,
    report: Report,
    [data_wait_ms, step_ms]: [f64; 2],
) -> record::Step {
    let rows_seen = learner.step as f64 * loader.rows_per_batch() as f64;
    let several = || loader.epochs_before(learner.step);
    let tokens = batch.counts.real + batch.counts.pauses;
    record::Step {
        step: learner.step,
        epochs: rows_seen / loader.rows_per_epoch() as f64,
        epochs_of: if loader.is_mixed() {
            several()
        } else {
            Vec::new()
        },
        loss: report.loss,
        z_loss: report.z_loss,
        lr: report.lr,
        grad_norm: report.grad_norm,
        tokens,
        real: batch.counts.real,
        pauses: batch.counts.pauses,
        padding: batch.counts.padding,
        scored: batch.counts.scored,
        flops: report.flops,
        totals: learner.totals,
        tokens_per_s: tokens as f64 / (data_wait_ms + step_ms).max(1e-3) * 1e3,
        data_wait_ms,
        step_ms,
    }
}

fn non_finite(
    source: NonFinite,
    learner: &Learner,
    loader: &Loader,
    checkpoint: Option<PathBuf>,
) -> Error {
    let rows = loader.rows_of(learner.step);
    let named = rows.iter().take(16);
    let named: Vec<String> = named
        .map(|pick| match loader.is_mixed() {
            false => format!("{} of epoch {}", pick.index, pick.epoch),
            true => format!(
                "{} of epoch {} of dataset {}",
                pick.index,
                pick.epoch,
                pick.member + 1
            ),
        })
        .collect();
    Error::NonFinite {
        step: learner.step + 1,
        batch: learner.step,
        rows: named.join(", ") + &and_more(rows.len().saturating_sub(15)),
        checkpoint,
        source,
    }
}

/// Whether something that happens `every` so many steps happens after this one.
fn due(step: u64, every: u64) -> bool {
    0 < every && step.is_multiple_of(every)
}

/// Says that `n - 1` more are not named.
fn and_more(n: usize) -> String {
    match n {
        0 | 1 => String::new(),
        n => format!(" and {} more", n - 1),
    }
}

/// Measures laps.
struct Clock(Instant);

impl Clock {
    fn start() -> Self {
        Self(Instant::now())
    }

    /// Milliseconds since the last lap.
    fn lap_ms(&mut self) -> f64 {
        let now = Instant::now();
        let lap = now.duration_since(self.0);
        self.0 = now;
        (lap.as_secs_f64() * 1e6).round() / 1e3
    }
}

#[cfg(test)]
mod tests;

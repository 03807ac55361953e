//! How a run begins: with fresh weights, those of another run, or where it stopped.

use std::path::Path;
use std::sync::Arc;

use serde_json::json;

use super::average::Average;
use super::checkpoint::{self, Checkpoint};
use super::kernels::{self, Choice};
use super::optimizer::{self, Optimizer};
use super::ranks::Ranks;
use super::step::Learner;
use super::{Error, Job, Start, data, start};
use crate::batch::LENGTH_STEP;
use crate::digest::Digest;
use crate::fingerprint::Fingerprint;
use crate::fs;
use crate::loader::Loader;
use crate::model::collective::Seat;
use crate::model::config::NewRows;
use crate::model::{Device, Kernels};
use crate::progress::{Progress, Silent};

/// Keys of `train` that may change between a run and one that continues it:
/// they decide what is written, or what is done about steps that were not taken, not
/// what is computed. All others may not, and
/// `steps` least of all, because the schedule ends with it. The loader's state has
/// the buckets and the mixture, whose datasets may be moved, and the model the attention.
const FREE: [&str; 13] = [
    "peak_gflops",
    "tensorboard",
    "spike",
    "early_stopping",
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

/// Keeps other processes out of a training folder while the result lives; the system
/// opens it again when the process ends, however that is.
pub fn lock(folder: &Path) -> Result<fs::Lock, Error> {
    fs::create_dir(folder)?;
    fs::lock_dir(folder)?.ok_or_else(|| Error::Busy {
        folder: folder.to_path_buf(),
    })
}

/// Removes what training left in a folder, unless a process still trains in it.
pub fn forget(folder: &Path) -> Result<(), Error> {
    if folder.is_dir() {
        let _lock = lock(folder)?;
        fs::remove_dir(folder)?;
    }
    Ok(())
}

/// Checks that the model has an embedding for every id and a position for the longest row,
/// and that each rank has a micro-batch of every global batch.
pub fn check_room(job: &Job) -> Result<(), Error> {
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
    let loading = data::loading(job);
    let rows = loading.rows_per_batch;
    let batches = rows.div_ceil(loading.rows_per_micro_batch.max(1));
    let ranks = 1 + job.others.len();
    match batches < ranks {
        true => Err(Error::FewBatches {
            batches,
            rows,
            ranks,
            row_length: data::row_length(job),
        }),
        false => Ok(()),
    }
}

/// Everything that decides the weights after a given step, but for the data, which
/// the loader's state tells.
pub fn fingerprint(job: &Job) -> Result<Fingerprint, Error> {
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

/// The form of the operations that a job computes with; `progress` hears why.
pub fn kernels(job: &Job, progress: &dyn Progress) -> Result<Kernels, Error> {
    let Choice { kernels, note } =
        kernels::choose(job.kernels, &job.devices(), &job.config, &job.train)?;
    if let Some(note) = note {
        progress.note(&note);
    }
    Ok(kernels)
}

/// Gives every rank the learner that the job begins or goes on with, and returns the first
/// rank's; `progress` hears of new rows.
pub fn learner(
    ranks: &Ranks,
    (job, kernels): (&Job, Kernels),
    (latest, now, loader): (Option<Checkpoint>, Fingerprint, Arc<Loader>),
    progress: &dyn Progress,
) -> Result<Learner, Error> {
    let of = move |job: &Job, progress: &dyn Progress| {
        let learner = match &latest {
            Some(checkpoint) => resumed(job, checkpoint, &now, &loader),
            None => started(job, progress),
        };
        let learner = learner?.with_kernels(kernels);
        #[cfg(feature = "cuda")]
        super::products::recall(&job.folder, &learner.model);
        Ok(learner)
    };
    let first = of(job, progress)?;
    let job = job.clone();
    let others = move |device: &Device| {
        let device = device.clone();
        let job = Job {
            device,
            ..job.clone()
        };
        of(&job, &Silent)
    };
    ranks.seat(first, others)
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
    let result = start::resumed(job, checkpoint)?;
    let (model, average) = match job.train.ema {
        None => (result, None),
        Some(keep) => {
            let average = Average::new(keep, &result);
            (start::raw(job, checkpoint, result)?, Some(average))
        }
    };
    let moments = checkpoint.read(optimizer::FILE)?;
    let state = &checkpoint.state;
    Ok(Learner {
        optimizer: Optimizer::from_bytes(&moments, &model, &job.device)?,
        model,
        step: state.step,
        next: state
            .loader
            .as_ref()
            .map_or(state.step, |loader| loader.next),
        totals: state.totals,
        watch: state.watch.clone(),
        average,
        seat: Seat::alone(&job.device),
    })
}

/// A learner before its first step; `progress` hears of new rows.
fn started(job: &Job, progress: &dyn Progress) -> Result<Learner, Error> {
    let model = start::model(job, progress)?;
    let average = job.train.ema.map(|keep| Average::new(keep, &model));
    Ok(Learner {
        average,
        ..Learner::new(model, &job.device)
    })
}

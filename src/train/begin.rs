//! How a run begins: with fresh weights, those of another run, or where it stopped.

use std::path::Path;

use serde_json::json;

use super::average::Average;
use super::checkpoint::{self, Checkpoint};
use super::kernels::{self, Choice};
use super::optimizer::{self, Optimizer};
use super::step::Learner;
use super::{Error, Job, Start, data, start};
use crate::batch::LENGTH_STEP;
use crate::digest::Digest;
use crate::fingerprint::Fingerprint;
use crate::fs;
use crate::loader::Loader;
use crate::model::config::NewRows;
use crate::model::{Kernels, Model};
use crate::progress::Progress;

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

/// Checks that the model has an embedding for every id and a position for the longest row.
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
    Ok(())
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
        kernels::choose(job.kernels, &job.device, &job.config, &job.train)?;
    if let Some(note) = note {
        progress.note(&note);
    }
    Ok(kernels)
}

/// A learner that continues a checkpoint.
pub fn resumed(
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
            let values = checkpoint::read_weights(&checkpoint.folder, checkpoint::RAW_FILE)?.1;
            let model = Model::from_values(&job.config, values, &job.device);
            (model, Some(Average::new(keep, &result)))
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
    })
}

/// A learner before its first step; `progress` hears of new rows.
pub fn started(job: &Job, progress: &dyn Progress) -> Result<Learner, Error> {
    let model = start::model(job, progress)?;
    let average = job.train.ema.map(|keep| Average::new(keep, &model));
    Ok(Learner {
        average,
        ..Learner::new(model, &job.device)
    })
}

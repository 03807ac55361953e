//! Why training fails, and what the user can do about it.

use std::path::{Path, PathBuf};

use super::kernels::Refused;
use super::watch::Anomaly;
use super::{checkpoint, freeze, optimizer, ranks, record};
use crate::digest::Digest;
use crate::loader::Clash;
use crate::model::hub;
use crate::model::ops::numbers::Lost;
use crate::{dataset, fingerprint, fs, loader, tokenize};

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
    /// Another process trains in the folder.
    #[error("another process is training in `{}`", folder.display())]
    Busy {
        /// The training folder.
        folder: PathBuf,
    },
    /// A step must not be taken, and the recipe asks for nothing else than to stop.
    #[error(
        "step {step} failed on global batch {batch}{}",
        told(*before)
    )]
    Anomaly {
        /// The step.
        step: u64,
        /// The loader's global batch.
        batch: u64,
        /// The stage: `pretrain` or `finetune`.
        stage: &'static str,
        /// Steps that were skipped or rolled back before.
        before: u64,
        /// Where its rows are listed.
        file: PathBuf,
        /// The last checkpoint before it.
        checkpoint: Option<PathBuf>,
        /// What is wrong with it.
        #[source]
        source: Box<Anomaly>,
    },
    /// The device failed.
    #[error(transparent)]
    Device(#[from] Lost),
    /// Kernels that were wanted cannot be had.
    #[error(transparent)]
    Kernels(#[from] Refused),
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
    /// There are more ranks than micro-batches.
    #[error(
        "{ranks} devices share a global batch of {rows} rows in {batches} micro-batches: \
         expected one for each device"
    )]
    FewBatches {
        /// Micro-batches of a global batch.
        batches: usize,
        /// Its rows.
        rows: usize,
        /// Devices.
        ranks: usize,
        /// Positions of a row.
        row_length: usize,
    },
    /// Ranks could not go on together.
    #[error(transparent)]
    Ranks(#[from] ranks::Error),
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
    /// The thread that writes checkpoints could not start.
    #[error("cannot start the thread that writes checkpoints")]
    Spawn(#[source] std::io::Error),
    /// The thread that writes checkpoints panicked.
    #[error("the thread that writes checkpoints stopped: {message}")]
    Writer {
        /// What the panic said.
        message: String,
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
            Self::Busy { .. } => Some(
                "wait until it is done, stop it with Ctrl-C or SIGTERM, which saves, or choose another `--out`"
                    .into(),
            ),
            Self::Anomaly {
                stage,
                before,
                file,
                checkpoint,
                ..
            } => Some(anomaly_hint(stage, *before, file, checkpoint.as_deref())),
            Self::Weights { .. } => Some("lower `lr` or `clip`, which needs a new run".into()),
            Self::Leak { share, .. } => Some(format!(
                "prepare it with `validation = {share}` or more: then both hold out the same texts"
            )),
            Self::Kernels(refused) => Some(refused.hint().into()),
            Self::FewBatches { rows, ranks, row_length, .. } => Some(match rows / ranks {
                0 => format!(
                    "name {rows} devices at most, or raise `batch_tokens`, which needs a new run"
                ),
                each => format!(
                    "name fewer devices, or set `micro_batch_tokens` to {} at most, which needs a new run",
                    each * row_length
                ),
            }),
            Self::Ranks(error) => Some(error.hint().into()),
            Self::Checkpoint(error) => error.hint(),
            Self::Clash(clash) => Some(clash.hint().into()),
            Self::Loader(error) => error.hint().map(String::from),
            _ => None,
        }
    }
}

fn anomaly_hint(stage: &str, before: u64, file: &Path, checkpoint: Option<&Path>) -> String {
    let rows = format!("`{}` lists the batch's rows", file.display());
    let last = match checkpoint {
        Some(last) => format!("`{}` is the last checkpoint", last.display()),
        None => "no checkpoint was made before".into(),
    };
    let table = format!("--set {stage}.train.spike");
    match before {
        0 => format!(
            "{rows}; {last}; `{table}.policy=skip` goes on without the batch, `{table}.policy=roll-back` from the checkpoint past the batch; a lower `lr` or `clip` needs a new run"
        ),
        _ => format!(
            "{rows}; {last}; `{table}.most={}` allows as many again; a lower `lr` or `clip` needs a new run",
            2 * before
        ),
    }
}

/// Says what went before.
fn told(before: u64) -> String {
    match before {
        0 => String::new(),
        n => format!(" after {n} that were skipped or rolled back"),
    }
}

//! Where a loader is, and what must be the same where it goes on.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::mixture::Phase;
use super::order::Order;
use crate::fingerprint::{Difference, Fingerprint};
use crate::fs;
use crate::manifest::Split;

/// The version of the state that this program writes.
const FORMAT: u32 = 1;

/// Everything that decides the global batches of a loader, and which comes next.
///
/// Micro-batches, ranks, threads and the depth of prefetching are not in it: they
/// decide who makes a batch, not what it is, and may change at every stop.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    format: u32,
    /// The global batch that comes next.
    pub next: u64,
    seed: u64,
    split: Split,
    order: Order,
    rows_per_batch: usize,
    /// Batches among which rows are sorted by length.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bucket: Option<u64>,
    /// The weights of several datasets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    mixture: Vec<Phase>,
    /// Where the rows end, if they do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    epochs: Option<u64>,
    /// What decides the rows of each dataset.
    datasets: Vec<Fingerprint>,
}

/// A file that holds no state.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// It cannot be read or written.
    #[error(transparent)]
    File(#[from] fs::Error),
    /// It is something else.
    #[error("`{}` is no state of a loader", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
}

impl StateError {
    fn json(path: &Path) -> impl FnOnce(serde_json::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Json { path, source }
    }

    /// What the user can do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::File(_) => None,
            Self::Json { .. } => Some("name another file, or remove this one to start at batch 0"),
        }
    }
}

impl State {
    pub(super) fn new(
        config: &super::Config,
        mixture: &[Phase],
        datasets: Vec<Fingerprint>,
        next: u64,
    ) -> Self {
        Self {
            format: FORMAT,
            next,
            seed: config.seed,
            split: config.split,
            order: config.order,
            rows_per_batch: config.rows_per_batch,
            bucket: (0 < config.bucket).then_some(config.bucket),
            mixture: mixture.to_vec(),
            epochs: config.epochs,
            datasets,
        }
    }

    /// The state that [`State::write`] left in a file; `None` if there is no such file.
    pub fn read(path: &Path) -> Result<Option<Self>, StateError> {
        let text = match fs::read_text(path) {
            Err(error) if error.is_missing() => return Ok(None),
            other => other?,
        };
        match serde_json::from_str(&text) {
            Ok(state) => Ok(Some(state)),
            Err(source) => Err(StateError::json(path)(source)),
        }
    }

    /// Replaces a file by the state, at once.
    pub fn write(&self, path: &Path) -> Result<(), StateError> {
        let text = serde_json::to_string_pretty(self).map_err(StateError::json(path))?;
        Ok(fs::write(path, format!("{text}\n").as_bytes())?)
    }

    /// What `now` would do otherwise; nothing if it makes the same global batches.
    pub fn differences(&self, now: &Self) -> Vec<Difference> {
        self.fingerprint().differences(&now.fingerprint())
    }

    /// All but the position. What there is one of has no number in its name.
    fn fingerprint(&self) -> Fingerprint {
        let mut all = Fingerprint::default();
        all.add("loader format", &json!(self.format));
        all.add("seed", &json!(self.seed));
        all.add("split", &json!(self.split));
        all.add("order", &json!(self.order));
        all.add("rows a batch", &json!(self.rows_per_batch));
        all.add("mixture", &json!(self.mixture));
        if let Some(bucket) = self.bucket {
            all.add("bucket", &json!(bucket));
        }
        if let Some(epochs) = self.epochs {
            all.add("epochs", &json!(epochs));
        }
        for (dataset, number) in self.datasets.iter().zip(1..) {
            match self.datasets.len() {
                1 => all.add("", &json!(dataset)),
                _ => all.add(&format!("dataset {number}"), &json!(dataset)),
            }
        }
        all
    }
}

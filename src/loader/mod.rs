//! From a dataset to the batches of a training run.
//!
//! Global batch `k` is a function of the dataset, the seed and `k` alone. A loader
//! has no position: to resume is to ask for the next `k`, with any size of
//! micro-batch, any prefetch depth and any number of ranks.

mod collate;
pub mod mixture;
mod order;
mod prefetch;

use std::fmt;
use std::sync::Arc;

pub use collate::Collator;
pub use order::Order;
pub use prefetch::Prefetch;

use self::order::Walk;
use crate::batch::{Batch, Counts};
use crate::dataset::Dataset;
use crate::manifest::Split;
use crate::rng::{Key, Stream};
use crate::row::RowView;
use crate::token::{IdWidth, Reserved};

/// An error of any kind.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Names a row of a run: the same row may differ from epoch to epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct At {
    /// The split.
    pub split: Split,
    /// Which pass over the split.
    pub epoch: u64,
    /// The row's index in the split.
    pub index: u64,
}

/// What a loader reads: rows by split, epoch and index.
pub trait Rows: Send + Sync {
    /// The reserved ids of the rows.
    fn reserved(&self) -> Reserved;
    /// The width that every id fits.
    fn id_width(&self) -> IdWidth;
    /// How many rows a split has.
    fn rows(&self, split: Split) -> u64;
    /// Shows a row to `see`, once, unless it cannot be read.
    fn read(&self, at: At, see: &mut dyn FnMut(RowView<'_>)) -> Result<(), BoxError>;
}

impl Rows for Dataset {
    fn reserved(&self) -> Reserved {
        self.manifest.tokenizer.reserved
    }

    fn rows(&self, split: Split) -> u64 {
        self.rows(split)
    }

    fn id_width(&self) -> IdWidth {
        self.manifest.id_width
    }

    fn read(&self, at: At, see: &mut dyn FnMut(RowView<'_>)) -> Result<(), BoxError> {
        Ok(self.see(at.split, at.index, see)?)
    }
}

/// Which batches a loader makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Decides the order of rows.
    pub seed: u64,
    /// Rows of a global batch: of one optimizer step.
    pub rows_per_batch: usize,
    /// Rows of one forward pass; the last micro-batch of a global batch may have fewer.
    pub rows_per_micro_batch: usize,
    /// Which rows.
    pub split: Split,
    /// In which order.
    pub order: Order,
}

/// A batch that could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is nothing to load.
    #[error("expected rows in the {split:?} split, found none")]
    Empty {
        /// The split.
        split: Split,
    },
    /// A batch of no rows.
    #[error("expected at least one row in a {what}, found none")]
    NoRows {
        /// Which kind of batch.
        what: &'static str,
    },
    /// A row could not be read.
    #[error("cannot read row {index} of the {split:?} split")]
    Row {
        /// The split.
        split: Split,
        /// The row.
        index: u64,
        /// Why.
        #[source]
        source: BoxError,
    },
    /// The prefetch thread could not start.
    #[error("cannot start the prefetch thread")]
    Spawn(#[source] std::io::Error),
    /// The prefetch thread panicked.
    #[error("the prefetch thread stopped before batch {batch}: {message}")]
    Thread {
        /// The batch that was expected.
        batch: u64,
        /// What the panic said.
        message: String,
    },
}

/// What one optimizer step trains on.
#[derive(Clone, Debug, PartialEq)]
pub struct GlobalBatch {
    /// Its number, from 0.
    pub index: u64,
    /// Its rows in order, a forward pass each.
    pub micro_batches: Vec<Batch>,
    /// Sums over the micro-batches.
    pub counts: Counts,
}

/// Makes the batches of a training run.
pub struct Loader {
    dataset: Arc<dyn Rows>,
    config: Config,
    walk: Walk,
}

impl Loader {
    /// A loader of `dataset`.
    pub fn new(dataset: Arc<dyn Rows>, config: Config) -> Result<Self, Error> {
        let split = config.split;
        for (n_rows, what) in [
            (config.rows_per_batch, "global batch"),
            (config.rows_per_micro_batch, "micro-batch"),
        ] {
            if n_rows == 0 {
                return Err(Error::NoRows { what });
            }
        }
        let key = Key::new(config.seed).stream(Stream::Order);
        let walk =
            Walk::new(dataset.rows(split), key, config.order).ok_or(Error::Empty { split })?;
        Ok(Self {
            dataset,
            config,
            walk,
        })
    }

    /// How many rows an epoch has.
    pub fn rows_per_epoch(&self) -> u64 {
        self.walk.rows_per_epoch()
    }

    /// The rows of global batch `k`, as (epoch, row), in order.
    ///
    /// Of `n` ranks, rank `r` takes the rows `r, r + n, r + 2 n, ...` of this list.
    pub fn rows_of(&self, k: u64) -> Vec<(u64, u64)> {
        let n_rows = self.config.rows_per_batch;
        // No run comes near 2^64 rows.
        let first = k.saturating_mul(n_rows as u64);
        self.walk.starting_at(first).take(n_rows).collect()
    }

    /// Global batch `k`.
    pub fn batch(&self, k: u64) -> Result<GlobalBatch, Error> {
        let split = self.config.split;
        let mut batch = GlobalBatch {
            index: k,
            micro_batches: Vec::new(),
            counts: Counts::default(),
        };
        for rows in self.rows_of(k).chunks(self.config.rows_per_micro_batch) {
            let at = |&(epoch, index): &(u64, u64)| At {
                split,
                epoch,
                index,
            };
            let micro_batch = collate(&*self.dataset, rows.iter().map(at))?;
            batch.counts += micro_batch.counts;
            batch.micro_batches.push(micro_batch);
        }
        Ok(batch)
    }

    /// The global batches `from..to`, made by a thread that is at most `depth` batches
    /// ahead of the one it works on.
    pub fn prefetch(self: Arc<Self>, from: u64, to: u64, depth: usize) -> Prefetch {
        Prefetch::start(self, from..to, depth)
    }
}

/// The batch of some rows, padded to the longest.
pub fn collate(dataset: &dyn Rows, rows: impl Iterator<Item = At>) -> Result<Batch, Error> {
    let mut collator = Collator::new(dataset.reserved(), dataset.id_width());
    for at in rows {
        let read = dataset.read(at, &mut |row| collator.push(row));
        read.map_err(|source| Error::Row {
            split: at.split,
            index: at.index,
            source,
        })?;
    }
    Ok(collator.finish())
}

impl fmt::Debug for Loader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loader")
            .field("config", &self.config)
            .field("walk", &self.walk)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "the numbers of tests are small"
)]
mod tests;

//! From a dataset to the batches of a training run.
//!
//! Global batch `k` is a function of the datasets, their weights, the seed and `k`
//! alone. A loader has no position: to resume is to ask for the next `k`, with any
//! size of micro-batch, any prefetch depth and any number of ranks. What may not
//! change stands in a [`State`].

mod bucket;
mod collate;
pub mod mixture;
mod order;
mod prefetch;
mod state;
pub mod stream;
mod together;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use serde_json::json;

pub use crate::dataset::At;
pub use collate::Collator;
pub use order::{Order, Pick};
pub use prefetch::{Batches, Prefetch};
pub use state::{State, StateError};
pub use together::{Clash, together};

use self::bucket::{Buckets, Unsorted};
use self::mixture::{Mixture, Phase};
use self::order::Sampler;
use crate::batch::{Batch, Counts, LENGTH_STEP};
use crate::dataset::Dataset;
use crate::fingerprint::{self, Difference, Fingerprint};
use crate::fs::mapped::Lines;
use crate::manifest::Split;
use crate::row::RowView;
use crate::shard::Ahead;
use crate::token::{IdWidth, Reserved};
use crate::units::percent;

/// A processor is told of a row so many rows before it is read: memory brings some while
/// others are worked on, and its nearer caches hold them all.
const FETCHED: usize = 8;

/// An error of any kind.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What a loader reads: rows by split, epoch and index.
pub trait Rows: Send + Sync {
    /// The reserved ids of the rows.
    fn reserved(&self) -> Reserved;
    /// The width that every id fits.
    fn id_width(&self) -> IdWidth;
    /// How many rows a split has.
    fn rows(&self, split: Split) -> u64;
    /// How many ids a row has, or about so many: what buckets sort by.
    fn length(&self, at: At) -> usize;
    /// Shows a row to `see`, once, unless it cannot be read.
    ///
    /// What `see` was shown does not count where this fails.
    fn read(&self, at: At, see: &mut dyn FnMut(RowView<'_>)) -> Result<(), BoxError>;
    /// Says that a row will be read soon, so that it may be got from its disk.
    fn will_need(&self, _: At, _: Ahead) {}
    /// What is read for a row, for the processor to get it from memory.
    fn lines(&self, _: At) -> Lines<'_> {
        Lines::default()
    }
    /// What decides the rows: equal ones give equal rows.
    fn identity(&self) -> Fingerprint;
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

    fn length(&self, at: At) -> usize {
        self.length(at).unwrap_or(0)
    }

    fn read(&self, at: At, see: &mut dyn FnMut(RowView<'_>)) -> Result<(), BoxError> {
        Ok(self.read(at, see)?)
    }

    fn will_need(&self, at: At, ahead: Ahead) {
        self.will_need(at, ahead);
    }

    fn lines(&self, at: At) -> Lines<'_> {
        self.lines(at)
    }

    fn identity(&self) -> Fingerprint {
        let mut identity = Fingerprint::default();
        identity.add("dataset", &json!(self.name()));
        identity.add("tokenizer", &json!(self.manifest.tokenizer.digest));
        // The digest says all; this tells a person what is another.
        identity.add("recipe", &self.manifest.recipe);
        if self.manifest.pause.is_at_load() {
            // The recipe holds what is on disk.
            identity.add("recipe.pause", &json!(self.manifest.pause));
        }
        identity
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
    /// Global batches among which rows are sorted by length; 0 for none.
    pub bucket: u64,
    /// Whose part of each global batch is made.
    pub share: Share,
    /// After how many epochs the rows end, if they do; of one dataset alone.
    pub epochs: Option<u64>,
}

/// The part of each global batch that one of several processes makes: of its rows,
/// `rank`, `rank + world`, `rank + 2 world` and so on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Which process this is, from 0.
    pub rank: usize,
    /// How many there are.
    pub world: usize,
}

impl Share {
    /// That of a process on its own.
    pub const WHOLE: Self = Self { rank: 0, world: 1 };
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
    /// A process without a part.
    #[error(
        "rank {rank} of {world} has no part in a global batch of {rows} rows: \
         expected a rank below the number of ranks, and a row for each rank"
    )]
    Share {
        /// The rank.
        rank: usize,
        /// How many ranks there are.
        world: usize,
        /// Rows of a global batch.
        rows: usize,
    },
    /// Several datasets that are passed through at different speeds.
    #[error("{datasets} datasets have no epochs in common: expected a number of batches")]
    Epochs {
        /// How many datasets there are.
        datasets: usize,
    },
    /// The weights of several datasets are wrong.
    #[error(transparent)]
    Mixture(#[from] mixture::Error),
    /// A state belongs to another run.
    #[error("the state is that of another run: {}", fingerprint::told(differences))]
    AnotherRun {
        /// What differs; at least one part.
        differences: Vec<Difference>,
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

impl Error {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::AnotherRun { .. } => Some("undo the change, or start a new run with a new state"),
            _ => None,
        }
    }
}

/// Makes the batches of a training run.
pub struct Loader {
    members: Vec<Arc<dyn Rows>>,
    mixture: Vec<Phase>,
    config: Config,
    sampler: Sampler,
    buckets: Option<Buckets>,
}

impl Loader {
    /// A loader of `dataset`.
    pub fn new(dataset: Arc<dyn Rows>, config: Config) -> Result<Self, Error> {
        Self::of_several(vec![dataset], Vec::new(), config)
    }

    /// A loader of several datasets that agree ([`together`]), mixed by weights.
    pub fn of_several(
        members: Vec<Arc<dyn Rows>>,
        mixture: Vec<Phase>,
        config: Config,
    ) -> Result<Self, Error> {
        config.check(members.len())?;
        let n_rows = members.iter().map(|member| member.rows(config.split));
        let n_rows: Vec<u64> = n_rows.collect();
        let rows_per_batch = config.rows_per_batch as u64;
        let mixed = Mixture::new(members.len(), &mixture, rows_per_batch)?;
        let sampler = Sampler::new(&n_rows, mixed, rows_per_batch, config.seed, config.order);
        let split = config.split;
        let mut loader = Self {
            members,
            mixture,
            config,
            sampler: sampler.ok_or(Error::Empty { split })?,
            buckets: None,
        };
        if 0 < config.bucket {
            let epoch = (!loader.is_mixed()).then(|| loader.rows_per_epoch());
            let buckets = Buckets::new([config.bucket, rows_per_batch], config.seed);
            let buckets = buckets.ending(epoch, &loader.mixture, loader.n_batches());
            loader.buckets = Some(buckets);
        }
        Ok(loader)
    }

    /// How many rows an epoch has; of several datasets, an epoch of each.
    pub fn rows_per_epoch(&self) -> u64 {
        let split = self.config.split;
        self.members.iter().map(|member| member.rows(split)).sum()
    }

    /// How many rows a global batch has.
    pub fn rows_per_batch(&self) -> usize {
        self.config.rows_per_batch
    }

    /// Whether rows come from several datasets.
    pub fn is_mixed(&self) -> bool {
        1 < self.members.len()
    }

    /// How often each dataset was passed through before global batch `k`.
    pub fn epochs_before(&self, k: u64) -> Vec<f64> {
        self.sampler.epochs(k)
    }

    /// How many global batches there are, where the rows end. The last may be shorter,
    /// or hold nothing for a rank.
    pub fn n_batches(&self) -> Option<u64> {
        Some(self.n_rows()?.div_ceil(self.config.rows_per_batch as u64))
    }

    /// How many rows there are, where they end.
    fn n_rows(&self) -> Option<u64> {
        Some(self.config.epochs?.saturating_mul(self.rows_per_epoch()))
    }

    /// The state before global batch `next`.
    pub fn state(&self, next: u64) -> State {
        let identities = self.members.iter().map(|member| member.identity());
        State::new(&self.config, &self.mixture, identities.collect(), next)
    }

    /// The global batch at which a run goes on whose state this is.
    pub fn resume(&self, state: &State) -> Result<u64, Error> {
        let differences = state.differences(&self.state(state.next));
        match differences.is_empty() {
            true => Ok(state.next),
            false => Err(Error::AnotherRun { differences }),
        }
    }

    /// The rows of global batch `k` that this process makes, in order.
    pub fn rows_of(&self, k: u64) -> Vec<Pick> {
        let Share { rank, world } = self.config.share;
        match &self.buckets {
            None => self
                .sampler
                .rows(k, (rank as u64..self.n_rows_of(k)).step_by(world)),
            Some(buckets) => {
                let rows = buckets.rows(k, self).into_iter();
                rows.skip(rank).step_by(world).collect()
            }
        }
    }

    /// How many rows global batch `k` has, over all processes.
    fn n_rows_of(&self, k: u64) -> u64 {
        let n_rows = self.config.rows_per_batch as u64;
        let left = |end: u64| end.saturating_sub(k.saturating_mul(n_rows));
        self.n_rows().map_or(n_rows, |end| left(end).min(n_rows))
    }

    /// What buckets change about padding, as a person reads it; of the first of some
    /// batches, and none where there are no buckets.
    pub fn bucket_note(&self, batches: Range<u64>) -> Option<String> {
        let end = batches.start.saturating_add(self.config.bucket);
        let some = batches.start..batches.end.min(end);
        if some.is_empty() {
            return None;
        }
        let [unsorted, sorted] = self.padding(some).map(percent);
        Some(format!(
            "{sorted} of positions are padding, {unsorted} without buckets"
        ))
    }

    /// The share of positions that are padding in some global batches of this process,
    /// by the lengths of their rows alone: without buckets, and as they are.
    pub fn padding(&self, batches: Range<u64>) -> [f64; 2] {
        let Share { rank, world } = self.config.share;
        let share = |rows_of: &dyn Fn(u64) -> Vec<Pick>| {
            let (mut ids, mut positions) = (0, 0);
            for rows in batches.clone().map(rows_of) {
                for rows in rows.chunks(self.config.rows_per_micro_batch) {
                    let lengths = rows.iter().map(|pick| Unsorted::length(self, *pick));
                    let longest = lengths.clone().max().unwrap_or(0);
                    positions += rows.len() * longest.next_multiple_of(LENGTH_STEP);
                    ids += lengths.sum::<usize>();
                }
            }
            1.0 - ids as f64 / positions.max(1) as f64
        };
        let unsorted = |k| self.rows(k).into_iter().skip(rank).step_by(world).collect();
        [share(&unsorted), share(&|k| self.rows_of(k))]
    }

    /// Global batch `k`.
    pub fn batch(&self, k: u64) -> Result<GlobalBatch, Error> {
        self.batch_of(k, &self.rows_of(k), &[], false)
    }

    /// Global batch `k`, whose rows these are, and which `next` follow; whether its first
    /// rows are on their way from memory.
    fn batch_of(
        &self,
        k: u64,
        rows: &[Pick],
        next: &[Pick],
        is_fetched: bool,
    ) -> Result<GlobalBatch, Error> {
        let mut ahead = rows.iter().chain(next);
        for pick in ahead.by_ref().take(FETCHED) {
            if !is_fetched {
                self.lines(*pick).fetch();
            }
        }
        let mut batch = GlobalBatch {
            index: k,
            micro_batches: Vec::new(),
            counts: Counts::default(),
        };
        for picks in rows.chunks(self.config.rows_per_micro_batch) {
            let micro_batch = self.micro_batch(picks, &mut ahead)?;
            batch.counts += micro_batch.counts;
            batch.micro_batches.push(micro_batch);
        }
        Ok(batch)
    }

    /// The batch of some rows; as many are fetched `ahead`.
    fn micro_batch<'a>(
        &self,
        picks: &[Pick],
        ahead: &mut impl Iterator<Item = &'a Pick>,
    ) -> Result<Batch, Error> {
        let split = self.config.split;
        let empty = || Error::Empty { split };
        let first = self.members.first().ok_or_else(empty)?;
        let mut collator = Collator::new(first.reserved(), first.id_width()).expect(picks.len());
        for pick in picks {
            let later = ahead.next().map(|pick| self.lines(*pick));
            let [some, others] = later.unwrap_or_default().halves();
            some.fetch();
            let member = self.members.get(pick.member).ok_or_else(empty)?;
            push(&**member, pick.at(split), &mut collator, others)?;
        }
        Ok(collator.finish())
    }

    /// What is read for a row, for the processor to get it from memory.
    fn lines(&self, pick: Pick) -> Lines<'_> {
        let member = self.members.get(pick.member);
        member.map_or(Lines::default(), |member| {
            member.lines(pick.at(self.config.split))
        })
    }

    /// Says that some rows will be read soon.
    fn will_need(&self, rows: &[Pick], ahead: Ahead) {
        for pick in rows {
            if let Some(member) = self.members.get(pick.member) {
                member.will_need(pick.at(self.config.split), ahead);
            }
        }
    }

    /// Some global batches, made by this thread one after the other; the rows of the next
    /// are asked for before one is made.
    pub fn batches(&self, indices: Range<u64>) -> Batches<'_> {
        Batches::new(self, indices)
    }

    /// The global batches `from..to`, made by a thread that is at most `depth` batches
    /// ahead of the one it works on.
    pub fn prefetch(self: Arc<Self>, from: u64, to: u64, depth: usize) -> Prefetch {
        Prefetch::start(self, from..to, depth)
    }
}

impl Unsorted for Loader {
    fn rows(&self, k: u64) -> Vec<Pick> {
        self.sampler.rows(k, 0..self.n_rows_of(k))
    }

    fn length(&self, pick: Pick) -> usize {
        let member = self.members.get(pick.member);
        member.map_or(0, |member| member.length(pick.at(self.config.split)))
    }
}

impl Config {
    /// Checks that every global batch of `n_members` datasets has rows for this process.
    fn check(&self, n_members: usize) -> Result<(), Error> {
        for (n_rows, what) in [
            (self.rows_per_batch, "global batch"),
            (self.rows_per_micro_batch, "micro-batch"),
        ] {
            if n_rows == 0 {
                return Err(Error::NoRows { what });
            }
        }
        let (Share { rank, world }, rows) = (self.share, self.rows_per_batch);
        if world <= rank || rows < world {
            return Err(Error::Share { rank, world, rows });
        }
        match self.epochs {
            Some(_) if 1 < n_members => Err(Error::Epochs {
                datasets: n_members,
            }),
            _ => Ok(()),
        }
    }
}

impl Pick {
    fn at(&self, split: Split) -> At {
        At {
            split,
            epoch: self.epoch,
            index: self.index,
        }
    }
}

/// The batch of some rows, padded to the longest.
pub fn collate(dataset: &dyn Rows, rows: impl Iterator<Item = At>) -> Result<Batch, Error> {
    let collator = Collator::new(dataset.reserved(), dataset.id_width());
    let mut collator = collator.expect(rows.size_hint().0);
    for at in rows {
        push(dataset, at, &mut collator, Lines::default())?;
    }
    Ok(collator.finish())
}

/// Puts a row into a batch. Between its check and its copy the processor is told of `others`.
fn push(
    dataset: &dyn Rows,
    at: At,
    collator: &mut Collator,
    others: Lines<'_>,
) -> Result<(), Error> {
    let read = dataset.read(at, &mut |row| {
        others.fetch();
        collator.push(row);
    });
    read.map_err(|source| Error::Row {
        split: at.split,
        index: at.index,
        source,
    })
}

impl fmt::Debug for Loader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loader")
            .field("config", &self.config)
            .field("sampler", &self.sampler)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "the numbers of tests are small"
)]
mod tests;

//! The loss on rows held out.

use crate::batch::Counts;
use crate::loader::{self, At, Rows, collate};
use crate::manifest::Split;
use crate::model::Model;

/// Which rows are looked at.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// How many, from the first, at most.
    pub rows: u64,
    /// How many at a time.
    pub rows_per_batch: usize,
}

impl Sample {
    /// How many rows those are of a dataset.
    pub fn rows(&self, dataset: &dyn Rows) -> u64 {
        self.rows.min(dataset.rows(Split::Validation))
    }
}

/// A mean loss, and of what.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Loss {
    /// Sum over all scored targets, divided by their count.
    pub mean: f64,
    /// Rows.
    pub rows: u64,
    /// Scored targets.
    pub scored: u64,
}

/// The sum of the losses of a batch, and what it is of.
type Part = (f64, Counts);

/// The losses on the batches that a rank has of a sample of the rows held out: those at
/// `rank`, `rank + ranks`, ...
pub fn part(
    model: &Model,
    dataset: &dyn Rows,
    sample: Sample,
    (rank, ranks): (usize, usize),
) -> Result<Vec<Part>, loader::Error> {
    let at = |&index: &u64| At {
        split: Split::Validation,
        epoch: 0,
        index,
    };
    let all: Vec<u64> = (0..sample.rows(dataset)).collect();
    let batches = all.chunks(sample.rows_per_batch.max(1));
    let own = batches.skip(rank).step_by(ranks);
    own.map(|some| {
        let batch = collate(dataset, some.iter().map(at))?;
        Ok((model.loss(&batch, 0.0).cross_entropy, batch.counts))
    })
    .collect()
}

/// The mean loss of the parts that all ranks have of some rows; `None` if nothing is scored in them, or
/// there are none. Sums are in the order of the batches, however many ranks there are.
pub fn mean(parts: &[Vec<Part>], rows: u64) -> Option<Loss> {
    let most = parts.iter().map(Vec::len).max().unwrap_or(0);
    let in_order = (0..most).flat_map(|at| parts.iter().filter_map(move |part| part.get(at)));
    let (mut sum, mut counts) = (0.0, Counts::default());
    for (loss, of) in in_order {
        sum += loss;
        counts += *of;
    }
    let scored = counts.scored;
    let mean = sum / scored as f64;
    (0 < scored).then_some(Loss { mean, rows, scored })
}

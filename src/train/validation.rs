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

/// The loss on a sample of the rows held out; `None` if nothing is scored in
/// them, or there are none.
pub fn loss(
    model: &Model,
    dataset: &dyn Rows,
    sample: Sample,
) -> Result<Option<Loss>, loader::Error> {
    let split = Split::Validation;
    let rows = sample.rows.min(dataset.rows(split));
    let at = |&index: &u64| At {
        split,
        epoch: 0,
        index,
    };
    let (mut sum, mut counts) = (0.0, Counts::default());
    let all: Vec<u64> = (0..rows).collect();
    for some in all.chunks(sample.rows_per_batch.max(1)) {
        let batch = collate(dataset, some.iter().map(at))?;
        sum += model.loss(&batch, 0.0).cross_entropy;
        counts += batch.counts;
    }
    let scored = counts.scored;
    let mean = sum / scored as f64;
    Ok((0 < scored).then_some(Loss { mean, rows, scored }))
}

//! Token and position embedding on the device.

use super::engine::{Error, Pointer};
use super::kernels::{Kernels, element};
use crate::model::ops::Pass;

/// Rows to be summed by what they belong to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Segments {
    /// Rows, those of one target side by side and in their order.
    pub order: Vec<i32>,
    /// Where each target's rows begin in `order`; one more, where they end.
    pub start: Vec<i32>,
    /// The targets, each once.
    pub target: Vec<i32>,
}

impl Segments {
    /// Of each row the target is given.
    pub fn new(targets: impl IntoIterator<Item = i32>) -> Self {
        let mut rows: Vec<(i32, i32)> = targets.into_iter().zip(0..).collect();
        rows.sort_unstable();
        let mut segments = Self::default();
        for (at, &(target, row)) in (0..).zip(&rows) {
            if segments.target.last() != Some(&target) {
                segments.target.push(target);
                segments.start.push(at);
            }
            segments.order.push(row);
        }
        segments.start.extend(i32::try_from(rows.len()).ok());
        segments
    }
}

/// [`Segments`] on the device.
#[derive(Clone, Copy, Debug)]
pub struct Runs {
    /// Order, start and target.
    pub at: [Pointer; 3],
    /// How many targets.
    pub targets: usize,
}

/// Writes `[n, d]`: each id's row, plus its place's.
pub fn forward(
    kernels: &mut Kernels<'_>,
    pass: &Pass,
    params: Pointer,
    (ids, places): (Pointer, Pointer),
    out: Pointer,
) -> Result<(), Error> {
    let layout = &pass.shape.embedding;
    let positions = layout.position.as_ref();
    let tables = (
        element(params, layout.token.start),
        positions.map_or(Pointer::NONE, |range| element(params, range.start)),
    );
    kernels.embed(tables, (ids, places), out, (&pass.shape, pass.extent))
}

/// Writes the gradient of the group, given that of the output and the rows of each id and,
/// with learned positions, of each place.
pub fn backward(
    kernels: &mut Kernels<'_>,
    pass: &Pass,
    dy: Pointer,
    [ids, places]: [Runs; 2],
    gradient: Pointer,
) -> Result<(), Error> {
    let layout = &pass.shape.embedding;
    kernels.fill(gradient, 0.0, layout.len)?;
    let mut add = |range: &std::ops::Range<usize>, runs: Runs| {
        let to = element(gradient, range.start);
        kernels.gather_sums(dy, runs.at, to, (runs.targets, pass.shape.d))
    };
    add(&layout.token, ids)?;
    match &layout.position {
        Some(range) => add(range, places),
        None => Ok(()),
    }
}

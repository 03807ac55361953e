//! A whole model through an engine, in the order of `pass`: what tests run on a processor,
//! and what counts how often a device is asked for something.

use super::batch::Held;
use super::block::{self, Saved};
use super::embedding;
use super::engine::{Engine, Error, Pointer};
use super::kernels::Kernels;
use super::loss::{self, Factors};
use crate::model::ops::{Objective, Pass};

/// Memory for so many bytes.
pub type Memory<'a> = &'a mut dyn FnMut(usize) -> Pointer;

/// What was computed.
pub struct Computed {
    /// Sums of the losses.
    pub sums: Pointer,
    /// Of every group.
    pub gradients: Vec<Pointer>,
    /// What the head adds to the first of them, where its table is the embedding's.
    pub tied: Pointer,
}

/// The loss' sums and every group's gradient.
pub fn differentiate(
    engine: &mut dyn Engine,
    pass: &Pass,
    groups: &[Pointer],
    held: &Held,
    objective: &Objective,
    memory: Memory<'_>,
) -> Result<Computed, Error> {
    let (shape, extent, precision) = (&*pass.shape, pass.extent, engine.precision());
    let kernels = &mut Kernels::new(engine);
    let stream = 4 * extent.positions() * shape.d;
    let [first, blocks @ .., last] = groups else {
        unreachable!("a layout has at least two groups")
    };
    let mut x = memory(stream);
    let ids = (held.ids, held.tables.places);
    embedding::forward(kernels, pass, *first, ids, x)?;
    let mut kept = Vec::new();
    for params in blocks {
        let arrays = block::Arrays {
            x,
            params: *params,
            saved: memory(Saved::new(shape, extent, precision).bytes),
            work: memory(block::Work::forward(shape, extent, precision).bytes),
            tables: held.tables,
        };
        x = memory(stream);
        block::forward(kernels, pass, arrays, x)?;
        kept.push(arrays);
    }
    let ends = (x, *first, *last);
    let (sums, to) = head(kernels, pass, ends, held, objective, memory)?;
    let mut dx = to.x;
    let mut gradients = vec![to.last];
    while let Some(arrays) = kept.pop() {
        let arrays = block::Arrays {
            work: memory(block::Work::backward(shape, extent, precision).bytes),
            ..arrays
        };
        let (to, gradient) = (memory(stream), memory(4 * shape.block.len));
        block::backward(kernels, pass, arrays, dx, (to, gradient))?;
        gradients.push(gradient);
        dx = to;
    }
    let gradient = memory(4 * shape.embedding.len);
    embedding::backward(kernels, pass, dx, held.runs, gradient)?;
    gradients.push(gradient);
    gradients.reverse();
    Ok(Computed {
        sums,
        gradients,
        tied: to.embedding,
    })
}

/// The sums of the loss, and the gradients of what it reads.
fn head(
    kernels: &mut Kernels<'_>,
    pass: &Pass,
    (x, embedding, last): (Pointer, Pointer, Pointer),
    held: &Held,
    objective: &Objective,
    memory: Memory<'_>,
) -> Result<(Pointer, loss::Gradients), Error> {
    let (shape, extent) = (&*pass.shape, pass.extent);
    let ([rows, targets, weights], count) = (held.scored, held.count);
    let work = loss::Work::new(shape, count, kernels.precision()).bytes;
    let arrays = loss::Arrays {
        x,
        last,
        embedding,
        rows,
        targets,
        weights,
        work: memory(work),
    };
    let to = loss::Gradients {
        x: memory(4 * extent.positions() * shape.d),
        last: memory(4 * shape.last.len),
        embedding: memory(4 * shape.embedding.len),
    };
    let factors = Factors {
        scale: objective.scale,
        z_loss: objective.z_loss,
    };
    let sums = memory(16);
    let counted = (count, factors);
    loss::run(kernels, (shape, extent), counted, arrays, sums, Some(to))?;
    Ok((sums, to))
}

//! Final norm, head and weighted cross entropy on the device, with their gradients.
//!
//! Only scored positions are multiplied with the head, a chunk of them at a time, so that
//! pauses and padding cost nothing here and never all logits exist.

use super::arena::{Arena, Place};
use super::engine::{Error, Matrix, Pointer, Precision, Product};
use super::kernels::{Kernels, Norm, Sums, element};
use crate::model::ops::{Extent, Shape, Targets};

/// At most this many logits exist at once, or one chunk of 128 positions'.
const LOGITS: usize = 1 << 27;

/// The positions that count: row, target and weight of each.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scored {
    /// Which positions.
    pub rows: Vec<i32>,
    /// What each must predict.
    pub targets: Vec<i32>,
    /// How much it counts.
    pub weights: Vec<f32>,
}

impl Scored {
    /// Those whose weight is not 0.
    pub fn new(targets: &Targets) -> Self {
        let mut scored = Self::default();
        let pairs = targets.ids.iter().zip(&targets.weights);
        for (row, (&id, &weight)) in (0i32..).zip(pairs) {
            if weight != 0.0 {
                scored.rows.push(row);
                scored.targets.push(id.cast_signed());
                scored.weights.push(weight);
            }
        }
        scored
    }
}

/// What losses and gradients are multiplied with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Factors {
    /// Of gradients alone.
    pub scale: f32,
    /// See [`Objective::z_loss`](crate::model::ops::Objective).
    pub z_loss: f32,
}

/// Working memory of one pass.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    /// The head's table in the precision of activations.
    table: Place,
    statistics: Place,
    hidden: Place,
    d_hidden: Place,
    logits: Place,
    losses: Place,
    sums: Place,
    partial: Place,
    /// Elements of a row of logits.
    stride: usize,
    /// Positions a chunk.
    chunk: usize,
    /// Of the array.
    pub bytes: usize,
}

impl Work {
    /// For so many scored positions.
    pub fn new(shape: &Shape, scored: usize, precision: Precision) -> Self {
        let (mut arena, real) = (Arena::default(), precision.bytes());
        let stride = shape.vocabulary().next_multiple_of(64);
        let chunk = (LOGITS / stride / 128).max(1) * 128;
        let chunk = chunk.min(scored.next_multiple_of(128));
        let blocks = Sums::new(chunk).blocks * scored.div_ceil(chunk.max(1));
        let work = Self {
            table: arena.take(shape.vocabulary() * shape.d, real),
            statistics: arena.take(2 * chunk, 4),
            hidden: arena.take(chunk * shape.d, real),
            d_hidden: arena.take(chunk * shape.d, real),
            logits: arena.take(chunk * stride, real),
            losses: arena.take(2 * scored, 4),
            sums: arena.take(512, 4),
            partial: arena.take(blocks * 2 * shape.d, 4),
            stride,
            chunk,
            bytes: 0,
        };
        Self {
            bytes: arena.bytes(),
            ..work
        }
    }
}

/// What the loss reads.
#[derive(Clone, Copy, Debug)]
pub struct Arrays {
    /// The residual stream, `[n, d]`.
    pub x: Pointer,
    /// The group `final`.
    pub last: Pointer,
    /// The group `embedding`.
    pub embedding: Pointer,
    /// [`Scored::rows`].
    pub rows: Pointer,
    /// [`Scored::targets`].
    pub targets: Pointer,
    /// [`Scored::weights`].
    pub weights: Pointer,
    /// [`Work`].
    pub work: Pointer,
}

/// Where the gradients go.
#[derive(Clone, Copy, Debug)]
pub struct Gradients {
    /// Of `x`.
    pub x: Pointer,
    /// Of the group `final`.
    pub last: Pointer,
    /// Of the group `embedding`, where its table is the head; not written otherwise.
    pub embedding: Pointer,
}

/// Writes the sums over `scored` positions of weight times cross entropy and of the z-loss to
/// the first two of four numbers of `loss` and, where asked for, their gradients.
pub fn run(
    kernels: &mut Kernels<'_>,
    (shape, extent): (&Shape, Extent),
    (scored, factors): (usize, Factors),
    arrays: Arrays,
    loss: Pointer,
    gradients: Option<Gradients>,
) -> Result<(), Error> {
    let precision = kernels.precision();
    let head = Head {
        shape,
        arrays,
        factors,
        scored,
        work: Work::new(shape, scored, precision),
        precision,
        gradients,
    };
    if let Some(gradients) = gradients {
        kernels.fill(gradients.x, 0.0, extent.positions() * shape.d)?;
        kernels.fill(gradients.last, 0.0, shape.last.len)?;
        if shape.last.head.is_none() {
            kernels.fill(gradients.embedding, 0.0, shape.embedding.len)?;
        }
    }
    kernels.fill(loss, 0.0, 4)?;
    if scored == 0 {
        return Ok(());
    }
    let table = head.work(head.work.table);
    let elements = shape.vocabulary() * shape.d;
    kernels.narrowed(head.table(), table, elements)?;
    let mut blocks = 0;
    for first in (0..scored).step_by(head.work.chunk) {
        let count = head.work.chunk.min(scored - first);
        blocks += head.chunk(kernels, (first, count), blocks)?;
    }
    if let Some(gradients) = gradients {
        let layout = &shape.last.norm;
        let width = layout.bias.as_ref().map_or(1, |_| 2) * shape.d;
        let to = element(gradients.last, layout.weight.start);
        kernels.sum_rows(head.work(head.work.partial), to, (blocks, width))?;
    }
    let (losses, sums) = (head.work(head.work.losses), head.work(head.work.sums));
    kernels.sum(losses, (sums, loss), scored)?;
    let (losses, loss) = (element(losses, scored), element(loss, 1));
    kernels.sum(losses, (sums, loss), scored)
}

struct Head<'a> {
    shape: &'a Shape,
    arrays: Arrays,
    factors: Factors,
    scored: usize,
    work: Work,
    precision: Precision,
    gradients: Option<Gradients>,
}

impl Head<'_> {
    /// Adds the part of some scored positions; `before` blocks of sums of the norm's gradient
    /// are there already, and how many were added is returned.
    fn chunk(
        &self,
        kernels: &mut Kernels<'_>,
        (first, count): (usize, usize),
        before: usize,
    ) -> Result<usize, Error> {
        let (shape, work) = (self.shape, self.work);
        let (d, v) = (shape.d, shape.vocabulary());
        let [table, hidden, logits] =
            [work.table, work.hidden, work.logits].map(|place| self.work(place));
        let norm = Norm {
            params: self.arrays.last,
            layout: &shape.last.norm,
            x: self.arrays.x,
            rows: element(self.arrays.rows, first),
            statistics: self.work(work.statistics),
            count,
        };
        let (table, hidden) = (
            Matrix::new(table, d, self.precision),
            Matrix::new(hidden, d, self.precision),
        );
        let logits = Matrix::new(logits, work.stride, self.precision);
        kernels.normalise(&norm, None, hidden.pointer, shape)?;
        kernels.multiply(&Product {
            m: count,
            n: v,
            k: d,
            a: hidden,
            b: table.t(),
            out: logits,
            onto: false,
        })?;
        kernels.cross_entropy(
            logits.pointer,
            (
                element(self.arrays.targets, first),
                element(self.arrays.weights, first),
            ),
            [first, self.scored + first].map(|at| element(self.work(work.losses), at)),
            [
                self.factors.scale,
                self.factors.z_loss,
                shape.soft_cap.unwrap_or(0.0),
            ],
            (count, v, work.stride),
        )?;
        let Some(gradients) = self.gradients else {
            return Ok(0);
        };
        let into = Matrix::new(self.d_table(gradients), d, Precision::Single);
        let before = (before, 0 < first);
        self.back(
            kernels,
            &norm,
            (table, hidden, logits),
            (into, gradients.x),
            before,
        )?;
        Ok(Sums::new(count).blocks)
    }

    /// From the gradient of a chunk's logits to those of the table and of the residual stream.
    fn back(
        &self,
        kernels: &mut Kernels<'_>,
        norm: &Norm<'_>,
        (table, hidden, logits): (Matrix, Matrix, Matrix),
        (into, dx): (Matrix, Pointer),
        (before, onto): (usize, bool),
    ) -> Result<(), Error> {
        let (shape, d) = (self.shape, self.shape.d);
        let d_hidden = self.work(self.work.d_hidden);
        kernels.multiply(&Product {
            m: norm.count,
            n: d,
            k: shape.vocabulary(),
            a: logits,
            b: table,
            out: Matrix::new(d_hidden, d, self.precision),
            onto: false,
        })?;
        kernels.multiply(&Product {
            m: shape.vocabulary(),
            n: d,
            k: norm.count,
            a: logits.t(),
            b: hidden,
            out: into,
            onto,
        })?;
        let width = norm.layout.bias.as_ref().map_or(1, |_| 2) * d;
        let partial = element(self.work(self.work.partial), before * width);
        let written = (dx, Pointer::NONE);
        kernels.normalise_back(norm, (d_hidden, Pointer::NONE), written, partial, shape)
    }

    /// The head's table.
    fn table(&self) -> Pointer {
        match &self.shape.last.head {
            Some(range) => element(self.arrays.last, range.start),
            None => element(self.arrays.embedding, self.shape.embedding.token.start),
        }
    }

    fn d_table(&self, gradients: Gradients) -> Pointer {
        match &self.shape.last.head {
            Some(range) => element(gradients.last, range.start),
            None => element(gradients.embedding, self.shape.embedding.token.start),
        }
    }

    fn work(&self, place: Place) -> Pointer {
        place.of(self.arrays.work)
    }
}

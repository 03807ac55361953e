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

/// Positions are multiplied so many at a time: else every batch, which scores a few more or
/// less than the one before, would have products of its own, whose algorithms are sought.
const TOGETHER: usize = 128;

/// Rows of the head are multiplied so many at a time: behind the vocabulary's stand rows of
/// zeros. Their logits are 0 and take no part in the softmax, which leaves them where their
/// gradient is read, as the 0 that it is. GPT-2's 50,257 rows alone would align nothing.
const ROWS: usize = 64;

/// What products need extents and strides to be multiples of, for tensor cores to take them
/// (16 bytes of bf16).
const ALIGNED: usize = 8;

/// The positions that count: row, target and weight of each. Behind them stands the last of
/// them again, by a weight of 0, up to a multiple of [`TOGETHER`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scored {
    /// How many positions count.
    pub count: usize,
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
        scored.count = scored.rows.len();
        let padded = scored.count.next_multiple_of(TOGETHER);
        for array in [&mut scored.rows, &mut scored.targets] {
            array.resize(padded, array.last().copied().unwrap_or_default());
        }
        scored.weights.resize(padded, 0.0);
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
    /// The head's table in the precision of activations, and zeros up to `stride` rows.
    table: Place,
    statistics: Place,
    hidden: Place,
    d_hidden: Place,
    logits: Place,
    losses: Place,
    sums: Place,
    partial: Place,
    /// Elements of a row of logits: the vocabulary, up to a multiple of [`ROWS`].
    stride: usize,
    /// Positions a chunk.
    chunk: usize,
    /// Positions of all chunks, those that count for nothing included.
    padded: usize,
    /// Of the array.
    pub bytes: usize,
}

impl Work {
    /// For so many scored positions.
    pub fn new(shape: &Shape, scored: usize, precision: Precision) -> Self {
        let (mut arena, real) = (Arena::default(), precision.bytes());
        let stride = shape.vocabulary().next_multiple_of(ROWS);
        let padded = scored.next_multiple_of(TOGETHER);
        let chunk = (LOGITS / stride / TOGETHER).max(1) * TOGETHER;
        let chunk = chunk.min(padded);
        let blocks = chunks(scored, chunk).map(|(_, count)| Sums::new(count).blocks);
        let work = Self {
            table: arena.take(stride * shape.d, real),
            statistics: arena.take(2 * chunk, 4),
            hidden: arena.take(chunk * shape.d, real),
            d_hidden: arena.take(chunk * shape.d, real),
            logits: arena.take(chunk * stride, real),
            losses: arena.take(2 * padded, 4),
            sums: arena.take(512, 4),
            partial: arena.take(blocks.sum::<usize>() * 2 * shape.d, 4),
            stride,
            chunk,
            padded,
            bytes: 0,
        };
        Self {
            bytes: arena.bytes(),
            ..work
        }
    }
}

/// The first of each chunk of some scored positions, and how many it has.
fn chunks(scored: usize, most: usize) -> impl Iterator<Item = (usize, usize)> {
    let firsts = (0..scored).step_by(most.max(1));
    firsts.map(move |first| (first, most.min(scored - first)))
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
    head.narrow_table(kernels)?;
    let mut blocks = 0;
    for chunk in chunks(scored, head.work.chunk) {
        blocks += head.chunk(kernels, chunk, blocks)?;
    }
    if let Some(gradients) = gradients {
        let layout = &shape.last.norm;
        let width = layout.bias.as_ref().map_or(1, |_| 2) * shape.d;
        let to = element(gradients.last, layout.weight.start);
        kernels.sum_rows(head.work(head.work.partial), to, (blocks, width))?;
    }
    let (losses, sums) = (head.work(head.work.losses), head.work(head.work.sums));
    kernels.sum(losses, (sums, loss), scored)?;
    let (losses, loss) = (element(losses, head.work.padded), element(loss, 1));
    kernels.sum(losses, (sums, loss), scored)
}

struct Head<'a> {
    shape: &'a Shape,
    arrays: Arrays,
    factors: Factors,
    work: Work,
    precision: Precision,
    gradients: Option<Gradients>,
}

impl Head<'_> {
    /// Copies the head's table in the precision of activations, with the rows of zeros.
    fn narrow_table(&self, kernels: &mut Kernels<'_>) -> Result<(), Error> {
        let (rows, d) = (self.shape.vocabulary(), self.shape.d);
        let (table, bytes) = (self.work(self.work.table), d * self.precision.bytes());
        kernels.narrowed(self.table(), table, rows * d)?;
        // A 0 of single precision is one or two of activations.
        let zeros = (self.work.stride - rows) * bytes / 4;
        kernels.fill(table.at(rows * bytes), 0.0, zeros)
    }

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
        let padded = count.next_multiple_of(TOGETHER);
        let [table, hidden, logits] =
            [work.table, work.hidden, work.logits].map(|place| self.work(place));
        let norm = Norm {
            params: self.arrays.last,
            layout: &shape.last.norm,
            x: self.arrays.x,
            rows: element(self.arrays.rows, first),
            statistics: self.work(work.statistics),
            count: padded,
        };
        let (table, hidden) = (
            Matrix::new(table, d, self.precision),
            Matrix::new(hidden, d, self.precision),
        );
        let logits = Matrix::new(logits, work.stride, self.precision);
        kernels.normalise(&norm, None, hidden.pointer, shape)?;
        kernels.multiply(&Product {
            m: padded,
            n: work.stride,
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
            [first, work.padded + first].map(|at| element(self.work(work.losses), at)),
            [
                self.factors.scale,
                self.factors.z_loss,
                shape.soft_cap.unwrap_or(0.0),
            ],
            (padded, v, work.stride),
        )?;
        let Some(gradients) = self.gradients else {
            return Ok(0);
        };
        let into = Matrix::new(self.d_table(gradients), d, Precision::Single);
        let before = (before, 0 < first);
        self.back(
            kernels,
            (&norm, count),
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
        (norm, count): (&Norm<'_>, usize),
        (table, hidden, logits): (Matrix, Matrix, Matrix),
        (into, dx): (Matrix, Pointer),
        (before, onto): (usize, bool),
    ) -> Result<(), Error> {
        let (shape, d) = (self.shape, self.shape.d);
        let d_hidden = self.work(self.work.d_hidden);
        kernels.multiply(&Product {
            m: norm.count,
            n: d,
            k: self.work.stride,
            a: logits,
            b: table,
            out: Matrix::new(d_hidden, d, self.precision),
            onto: false,
        })?;
        // The gradient has no rows but the vocabulary's: the last few, which align nothing,
        // are a product of their own.
        let last = shape.vocabulary() % ALIGNED;
        for (first, m) in [
            (0, shape.vocabulary() - last),
            (shape.vocabulary() - last, last),
        ] {
            let part = Product {
                m,
                n: d,
                k: norm.count,
                a: logits.from_column(first).t(),
                b: hidden,
                out: into.from_row(first),
                onto,
            };
            if 0 < m {
                kernels.multiply(&part)?;
            }
        }
        let width = norm.layout.bias.as_ref().map_or(1, |_| 2) * d;
        let partial = element(self.work(self.work.partial), before * width);
        let written = (dx, Pointer::NONE);
        // Who counts for nothing has no gradient to write.
        let norm = &Norm { count, ..*norm };
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    use super::super::engine::{Engine, Launch};
    use crate::model::config::Config;
    use crate::model::testing::gpt2;

    /// Remembers which products it was asked for, and does nothing.
    #[derive(Default)]
    struct Asked(Vec<Product>);

    impl Engine for Asked {
        fn precision(&self) -> Precision {
            Precision::Bf16
        }
        fn launch(&mut self, _: &Launch<'_>) -> Result<(), Error> {
            Ok(())
        }
        fn multiply(&mut self, product: &Product) -> Result<(), Error> {
            self.0.push(*product);
            Ok(())
        }
        fn upload(&mut self, _: &[u8], _: Pointer) -> Result<(), Error> {
            Ok(())
        }
    }

    /// The products of so many scored positions.
    fn asked(config: &Config, scored: usize) -> Vec<Product> {
        let (shape, none) = (Shape::new(config), Pointer::NONE);
        let extent = Extent {
            rows: 16,
            length: 80,
        };
        let arrays = Arrays {
            x: none,
            last: none,
            embedding: none,
            rows: none,
            targets: none,
            weights: none,
            work: none,
        };
        let to = Gradients {
            x: none,
            last: none,
            embedding: none,
        };
        let factors = Factors {
            scale: 1.0,
            z_loss: 0.0,
        };
        let mut asked = Asked::default();
        let mut kernels = Kernels::new(&mut asked);
        let of = (&shape, extent);
        run(&mut kernels, of, (scored, factors), arrays, none, Some(to)).unwrap();
        asked.0
    }

    /// A plan is made for each product, by measuring: batches that differ little share it.
    #[test]
    fn batches_that_score_about_as_many_ask_for_the_same_products() {
        let extents = |product: Product| [product.m, product.n, product.k];
        let config = Config {
            vocab_size: 40,
            ..gpt2()
        };
        let products = (1100..1200).flat_map(|scored| asked(&config, scored));
        // 1152 and 1280 positions, three products each.
        let different: BTreeSet<_> = products.map(extents).collect();
        assert_eq!(different.len(), 6);
    }

    /// Tensor cores take what begins, ends and goes on to the next row at whole 16 bytes.
    #[test]
    fn products_of_any_vocabulary_are_aligned() {
        let starts = |matrix: Matrix| usize::try_from(matrix.pointer.0).unwrap();
        for vocab_size in [97, 128, 131, 50_257] {
            let config = Config {
                vocab_size,
                ..gpt2()
            };
            for product in asked(&config, 1000) {
                let Product {
                    m, n, k, a, b, out, ..
                } = product;
                let [strides, pointers] = [
                    [a, b, out].map(|matrix| matrix.stride),
                    [a, b, out].map(|matrix| starts(matrix) / 2),
                ];
                // The rows of the gradient that are left over.
                let left_over = m == vocab_size % 8;
                let m = if left_over { 8 } else { m };
                let numbers = [[m, n, k], strides, pointers].concat();
                let aligned = numbers.iter().all(|number| number.is_multiple_of(8));
                assert!(aligned, "{vocab_size}: {product:?}");
            }
        }
    }

    /// A last chunk that is shorter may be summed by more blocks than a whole one.
    #[test]
    fn every_chunk_has_room_for_the_sums_of_its_norm() {
        let shape = Shape::new(&Config {
            vocab_size: 12_000,
            ..gpt2()
        });
        for scored in [1, 127, 11_136, 11_137, 11_136 + 10_752, 30_000] {
            let work = Work::new(&shape, scored, Precision::Single);
            let of = |(_, count): (usize, usize)| Sums::new(count).blocks * 2 * shape.d * 4;
            let needed: usize = chunks(scored, work.chunk).map(of).sum();
            let start = work.partial.of(Pointer(0)).0;
            let room = work.bytes as u64 - start;
            assert!(needed as u64 <= room, "{scored}: {needed} of {room}");
            let counted: usize = chunks(scored, work.chunk).map(|(_, count)| count).sum();
            assert_eq!(counted, scored);
        }
    }
}

//! The kernels of `rows.cu`.

use super::super::engine::{Argument, Error, Launch, Module, Pointer};
use super::{Kernels, blocks, element, flag, int};
use crate::model::layout::NormLayout;
use crate::model::ops::{Extent, Shape};
use Argument::{Array, Float, Int};

/// Blocks that sum rows, at most: their sums are added by one thread a column.
const SUMMING: usize = 512;

/// The rows that a norm reads and what becomes of them.
#[derive(Clone, Copy, Debug)]
pub struct Norm<'a> {
    /// The group that holds gain and shift.
    pub params: Pointer,
    /// Where they lie in it.
    pub layout: &'a NormLayout,
    /// The input, `[rows, d]`.
    pub x: Pointer,
    /// Which rows of `x`; all where absent.
    pub rows: Pointer,
    /// Mean and rate of each row.
    pub statistics: Pointer,
    /// How many rows.
    pub count: usize,
}

/// What is added to a norm's input first.
#[derive(Clone, Copy, Debug)]
pub struct Residual {
    /// An activation, `[rows, d]`.
    pub y: Pointer,
    /// A number a column, or none.
    pub bias: Pointer,
    /// Where the sum is kept.
    pub sum: Pointer,
}

/// How rows are shared out among the blocks that sum them.
#[derive(Clone, Copy, Debug)]
pub struct Sums {
    /// Rows a block.
    pub each: usize,
    /// Blocks.
    pub blocks: usize,
}

impl Sums {
    /// By the number of rows alone, so that sums have one order.
    pub fn new(rows: usize) -> Self {
        let each = rows.div_ceil(SUMMING).max(16);
        Self {
            each,
            blocks: rows.div_ceil(each),
        }
    }
}

impl Kernels<'_> {
    /// Normalises rows into `out`, after adding to them what is given.
    pub fn normalise(
        &mut self,
        norm: &Norm<'_>,
        residual: Option<Residual>,
        out: Pointer,
        shape: &Shape,
    ) -> Result<(), Error> {
        let none = Residual {
            y: Pointer::NONE,
            bias: Pointer::NONE,
            sum: Pointer::NONE,
        };
        let Residual { y, bias, sum } = residual.unwrap_or(none);
        let arguments = [
            Array(norm.x),
            Array(y),
            Array(bias),
            Array(sum),
            Array(norm.rows),
            Array(norm.gain()),
            Array(norm.shift()),
            Array(norm.statistics),
            Array(out),
            flag(norm.layout.bias.is_some()),
            Float(shape.eps),
            Int(int("a row", shape.d)?),
        ];
        self.rows("normalise", norm.count, 4 * shape.d, &arguments)
    }

    /// Given the gradient of [`Self::normalise`]'s result, writes that of its input plus
    /// `above`, in single and if asked for in the precision of activations, and the sums of the
    /// gradients of gain and shift, a row a block of [`Sums`].
    pub fn normalise_back(
        &mut self,
        norm: &Norm<'_>,
        (dy, above): (Pointer, Pointer),
        (dx, dx_narrow): (Pointer, Pointer),
        partial: Pointer,
        shape: &Shape,
    ) -> Result<(), Error> {
        let sums = Sums::new(norm.count);
        let arguments = [
            Array(norm.x),
            Array(norm.rows),
            Array(norm.statistics),
            Array(norm.gain()),
            Array(dy),
            Array(above),
            Array(dx),
            Array(dx_narrow),
            Array(partial),
            flag(norm.layout.bias.is_some()),
            flag(norm.layout.bias.is_some()),
            Int(int("a row", shape.d)?),
            Int(int("rows", sums.each)?),
            Int(int("rows", norm.count)?),
        ];
        self.rows("normalise_back", sums.blocks, 8 * shape.d, &arguments)
    }

    /// The sum of each column of activations `[rows, width]`, by way of `partial`.
    pub fn column_sums(
        &mut self,
        from: Pointer,
        (partial, to): (Pointer, Pointer),
        (rows, width): (usize, usize),
    ) -> Result<(), Error> {
        let sums = Sums::new(rows);
        let threads = 128;
        let across = width.div_ceil(threads);
        let launch = Launch {
            module: Module::Rows,
            kernel: "column_sums",
            blocks: [
                blocks("rows", sums.blocks, u32::MAX / 2)?,
                blocks("a row", across, 65_535)?,
                1,
            ],
            threads: 128,
            shared: 0,
            arguments: &[
                Array(from),
                Array(partial),
                Int(int("a row", width)?),
                Int(int("rows", sums.each)?),
                Int(int("rows", rows)?),
            ],
        };
        self.engine.launch(&launch)?;
        self.sum_rows(partial, to, (sums.blocks, width))
    }

    /// The sum of each column.
    pub fn sum_rows(
        &mut self,
        from: Pointer,
        to: Pointer,
        (rows, width): (usize, usize),
    ) -> Result<(), Error> {
        let launch = Launch {
            module: Module::Rows,
            kernel: "sum_rows",
            blocks: [blocks("a row", width.div_ceil(64), u32::MAX / 2)?, 1, 1],
            threads: 64,
            shared: 0,
            arguments: &[
                Array(from),
                Array(to),
                Int(int("a row", width)?),
                Int(int("rows", rows)?),
            ],
        };
        self.engine.launch(&launch)
    }

    /// The sum of `count` numbers, by way of `partial` ([`SUMMING`] numbers).
    pub fn sum(
        &mut self,
        from: Pointer,
        (partial, to): (Pointer, Pointer),
        count: usize,
    ) -> Result<(), Error> {
        self.total((from, Pointer::NONE), (partial, to), false, count)
    }

    /// The sum of the squares of `count` numbers, added to one that is there already.
    pub fn squares(
        &mut self,
        (from, before): (Pointer, Pointer),
        (partial, to): (Pointer, Pointer),
        count: usize,
    ) -> Result<(), Error> {
        self.total((from, before), (partial, to), true, count)
    }

    fn total(
        &mut self,
        (from, before): (Pointer, Pointer),
        (partial, to): (Pointer, Pointer),
        squared: bool,
        count: usize,
    ) -> Result<(), Error> {
        let sums = Sums::new(count);
        let none = Pointer::NONE;
        self.block_sums((from, none), partial, squared, (sums.each, count))?;
        let last = (sums.blocks, sums.blocks);
        self.block_sums((partial, before), to, false, last)
    }

    fn block_sums(
        &mut self,
        (from, before): (Pointer, Pointer),
        to: Pointer,
        squared: bool,
        (each, count): (usize, usize),
    ) -> Result<(), Error> {
        let arguments = [
            Array(from),
            Array(before),
            Array(to),
            flag(squared),
            Int(int("an array", each)?),
            Int(int("an array", count)?),
        ];
        self.rows("block_sums", count.div_ceil(each.max(1)), 0, &arguments)
    }

    /// The row of each id, plus that of its place.
    pub fn embed(
        &mut self,
        (table, positions): (Pointer, Pointer),
        (ids, places): (Pointer, Pointer),
        out: Pointer,
        (shape, extent): (&Shape, Extent),
    ) -> Result<(), Error> {
        let arguments = [
            Array(table),
            Array(positions),
            Array(ids),
            Array(places),
            Array(out),
            Int(int("a row", extent.length)?),
            Int(int("a row", shape.d)?),
        ];
        self.rows("embed", extent.positions(), 0, &arguments)
    }

    /// Sums of rows of `dy` by what they belong to: see `gather_sums` in `rows.cu`.
    pub fn gather_sums(
        &mut self,
        dy: Pointer,
        [order, start, target]: [Pointer; 3],
        to: Pointer,
        (sums, width): (usize, usize),
    ) -> Result<(), Error> {
        let arrays = [dy, order, start, target, to].map(Array);
        let arguments = [&arrays[..], &[Int(int("a row", width)?)]].concat();
        self.rows("gather_sums", sums, 0, &arguments)
    }

    /// The losses of rows of logits, which become their gradient: see `cross_entropy` in
    /// `rows.cu`.
    pub fn cross_entropy(
        &mut self,
        logits: Pointer,
        (targets, weights): (Pointer, Pointer),
        losses: [Pointer; 2],
        [scale, z_loss, cap]: [f32; 3],
        (rows, vocabulary, stride): (usize, usize, usize),
    ) -> Result<(), Error> {
        let [entropies, z_losses] = losses.map(Array);
        let arguments = [
            Array(logits),
            Array(targets),
            Array(weights),
            entropies,
            z_losses,
            Float(scale),
            Float(z_loss),
            Float(cap),
            Int(int("the vocabulary", vocabulary)?),
            Int(int("the vocabulary", stride)?),
        ];
        self.rows("cross_entropy", rows, 0, &arguments)
    }

    fn rows(
        &mut self,
        kernel: &'static str,
        count: usize,
        shared: usize,
        arguments: &[Argument],
    ) -> Result<(), Error> {
        let launch = Launch {
            module: Module::Rows,
            kernel,
            blocks: [blocks("rows", count, u32::MAX / 2)?, 1, 1],
            threads: 256,
            // What a block of today's GPUs may have at most.
            shared: blocks("a row's bytes", shared, 96 << 10)?,
            arguments,
        };
        match count {
            0 => Ok(()),
            _ => self.engine.launch(&launch),
        }
    }
}

impl Norm<'_> {
    fn gain(&self) -> Pointer {
        element(self.params, self.layout.weight.start)
    }

    fn shift(&self) -> Pointer {
        let bias = self.layout.bias.as_ref();
        bias.map_or(Pointer::NONE, |bias| element(self.params, bias.start))
    }
}

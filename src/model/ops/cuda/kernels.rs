//! The kernels as functions: each checks that its extents can be counted, and chooses how
//! many blocks run.

use super::engine::{Argument, Engine, Error, Launch, Module, Pointer, Precision, Product};
use crate::model::layout::NormLayout;
use crate::model::ops::{AdamStep, Extent, Shape};

/// Positions of a row that one block of attention takes.
const BLOCK: usize = 64;
/// Blocks that sum rows, at most: their sums are added by one thread a column.
const SUMMING: usize = 512;

/// An engine with the kernels as methods.
pub struct Kernels<'a> {
    engine: &'a mut dyn Engine,
}

/// What the positions of a batch see and where they stand, on the device.
#[derive(Clone, Copy, Debug)]
pub struct Tables {
    /// `cos` and `sin` of rotary angles, `[context, head / 2]` each; none without rotary positions.
    pub cosines: Pointer,
    /// See `cosines`.
    pub sines: Pointer,
    /// Of each position its place, or none where rows are whole documents.
    pub places: Pointer,
    /// Of each position the first key that it sees and the one after the last, or none
    /// where it sees itself and all before it.
    pub reach: Pointer,
}

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

/// The arrays of attention.
#[derive(Clone, Copy, Debug)]
pub struct Attended {
    /// Query, key and value columns.
    pub qkv: Pointer,
    /// See [`Tables::reach`].
    pub reach: Pointer,
    /// The result.
    pub out: Pointer,
    /// Logarithms of the sums over keys.
    pub logs: Pointer,
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

/// An array of single precision, so many elements in.
pub fn element(array: Pointer, index: usize) -> Pointer {
    array.at(4 * index)
}

fn int(what: &'static str, found: usize) -> Result<i32, Error> {
    i32::try_from(found).map_err(|_| Error::TooLarge {
        what,
        found,
        most: i32::MAX as usize,
    })
}

fn blocks(what: &'static str, found: usize, most: u32) -> Result<u32, Error> {
    let count = u32::try_from(found).ok().filter(|count| *count <= most);
    count.ok_or(Error::TooLarge {
        what,
        found,
        most: most as usize,
    })
}

fn flag(on: bool) -> Argument {
    Int(i32::from(on))
}

use Argument::{Array, Float, Int};

impl<'a> Kernels<'a> {
    /// The kernels of an engine.
    pub fn new(engine: &'a mut dyn Engine) -> Self {
        Self { engine }
    }

    /// What activations are stored in.
    pub fn precision(&self) -> Precision {
        self.engine.precision()
    }

    /// See [`Product`].
    pub fn multiply(&mut self, product: &Product) -> Result<(), Error> {
        self.engine.multiply(product)
    }

    /// Writes `count` numbers in the precision of activations.
    pub fn narrowed(&mut self, from: Pointer, to: Pointer, count: usize) -> Result<(), Error> {
        let arguments = [Array(from), Array(to), Int(int("an array", count)?)];
        self.pointwise("narrowed", count / 4, &arguments)
    }

    /// Writes one number everywhere.
    pub fn fill(&mut self, to: Pointer, value: f32, count: usize) -> Result<(), Error> {
        let arguments = [Array(to), Float(value), Int(int("an array", count)?)];
        self.pointwise("fill", count / 4, &arguments)
    }

    /// `out = x + y + bias` of rows of `width`.
    pub fn add(
        &mut self,
        (x, y, bias): (Pointer, Pointer, Pointer),
        out: Pointer,
        (rows, width): (usize, usize),
    ) -> Result<(), Error> {
        let count = rows * width;
        let arrays = [x, y, bias, out].map(Array);
        let extents = [Int(int("a row", width)?), Int(int("an array", count)?)];
        self.pointwise("add", count / 4, &[&arrays[..], &extents].concat())
    }

    /// Adds a bias to queries, keys and values and turns queries and keys by their
    /// places, `sign` times.
    pub fn turn(
        &mut self,
        qkv: Pointer,
        bias: Pointer,
        tables: &Tables,
        sign: f32,
        (shape, extent): (&Shape, Extent),
    ) -> Result<(), Error> {
        let all = shape.heads + 2 * shape.kv_heads;
        let turned = match shape.rope {
            Some(_) => shape.heads + shape.kv_heads,
            None => 0,
        };
        let pairs = extent.positions() * all * shape.head / 2;
        int("positions times heads", pairs)?;
        let arguments = [
            Array(qkv),
            Array(bias),
            Array(tables.cosines),
            Array(tables.sines),
            Array(tables.places),
            Float(sign),
            Int(int("a batch", extent.positions())?),
            Int(int("a row", extent.length)?),
            Int(int("heads", turned)?),
            Int(int("heads", all)?),
            Int(int("a head", shape.head)?),
        ];
        self.pointwise("turn", pairs, &arguments)
    }

    /// Adds a bias to `up`, `[rows, 1 or 2 widths]`, and writes the activated `[rows, width]`.
    pub fn activate(
        &mut self,
        (up, bias, active): (Pointer, Pointer, Pointer),
        gated: bool,
        (rows, width): (usize, usize),
    ) -> Result<(), Error> {
        let arrays = [up, bias, active].map(Array);
        self.activation("activate", arrays, gated, (rows, width))
    }

    /// Given the gradient of the activated layer in `active`, writes that of `up` and, in
    /// its place, the activated layer.
    pub fn activate_back(
        &mut self,
        (up, active, d_up): (Pointer, Pointer, Pointer),
        gated: bool,
        (rows, width): (usize, usize),
    ) -> Result<(), Error> {
        let arrays = [up, active, d_up].map(Array);
        self.activation("activate_back", arrays, gated, (rows, width))
    }

    fn activation(
        &mut self,
        kernel: &'static str,
        arrays: [Argument; 3],
        gated: bool,
        (rows, width): (usize, usize),
    ) -> Result<(), Error> {
        let count = rows * width;
        int("positions times widths", 2 * count)?;
        let extents = [
            flag(gated),
            Int(int("a row", width)?),
            Int(int("an array", count)?),
        ];
        self.pointwise(kernel, count / 4, &[&arrays[..], &extents].concat())
    }

    /// One step of AdamW on `count` numbers that keep `keep` of themselves: parameters,
    /// gradient and moments are read, parameters and moments written.
    pub fn adamw(
        &mut self,
        from: [Pointer; 4],
        to: [Pointer; 3],
        (step, keep): (&AdamStep, f64),
        count: usize,
    ) -> Result<(), Error> {
        let correct = |beta: f64| 1.0 - beta.powf(step.index as f64);
        let factors = [
            step.gradient_scale,
            step.beta1,
            step.beta2,
            step.eps,
            step.rate / correct(step.beta1),
            correct(step.beta2),
            keep,
        ];
        #[expect(
            clippy::cast_possible_truncation,
            reason = "parameters are single precision"
        )]
        let factors = factors.map(|factor| Float(factor as f32));
        let counted = [Int(int("a group of parameters", count)?)];
        let arguments = [&from.map(Array)[..], &to.map(Array), &factors, &counted].concat();
        self.pointwise("adamw", count, &arguments)
    }

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

    /// The sum of `count` numbers, or of their squares, by way of `partial` ([`SUMMING`]
    /// numbers).
    pub fn sum(
        &mut self,
        from: Pointer,
        (partial, to): (Pointer, Pointer),
        squared: bool,
        count: usize,
    ) -> Result<(), Error> {
        let sums = Sums::new(count);
        self.block_sums(from, partial, squared, sums.each, count)?;
        self.block_sums(partial, to, false, sums.blocks, sums.blocks)
    }

    fn block_sums(
        &mut self,
        from: Pointer,
        to: Pointer,
        squared: bool,
        each: usize,
        count: usize,
    ) -> Result<(), Error> {
        let arguments = [
            Array(from),
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

    /// Attention of all heads.
    pub fn attention(
        &mut self,
        arrays: &Attended,
        (shape, extent): (&Shape, Extent),
    ) -> Result<(), Error> {
        let Attended {
            qkv,
            reach,
            out,
            logs,
        } = *arrays;
        let arguments = [
            Array(qkv),
            Array(reach),
            Array(out),
            Array(logs),
            Float(scale(shape).0),
            Int(int("a row", extent.length)?),
            Int(int("heads", shape.heads)?),
            Int(int("heads", shape.kv_heads)?),
        ];
        self.heads("attention", shape.heads, (shape, extent), &arguments)
    }

    /// Given the gradient of attention's result, writes that of queries, keys and values.
    /// `deltas` is a number each position and head.
    pub fn attention_back(
        &mut self,
        arrays: &Attended,
        (d_out, deltas, d_qkv): (Pointer, Pointer, Pointer),
        (shape, extent): (&Shape, Extent),
    ) -> Result<(), Error> {
        let count = extent.positions() * shape.heads;
        let launch = Launch {
            module: Module::Attention(shape.head),
            kernel: "attention_deltas",
            blocks: [blocks("positions", count.div_ceil(4), u32::MAX / 2)?, 1, 1],
            threads: 128,
            shared: 0,
            arguments: &[
                Array(arrays.out),
                Array(d_out),
                Array(deltas),
                Int(int("positions times heads", count)?),
            ],
        };
        self.engine.launch(&launch)?;
        let (scale, scale_back) = scale(shape);
        let arguments = [
            Array(arrays.qkv),
            Array(arrays.reach),
            Array(d_out),
            Array(arrays.logs),
            Array(deltas),
            Array(d_qkv),
            Float(scale),
            Float(scale_back),
            Int(int("a row", extent.length)?),
            Int(int("heads", shape.heads)?),
            Int(int("heads", shape.kv_heads)?),
        ];
        let of = (shape, extent);
        self.heads("attention_back_queries", shape.heads, of, &arguments)?;
        self.heads("attention_back_keys", shape.kv_heads, of, &arguments)
    }

    /// A block each [`BLOCK`] positions, head and row.
    fn heads(
        &mut self,
        kernel: &'static str,
        heads: usize,
        (shape, extent): (&Shape, Extent),
        arguments: &[Argument],
    ) -> Result<(), Error> {
        let threads = match self.engine.precision() {
            Precision::Single => 64,
            Precision::Bf16 => 128,
        };
        self.engine.launch(&Launch {
            module: Module::Attention(shape.head),
            kernel,
            blocks: [
                blocks("a row", extent.length.div_ceil(BLOCK), u32::MAX / 2)?,
                blocks("heads", heads, 65_535)?,
                blocks("rows of a batch", extent.rows, 65_535)?,
            ],
            threads,
            shared: 0,
            arguments,
        })
    }

    fn pointwise(
        &mut self,
        kernel: &'static str,
        threads: usize,
        arguments: &[Argument],
    ) -> Result<(), Error> {
        let launch = Launch {
            module: Module::Pointwise,
            kernel,
            blocks: [
                blocks("an array", threads.div_ceil(256), u32::MAX / 2)?,
                1,
                1,
            ],
            threads: 256,
            shared: 0,
            arguments,
        };
        match threads {
            0 => Ok(()),
            _ => self.engine.launch(&launch),
        }
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

/// What scores are multiplied with, to the base 2, and what their gradients are.
fn scale(shape: &Shape) -> (f32, f32) {
    let scale = 1.0 / (shape.head as f64).sqrt();
    #[expect(
        clippy::cast_possible_truncation,
        reason = "scores are single precision"
    )]
    let both = ((scale * std::f64::consts::LOG2_E) as f32, scale as f32);
    both
}

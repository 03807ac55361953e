//! The kernels as functions: each checks that its extents can be counted, and chooses how
//! many blocks run. Here are those of `pointwise.cu`; the other files have one of their own.

mod attention;
mod rows;

pub use attention::Attended;
pub use rows::{Norm, Residual, Sums};

use super::engine::{Argument, Engine, Error, Launch, Module, Pointer, Precision, Product};
use crate::model::ops::numbers::Limits;
use crate::model::ops::{AdamStep, Extent, Shape};
use crate::model::precision::single;

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

/// An array of single precision, so many elements in.
pub fn element(array: Pointer, index: usize) -> Pointer {
    array.at(4 * index)
}

/// Elements that a kernel counts: its last block counts some further than the array goes.
const COUNTED: i32 = i32::MAX - 0xffff;

fn int(what: &'static str, found: usize) -> Result<i32, Error> {
    let count = i32::try_from(found).ok().filter(|count| *count <= COUNTED);
    count.ok_or(Error::TooLarge {
        what,
        found,
        most: COUNTED as usize,
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

fn float(value: f64) -> Argument {
    Float(single(value))
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

    /// See [`Engine::upload`].
    pub fn upload(&mut self, bytes: &[u8], to: Pointer) -> Result<(), Error> {
        self.engine.upload(bytes, to)
    }

    /// Writes `count` numbers of 16 bits as numbers of 32.
    pub fn widened(&mut self, from: Pointer, to: Pointer, count: usize) -> Result<(), Error> {
        let arguments = [Array(from), Array(to), Int(int("a batch", count)?)];
        self.pointwise("widened", count / 4, &arguments)
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

    /// What a step comes to, given its losses' sums and the sum of its gradient's squares:
    /// see [`Coming`](crate::model::ops::numbers::Coming).
    pub fn numbers(
        &mut self,
        (sums, squares): (Pointer, Pointer),
        to: Pointer,
        limits: &Limits,
    ) -> Result<(), Error> {
        let arrays = [sums, squares, to].map(Array);
        let factors = [limits.mean, limits.clip].map(float);
        self.pointwise("numbers", 1, &[&arrays[..], &factors].concat())
    }

    /// One step of AdamW on `count` numbers that keep `keep` of themselves: parameters,
    /// gradient and moments are read, parameters and moments written. The numbers of the
    /// step scale the gradient.
    pub fn adamw(
        &mut self,
        from: [Pointer; 4],
        to: [Pointer; 3],
        numbers: Pointer,
        (step, keep): (&AdamStep, f64),
        count: usize,
    ) -> Result<(), Error> {
        let correct = |beta: f64| 1.0 - beta.powf(step.index as f64);
        let factors = [
            step.beta1,
            step.beta2,
            step.eps,
            step.rate / correct(step.beta1),
            correct(step.beta2),
            keep,
        ];
        let arguments = [
            &from.map(Array)[..],
            &to.map(Array),
            &[Array(numbers)],
            &factors.map(float),
            &[Int(int("a group of parameters", count)?)],
        ];
        self.pointwise("adamw", count, &arguments.concat())
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
}

//! The kernels of `attention.cu`.

use super::super::engine::{Argument, Error, Launch, Module, Pointer, Precision};
use super::{Kernels, blocks, int};
use crate::model::ops::{Extent, Shape};
use crate::model::precision::single;
use Argument::{Array, Float, Int};

/// Positions of a row that one block of attention takes.
const BLOCK: usize = 64;

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

impl Kernels<'_> {
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
}

/// What scores are multiplied with, to the base 2, and what their gradients are.
fn scale(shape: &Shape) -> (f32, f32) {
    let scale = 1.0 / (shape.head as f64).sqrt();
    (single(scale * std::f64::consts::LOG2_E), single(scale))
}

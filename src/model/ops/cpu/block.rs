//! A transformer block, forward and backward, over chunks of tokens.
//!
//! A chunk passes through everything between two attentions while it is in the
//! cache; only what the backward pass reads is kept. Sums over tokens are taken
//! by tasks that own their part of a weight. Chunks and tasks depend on shapes
//! alone, so the result does not depend on the number of threads.

#![expect(
    clippy::indexing_slicing,
    reason = "ranges come from the layout of the group"
)]

use rayon::prelude::*;

use super::attention;
use super::buffer::{self, Buffer};
use super::linear::{Linear, WeightSum, add_weight_sums, halves, sum_rows};
use super::norm::Norm;
use super::product::Onto;
use super::rotary::Turn;
use super::{SPAN, TOKENS, feed_forward};
use crate::model::layout::{BlockLayout, LinearLayout};
use crate::model::ops::{Pass, Shape};

/// What the forward pass keeps for the backward pass.
#[derive(Debug)]
pub struct Saved {
    /// Query, key and value columns, rotated.
    qkv: Buffer,
    /// What attention returned, and the logarithms of its sums.
    attended: Buffer,
    logs: Buffer,
    /// The residual stream after attention.
    middle: Buffer,
    /// The feed-forward layer before its activation.
    up: Buffer,
}

/// The layers of a block with their parameters.
struct Layers<'a> {
    norm1: Norm<'a>,
    qkv: Linear<'a>,
    out: Linear<'a>,
    norm2: Norm<'a>,
    up: Linear<'a>,
    down: Linear<'a>,
}

/// One of [`Linear::new`] and [`Linear::back`].
type Way<'a> = fn(&'a [f32], &LinearLayout, usize) -> Linear<'a>;

impl<'a> Layers<'a> {
    /// The layers for `rows` rows, or the way back through them.
    fn new(params: &'a [f32], shape: &Shape, rows: usize, way: Way<'a>) -> Self {
        let layout = &shape.block;
        let linear = |layout| way(params, layout, rows);
        Self {
            norm1: Norm::new(params, &layout.norm1, shape.norm, shape.eps),
            qkv: linear(&layout.qkv),
            out: linear(&layout.out),
            norm2: Norm::new(params, &layout.norm2, shape.norm, shape.eps),
            up: linear(&layout.up),
            down: linear(&layout.down),
        }
    }
}

/// Returns the block's output `[n, d]` and what [`backward`] needs.
pub fn forward(x: &[f32], params: &[f32], pass: &Pass) -> (Vec<f32>, Saved) {
    let shape = &*pass.shape;
    let (n, d) = (pass.extent.positions(), shape.d);
    let layers = Layers::new(params, shape, n, Linear::new);
    let qkv = project(x, &layers, pass);
    let (attended, logs) = attention::forward(&qkv, pass);
    let width = shape.block.up.outputs;
    let (mut middle, mut up) = (Buffer::new(n * d), Buffer::new(n * width));
    let mut y = buffer::array(n * d);
    y.par_chunks_mut(TOKENS * d)
        .zip(middle.par_chunks_mut(TOKENS * d))
        .zip(up.par_chunks_mut(TOKENS * width))
        .zip(
            x.par_chunks(TOKENS * d)
                .zip(attended.par_chunks(TOKENS * d)),
        )
        .for_each(|(((y, middle), up), (x, attended))| {
            middle.copy_from_slice(x);
            layers.out.apply(attended, middle, Onto::Old);
            let mut hidden = Buffer::new(middle.len());
            layers.norm2.forward(middle, &mut hidden);
            layers.up.apply(&hidden, up, Onto::Nothing);
            let mut active = Buffer::new(up.len() / width * shape.d_ff);
            feed_forward::forward(shape.activation, up, &mut active, shape.d_ff);
            y.copy_from_slice(middle);
            layers.down.apply(&active, y, Onto::Old);
        });
    let saved = Saved {
        qkv,
        attended,
        logs,
        middle,
        up,
    };
    (y, saved)
}

/// Returns the gradients of `x` and of the group, given that of the output.
pub fn backward(
    x: &[f32],
    params: &[f32],
    saved: &Saved,
    dy: &[f32],
    pass: &Pass,
) -> (Vec<f32>, Vec<f32>) {
    let shape = &*pass.shape;
    let layers = Layers::new(params, shape, pass.extent.positions(), Linear::back);
    let mut gradient = buffer::zeros(shape.block.len);
    let mut parts = Parts::new(&mut gradient, &shape.block);
    let (mut dx, d_attended) = backward_upper(&layers, saved, dy, shape, &mut parts);
    let attention = attention::Saved {
        qkv: &saved.qkv,
        out: &saved.attended,
        logs: &saved.logs,
    };
    let d_qkv = attention::backward(&attention, &d_attended, pass);
    backward_lower(&layers, (x, &d_qkv), shape, &mut dx, &mut parts);
    (dx, gradient)
}

/// Query, key and value columns of every position, rotated.
fn project(x: &[f32], layers: &Layers<'_>, pass: &Pass) -> Buffer {
    let shape = &*pass.shape;
    let (d, width) = (shape.d, shape.qkv_width());
    let rotated = shape.d + shape.kv_heads * shape.head;
    let mut qkv = Buffer::new(pass.extent.positions() * width);
    qkv.par_chunks_mut(TOKENS * width)
        .zip(x.par_chunks(TOKENS * d))
        .enumerate()
        .for_each(|(chunk, (qkv, x))| {
            let mut hidden = Buffer::new(x.len());
            layers.norm1.forward(x, &mut hidden);
            layers.qkv.apply(&hidden, qkv, Onto::Nothing);
            if let Some(rope) = &shape.rope {
                for (index, row) in qkv.chunks_exact_mut(width).enumerate() {
                    let position = pass.mask.reach(chunk * TOKENS + index).place();
                    rope.turn(&mut row[..rotated], position, Turn::Forward);
                }
            }
        });
    qkv
}

/// From the output back to attention: returns the gradients of the residual
/// stream and of what attention returned.
fn backward_upper(
    layers: &Layers<'_>,
    saved: &Saved,
    dy: &[f32],
    shape: &Shape,
    parts: &mut Parts<'_>,
) -> (Vec<f32>, Buffer) {
    let (d, ff, width) = (shape.d, shape.d_ff, shape.block.up.outputs);
    let mut dx = buffer::array(dy.len());
    let mut d_attended = Buffer::new(dy.len());
    for start in (0..dy.len() / d).step_by(SPAN) {
        let end = (start + SPAN).min(dy.len() / d);
        let n = end - start;
        let rows = |width: usize| start * width..end * width;
        let (mut hidden, mut active) = (Buffer::new(n * d), Buffer::new(n * ff));
        let mut d_up = Buffer::new(n * width);
        let mut norms = Partials::new(n, layers.norm2.parameters());
        let outputs = dx[rows(d)]
            .par_chunks_mut(TOKENS * d)
            .zip(d_attended[rows(d)].par_chunks_mut(TOKENS * d))
            .zip(hidden.par_chunks_mut(TOKENS * d))
            .zip(active.par_chunks_mut(TOKENS * ff))
            .zip(d_up.par_chunks_mut(TOKENS * width))
            .zip(norms.chunks());
        let inputs = dy[rows(d)]
            .par_chunks(TOKENS * d)
            .zip(saved.middle[rows(d)].par_chunks(TOKENS * d))
            .zip(saved.up[rows(width)].par_chunks(TOKENS * width));
        outputs.zip(inputs).for_each(|(outputs, inputs)| {
            let (((((dx, d_attended), hidden), active), d_up), norm) = outputs;
            let ((dy, middle), up) = inputs;
            layers.down.apply(dy, active, Onto::Nothing);
            feed_forward::backward(shape.activation, up, active, d_up, ff);
            let mut d_hidden = Buffer::new(dy.len());
            layers.up.apply(d_up, &mut d_hidden, Onto::Nothing);
            layers.norm2.forward(middle, hidden);
            dx.copy_from_slice(dy);
            layers.norm2.backward(middle, &d_hidden, dx, norm);
            layers.out.apply(dx, d_attended, Onto::Nothing);
        });
        norms.sum_into(parts.norm2);
        let layout = &shape.block;
        add_weight_sums(vec![
            WeightSum::new(halves(parts.up, &layout.up), &hidden, &d_up, n),
            WeightSum::new(halves(parts.down, &layout.down), &active, &dy[rows(d)], n),
            WeightSum::new(
                halves(parts.out, &layout.out),
                &saved.attended[rows(d)],
                &dx[rows(d)],
                n,
            ),
        ]);
    }
    (dx, d_attended)
}

/// From attention back to the input, whose gradient is added to `dx`.
fn backward_lower(
    layers: &Layers<'_>,
    (x, d_qkv): (&[f32], &[f32]),
    shape: &Shape,
    dx: &mut [f32],
    parts: &mut Parts<'_>,
) {
    let (d, width) = (shape.d, shape.qkv_width());
    for start in (0..dx.len() / d).step_by(SPAN) {
        let end = (start + SPAN).min(dx.len() / d);
        let n = end - start;
        let rows = |width: usize| start * width..end * width;
        let mut hidden = Buffer::new(n * d);
        let mut norms = Partials::new(n, layers.norm1.parameters());
        dx[rows(d)]
            .par_chunks_mut(TOKENS * d)
            .zip(hidden.par_chunks_mut(TOKENS * d))
            .zip(norms.chunks())
            .zip(x[rows(d)].par_chunks(TOKENS * d))
            .zip(d_qkv[rows(width)].par_chunks(TOKENS * width))
            .for_each(|((((dx, hidden), norm), x), d_qkv)| {
                let mut d_hidden = Buffer::new(x.len());
                layers.qkv.apply(d_qkv, &mut d_hidden, Onto::Nothing);
                layers.norm1.forward(x, hidden);
                layers.norm1.backward(x, &d_hidden, dx, norm);
            });
        norms.sum_into(parts.norm1);
        let into = halves(parts.qkv, &shape.block.qkv);
        add_weight_sums(vec![WeightSum::new(into, &hidden, &d_qkv[rows(width)], n)]);
    }
}

/// The gradient of a block's group, split by layer; each holds weight, then bias.
struct Parts<'a> {
    norm1: &'a mut [f32],
    qkv: &'a mut [f32],
    out: &'a mut [f32],
    norm2: &'a mut [f32],
    up: &'a mut [f32],
    down: &'a mut [f32],
}

impl<'a> Parts<'a> {
    fn new(gradient: &'a mut [f32], layout: &BlockLayout) -> Self {
        let (rest, down) = gradient.split_at_mut(layout.down.weight.start);
        let (rest, up) = rest.split_at_mut(layout.up.weight.start);
        let (rest, norm2) = rest.split_at_mut(layout.norm2.weight.start);
        let (rest, out) = rest.split_at_mut(layout.out.weight.start);
        let (norm1, qkv) = rest.split_at_mut(layout.qkv.weight.start);
        Self {
            norm1,
            qkv,
            out,
            norm2,
            up,
            down,
        }
    }
}

/// Sums over the tokens of each chunk, added up in the order of the chunks.
pub struct Partials {
    values: Vec<f32>,
    width: usize,
}

impl Partials {
    /// Zeros for every chunk of `n` tokens.
    pub fn new(n: usize, width: usize) -> Self {
        Self {
            values: vec![0.0; n.div_ceil(TOKENS) * width],
            width,
        }
    }

    /// One sum a chunk.
    pub fn chunks(&mut self) -> rayon::slice::ChunksMut<'_, f32> {
        self.values.par_chunks_mut(self.width)
    }

    /// Adds all sums to `total`.
    pub fn sum_into(&self, total: &mut [f32]) {
        sum_rows(&self.values, total);
    }
}

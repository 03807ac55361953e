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

use super::adapter::Adapter;
use super::attention;
use super::buffer::{self, Buffer};
use super::linear::{Linear, Way, WeightSum, add_weight_sums, halves, sum_rows};
use super::norm::Norm;
use super::product::Onto;
use super::rotary::Turn;
use super::{SPAN, TOKENS, feed_forward};
use crate::model::config;
use crate::model::layout::BlockLayout;
use crate::model::ops::{Pass, Shape};
use crate::model::precision::Precision;
use crate::model::tuning::{AdapterLayout, LoraLayout};

/// What the forward pass keeps for the backward pass.
#[derive(Debug)]
pub struct Saved {
    /// Query, key and value columns, rotated.
    qkv: Buffer,
    /// Query and key columns before their norms, where they have any.
    raw: Option<Buffer>,
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
    qk_norm: Option<[Norm<'a>; 2]>,
    out: Linear<'a>,
    norm2: Norm<'a>,
    up: Linear<'a>,
    down: Linear<'a>,
    precision: Precision,
}

/// A block's parameters, and those of its adapters where it has any.
#[derive(Clone, Copy)]
pub struct Params<'a> {
    /// Its own.
    pub own: &'a [f32],
    /// Those of its adapters; empty where it has none.
    pub adapters: &'a [f32],
    /// What its layers and its attention multiply in.
    pub precision: Precision,
}

/// Where a block's gradients are added: those of its own parameters, where they are wanted,
/// and those of its adapters.
pub struct Into<'a> {
    /// Its own.
    pub own: Option<&'a mut [f32]>,
    /// Of its adapters; empty where it has none.
    pub adapters: &'a mut [f32],
}

/// The adapters of a block's layers.
struct Adapters<'a> {
    qkv: Option<Adapter<'a>>,
    out: Option<Adapter<'a>>,
    up: Option<Adapter<'a>>,
    down: Option<Adapter<'a>>,
}

impl<'a> Adapters<'a> {
    fn new(params: Params<'a>, shape: &'a Shape) -> Self {
        let [qkv, out, up, down] = match &shape.lora {
            Some(lora) if !params.adapters.is_empty() => lora
                .layers()
                .map(|layer| Adapter::new(params.adapters, layer, lora.scale)),
            _ => [const { None }; 4],
        };
        Self { qkv, out, up, down }
    }
}

impl<'a> Layers<'a> {
    /// One way through the layers.
    fn new(params: Params<'a>, adapters: &'a Adapters<'a>, pass: &Pass, way: Way) -> Self {
        let (precision, params) = (params.precision, params.own);
        let (shape, rows) = (&*pass.shape, pass.extent.positions());
        let layout = &shape.block;
        let linear = |layout| Linear::new(params, layout, rows, (way, precision));
        Self {
            norm1: Norm::new(params, &layout.norm1, shape.norm, shape.eps),
            qkv: linear(&layout.qkv).with(adapters.qkv.as_ref()),
            qk_norm: head_norms(params, shape),
            out: linear(&layout.out).with(adapters.out.as_ref()),
            norm2: Norm::new(params, &layout.norm2, shape.norm, shape.eps),
            up: linear(&layout.up).with(adapters.up.as_ref()),
            down: linear(&layout.down).with(adapters.down.as_ref()),
            precision,
        }
    }
}

/// The norms of each head's queries and of its keys, where a model has them.
pub fn head_norms<'a>(params: &'a [f32], shape: &Shape) -> Option<[Norm<'a>; 2]> {
    let norm = |layout| Norm::new(params, layout, config::Norm::RmsNorm, shape.eps);
    shape
        .block
        .qk_norm
        .as_ref()
        .map(|both| both.each_ref().map(norm))
}

/// Returns the block's output `[n, d]` and what [`backward`] needs.
pub fn forward(x: &[f32], params: Params<'_>, pass: &Pass) -> (Vec<f32>, Saved) {
    let mut y = buffer::array(x.len());
    let saved = run(x, params, pass, Some(&mut y));
    (y, saved)
}

/// What [`forward`] returned second, computed again.
pub fn remember(x: &[f32], params: Params<'_>, pass: &Pass) -> Saved {
    run(x, params, pass, None)
}

/// Does the forward pass up to what is asked for.
fn run(x: &[f32], params: Params<'_>, pass: &Pass, y: Option<&mut [f32]>) -> Saved {
    let shape = &*pass.shape;
    let (n, d) = (pass.extent.positions(), shape.d);
    let adapters = Adapters::new(params, shape);
    let layers = Layers::new(params, &adapters, pass, Way::Forward);
    let (qkv, raw) = project(x, &layers, pass);
    let (attended, logs) = attention::forward(&qkv, pass, params.precision);
    let width = shape.block.up.outputs;
    let (mut middle, mut up) = (Buffer::new(n * d), Buffer::new(n * width));
    let outputs: Vec<Option<&mut [f32]>> = match y {
        Some(y) => y.chunks_mut(TOKENS * d).map(Some).collect(),
        None => (0..n.div_ceil(TOKENS)).map(|_| None).collect(),
    };
    outputs
        .into_par_iter()
        .with_max_len(1)
        .zip(middle.par_chunks_mut(TOKENS * d))
        .zip(up.par_chunks_mut(TOKENS * width))
        .zip(
            x.par_chunks(TOKENS * d)
                .zip(attended.par_chunks(TOKENS * shape.query_width())),
        )
        .for_each(|(((y, middle), up), (x, attended))| {
            middle.copy_from_slice(x);
            layers.out.apply(attended, middle, Onto::Old);
            let mut hidden = Buffer::new(middle.len());
            layers.norm2.forward(middle, &mut hidden);
            layers.up.apply(&hidden, up, Onto::Nothing);
            let Some(y) = y else { return };
            let mut active = Buffer::new(up.len() / width * shape.d_ff);
            feed_forward::forward(shape.activation, up, &mut active, shape.d_ff);
            y.copy_from_slice(middle);
            layers.down.apply(&active, y, Onto::Old);
        });
    Saved {
        qkv,
        raw,
        attended,
        logs,
        middle,
        up,
    }
}

/// Returns the gradient of `x`, given that of the output, and adds those of parameters.
pub fn backward(
    x: &[f32],
    params: Params<'_>,
    saved: &Saved,
    dy: &[f32],
    pass: &Pass,
    into: Into<'_>,
) -> Vec<f32> {
    let shape = &*pass.shape;
    let adapters = Adapters::new(params, shape);
    let layers = Layers::new(params, &adapters, pass, Way::Back);
    let mut parts = Parts {
        own: into.own.map(|own| OwnParts::new(own, &shape.block)),
        adapters: AdapterParts::new(into.adapters, shape),
    };
    let (mut dx, d_attended) = backward_upper(&layers, saved, dy, shape, &mut parts);
    let attention = attention::Saved {
        qkv: &saved.qkv,
        out: &saved.attended,
        logs: &saved.logs,
        precision: params.precision,
    };
    let mut d_qkv = attention::backward(&attention, &d_attended, pass);
    if let Some(raw) = &saved.raw {
        backward_heads(&layers, raw, &mut d_qkv, shape, &mut parts);
    }
    backward_lower(&layers, (x, &d_qkv), shape, &mut dx, &mut parts);
    dx
}

/// Query, key and value columns of every position, rotated; queries and keys before their
/// norms, where they have any.
fn project(x: &[f32], layers: &Layers<'_>, pass: &Pass) -> (Buffer, Option<Buffer>) {
    let shape = &*pass.shape;
    let (d, width) = (shape.d, shape.qkv_width());
    let queries = shape.query_width();
    let rotated = queries + shape.key_width();
    let n = pass.extent.positions();
    let mut qkv = Buffer::new(n * width);
    let kept = if layers.qk_norm.is_some() { rotated } else { 0 };
    let mut raw = Buffer::new(n * kept);
    let raws: Vec<&mut [f32]> = match kept {
        0 => (0..n.div_ceil(TOKENS))
            .map(|_| <&mut [f32]>::default())
            .collect(),
        _ => raw.chunks_mut(TOKENS * kept).collect(),
    };
    qkv.par_chunks_mut(TOKENS * width)
        .zip(x.par_chunks(TOKENS * d))
        .zip(raws)
        .enumerate()
        .for_each(|(chunk, ((qkv, x), raw))| {
            let mut hidden = Buffer::new(x.len());
            layers.norm1.forward(x, &mut hidden);
            layers.qkv.apply(&hidden, qkv, Onto::Nothing);
            if let Some([query_norm, key_norm]) = &layers.qk_norm {
                for (row, raw) in qkv.chunks_exact_mut(width).zip(raw.chunks_exact_mut(kept)) {
                    raw.copy_from_slice(&row[..kept]);
                    query_norm.forward(&raw[..queries], &mut row[..queries]);
                    key_norm.forward(&raw[queries..], &mut row[queries..kept]);
                }
            }
            if let Some(rope) = &shape.rope {
                for (index, row) in qkv.chunks_exact_mut(width).enumerate() {
                    let position = pass.mask.reach(chunk * TOKENS + index).place();
                    rope.turn(&mut row[..rotated], position, Turn::Forward);
                }
            }
        });
    (qkv, (0 < kept).then_some(raw))
}

/// Back through the norms of queries and keys, whose gradients are replaced.
fn backward_heads(
    layers: &Layers<'_>,
    raw: &[f32],
    d_qkv: &mut [f32],
    shape: &Shape,
    parts: &mut Parts<'_>,
) {
    let Some([query_norm, key_norm]) = &layers.qk_norm else {
        return;
    };
    let (queries, width) = (shape.query_width(), shape.qkv_width());
    let kept = queries + shape.key_width();
    let mut norms = Partials::new(raw.len() / kept, 2 * shape.head);
    d_qkv
        .par_chunks_mut(TOKENS * width)
        .zip(raw.par_chunks(TOKENS * kept))
        .zip(norms.chunks())
        .for_each(|((d_qkv, raw), sums)| {
            let (d_queries, d_keys) = sums.split_at_mut(shape.head);
            let mut dy = Buffer::new(kept);
            for (row, raw) in d_qkv.chunks_exact_mut(width).zip(raw.chunks_exact(kept)) {
                dy.copy_from_slice(&row[..kept]);
                row[..kept].fill(0.0);
                let (raw_queries, raw_keys) = raw.split_at(queries);
                let (dy_queries, dy_keys) = dy.split_at(queries);
                let (row_queries, row_keys) = row[..kept].split_at_mut(queries);
                query_norm.backward(raw_queries, dy_queries, row_queries, d_queries);
                key_norm.backward(raw_keys, dy_keys, row_keys, d_keys);
            }
        });
    if let Some(own) = &mut parts.own {
        norms.sum_into(own.qk_norm);
    }
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
    let queries = shape.query_width();
    let mut d_attended = Buffer::new(dy.len() / d * queries);
    for start in (0..dy.len() / d).step_by(SPAN) {
        let end = (start + SPAN).min(dy.len() / d);
        let n = end - start;
        let rows = |width: usize| start * width..end * width;
        let (mut hidden, mut active) = (Buffer::new(n * d), Buffer::new(n * ff));
        let mut d_up = Buffer::new(n * width);
        let mut norms = Partials::new(n, layers.norm2.parameters());
        let outputs = dx[rows(d)]
            .par_chunks_mut(TOKENS * d)
            .zip(d_attended[rows(queries)].par_chunks_mut(TOKENS * queries))
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
            // What the layer read, for the gradients of weights.
            if parts.any() {
                layers.norm2.forward(middle, hidden);
            }
            dx.copy_from_slice(dy);
            layers.norm2.backward(middle, &d_hidden, dx, norm);
            layers.out.apply(dx, d_attended, Onto::Nothing);
        });
        let up: Sides<'_> = (&hidden, &d_up);
        let down: Sides<'_> = (&active, &dy[rows(d)]);
        let out: Sides<'_> = (&saved.attended[rows(queries)], &dx[rows(d)]);
        if let Some(own) = &mut parts.own {
            norms.sum_into(own.norm2);
            let layout = &shape.block;
            add_weight_sums(
                layers.precision,
                vec![
                    WeightSum::new(halves(own.up, &layout.up), up, n),
                    WeightSum::new(halves(own.down, &layout.down), down, n),
                    WeightSum::new(halves(own.out, &layout.out), out, n),
                ],
            );
        }
        let into = &mut parts.adapters;
        add_adapter_sums(vec![
            (layers.up.adapter(), up, &mut *into.up),
            (layers.down.adapter(), down, &mut *into.down),
            (layers.out.adapter(), out, &mut *into.out),
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
                if parts.any() {
                    layers.norm1.forward(x, hidden);
                }
                layers.norm1.backward(x, &d_hidden, dx, norm);
            });
        let qkv: Sides<'_> = (&hidden, &d_qkv[rows(width)]);
        if let Some(own) = &mut parts.own {
            norms.sum_into(own.norm1);
            let into = halves(own.qkv, &shape.block.qkv);
            add_weight_sums(layers.precision, vec![WeightSum::new(into, qkv, n)]);
        }
        let into = &mut *parts.adapters.qkv;
        add_adapter_sums(vec![(layers.qkv.adapter(), qkv, into)]);
    }
}

/// What a layer read, and the gradient of what it wrote.
type Sides<'a> = (&'a [f32], &'a [f32]);

/// Adds the gradients of adapters; a task owns those of one layer.
fn add_adapter_sums(sums: Vec<(Option<&Adapter<'_>>, Sides<'_>, &mut [f32])>) {
    sums.into_par_iter()
        .with_max_len(1)
        .for_each(|(adapter, sides, into)| {
            if let Some(adapter) = adapter {
                adapter.add_sums(sides, into);
            }
        });
}

/// Where the gradients of a block go.
struct Parts<'a> {
    own: Option<OwnParts<'a>>,
    adapters: AdapterParts<'a>,
}

impl Parts<'_> {
    /// Whether any is wanted.
    fn any(&self) -> bool {
        self.own.is_some() || self.adapters.any
    }
}

/// The gradient of a block's adapters, split by layer; empty where a layer has none.
struct AdapterParts<'a> {
    any: bool,
    qkv: &'a mut [f32],
    out: &'a mut [f32],
    up: &'a mut [f32],
    down: &'a mut [f32],
}

impl<'a> AdapterParts<'a> {
    fn new(gradient: &'a mut [f32], shape: &Shape) -> Self {
        let any = !gradient.is_empty();
        let at = |layer: fn(&LoraLayout) -> &AdapterLayout| match &shape.lora {
            Some(lora) if any => layer(lora).range.start,
            _ => 0,
        };
        let (rest, down) = gradient.split_at_mut(at(|lora| &lora.down));
        let (rest, up) = rest.split_at_mut(at(|lora| &lora.up));
        let (qkv, out) = rest.split_at_mut(at(|lora| &lora.out));
        Self {
            any,
            qkv,
            out,
            up,
            down,
        }
    }
}

/// The gradient of a block's group, split by layer; each holds weight, then bias.
struct OwnParts<'a> {
    norm1: &'a mut [f32],
    qkv: &'a mut [f32],
    /// Of queries, then of keys; empty where there are none.
    qk_norm: &'a mut [f32],
    out: &'a mut [f32],
    norm2: &'a mut [f32],
    up: &'a mut [f32],
    down: &'a mut [f32],
}

impl<'a> OwnParts<'a> {
    fn new(gradient: &'a mut [f32], layout: &BlockLayout) -> Self {
        let (rest, down) = gradient.split_at_mut(layout.down.weight.start);
        let (rest, up) = rest.split_at_mut(layout.up.weight.start);
        let (rest, norm2) = rest.split_at_mut(layout.norm2.weight.start);
        let (rest, out) = rest.split_at_mut(layout.out.weight.start);
        let heads = layout.qk_norm.as_ref();
        let heads = heads.map_or(rest.len(), |[queries, _]| queries.weight.start);
        let (rest, qk_norm) = rest.split_at_mut(heads);
        let (norm1, qkv) = rest.split_at_mut(layout.qkv.weight.start);
        Self {
            norm1,
            qkv,
            qk_norm,
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

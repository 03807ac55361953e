//! The operations in burn tensors: short, slow, and right on any device.

use std::ops::Range;

use burn::tensor::activation::{log_softmax, sigmoid, softmax};
use burn::tensor::{Device, Int, Tensor, TensorData};

use super::numbers::{Limits, Sums};
use super::{
    AdamState, AdamStep, Extent, Input, Loss, Objective, Parameters, Pass, Rows, Shape, muon,
};
use crate::model::config::{Activation, Norm};
use crate::model::layout::{LinearLayout, NormLayout, Part};
use crate::model::tuning::{AdapterLayout, LoraLayout};

/// See [`super::loss`].
pub fn loss(parameters: Parameters<'_>, input: &Input, z_loss: f32) -> Loss {
    let [cross_entropy, z_loss] = losses(parameters, input, z_loss).map(value);
    Loss {
        cross_entropy,
        z_loss,
    }
}

/// See [`super::logits`].
pub fn logits(parameters: Parameters<'_>, ids: &[u32], pass: &Pass) -> Tensor<2> {
    let shape = &pass.shape;
    let [embedding, blocks @ .., last] = parameters.base else {
        unreachable!("a layout has at least two groups")
    };
    let x = embed(embedding, ids, pass);
    let mut adapters = parameters.adapters.iter();
    let x = blocks.iter().fold(x, |x, own| {
        let adapters = adapters.next();
        block(x, Params { own, adapters }, pass)
    });
    let hidden = norm(x, last, &shape.last.norm, shape);
    let table = match shape.last.head.clone() {
        Some(range) => last.clone().slice([range]),
        None => embedding.clone().slice([shape.embedding.token.clone()]),
    };
    let table = table.reshape([shape.vocabulary(), shape.d]);
    let logits = hidden.matmul(table.transpose());
    match shape.soft_cap.map(f64::from) {
        Some(cap) => (logits / cap).tanh() * cap,
        None => logits,
    }
}

/// See [`super::gradients`]. What is kept is burn's affair.
pub fn gradients(
    parameters: Parameters<'_>,
    inputs: &mut dyn Iterator<Item = Input>,
    objective: &Objective,
) -> (Sums, Vec<Tensor<1>>) {
    let mut total: Option<Tensor<1>> = None;
    let wanted: Vec<&Tensor<1>> = match parameters.rows {
        None => parameters.base.iter().collect(),
        // The rows' are part of the first one's.
        Some(_) => parameters
            .adapters
            .iter()
            .chain(parameters.base.first())
            .collect(),
    };
    let mut sums: Vec<Tensor<1>> = wanted.into_iter().map(Tensor::zeros_like).collect();
    for input in inputs {
        let fixed = |tensor: &Tensor<1>| tensor.clone().autodiff();
        let leaf = |tensor: &Tensor<1>| fixed(tensor).require_grad();
        let (base, adapters): (Vec<_>, Vec<_>) = match parameters.rows {
            None => (parameters.base.iter().map(leaf).collect(), Vec::new()),
            Some(_) => {
                let first = parameters.base.iter().take(1).map(leaf);
                let others = parameters.base.iter().skip(1).map(fixed);
                let adapters = parameters.adapters.iter().map(leaf);
                (first.chain(others).collect(), adapters.collect())
            }
        };
        let tracked = Parameters {
            base: &base,
            adapters: &adapters,
            ..parameters
        };
        let [entropy, z_loss] = losses(tracked, &input, objective.z_loss);
        let both = Tensor::cat(vec![entropy.clone().inner(), z_loss.clone().inner()], 0);
        total = Some(match total {
            None => both,
            Some(before) => before + both,
        });
        let mut found = ((entropy + z_loss) * objective.scale).backward();
        for (sum, leaf) in sums.iter_mut().zip(adapters.iter().chain(&base)) {
            if let Some(gradient) = leaf.grad_remove(&mut found) {
                *sum = sum.clone() + gradient;
            }
        }
    }
    if let Some(Rows { ids, width }) = parameters.rows {
        let table = sums.pop();
        let row = |(id, table): (&u32, &Tensor<1>)| {
            let start = *id as usize * width;
            table.clone().narrow(0, start, width)
        };
        let rows = ids
            .iter()
            .zip(table.iter().cycle())
            .map(row)
            .collect::<Vec<_>>();
        sums.extend((!rows.is_empty()).then(|| Tensor::cat(rows, 0)));
    }
    let device = sums.first().map(Tensor::device);
    let none = || Tensor::zeros([2], &device.unwrap_or_else(Device::flex));
    (Sums::Coming(total.unwrap_or_else(none)), sums)
}

/// See [`super::numbers::Coming`].
pub fn numbers(sums: Tensor<1>, gradients: &[Tensor<1>], limits: &Limits) -> Tensor<1> {
    let means = sums.narrow(0, 0, 2) * limits.mean;
    let squares = gradients.iter();
    let squares = squares.map(|gradient| (gradient.clone() * gradient.clone()).sum());
    let norm = squares.reduce(|sum, more| sum + more);
    let norm = norm.unwrap_or_else(|| Tensor::zeros([1], &means.device()));
    let norm = norm.sqrt();
    let small = norm.clone().lower_equal_elem(limits.clip);
    let scale = (norm.clone().recip() * limits.clip).mask_fill(small, 1.0);
    let numbers = Tensor::cat(vec![means, norm], 0);
    // 0, or not a number.
    let scale = scale + (numbers.clone() * 0.0).sum();
    Tensor::cat(vec![numbers, scale], 0)
}

/// An update whose gradient is scaled as the numbers of its step say, and which leaves
/// everything as it is where they say that there is none.
pub fn guarded(
    numbers: Option<&Tensor<1>>,
    (param, gradient, state): (Tensor<1>, Tensor<1>, AdamState),
    update: impl FnOnce(Tensor<1>, Tensor<1>, AdamState) -> (Tensor<1>, AdamState),
) -> (Tensor<1>, AdamState) {
    let Some(numbers) = numbers else {
        return update(param, gradient, state);
    };
    let scale = numbers.clone().narrow(0, 3, 1);
    let refused = scale.clone().is_nan().expand(param.dims());
    let or_old = |new: Tensor<1>, old| new.mask_where(refused.clone(), old);
    let (old, before) = (param.clone(), state.clone());
    let (param, state) = update(param, gradient * scale, state);
    let state = AdamState {
        first: or_old(state.first, before.first),
        second: or_old(state.second, before.second),
    };
    (or_old(param, old), state)
}

/// See [`super::replace_rows`].
pub fn replace_rows(table: Tensor<1>, ids: &[u32], rows: &Tensor<1>, d: usize) -> Tensor<1> {
    let replace = |table: Tensor<1>, (row, id): (usize, &u32)| {
        let start = *id as usize * d;
        let place = start..start + d;
        table.slice_assign([place], rows.clone().narrow(0, row * d, d))
    };
    ids.iter().enumerate().fold(table, replace)
}

/// Cross entropy and z-loss, summed by their weights.
fn losses(parameters: Parameters<'_>, input: &Input, z_loss: f32) -> [Tensor<1>; 2] {
    let Input { ids, targets, pass } = input;
    let logits = logits(parameters, ids, pass);
    let (n, device) = (pass.extent.positions(), logits.device());
    let ids: Vec<i64> = targets.ids.iter().map(|&id| i64::from(id)).collect();
    let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, [n, 1]), &device);
    let weights = TensorData::new(targets.weights.clone(), [n]);
    let weights = Tensor::<1>::from_data(weights, &device);
    let aimed = logits.clone().gather(1, ids.clone()).reshape([n]);
    let gained = log_softmax(logits, 1).gather(1, ids).reshape([n]);
    // The logarithm of the softmax's sum.
    let z = aimed - gained.clone();
    let z_loss = (z.clone() * z * weights.clone()).sum() * z_loss;
    [(gained * weights).sum().neg(), z_loss]
}

fn value(scalar: Tensor<1>) -> f64 {
    f64::from(scalar.inner().into_scalar::<f32>())
}

/// Token embedding plus learned positions, if any: `[n, d]`.
fn embed(params: &Tensor<1>, ids: &[u32], pass: &Pass) -> Tensor<2> {
    let (shape, Extent { rows, length }) = (&pass.shape, pass.extent);
    let (params, device) = (params.clone(), params.device());
    let table = params.clone().slice([shape.embedding.token.clone()]);
    let table = table.reshape([shape.vocabulary(), shape.d]);
    let ids = ids.iter().map(|&id| i64::from(id)).collect::<Vec<_>>();
    let ids = Tensor::<1, Int>::from_data(TensorData::new(ids, [rows * length]), &device);
    let x = table.select(0, ids);
    match shape.embedding.position.clone() {
        Some(range) => {
            let table = params.slice([range.clone()]);
            let table = table.reshape([range.len() / shape.d, shape.d]);
            let places = (0..rows * length).map(|position| pass.mask.reach(position).place());
            let places: Vec<i64> = places.map(|place| place as i64).collect();
            let places = TensorData::new(places, [rows * length]);
            x + table.select(0, Tensor::<1, Int>::from_data(places, &device))
        }
        None => x,
    }
}

/// A block's parameters, and those of its adapters where it has any.
#[derive(Clone, Copy)]
struct Params<'a> {
    own: &'a Tensor<1>,
    adapters: Option<&'a Tensor<1>>,
}

/// A transformer block: attention and feed-forward, each normed before and added after.
fn block(x: Tensor<2>, params: Params<'_>, pass: &Pass) -> Tensor<2> {
    let shape = &pass.shape;
    let layout = &shape.block;
    let linear = |x, layer, adapter| linear(x, params, layer, (shape, adapter));
    let hidden = norm(x.clone(), params.own, &layout.norm1, shape);
    let qkv = linear(hidden, &layout.qkv, |lora| &lora.qkv);
    let attended = attention(qkv, params.own, pass);
    let x = x + linear(attended, &layout.out, |lora| &lora.out);
    let hidden = norm(x.clone(), params.own, &layout.norm2, shape);
    let up = linear(hidden, &layout.up, |lora| &lora.up);
    let n = pass.extent.positions();
    let active = match shape.activation {
        Activation::Gelu => {
            let cubic = up.clone() * up.clone() * up.clone() * 0.044_715;
            let z = (up.clone() + cubic) * (2.0 * (2.0 / std::f64::consts::PI).sqrt());
            up * sigmoid(z)
        }
        Activation::SwiGlu => {
            let gate = up.clone().slice([0..n, 0..shape.d_ff]);
            let up = up.slice([0..n, shape.d_ff..2 * shape.d_ff]);
            gate.clone() * sigmoid(gate) * up
        }
    };
    x + linear(active, &layout.down, |lora| &lora.down)
}

/// See [`super::adamw`].
pub fn adamw(
    param: Tensor<1>,
    gradient: Tensor<1>,
    state: AdamState,
    step: &AdamStep,
    parts: &[Part],
) -> (Tensor<1>, AdamState) {
    let device = param.device();
    let keep = parts
        .iter()
        .map(|part| Tensor::<1>::full([part.range.len()], step.keep(part.decay), &device));
    let keep = Tensor::cat(keep.collect(), 0);
    let gradient = gradient * step.gradient_scale;
    let first = state.first * step.beta1 + gradient.clone() * (1.0 - step.beta1);
    let second = state.second * step.beta2 + gradient.clone() * gradient * (1.0 - step.beta2);
    let correct = |beta: f64| 1.0 - beta.powf(step.index as f64);
    let root = (second.clone() / correct(step.beta2)).sqrt() + step.eps;
    let change = first.clone() / root * (step.rate / correct(step.beta1));
    (param * keep - change, AdamState { first, second })
}

/// See [`super::muon_step`].
pub fn muon_step(
    param: Tensor<1>,
    gradient: Tensor<1>,
    state: AdamState,
    step: &AdamStep,
    (parts, matrices): (&[Part], &[muon::Matrix]),
) -> (Tensor<1>, AdamState) {
    let (old, momentum, second) = (param.clone(), state.first.clone(), state.second.clone());
    let (mut param, mut state) = adamw(param, gradient.clone(), state, step, parts);
    for part in parts {
        let inside = || (matrices.iter()).filter(|matrix| part.range.contains(&matrix.start));
        let Some(stride) = inside().next().map(|matrix| matrix.stride) else {
            continue;
        };
        let table = |tensor: &Tensor<1>| {
            let values = tensor.clone().slice([part.range.clone()]);
            values.reshape([part.range.len() / stride, stride])
        };
        let gradient = table(&gradient) * (1.0 - muon::MOMENTUM);
        let momentum = table(&momentum) * muon::MOMENTUM + gradient.clone();
        let update = momentum.clone() * muon::MOMENTUM + gradient;
        let moves = inside().map(|matrix| {
            let columns = matrix.start - part.range.start;
            let update = update
                .clone()
                .slice([0..matrix.rows, columns..columns + matrix.columns]);
            orthogonal(update) * (step.rate * matrix.scale())
        });
        let moves = Tensor::cat(moves.collect(), 1);
        let moved = table(&old) * step.keep(part.decay) - moves;
        let put = |to: Tensor<1>, values: Tensor<2>| {
            to.slice_assign([part.range.clone()], values.reshape([part.range.len()]))
        };
        param = put(param, moved);
        state.first = put(state.first, momentum);
        state.second = put(state.second, table(&second));
    }
    (param, state)
}

/// A matrix with its singular values near 1.
fn orthogonal(matrix: Tensor<2>) -> Tensor<2> {
    let [rows, columns] = matrix.dims();
    if columns < rows {
        return orthogonal(matrix.transpose()).transpose();
    }
    let norm = (matrix.clone() * matrix.clone()).sum().sqrt() + muon::EPS;
    let mut x = matrix / norm.reshape([1, 1]);
    let [a, b, c] = muon::COEFFICIENTS;
    for _ in 0..muon::ROUNDS {
        let square = x.clone().matmul(x.clone().transpose());
        let factor = square.clone() * b + square.clone().matmul(square) * c;
        x = x.clone() * a + factor.matmul(x);
    }
    x
}

/// See [`super::gradient_norm_squared`].
pub fn gradient_norm_squared(gradient: &Tensor<1>) -> f64 {
    let gradient = gradient.clone();
    f64::from((gradient.clone() * gradient).sum().into_scalar::<f32>())
}

fn norm(x: Tensor<2>, params: &Tensor<1>, layout: &NormLayout, shape: &Shape) -> Tensor<2> {
    let row = |range| params.clone().slice([range]).reshape([1, shape.d]);
    let centred = match shape.norm {
        Norm::LayerNorm => x.clone() - x.mean_dim(1),
        Norm::RmsNorm => x,
    };
    let square = (centred.clone() * centred.clone()).mean_dim(1);
    let y = centred / (square + f64::from(shape.eps)).sqrt() * row(layout.weight.clone());
    match layout.bias.clone() {
        Some(range) => y + row(range),
        None => y,
    }
}

/// Which of a block's adapters belongs to a layer.
type Which = fn(&LoraLayout) -> &AdapterLayout;

fn linear(
    x: Tensor<2>,
    Params { own, adapters }: Params<'_>,
    layout: &LinearLayout,
    (shape, which): (&Shape, Which),
) -> Tensor<2> {
    let weight = own
        .clone()
        .slice([layout.weight.clone()])
        .reshape([layout.inputs, layout.outputs]);
    let y = x.clone().matmul(weight);
    let y = match layout.bias.clone() {
        Some(range) => y + own.clone().slice([range]).reshape([1, layout.outputs]),
        None => y,
    };
    let (Some(lora), Some(adapters)) = (&shape.lora, adapters) else {
        return y;
    };
    let layer = which(lora);
    let part = |range: &Range<usize>, rows: usize| {
        let columns = range.len() / rows;
        let part = adapters.clone().slice([range.clone()]);
        part.reshape([rows, columns])
    };
    let n = x.dims()[0];
    layer.parts.iter().enumerate().fold(y, |y, (place, of)| {
        let columns = place * layer.rank..(place + 1) * layer.rank;
        let a = part(&layer.a, layer.inputs).slice([0..layer.inputs, columns]);
        let change = x.clone().matmul(a).matmul(part(&of.b, layer.rank));
        let columns = [0..n, of.columns.clone()];
        let old = y.clone().slice(columns.clone());
        y.slice_assign(columns, old + change * f64::from(lora.scale))
    })
}

/// `[n, (h + 2 kv) head]` to `[n, h head]`.
fn attention(qkv: Tensor<2>, params: &Tensor<1>, pass: &Pass) -> Tensor<2> {
    let (shape, Extent { rows, length }) = (&pass.shape, pass.extent);
    let n = rows * length;
    let (queries, keys) = (shape.query_width(), shape.key_width());
    let heads = |start: usize, count: usize| {
        qkv.clone()
            .slice([0..n, start..start + count * shape.head])
            .reshape([rows, length, count, shape.head])
            .swap_dims(1, 2)
    };
    let gain = |which: usize| {
        let norms = shape.block.qk_norm.as_ref()?;
        let range = norms.get(which)?.weight.clone();
        Some(params.clone().slice([range]).reshape([1, 1, 1, shape.head]))
    };
    let query = level(heads(0, shape.heads), gain(0), shape);
    let key = level(heads(queries, shape.kv_heads), gain(1), shape);
    let (query, key) = (rotate(query, pass), share(rotate(key, pass), shape));
    let value = share(heads(queries + keys, shape.kv_heads), shape);
    let scores = query.matmul(key.transpose()) / (shape.head as f64).sqrt();
    let unseen = unseen(pass, &scores.device());
    softmax(scores + unseen, 3)
        .matmul(value)
        .swap_dims(1, 2)
        .reshape([n, queries])
}

/// Each head by its root mean square, where it has a gain.
fn level(heads: Tensor<4>, gain: Option<Tensor<4>>, shape: &Shape) -> Tensor<4> {
    let Some(gain) = gain else { return heads };
    let square = (heads.clone() * heads.clone()).mean_dim(3);
    heads / (square + f64::from(shape.eps)).sqrt() * gain
}

/// What is added to scores, `[rows or 1, 1, length, length]`: nothing where a position
/// sees a key, and so much that nothing is left of it where not.
fn unseen(pass: &Pass, device: &Device) -> Tensor<4> {
    let Extent { rows, length } = pass.extent;
    // Rows are alike where all are causal.
    let rows = if pass.mask.is_causal() { 1 } else { rows };
    let mut values = vec![-1e9f32; rows * length * length];
    for (position, row) in values.chunks_exact_mut(length.max(1)).enumerate() {
        let keys = pass.mask.reach(position).keys();
        row.get_mut(keys).unwrap_or_default().fill(0.0);
    }
    Tensor::from_data(TensorData::new(values, [rows, 1, length, length]), device)
}

/// Repeats each key or value head for the query heads that share it.
fn share(heads: Tensor<4>, shape: &Shape) -> Tensor<4> {
    let [rows, count, length, head] = heads.dims();
    heads
        .reshape([rows, count, 1, length, head])
        .repeat_dim(2, shape.group())
        .reshape([rows, shape.heads, length, head])
}

fn rotate(heads: Tensor<4>, pass: &Pass) -> Tensor<4> {
    let Some(rope) = &pass.shape.rope else {
        return heads;
    };
    let [rows, count, length, head] = heads.dims();
    let (half, device) = (head / 2, heads.device());
    // Rows are alike where all are causal.
    let alike = if pass.mask.is_causal() { 1 } else { rows };
    let table = |values: &[f32]| {
        let rows = (0..alike * length).flat_map(|position| {
            let first = pass.mask.reach(position).place() * half;
            values.get(first..first + half).unwrap_or_default()
        });
        let data = TensorData::new(rows.copied().collect::<Vec<_>>(), [alike, 1, length, half]);
        Tensor::<4>::from_data(data, &device)
    };
    let (cos, sin) = (table(rope.cos()), table(rope.sin()));
    let a = heads.clone().slice([0..rows, 0..count, 0..length, 0..half]);
    let b = heads.slice([0..rows, 0..count, 0..length, half..head]);
    let first = a.clone() * cos.clone() - b.clone() * sin.clone();
    Tensor::cat(vec![first, b * cos + a * sin], 3)
}

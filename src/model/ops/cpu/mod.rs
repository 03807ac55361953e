//! The operations on burn's CPU backend, forward and backward by hand.
//!
//! Work is cut into chunks by shape alone and every sum has one order, so that
//! any number of threads gives the same bits. Matrix products use the widest
//! instructions of the machine: bits are the same on one machine, not on all.

pub mod adamw;
pub mod adapter;
pub mod attention;
pub mod block;
pub mod buffer;
pub mod embedding;
pub mod feed_forward;
#[cfg(target_arch = "x86_64")]
mod kernel;
pub mod linear;
pub mod loss;
pub mod matrix;
pub mod muon;
pub mod norm;
pub mod product;
pub mod rotary;
pub mod simd;

use burn::backend::Flex;
use burn::tensor::{Tensor, TensorData};
use burn_flex::FlexTensor;

use adapter::Adapter;
use block::Params;

use super::muon::Matrix;
use super::{AdamState, AdamStep, Input, Loss, Objective, Parameters, Pass, Rows, Shape};
use crate::model::layout::Part;
use crate::model::precision::Precision;

/// Tokens a chunk: enough rows for the matrix product to run at full speed, few
/// enough that a chunk's activations stay in the second-level cache.
const TOKENS: usize = 256;
/// Tokens whose activations wait for the sums over tokens: bounds the memory.
const SPAN: usize = 2048;

/// The parameters as slices.
struct Weights {
    base: Vec<FlexTensor>,
    adapters: Vec<FlexTensor>,
    precision: Precision,
}

impl Weights {
    fn new(parameters: Parameters<'_>, precision: Precision) -> Self {
        let all = |tensors: &[Tensor<1>]| tensors.iter().cloned().map(flex).collect();
        Self {
            base: all(parameters.base),
            adapters: all(parameters.adapters),
            precision,
        }
    }

    /// Embedding, blocks, and what follows them.
    fn groups(&self) -> (&[f32], impl Iterator<Item = Params<'_>>, &[f32]) {
        let [embedding, blocks @ .., last] = self.base.as_slice() else {
            unreachable!("a layout has at least two groups")
        };
        let blocks = blocks.iter().enumerate().map(|(index, block)| Params {
            own: block.storage(),
            adapters: self
                .adapters
                .get(index)
                .map_or(&[], |adapters| adapters.storage()),
            precision: self.precision,
        });
        (embedding.storage(), blocks, last.storage())
    }

    /// The residual stream after the last block, `[n, d]`.
    fn stream(&self, ids: &[u32], pass: &Pass) -> Vec<f32> {
        let (embedding, blocks, _) = self.groups();
        let mut x = embedding::forward(embedding, ids, pass);
        for params in blocks {
            let (y, _) = block::forward(&x, params, pass);
            buffer::give_back(std::mem::replace(&mut x, y));
        }
        x
    }

    fn head(&self) -> loss::Head<'_> {
        let (embedding, _, last) = self.groups();
        loss::Head {
            last,
            embedding,
            precision: self.precision,
        }
    }
}

/// See [`super::loss`].
pub fn loss(parameters: Parameters<'_>, input: &Input, z_loss: f32, precision: Precision) -> Loss {
    let weights = Weights::new(parameters, precision);
    let x = weights.stream(&input.ids, &input.pass);
    let shape = &input.pass.shape;
    let loss = loss::loss(&x, weights.head(), &input.targets, z_loss, shape);
    buffer::give_back(x);
    loss
}

/// See [`super::logits`].
pub fn logits(
    parameters: Parameters<'_>,
    ids: &[u32],
    pass: &Pass,
    precision: Precision,
) -> Tensor<2> {
    let weights = Weights::new(parameters, precision);
    let x = weights.stream(ids, pass);
    let out = loss::logits(&x, weights.head(), &pass.shape);
    buffer::give_back(x);
    let columns = pass.shape.vocabulary();
    let rows = out.len() / columns;
    let out = FlexTensor::from_data(TensorData::new(out, [rows, columns]));
    Tensor::from_primitive::<Flex>(out)
}

/// Where gradients are added, one array a group; those that are not wanted are empty.
struct Sums {
    base: Vec<Vec<f32>>,
    adapters: Vec<Vec<f32>>,
    rows: Vec<f32>,
}

/// See [`super::gradients`]. Every batch adds to the same arrays.
pub fn gradients(
    parameters: Parameters<'_>,
    inputs: &mut dyn Iterator<Item = Input>,
    objective: &Objective,
    precision: Precision,
) -> (Loss, Vec<Tensor<1>>) {
    let weights = Weights::new(parameters, precision);
    let zeros = |groups: &[FlexTensor]| -> Vec<Vec<f32>> {
        let groups = groups.iter();
        groups
            .map(|group| buffer::zeros(group.storage::<f32>().len()))
            .collect()
    };
    let rows = parameters.rows.unwrap_or_default();
    let mut sums = Sums {
        base: match parameters.is_whole() {
            true => zeros(&weights.base),
            false => Vec::new(),
        },
        adapters: zeros(&weights.adapters),
        rows: vec![0.0; rows.ids.len() * rows.width],
    };
    let mut loss = Loss::default();
    for input in inputs {
        loss += differentiate(&weights, &input, objective, (rows, &mut sums));
    }
    let tensor = |values| Tensor::from_primitive::<Flex>(vector(values));
    let rows = (!rows.ids.is_empty()).then_some(sums.rows);
    let all = sums.base.into_iter().chain(sums.adapters).chain(rows);
    (loss, all.map(tensor).collect())
}

/// Returns the loss of one batch, and adds the gradients of the objective to `sums`.
fn differentiate(
    weights: &Weights,
    input: &Input,
    objective: &Objective,
    (rows, sums): (Rows<'_>, &mut Sums),
) -> Loss {
    let Input { ids, targets, pass } = input;
    let (embedding, blocks, _) = weights.groups();
    let (mut d_embedding, d_blocks, d_last) = match sums.base.as_mut_slice() {
        [first, blocks @ .., last] => (Some(&mut **first), blocks, Some(&mut **last)),
        _ => (None, <&mut [Vec<f32>]>::default(), None),
    };
    let mut x = embedding::forward(embedding, ids, pass);
    let mut kept = Vec::new();
    for params in blocks {
        let (y, saved) = block::forward(&x, params, pass);
        kept.push((params, x, (!objective.recompute).then_some(saved)));
        x = y;
    }
    let into = loss::Into {
        last: d_last,
        embedding: d_embedding.as_deref_mut(),
        rows: (!rows.ids.is_empty()).then_some((rows.ids, &mut *sums.rows)),
    };
    let head = weights.head();
    let (loss, mut dx) = loss::differentiate(&x, head, targets, objective, &pass.shape, into);
    buffer::give_back(x);
    let (mut own, mut adapters) = (d_blocks.iter_mut().rev(), sums.adapters.iter_mut().rev());
    for (params, x, saved) in kept.into_iter().rev() {
        let saved = saved.unwrap_or_else(|| block::remember(&x, params, pass));
        let into = block::Into {
            own: own.next().map(Vec::as_mut_slice),
            adapters: adapters.next().map(Vec::as_mut_slice).unwrap_or_default(),
        };
        let below = block::backward(&x, params, &saved, &dx, pass, into);
        buffer::give_back(std::mem::replace(&mut dx, below));
        buffer::give_back(x);
    }
    if let Some(gradient) = d_embedding {
        embedding::backward(&dx, ids, pass, gradient);
    }
    if !rows.ids.is_empty() {
        embedding::backward_rows(&dx, ids, rows, &mut sums.rows);
    }
    buffer::give_back(dx);
    loss
}

/// The model's own matrices of a block with its adapters' products in them.
pub fn merge(params: &mut [f32], adapters: &[f32], shape: &Shape) {
    let Some(lora) = &shape.lora else { return };
    let block = &shape.block;
    let linear = [&block.qkv, &block.out, &block.up, &block.down];
    for (layer, of) in linear.into_iter().zip(lora.layers()) {
        let weight = params.get_mut(layer.weight.clone()).unwrap_or_default();
        if let Some(adapter) = Adapter::new(adapters, of, lora.scale) {
            adapter.merge(weight);
        }
    }
}

/// A tensor of rows of `d` with others in the place of some.
pub fn replace_rows(table: Tensor<1>, ids: &[u32], rows: &Tensor<1>, d: usize) -> Tensor<1> {
    let (mut table, rows) = (flex(table), flex(rows.clone()));
    let values: &mut [f32] = table.storage_mut();
    for (id, row) in ids.iter().zip(rows.storage::<f32>().chunks_exact(d)) {
        let start = *id as usize * d;
        if let Some(to) = values.get_mut(start..start + d) {
            to.copy_from_slice(row);
        }
    }
    Tensor::from_primitive::<Flex>(table)
}

/// See [`super::adamw`].
pub fn adamw_step(
    param: Tensor<1>,
    gradient: Tensor<1>,
    state: AdamState,
    step: &AdamStep,
    parts: &[Part],
) -> (Tensor<1>, AdamState) {
    let (mut param, gradient) = (flex(param), flex(gradient));
    let (mut first, mut second) = (flex(state.first), flex(state.second));
    adamw::step(
        param.storage_mut(),
        gradient.storage(),
        (first.storage_mut(), second.storage_mut()),
        step,
        parts,
    );
    recycle(gradient);
    let state = AdamState {
        first: Tensor::from_primitive::<Flex>(first),
        second: Tensor::from_primitive::<Flex>(second),
    };
    (Tensor::from_primitive::<Flex>(param), state)
}

/// See [`super::muon_step`].
pub fn muon_step(
    param: Tensor<1>,
    gradient: Tensor<1>,
    state: AdamState,
    step: &AdamStep,
    (parts, matrices): (&[Part], &[Matrix]),
) -> (Tensor<1>, AdamState) {
    let (mut param, gradient) = (flex(param), flex(gradient));
    let (mut first, mut second) = (flex(state.first), flex(state.second));
    let moments = (first.storage_mut(), second.storage_mut());
    let of = (parts, matrices);
    muon::step(param.storage_mut(), gradient.storage(), moments, step, of);
    recycle(gradient);
    let state = AdamState {
        first: Tensor::from_primitive::<Flex>(first),
        second: Tensor::from_primitive::<Flex>(second),
    };
    (Tensor::from_primitive::<Flex>(param), state)
}

/// See [`super::gradient_norm_squared`].
pub fn gradient_norm_squared(gradient: &Tensor<1>) -> f64 {
    adamw::norm_squared(flex(gradient.clone()).storage())
}

/// The tensor behind its device-independent form, outside autodiff and contiguous.
pub fn flex<const D: usize>(tensor: Tensor<D>) -> FlexTensor {
    match tensor.inner().try_into_primitive::<Flex>() {
        // `to_contiguous` would hold a second handle, and writing would copy.
        Ok(tensor)
            if tensor
                .as_slice::<f32>()
                .is_some_and(|s| s.len() * 4 == tensor.bytes().len()) =>
        {
            tensor
        }
        Ok(tensor) => tensor.to_contiguous(),
        Err(_) => unreachable!("these operations run on tensors of the CPU backend"),
    }
}

/// Keeps the memory of a tensor that nobody else holds.
pub fn recycle(tensor: FlexTensor) {
    if tensor.is_unique()
        && let Ok(values) = tensor.into_data().try_into_vec()
    {
        buffer::give_back(values);
    }
}

/// A tensor of one axis.
pub fn vector(values: Vec<f32>) -> FlexTensor {
    let len = values.len();
    FlexTensor::from_data(TensorData::new(values, [len]))
}

//! The operations on burn's CPU backend, forward and backward by hand.
//!
//! Work is cut into chunks by shape alone and every sum has one order, so that
//! any number of threads gives the same bits. Matrix products use the widest
//! instructions of the machine: bits are the same on one machine, not on all.

pub mod adamw;
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

use std::sync::Arc;

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::tensor::{Tensor, TensorData};
use burn_flex::FlexTensor;

use super::muon::Matrix;
use super::{AdamState, AdamStep, HeadTensors, Pass, Targets};
use crate::model::layout::Part;

/// Tokens a chunk: enough rows for the matrix product to run at full speed, few
/// enough that a chunk's activations stay in the second-level cache.
const TOKENS: usize = 256;
/// Tokens whose activations wait for the sums over tokens: bounds the memory.
const SPAN: usize = 2048;

/// Operations that take part in the gradient.
#[backend_extension(Flex, Autodiff)]
pub trait Trainable: Backend {
    /// See [`super::embedding`].
    fn embedding(params: FloatTensor<Self>, ids: Arc<[u32]>, pass: Pass) -> FloatTensor<Self>;
    /// See [`super::block`].
    fn block(x: FloatTensor<Self>, params: FloatTensor<Self>, pass: Pass) -> FloatTensor<Self>;
    /// See [`super::linear_cross_entropy`].
    fn linear_cross_entropy(
        x: FloatTensor<Self>,
        last: FloatTensor<Self>,
        embedding: FloatTensor<Self>,
        targets: Arc<Targets>,
        pass: Pass,
    ) -> FloatTensor<Self>;
}

/// See [`super::embedding`].
pub fn embedding(params: Tensor<1>, ids: Arc<[u32]>, pass: &Pass) -> Tensor<2> {
    let params = params.into_dispatch();
    Tensor::from_dispatch(<Dispatch as Trainable>::embedding(
        params,
        ids,
        pass.clone(),
    ))
}

/// See [`super::block`].
pub fn block(x: Tensor<2>, params: Tensor<1>, pass: &Pass) -> Tensor<2> {
    let (x, params) = (x.into_dispatch(), params.into_dispatch());
    Tensor::from_dispatch(<Dispatch as Trainable>::block(x, params, pass.clone()))
}

/// See [`super::linear_cross_entropy`].
pub fn linear_cross_entropy(
    x: Tensor<2>,
    last: Tensor<1>,
    embedding: Tensor<1>,
    targets: Arc<Targets>,
    pass: &Pass,
) -> Tensor<1> {
    Tensor::from_dispatch(<Dispatch as Trainable>::linear_cross_entropy(
        x.into_dispatch(),
        last.into_dispatch(),
        embedding.into_dispatch(),
        targets,
        pass.clone(),
    ))
}

/// See [`super::logits`].
pub fn logits(x: Tensor<2>, head: &HeadTensors, pass: &Pass) -> Tensor<2> {
    let (x, last) = (flex(x), flex(head.last.clone()));
    let embedding = flex(head.embedding.clone());
    let head = loss::Head {
        last: last.storage(),
        embedding: embedding.storage(),
    };
    let out = loss::logits(x.storage(), head, &pass.shape);
    Tensor::from_primitive::<Flex>(matrix(out, pass.shape.vocabulary()))
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
fn flex<const D: usize>(tensor: Tensor<D>) -> FlexTensor {
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

impl Trainable for Flex {
    fn embedding(params: FlexTensor, ids: Arc<[u32]>, pass: Pass) -> FlexTensor {
        let params = params.to_contiguous();
        let out = embedding::forward(params.storage(), &ids, &pass);
        matrix(out, pass.shape.d)
    }

    fn block(x: FlexTensor, params: FlexTensor, pass: Pass) -> FlexTensor {
        let (x, params) = (x.to_contiguous(), params.to_contiguous());
        let (y, _) = block::forward(x.storage(), params.storage(), &pass);
        matrix(y, pass.shape.d)
    }

    fn linear_cross_entropy(
        x: FlexTensor,
        last: FlexTensor,
        embedding: FlexTensor,
        targets: Arc<Targets>,
        pass: Pass,
    ) -> FlexTensor {
        let (x, last, embedding) = (
            x.to_contiguous(),
            last.to_contiguous(),
            embedding.to_contiguous(),
        );
        let head = loss::Head {
            last: last.storage(),
            embedding: embedding.storage(),
        };
        scalar(loss::loss(x.storage(), head, &targets, &pass.shape))
    }
}

impl<C: CheckpointStrategy> Trainable for Autodiff<Flex, C> {
    fn embedding(params: FloatTensor<Self>, ids: Arc<[u32]>, pass: Pass) -> FloatTensor<Self> {
        let node = params.node();
        let params = params.into_primitive();
        let out = Flex::embedding(params, ids.clone(), pass.clone());
        match EmbeddingGradient
            .prepare::<C>([node])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prepared) => prepared.finish((ids, pass), out),
            OpsKind::UnTracked(prepared) => prepared.finish(out),
        }
    }

    fn block(x: FloatTensor<Self>, params: FloatTensor<Self>, pass: Pass) -> FloatTensor<Self> {
        let nodes = [x.node(), params.node()];
        let x = x.into_primitive().to_contiguous();
        let params = params.into_primitive().to_contiguous();
        match BlockGradient.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => {
                let (y, saved) = block::forward(x.storage(), params.storage(), &pass);
                let y = matrix(y, pass.shape.d);
                prepared.finish((x, params, Arc::new(saved), pass), y)
            }
            OpsKind::UnTracked(prepared) => prepared.finish(Flex::block(x, params, pass)),
        }
    }

    fn linear_cross_entropy(
        x: FloatTensor<Self>,
        last: FloatTensor<Self>,
        embedding: FloatTensor<Self>,
        targets: Arc<Targets>,
        pass: Pass,
    ) -> FloatTensor<Self> {
        let nodes = [x.node(), last.node(), embedding.node()];
        let x = x.into_primitive().to_contiguous();
        let last = last.into_primitive().to_contiguous();
        let embedding = embedding.into_primitive().to_contiguous();
        match LossGradient.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => {
                let head = loss::Head {
                    last: last.storage(),
                    embedding: embedding.storage(),
                };
                let (sum, gradients) =
                    loss::differentiate(x.storage(), head, &targets, &pass.shape);
                prepared.finish((Arc::new(gradients), pass), scalar(sum))
            }
            OpsKind::UnTracked(prepared) => prepared.finish(Flex::linear_cross_entropy(
                x, last, embedding, targets, pass,
            )),
        }
    }
}

#[derive(Debug)]
struct EmbeddingGradient;
#[derive(Debug)]
struct BlockGradient;
#[derive(Debug)]
struct LossGradient;

impl Backward<Flex, 1> for EmbeddingGradient {
    type State = (Arc<[u32]>, Pass);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = grads.consume::<Flex>(&ops.node).to_contiguous();
        let (ids, pass) = ops.state;
        if let [Some(node)] = ops.parents {
            let gradient = embedding::backward(dy.storage(), &ids, &pass);
            grads.register::<Flex>(node.id, vector(gradient));
        }
        recycle(dy);
    }
}

impl Backward<Flex, 2> for BlockGradient {
    type State = (FlexTensor, FlexTensor, Arc<block::Saved>, Pass);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = grads.consume::<Flex>(&ops.node).to_contiguous();
        let (x, params, saved, pass) = ops.state;
        let (dx, gradient) =
            block::backward(x.storage(), params.storage(), &saved, dy.storage(), &pass);
        let [x_node, params_node] = ops.parents;
        if let Some(node) = x_node {
            grads.register::<Flex>(node.id, matrix(dx, pass.shape.d));
        }
        if let Some(node) = params_node {
            grads.register::<Flex>(node.id, vector(gradient));
        }
        recycle(x);
        recycle(dy);
    }
}

impl Backward<Flex, 3> for LossGradient {
    type State = (Arc<loss::Gradients>, Pass);

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let upstream = grads.consume::<Flex>(&ops.node).to_contiguous();
        let factor = upstream.storage::<f32>().first().copied().unwrap_or(0.0);
        let (gradients, pass) = ops.state;
        let gradients = Arc::unwrap_or_clone(gradients).scaled(factor);
        let [x_node, last_node, embedding_node] = ops.parents;
        if let Some(node) = x_node {
            grads.register::<Flex>(node.id, matrix(gradients.x, pass.shape.d));
        }
        if let Some(node) = last_node {
            grads.register::<Flex>(node.id, vector(gradients.last));
        }
        if let (Some(node), Some(values)) = (embedding_node, gradients.embedding) {
            grads.register::<Flex>(node.id, vector(values));
        }
    }
}

/// Keeps the memory of a tensor that nobody else holds.
fn recycle(tensor: FlexTensor) {
    if tensor.is_unique()
        && let Ok(values) = tensor.into_data().try_into_vec()
    {
        buffer::give_back(values);
    }
}

fn vector(values: Vec<f32>) -> FlexTensor {
    let len = values.len();
    FlexTensor::from_data(TensorData::new(values, [len]))
}

fn matrix(values: Vec<f32>, columns: usize) -> FlexTensor {
    let rows = values.len() / columns;
    FlexTensor::from_data(TensorData::new(values, [rows, columns]))
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "a tensor of the model holds single precision"
)]
fn scalar(value: f64) -> FlexTensor {
    vector(vec![value as f32])
}

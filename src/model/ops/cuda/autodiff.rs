//! The operations as the model calls them: one node of the gradient's graph each.

use std::sync::Arc;

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Autodiff, Backend, Cube, Dispatch, backend_extension};
use burn::tensor::{Shape as Extents, Tensor};

use super::device::{Programs, Uploaded, integers};
use super::embedding::Segments;
use super::engine::Precision;
use super::loss::Scored;
use crate::model::layout::Part;
use crate::model::ops::{AdamState, AdamStep, HeadTensors, Pass, Targets};

/// Operations that take part in the gradient, on a GPU.
#[backend_extension(Cube, Autodiff)]
pub trait Trainable: Backend {
    /// See [`crate::model::ops::embedding`]; `rows` are those of [`Segments::joined`], by id
    /// and by place.
    fn embedding_on_gpu(
        params: FloatTensor<Self>,
        ids: IntTensor<Self>,
        seen: IntTensor<Self>,
        rows: IntTensor<Self>,
        segments: Arc<[Segments; 2]>,
        pass: Pass,
    ) -> FloatTensor<Self>;
    /// See [`crate::model::ops::block`].
    fn block_on_gpu(
        x: FloatTensor<Self>,
        params: FloatTensor<Self>,
        rope: FloatTensor<Self>,
        seen: IntTensor<Self>,
        pass: Pass,
        precision: Precision,
    ) -> FloatTensor<Self>;
    /// See [`crate::model::ops::linear_cross_entropy`]; four numbers, of which the first counts.
    fn loss_on_gpu(
        x: FloatTensor<Self>,
        last: FloatTensor<Self>,
        embedding: FloatTensor<Self>,
        scored: IntTensor<Self>,
        count: usize,
        pass: Pass,
        precision: Precision,
    ) -> FloatTensor<Self>;
}

/// See [`crate::model::ops::embedding`].
pub fn embedding(params: Tensor<1>, ids: &[u32], pass: &Pass) -> Tensor<2> {
    let device = params.device().inner();
    let uploaded = Uploaded::of(pass, &device);
    let ids: Vec<i32> = ids.iter().map(|id| id.cast_signed()).collect();
    let by_id = Segments::new(ids.iter().copied());
    let places = (0..ids.len()).map(|at| pass.mask.reach(at).place());
    let by_place = match pass.shape.embedding.position {
        Some(_) => Segments::new(places.filter_map(|place| i32::try_from(place).ok())),
        None => Segments::default(),
    };
    let rows = [by_id.joined(), by_place.joined()].concat();
    Tensor::from_dispatch(<Dispatch as Trainable>::embedding_on_gpu(
        params.into_dispatch(),
        integers(ids, &device).into_dispatch(),
        uploaded.seen.into_dispatch(),
        integers(rows, &device).into_dispatch(),
        Arc::new([by_id, by_place]),
        pass.clone(),
    ))
}

/// See [`crate::model::ops::block`].
pub fn block(x: Tensor<2>, params: Tensor<1>, pass: &Pass, precision: Precision) -> Tensor<2> {
    let uploaded = Uploaded::of(pass, &x.device().inner());
    Tensor::from_dispatch(<Dispatch as Trainable>::block_on_gpu(
        x.into_dispatch(),
        params.into_dispatch(),
        uploaded.rope.into_dispatch(),
        uploaded.seen.into_dispatch(),
        pass.clone(),
        precision,
    ))
}

/// See [`crate::model::ops::linear_cross_entropy`].
pub fn linear_cross_entropy(
    x: Tensor<2>,
    head: HeadTensors,
    targets: &Targets,
    pass: &Pass,
    precision: Precision,
) -> Tensor<1> {
    let scored = Scored::new(targets);
    let weights = scored.weights.iter();
    let weights = weights.map(|weight| weight.to_bits().cast_signed());
    let mut words = [&scored.rows[..], &scored.targets].concat();
    words.extend(weights);
    if words.is_empty() {
        words.push(0);
    }
    let device = x.device().inner();
    let four = Tensor::<1>::from_dispatch(<Dispatch as Trainable>::loss_on_gpu(
        x.into_dispatch(),
        head.last.into_dispatch(),
        head.embedding.into_dispatch(),
        integers(words, &device).into_dispatch(),
        scored.rows.len(),
        pass.clone(),
        precision,
    ));
    four.slice([0..1])
}

/// See [`crate::model::ops::adamw`].
pub fn adamw(
    param: Tensor<1>,
    gradient: Tensor<1>,
    state: AdamState,
    step: &AdamStep,
    parts: &[Part],
) -> (Tensor<1>, AdamState) {
    let tensors = [param, gradient, state.first, state.second];
    let [param, gradient, first, second] = tensors.map(|tensor| tensor.inner().into_dispatch());
    let (param, first, second) =
        <Dispatch as Programs>::adamw(param, gradient, first, second, *step, parts.to_vec());
    let state = AdamState {
        first: Tensor::from_dispatch(first),
        second: Tensor::from_dispatch(second),
    };
    (Tensor::from_dispatch(param), state)
}

/// The sum of the squares of a gradient, on the device.
pub fn squares(gradient: &Tensor<1>) -> Tensor<1> {
    let gradient = gradient.clone().inner().into_dispatch();
    Tensor::from_dispatch(<Dispatch as Programs>::squares(gradient))
}

impl Trainable for Cube {
    fn embedding_on_gpu(
        params: FloatTensor<Self>,
        ids: IntTensor<Self>,
        seen: IntTensor<Self>,
        _rows: IntTensor<Self>,
        _segments: Arc<[Segments; 2]>,
        pass: Pass,
    ) -> FloatTensor<Self> {
        Self::embedding_forward(params, ids, seen, pass)
    }

    fn block_on_gpu(
        x: FloatTensor<Self>,
        params: FloatTensor<Self>,
        rope: FloatTensor<Self>,
        seen: IntTensor<Self>,
        pass: Pass,
        precision: Precision,
    ) -> FloatTensor<Self> {
        Self::block_forward(x, params, rope, seen, pass, precision).0
    }

    fn loss_on_gpu(
        x: FloatTensor<Self>,
        last: FloatTensor<Self>,
        embedding: FloatTensor<Self>,
        scored: IntTensor<Self>,
        count: usize,
        pass: Pass,
        precision: Precision,
    ) -> FloatTensor<Self> {
        Self::loss_forward(x, last, embedding, scored, count, pass, precision)
    }
}

impl<C: CheckpointStrategy> Trainable for Autodiff<Cube, C> {
    fn embedding_on_gpu(
        params: FloatTensor<Self>,
        ids: IntTensor<Self>,
        seen: IntTensor<Self>,
        rows: IntTensor<Self>,
        segments: Arc<[Segments; 2]>,
        pass: Pass,
    ) -> FloatTensor<Self> {
        let node = params.node();
        let out = Cube::embedding_forward(params.into_primitive(), ids, seen, pass.clone());
        let graph = EmbeddingGradient.prepare::<C>([node]);
        match graph.compute_bound().stateful() {
            OpsKind::Tracked(prepared) => prepared.finish((rows, segments, pass), out),
            OpsKind::UnTracked(prepared) => prepared.finish(out),
        }
    }

    fn block_on_gpu(
        x: FloatTensor<Self>,
        params: FloatTensor<Self>,
        rope: FloatTensor<Self>,
        seen: IntTensor<Self>,
        pass: Pass,
        precision: Precision,
    ) -> FloatTensor<Self> {
        let nodes = [x.node(), params.node()];
        let [x, params, rope] = [x, params, rope].map(|tensor| tensor.into_primitive());
        let (y, saved) = Cube::block_forward(
            x.clone(),
            params.clone(),
            rope.clone(),
            seen.clone(),
            pass.clone(),
            precision,
        );
        match BlockGradient.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => {
                prepared.finish((x, params, saved, rope, seen, pass, precision), y)
            }
            OpsKind::UnTracked(prepared) => prepared.finish(y),
        }
    }

    fn loss_on_gpu(
        x: FloatTensor<Self>,
        last: FloatTensor<Self>,
        embedding: FloatTensor<Self>,
        scored: IntTensor<Self>,
        count: usize,
        pass: Pass,
        precision: Precision,
    ) -> FloatTensor<Self> {
        let nodes = [x.node(), last.node(), embedding.node()];
        let tensors = [x, last, embedding].map(|tensor| tensor.into_primitive());
        let [x, last, embedding] = tensors;
        match LossGradient.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => {
                let (loss, dx, d_last, d_embedding) = Cube::loss_gradients(
                    x,
                    last,
                    embedding,
                    scored,
                    count,
                    pass.clone(),
                    precision,
                );
                prepared.finish((dx, d_last, d_embedding, pass), loss)
            }
            OpsKind::UnTracked(prepared) => prepared.finish(Cube::loss_forward(
                x, last, embedding, scored, count, pass, precision,
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

type Float = FloatTensor<Cube>;
type Whole = IntTensor<Cube>;

impl Backward<Cube, 1> for EmbeddingGradient {
    type State = (Whole, Arc<[Segments; 2]>, Pass);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = grads.consume::<Cube>(&ops.node);
        let (rows, segments, pass) = ops.state;
        if let [Some(node)] = ops.parents {
            let gradient = Cube::embedding_backward(dy, rows, segments, pass);
            grads.register::<Cube>(node.id, gradient);
        }
    }
}

impl Backward<Cube, 2> for BlockGradient {
    type State = (Float, Float, Float, Float, Whole, Pass, Precision);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = grads.consume::<Cube>(&ops.node);
        let (x, params, saved, rope, seen, pass, precision) = ops.state;
        let (dx, gradient) =
            Cube::block_backward(x, params, saved, dy, rope, seen, pass, precision);
        let [x_node, params_node] = ops.parents;
        if let Some(node) = x_node {
            grads.register::<Cube>(node.id, dx);
        }
        if let Some(node) = params_node {
            grads.register::<Cube>(node.id, gradient);
        }
    }
}

impl Backward<Cube, 3> for LossGradient {
    type State = (Float, Float, Float, Pass);

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        // Of the four numbers the first alone is the loss.
        let upstream = Cube::float_slice(
            grads.consume::<Cube>(&ops.node),
            &[burn::tensor::Slice::from(0..1)],
        );
        let (dx, d_last, d_embedding, pass) = ops.state;
        let [x_node, last_node, embedding_node] = ops.parents;
        if let Some(node) = x_node {
            let factor = Cube::float_reshape(upstream.clone(), Extents::from([1, 1]));
            grads.register::<Cube>(node.id, Cube::float_mul(dx, factor));
        }
        if let Some(node) = last_node {
            grads.register::<Cube>(node.id, Cube::float_mul(d_last, upstream.clone()));
        }
        if let (Some(node), None) = (embedding_node, &pass.shape.last.head) {
            grads.register::<Cube>(node.id, Cube::float_mul(d_embedding, upstream));
        }
    }
}

//! A model's loss and gradients on a GPU: the operations of [`Programs`] from the embedding
//! to the loss and back.

use std::cell::RefCell;
use std::sync::Arc;

use burn::backend::Dispatch;
use burn::tensor::{Device, Int, Tensor, TensorData};

use super::batch::{self, Packed};
use super::device::{Programs, Sent};
use super::engine::Precision;
use super::loss::Factors;
use crate::model::layout::Part;
use crate::model::ops::numbers::{Limits, Sums};
use crate::model::ops::{AdamState, AdamStep, Input, Loss, Objective, Parameters, Pass, Shape};

/// The groups of a model: embedding, blocks, what follows them.
struct Groups<'a> {
    embedding: &'a Tensor<1>,
    blocks: &'a [Tensor<1>],
    last: &'a Tensor<1>,
    device: Device,
}

impl<'a> Groups<'a> {
    fn new(parameters: Parameters<'a>) -> Self {
        let [embedding, blocks @ .., last] = parameters.base else {
            unreachable!("a layout has at least two groups")
        };
        Self {
            embedding,
            blocks,
            last,
            device: embedding.device(),
        }
    }
}

/// A batch on the device, and what its passes read.
struct Batch {
    sent: Sent,
    words: Tensor<1, Int>,
    rope: Tensor<1>,
}

thread_local! {
    /// The rotary table that was sent last: that of the model that is trained.
    static ROPE: RefCell<Option<(Arc<Shape>, Tensor<1>)>> = const { RefCell::new(None) };
}

/// The rotary table of a pass on a device, sent when it is first asked for.
fn rope(pass: &Pass, device: &Device) -> Tensor<1> {
    ROPE.with_borrow_mut(|known| {
        if let Some((of, rope)) = known
            && Arc::ptr_eq(of, &pass.shape)
            && rope.device() == *device
        {
            return rope.clone();
        }
        let values = batch::rope(pass);
        let len = values.len();
        let rope = Tensor::from_data(TensorData::new(values, [len]), device);
        *known = Some((pass.shape.clone(), rope.clone()));
        rope
    })
}

impl Batch {
    fn new(input: &Input, groups: &Groups<'_>, back: bool) -> Self {
        let sent = Sent {
            pass: input.pass.clone(),
            packed: Arc::new(Packed::new(input, back)),
        };
        let beside = groups.embedding.clone().into_dispatch();
        let words = <Dispatch as Programs>::send(beside, sent.clone());
        Self {
            rope: rope(&sent.pass, &groups.device),
            words: Tensor::from_dispatch(words),
            sent,
        }
    }

    fn embedding(&self, groups: &Groups<'_>) -> Tensor<2> {
        Tensor::from_dispatch(<Dispatch as Programs>::embedding_forward(
            groups.embedding.clone().into_dispatch(),
            self.words.clone().into_dispatch(),
            self.sent.clone(),
        ))
    }

    /// The gradient of the embedding, given that of the residual stream.
    fn embedding_back(&self, dx: Tensor<2>) -> Tensor<1> {
        Tensor::from_dispatch(<Dispatch as Programs>::embedding_backward(
            dx.into_dispatch(),
            self.words.clone().into_dispatch(),
            self.sent.clone(),
        ))
    }

    /// The residual stream after a block, and what its way back reads.
    fn block(
        &self,
        x: &Tensor<2>,
        params: &Tensor<1>,
        precision: Precision,
    ) -> (Tensor<2>, Tensor<1>) {
        let (y, saved) = <Dispatch as Programs>::block_forward(
            x.clone().into_dispatch(),
            params.clone().into_dispatch(),
            self.rope.clone().into_dispatch(),
            self.words.clone().into_dispatch(),
            self.sent.clone(),
            precision,
        );
        (Tensor::from_dispatch(y), Tensor::from_dispatch(saved))
    }

    /// The gradients of a block's input and group, given that of its output.
    fn block_back(
        &self,
        (x, params, saved): (Tensor<2>, &Tensor<1>, Tensor<1>),
        dy: Tensor<2>,
        precision: Precision,
    ) -> (Tensor<2>, Tensor<1>) {
        let (dx, gradient) = <Dispatch as Programs>::block_backward(
            x.into_dispatch(),
            params.clone().into_dispatch(),
            saved.into_dispatch(),
            dy.into_dispatch(),
            self.rope.clone().into_dispatch(),
            self.words.clone().into_dispatch(),
            self.sent.clone(),
            precision,
        );
        (Tensor::from_dispatch(dx), Tensor::from_dispatch(gradient))
    }
}

/// See [`crate::model::ops::loss`].
pub fn loss(parameters: Parameters<'_>, input: &Input, z_loss: f32, precision: Precision) -> Loss {
    let groups = Groups::new(parameters);
    let batch = Batch::new(input, &groups, false);
    let mut x = batch.embedding(&groups);
    for params in groups.blocks {
        (x, _) = batch.block(&x, params, precision);
    }
    let sums = <Dispatch as Programs>::loss_forward(
        x.into_dispatch(),
        groups.last.clone().into_dispatch(),
        groups.embedding.clone().into_dispatch(),
        batch.words.into_dispatch(),
        Factors { scale: 1.0, z_loss },
        batch.sent,
        precision,
    );
    Sums::Coming(Tensor::from_dispatch(sums)).read()
}

/// See [`crate::model::ops::gradients`]; of models that are trained whole.
pub fn gradients(
    parameters: Parameters<'_>,
    inputs: &mut dyn Iterator<Item = Input>,
    objective: &Objective,
    precision: Precision,
) -> (Sums, Vec<Tensor<1>>) {
    let groups = Groups::new(parameters);
    let mut total: Option<(Tensor<1>, Vec<Tensor<1>>)> = None;
    for input in inputs {
        let (loss, gradients) = differentiate(&groups, &input, objective, precision);
        total = Some(match total {
            None => (loss, gradients),
            Some((before, sums)) => {
                let sums = sums.into_iter().zip(gradients);
                (before + loss, sums.map(|(sum, more)| sum + more).collect())
            }
        });
    }
    let none = || {
        let zeros = parameters.base.iter().map(Tensor::zeros_like).collect();
        (Tensor::zeros([4], &groups.device), zeros)
    };
    let (loss, gradients) = total.unwrap_or_else(none);
    (Sums::Coming(loss), gradients)
}

/// Losses and gradients of one batch, all on the device.
fn differentiate(
    groups: &Groups<'_>,
    input: &Input,
    objective: &Objective,
    precision: Precision,
) -> (Tensor<1>, Vec<Tensor<1>>) {
    let batch = Batch::new(input, groups, true);
    let mut x = batch.embedding(groups);
    let mut kept = Vec::with_capacity(groups.blocks.len());
    for params in groups.blocks {
        let (y, saved) = batch.block(&x, params, precision);
        kept.push((params, x, (!objective.recompute).then_some(saved)));
        x = y;
    }
    let (loss, dx, d_last, tied) = <Dispatch as Programs>::loss_gradients(
        x.into_dispatch(),
        groups.last.clone().into_dispatch(),
        groups.embedding.clone().into_dispatch(),
        batch.words.clone().into_dispatch(),
        Factors {
            scale: objective.scale,
            z_loss: objective.z_loss,
        },
        batch.sent.clone(),
        precision,
    );
    let mut dx = Tensor::<2>::from_dispatch(dx);
    let mut gradients = vec![Tensor::from_dispatch(d_last)];
    while let Some((params, x, saved)) = kept.pop() {
        let saved = saved.unwrap_or_else(|| batch.block(&x, params, precision).1);
        let gradient;
        (dx, gradient) = batch.block_back((x, params, saved), dx, precision);
        gradients.push(gradient);
    }
    let mut embedding = batch.embedding_back(dx);
    if batch.sent.pass.shape.last.head.is_none() {
        embedding = embedding + Tensor::from_dispatch(tied);
    }
    gradients.push(embedding);
    gradients.reverse();
    (Tensor::from_dispatch(loss), gradients)
}

/// See [`crate::model::ops::numbers::Coming`].
pub fn numbers(sums: Tensor<1>, gradients: &[Tensor<1>], limits: &Limits) -> Tensor<1> {
    let none = Tensor::<1>::zeros([1], &sums.device());
    let squares = gradients.iter().fold(none, |before, gradient| {
        let gradient = gradient.clone().into_dispatch();
        let squares = <Dispatch as Programs>::squares(gradient, before.into_dispatch());
        Tensor::from_dispatch(squares)
    });
    let (sums, squares) = (sums.into_dispatch(), squares.into_dispatch());
    Tensor::from_dispatch(<Dispatch as Programs>::numbers(sums, squares, *limits))
}

/// See [`crate::model::ops::adamw`].
pub fn adamw(
    param: Tensor<1>,
    gradient: Tensor<1>,
    state: AdamState,
    (step, numbers): (&AdamStep, &Tensor<1>),
    parts: &[Part],
) -> (Tensor<1>, AdamState) {
    let tensors = [param, gradient, state.first, state.second, numbers.clone()];
    let [param, gradient, first, second, numbers] = tensors.map(Tensor::into_dispatch);
    let (param, first, second) = <Dispatch as Programs>::adamw(
        param,
        gradient,
        first,
        second,
        numbers,
        *step,
        parts.to_vec(),
    );
    let state = AdamState {
        first: Tensor::from_dispatch(first),
        second: Tensor::from_dispatch(second),
    };
    (Tensor::from_dispatch(param), state)
}

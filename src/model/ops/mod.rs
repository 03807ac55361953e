//! The hot operations of the model, each in two forms: burn tensors on any
//! device, and kernels of our own with hand-written gradients on the CPU.
//!
//! Axes: `n` positions of a batch (`rows * length`), `d` the residual stream.

pub mod cpu;
#[cfg(test)]
mod mask_tests;
pub mod muon;
pub mod plain;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use burn::backend::Flex;
use burn::tensor::{Device, Tensor};

use super::config::{Activation, Config, Norm, Positions};
use super::layout::{BlockLayout, Decay, EmbeddingLayout, FinalLayout, Part};
use super::mask::Mask;
use cpu::rotary::Rope;

/// Which form of the operations runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernels {
    /// Burn tensors: any device, the gradient by burn. The other's oracle.
    Plain,
    /// Our own, on the CPU.
    Fused,
}

impl Kernels {
    /// The fastest form that runs on a device.
    pub fn for_device(device: &Device) -> Self {
        let probe = Tensor::<1>::zeros([1], &device.clone().inner());
        match probe.try_into_primitive::<Flex>() {
            Ok(_) => Self::Fused,
            Err(_) => Self::Plain,
        }
    }
}

/// What the operations know of a model: widths, switches, where parameters lie.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Width of the residual stream.
    pub d: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Dimensions a head.
    pub head: usize,
    /// Width of the activated feed-forward layer.
    pub d_ff: usize,
    /// Of the feed-forward layer.
    pub activation: Activation,
    /// Which normalisation.
    pub norm: Norm,
    /// Added to the variance.
    pub eps: f32,
    /// The rotary table, with rotary positions.
    pub rope: Option<Arc<Rope>>,
    /// Of the first group.
    pub embedding: EmbeddingLayout,
    /// Of each block's group.
    pub block: BlockLayout,
    /// Of the last group.
    pub last: FinalLayout,
}

impl Shape {
    /// What a configuration says, with its tables.
    pub fn new(config: &Config) -> Self {
        let head = config.d_model / config.n_heads.max(1);
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the model computes in single precision"
        )]
        let eps = config.norm_eps as f32;
        Self {
            d: config.d_model,
            heads: config.n_heads,
            kv_heads: config.n_kv_heads,
            head,
            d_ff: config.d_ff,
            activation: config.activation,
            norm: config.norm,
            eps,
            rope: (config.positions == Positions::Rope)
                .then(|| Arc::new(Rope::new(config.context, head, config.rope_theta))),
            embedding: EmbeddingLayout::describe(config).0,
            block: BlockLayout::describe(config).0,
            last: FinalLayout::describe(config).0,
        }
    }

    /// Rows of the embedding table.
    pub fn vocabulary(&self) -> usize {
        self.embedding.token.len() / self.d.max(1)
    }

    /// Query heads that share a key and value head.
    pub fn group(&self) -> usize {
        self.heads / self.kv_heads.max(1)
    }

    /// Query, key and value columns together.
    pub fn qkv_width(&self) -> usize {
        self.block.qkv.outputs
    }
}

/// How large a batch is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Rows.
    pub rows: usize,
    /// Positions a row.
    pub length: usize,
}

impl Extent {
    /// Positions of the batch.
    pub fn positions(self) -> usize {
        self.rows * self.length
    }
}

/// A model's shape, a batch's extent and what its positions see: what every operation of
/// a pass takes.
#[derive(Clone, Debug)]
pub struct Pass {
    /// The model.
    pub shape: Arc<Shape>,
    /// The batch.
    pub extent: Extent,
    /// What each position attends to, and where it stands.
    pub mask: Mask,
}

/// What each position must predict, and how much that counts.
#[derive(Clone, Debug, PartialEq)]
pub struct Targets {
    /// Token ids.
    pub ids: Vec<u32>,
    /// Where 0, the position is not scored.
    pub weights: Vec<f32>,
}

/// The constants of one optimizer step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamStep {
    /// Which step this is, from 1.
    pub index: u64,
    /// The learning rate.
    pub rate: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay of the parts that decay.
    pub weight_decay: f64,
    /// Whether tables of tokens and positions decay too.
    pub decay_tables: bool,
    /// Multiplies the gradient first: the clip by the global norm.
    pub gradient_scale: f64,
}

impl AdamStep {
    /// What the decay leaves of a part's weights.
    pub fn keep(&self, decay: Decay) -> f64 {
        match decay {
            Decay::Yes => 1.0 - self.rate * self.weight_decay,
            Decay::Tables if self.decay_tables => self.keep(Decay::Yes),
            Decay::Tables | Decay::No => 1.0,
        }
    }
}

/// The optimizer's memory of one group.
#[derive(Clone, Debug)]
pub struct AdamState {
    /// Running mean of the gradient.
    pub first: Tensor<1>,
    /// Running mean of its square.
    pub second: Tensor<1>,
}

impl AdamState {
    /// The state before the first step.
    pub fn new(len: usize, device: &Device) -> Self {
        Self {
            first: Tensor::zeros([len], device),
            second: Tensor::zeros([len], device),
        }
    }
}

/// Token embedding plus learned positions, if any: `[n, d]`.
pub fn embedding(kernels: Kernels, params: Tensor<1>, ids: Arc<[u32]>, pass: &Pass) -> Tensor<2> {
    match kernels {
        Kernels::Plain => plain::embedding(params, &ids, pass),
        Kernels::Fused => cpu::embedding(params, ids, pass),
    }
}

/// A transformer block: attention and feed-forward, each normed before and added after.
pub fn block(kernels: Kernels, x: Tensor<2>, params: Tensor<1>, pass: &Pass) -> Tensor<2> {
    match kernels {
        Kernels::Plain => plain::block(x, params, pass),
        Kernels::Fused => cpu::block(x, params, pass),
    }
}

/// The parameters after the last block: the group `final`, and the embedding,
/// whose table is the head of a tied model.
#[derive(Clone, Debug)]
pub struct HeadTensors {
    /// The group `final`.
    pub last: Tensor<1>,
    /// The group `embedding`.
    pub embedding: Tensor<1>,
}

/// Final norm, head and the sum over positions of weight times cross entropy.
pub fn linear_cross_entropy(
    kernels: Kernels,
    x: Tensor<2>,
    head: HeadTensors,
    targets: Arc<Targets>,
    pass: &Pass,
) -> Tensor<1> {
    match kernels {
        Kernels::Plain => plain::linear_cross_entropy(x, head, &targets, pass),
        Kernels::Fused => cpu::linear_cross_entropy(x, head.last, head.embedding, targets, pass),
    }
}

/// Final norm and head: `[n, V]`. Takes no part in a gradient.
pub fn logits(kernels: Kernels, x: Tensor<2>, head: HeadTensors, pass: &Pass) -> Tensor<2> {
    match kernels {
        Kernels::Plain => plain::logits(x, head, pass),
        Kernels::Fused => cpu::logits(x, &head, pass),
    }
}

/// One step of AdamW (arXiv 1711.05101) on one group; in place where nobody else
/// holds the tensors.
pub fn adamw(
    param: Tensor<1>,
    gradient: Tensor<1>,
    state: AdamState,
    step: &AdamStep,
    parts: &[Part],
) -> (Tensor<1>, AdamState) {
    match Kernels::for_device(&param.device()) {
        Kernels::Plain => plain::adamw(param, gradient, state, step, parts),
        Kernels::Fused => cpu::adamw_step(param, gradient, state, step, parts),
    }
}

/// One step of [`muon`] on the group of a block: its hidden matrices have a momentum in
/// place of the first moment and no second, the rest of it moves by AdamW.
pub fn muon_step(
    param: Tensor<1>,
    gradient: Tensor<1>,
    state: AdamState,
    step: &AdamStep,
    of: (&[Part], &[muon::Matrix]),
) -> (Tensor<1>, AdamState) {
    match Kernels::for_device(&param.device()) {
        Kernels::Plain => plain::muon_step(param, gradient, state, step, of),
        Kernels::Fused => cpu::muon_step(param, gradient, state, step, of),
    }
}

/// The sum of the squares of a gradient; on the CPU its bits do not depend on threads.
pub fn gradient_norm_squared(gradient: &Tensor<1>) -> f64 {
    match Kernels::for_device(&gradient.device()) {
        Kernels::Plain => plain::gradient_norm_squared(gradient),
        Kernels::Fused => cpu::gradient_norm_squared(gradient),
    }
}

//! The hot operations of the model, each in two forms: burn tensors on any
//! device, whose gradient is burn's, and kernels of our own with hand-written gradients
//! on the CPU.
//!
//! Axes: `n` positions of a batch (`rows * length`), `d` the residual stream.

pub mod cpu;
#[cfg(any(test, feature = "cuda"))]
pub mod cuda;
#[cfg(test)]
mod mask_tests;
pub mod muon;
pub mod numbers;
pub mod plain;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tuning_tests;

use std::ops::{AddAssign, Mul};
use std::sync::Arc;

use burn::backend::Flex;
use burn::tensor::{Device, Tensor};

use super::config::{Activation, Config, Norm, Positions};
use super::layout::{BlockLayout, Decay, EmbeddingLayout, FinalLayout, Part};
use super::mask::Mask;
use super::precision::{Precision, single};
use super::tuning::LoraLayout;
use cpu::rotary::Rope;
use numbers::{Coming, Sums};

/// Which form of the operations runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernels {
    /// Burn tensors: any device, the gradient by burn. The other's oracle.
    Plain,
    /// Our own, on the CPU.
    Fused(Precision),
    /// Our own, on a GPU, with activations in a precision.
    #[cfg(feature = "cuda")]
    Cuda(Precision),
}

impl Kernels {
    /// Our own on the CPU, in single precision: what parity is proved in.
    pub const FUSED: Self = Self::Fused(Precision::Single);

    /// The fastest form in single precision that runs on a device.
    pub fn for_device(device: &Device) -> Self {
        let probe = Tensor::<1>::zeros([1], &device.clone().inner());
        match probe.try_into_primitive::<Flex>() {
            Ok(_) => Self::FUSED,
            Err(_) => Self::Plain,
        }
    }

    /// The form that computes with such parameters: our own on a GPU know no adapters.
    fn of(self, parameters: Parameters<'_>) -> Self {
        match (self, parameters.is_whole()) {
            #[cfg(feature = "cuda")]
            (Self::Cuda(_), false) => Self::Plain,
            _ => self,
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
    /// Bounds the logits, where they are.
    pub soft_cap: Option<f32>,
    /// The rotary table, with rotary positions.
    pub rope: Option<Arc<Rope>>,
    /// Of the first group.
    pub embedding: EmbeddingLayout,
    /// Of each block's group.
    pub block: BlockLayout,
    /// Of the last group.
    pub last: FinalLayout,
    /// Of each block's adapters, where it has any.
    pub lora: Option<LoraLayout>,
}

impl Shape {
    /// What a configuration says, with its tables.
    pub fn new(config: &Config) -> Self {
        let head = config.head();
        Self {
            d: config.d_model,
            heads: config.n_heads,
            kv_heads: config.n_kv_heads,
            head,
            d_ff: config.d_ff,
            activation: config.activation,
            norm: config.norm,
            eps: single(config.norm_eps),
            soft_cap: config.logit_soft_cap.map(single),
            rope: (config.positions == Positions::Rope).then(|| Arc::new(Rope::new(config, head))),
            embedding: EmbeddingLayout::describe(config).0,
            block: BlockLayout::describe(config).0,
            last: FinalLayout::describe(config).0,
            lora: None,
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

    /// Query columns, and columns of what attention returns.
    pub fn query_width(&self) -> usize {
        self.heads * self.head
    }

    /// Key columns, and value columns.
    pub fn key_width(&self) -> usize {
        self.kv_heads * self.head
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

/// A batch as the operations read it.
#[derive(Debug)]
pub struct Input {
    /// The id of every position.
    pub ids: Vec<u32>,
    /// What the positions must predict.
    pub targets: Targets,
    /// Its extent, and what its positions see.
    pub pass: Pass,
}

/// The parameters of a model, as the operations read them.
#[derive(Clone, Copy, Debug)]
pub struct Parameters<'a> {
    /// Embedding, blocks and what follows them.
    pub base: &'a [Tensor<1>],
    /// Adapters, one group a block; none where a model has none.
    pub adapters: &'a [Tensor<1>],
    /// Where the base is not trained: the rows of the embedding that are.
    pub rows: Option<Rows<'a>>,
}

/// Rows of the embedding.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rows<'a> {
    /// Of these ids, in order.
    pub ids: &'a [u32],
    /// Numbers a row.
    pub width: usize,
}

impl Parameters<'_> {
    /// Whether the base is trained; else adapters and rows alone are.
    pub fn is_whole(&self) -> bool {
        self.rows.is_none()
    }
}

/// What gradients are taken of: `scale` times the sum over scored positions of weight
/// times (cross entropy + `z_loss` times the square of the logarithm of the softmax's sum).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Objective {
    /// Multiplies everything.
    pub scale: f32,
    /// Keeps logits from drifting (PaLM, arXiv 2204.02311, section 5): 1e-4 there; 0 for
    /// none.
    pub z_loss: f32,
    /// Whether a block's activations are computed again in the backward pass, from its
    /// input, which alone is kept: less memory, the same bits.
    pub recompute: bool,
}

impl Objective {
    /// The cross entropy alone.
    pub const PLAIN: Self = Self {
        scale: 1.0,
        z_loss: 0.0,
        recompute: false,
    };
}

/// Sums over scored positions, by their weights.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Loss {
    /// The cross entropy, in nats.
    pub cross_entropy: f64,
    /// What the z-loss adds, its weight included.
    pub z_loss: f64,
}

impl Loss {
    /// Both together.
    pub fn total(self) -> f64 {
        self.cross_entropy + self.z_loss
    }
}

impl Mul<f64> for Loss {
    type Output = Self;

    fn mul(self, factor: f64) -> Self {
        Self {
            cross_entropy: self.cross_entropy * factor,
            z_loss: self.z_loss * factor,
        }
    }
}

impl AddAssign for Loss {
    fn add_assign(&mut self, other: Self) {
        self.cross_entropy += other.cross_entropy;
        self.z_loss += other.z_loss;
    }
}

/// The loss of a batch, with the z-loss of a weight.
pub fn loss(kernels: Kernels, parameters: Parameters<'_>, input: &Input, z_loss: f32) -> Loss {
    match kernels.of(parameters) {
        Kernels::Plain => plain::loss(parameters, input, z_loss),
        Kernels::Fused(precision) => cpu::loss(parameters, input, z_loss, precision),
        #[cfg(feature = "cuda")]
        Kernels::Cuda(precision) => cuda::pass::loss(parameters, input, z_loss, precision),
    }
}

/// The losses of all batches together and the gradients of the objective, one for each group
/// that is trained: those of the base, or of adapters and then of rows. A device may still be
/// computing them.
pub fn gradients(
    kernels: Kernels,
    parameters: Parameters<'_>,
    inputs: &mut dyn Iterator<Item = Input>,
    objective: &Objective,
) -> (Sums, Vec<Tensor<1>>) {
    match kernels.of(parameters) {
        Kernels::Plain => plain::gradients(parameters, inputs, objective),
        Kernels::Fused(precision) => {
            let (loss, gradients) = cpu::gradients(parameters, inputs, objective, precision);
            (Sums::Known(loss), gradients)
        }
        #[cfg(feature = "cuda")]
        Kernels::Cuda(precision) => cuda::pass::gradients(parameters, inputs, objective, precision),
    }
}

/// The logits of every position, `[n, V]`.
pub fn logits(kernels: Kernels, parameters: Parameters<'_>, ids: &[u32], pass: &Pass) -> Tensor<2> {
    match kernels {
        Kernels::Plain => plain::logits(parameters, ids, pass),
        Kernels::Fused(precision) => cpu::logits(parameters, ids, pass, precision),
        // Logits are asked for where speed does not count.
        #[cfg(feature = "cuda")]
        Kernels::Cuda(_) => plain::logits(parameters, ids, pass),
    }
}

/// A table, the first of a group, with other rows of `d` for some ids.
pub fn replace_rows(
    kernels: Kernels,
    table: Tensor<1>,
    ids: &[u32],
    rows: &Tensor<1>,
    d: usize,
) -> Tensor<1> {
    match kernels {
        Kernels::Fused(_) => cpu::replace_rows(table, ids, rows, d),
        _ => plain::replace_rows(table, ids, rows, d),
    }
}

/// One step of AdamW (arXiv 1711.05101) on one group; in place where nobody else
/// holds the tensors. Numbers that are on the device say there what becomes of the gradient,
/// and whether there is a step.
pub fn adamw(
    kernels: Kernels,
    param: Tensor<1>,
    gradient: Tensor<1>,
    state: AdamState,
    (step, numbers): (&AdamStep, Option<&Coming>),
    parts: &[Part],
) -> (Tensor<1>, AdamState) {
    let numbers = numbers.map(|numbers| &numbers.0);
    match (kernels, numbers) {
        (Kernels::Fused(_), _) => cpu::adamw_step(param, gradient, state, step, parts),
        #[cfg(feature = "cuda")]
        (Kernels::Cuda(_), Some(numbers)) => {
            cuda::pass::adamw(param, gradient, state, (step, numbers), parts)
        }
        _ => plain::guarded(
            numbers,
            (param, gradient, state),
            |param, gradient, state| plain::adamw(param, gradient, state, step, parts),
        ),
    }
}

/// One step of [`muon`] on the group of a block: its hidden matrices have a momentum in
/// place of the first moment and no second, the rest of it moves by AdamW.
pub fn muon_step(
    kernels: Kernels,
    param: Tensor<1>,
    gradient: Tensor<1>,
    state: AdamState,
    (step, numbers): (&AdamStep, Option<&Coming>),
    of: (&[Part], &[muon::Matrix]),
) -> (Tensor<1>, AdamState) {
    let numbers = numbers.map(|numbers| &numbers.0);
    match kernels {
        Kernels::Fused(_) => cpu::muon_step(param, gradient, state, step, of),
        _ => plain::guarded(
            numbers,
            (param, gradient, state),
            |param, gradient, state| plain::muon_step(param, gradient, state, step, of),
        ),
    }
}

/// The sum of the squares of a gradient; on the CPU its bits do not depend on threads.
pub fn gradient_norm_squared(kernels: Kernels, gradient: &Tensor<1>) -> f64 {
    match kernels {
        Kernels::Fused(_) => cpu::gradient_norm_squared(gradient),
        _ => plain::gradient_norm_squared(gradient),
    }
}

//! What a recipe says of training beside the numbers of a step: what is done about
//! steps that go wrong, and when a run ends early.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What moves the weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Optimizer {
    /// AdamW (arXiv 1711.05101).
    #[default]
    Adamw,
    /// Muon (Jordan et al. 2024) on the matrices of blocks, at AdamW's learning rate and
    /// weight decay as in Moonlight (arXiv 2502.16982); AdamW on embeddings, head, norms
    /// and biases.
    Muon,
}

/// What is done about a step whose loss or gradient is out of all proportion. One that is
/// no number is met without this table too, and stops the run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Spike {
    /// What is done.
    #[serde(default)]
    pub policy: SpikePolicy,
    /// The largest loss, as a multiple of the median of the last steps; `inf` for any.
    #[serde(default = "default_spike_loss")]
    pub loss: f64,
    /// The largest gradient norm, as a multiple of the median of the last steps; `inf`
    /// for any.
    #[serde(default = "default_spike_grad_norm")]
    pub grad_norm: f64,
    /// How many steps the median is of; before there are so many, none is too large.
    #[serde(default = "default_spike_window")]
    pub window: usize,
    /// Steps that may be skipped or rolled back in a run; one more stops it.
    #[serde(default = "default_spike_most")]
    pub most: u64,
}

/// What is done about a step that must not be taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SpikePolicy {
    /// The run ends, with its last checkpoint as it is.
    #[default]
    Stop,
    /// Weights and moments stay as they are, and the next batch is taken.
    Skip,
    /// Weights and moments are those of the last checkpoint again that the recipe asked
    /// for, and the batch after the one that failed is taken.
    RollBack,
}

/// When a run ends before its last step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EarlyStopping {
    /// Validation losses in a row that may fail to be the best.
    pub patience: u64,
    /// How much less than the best a loss must be to be better, in nats.
    #[serde(default)]
    pub min_delta: f64,
}

fn default_spike_loss() -> f64 {
    2.0
}
fn default_spike_grad_norm() -> f64 {
    10.0
}
fn default_spike_window() -> usize {
    50
}
fn default_spike_most() -> u64 {
    10
}

//! What a recipe says of an experiment: its seeds, and arms beside the usual ones.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Arms that are trained with every seed and compared (`pausedata experiment`).
///
/// The usual arms are each stage that is trained, without its pauses and with them:
/// `StdPT_StdFT`, `StdPT_PauseFT`, `PausePT_StdFT` and `PausePT_PauseFT` of arXiv 2310.02226,
/// section 4. The first is what all others are compared with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Experiment {
    /// Seeds of the weights and of the order of rows; arms are compared seed by seed. The
    /// datasets are those of the recipe's own seed.
    pub seeds: Vec<u64>,
    /// Pauses at inference (M_inf) of arms that are finetuned with pauses; as many as in
    /// finetuning where absent, if that is one number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pauses: Option<u32>,
    /// Arms beside the usual ones, to tell what else would explain a difference: a filler in
    /// place of pauses, pauses before the prompt, more layers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub controls: Vec<Control>,
}

/// An arm that is the recipe with some keys changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Control {
    /// What it is called in results.
    pub name: String,
    /// The changes, each as after `--set`: `finetune.pause.token={ filler = "." }`.
    pub set: Vec<String>,
    /// Pauses at inference (M_inf); as many as in finetuning where absent, if that is one
    /// number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pauses: Option<u32>,
}

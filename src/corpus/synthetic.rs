//! Corpora that pausedata generates itself.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A generated corpus.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// What is generated.
    pub corpus: Corpus,
    /// How many documents.
    pub documents: u64,
    /// Seed of the world and of the text.
    #[serde(default = "default_seed")]
    pub seed: u64,
}

/// What is generated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Corpus {
    /// Short stories about the people of a small world whose facts never change.
    Stories,
    /// Questions about those people, with answers, for finetuning.
    Questions,
    /// Questions of the same kinds that `Questions` never asks, for evaluation.
    HeldOutQuestions,
}

fn default_seed() -> u64 {
    1
}

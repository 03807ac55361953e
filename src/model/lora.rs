//! Low-rank adapters (LoRA, arXiv 2106.09685): what a recipe says of them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::config::{Activation, Config};

/// Adapters of some matrices: `x W` becomes `x W + (alpha / rank) x A B`, and `A` and `B`
/// alone are trained. `A` begins at random, `B` at zero. Nothing drops out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Lora {
    /// Columns of `A`, rows of `B`.
    pub rank: usize,
    /// How much the adapters count, over the rank.
    pub alpha: f64,
    /// The matrices; all that the model has where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub targets: Option<Vec<Target>>,
}

/// A matrix of every block.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Target {
    /// Of queries.
    Q,
    /// Of keys.
    K,
    /// Of values.
    V,
    /// Out of attention.
    O,
    /// Of the gate, with SwiGLU.
    Gate,
    /// Into the feed-forward layer.
    Up,
    /// Out of the feed-forward layer.
    Down,
}

impl Target {
    /// All of them, in the order of their columns.
    pub const ALL: [Self; 7] = [
        Self::Q,
        Self::K,
        Self::V,
        Self::O,
        Self::Gate,
        Self::Up,
        Self::Down,
    ];

    /// Whether a model has it.
    pub fn is_in(self, config: &Config) -> bool {
        self != Self::Gate || config.activation == Activation::SwiGlu
    }

    /// As recipes have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Q => "q",
            Self::K => "k",
            Self::V => "v",
            Self::O => "o",
            Self::Gate => "gate",
            Self::Up => "up",
            Self::Down => "down",
        }
    }
}

impl Lora {
    /// The matrices that it adapts, in the order of their columns.
    pub fn targets(&self, config: &Config) -> Vec<Target> {
        let all = Target::ALL.into_iter();
        let wanted = |target: &Target| match &self.targets {
            Some(targets) => targets.contains(target),
            None => true,
        };
        all.filter(|target| wanted(target) && target.is_in(config))
            .collect()
    }

    /// What an adapter's product is multiplied by.
    pub fn scale(&self) -> f64 {
        self.alpha / self.rank.max(1) as f64
    }

    /// Parameters of the adapters of all blocks.
    pub fn n_parameters(&self, config: &Config) -> u64 {
        let d = config.d_model;
        let (queries, keys) = (config.query_width(), config.key_width());
        let sides = |target: Target| match target {
            Target::Q | Target::O => d + queries,
            Target::K | Target::V => d + keys,
            Target::Gate | Target::Up | Target::Down => d + config.d_ff,
        };
        let targets = self.targets(config).into_iter();
        (config.n_layers * self.rank * targets.map(sides).sum::<usize>()) as u64
    }
}

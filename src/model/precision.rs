//! How precisely the operations multiply.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the operands of matrix products are rounded to. Weights, the optimizer's moments,
/// sums, statistics, softmax, loss and adapters are single precision in each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Precision {
    /// Nothing: single precision.
    #[default]
    #[serde(rename = "f32")]
    Single,
    /// bfloat16, to the nearest: 8 bits of a number are kept.
    #[serde(rename = "bf16")]
    Bf16,
}

impl Precision {
    /// Bytes of a number.
    pub fn bytes(self) -> usize {
        match self {
            Self::Single => 4,
            Self::Bf16 => 2,
        }
    }
}

/// A number as weights, moments and sums hold it.
#[expect(
    clippy::cast_possible_truncation,
    reason = "rounding is what it is for"
)]
pub fn single(value: f64) -> f32 {
    value as f32
}

//! What the model trains on: rows of one length, with targets and weights.

use crate::token::TokenId;

/// Rows of a batch are padded to a multiple of this many positions, so that
/// kernels meet few shapes; a model's context must hold them.
pub const LENGTH_STEP: usize = 8;

/// A micro-batch: `rows x length` ids in row-major order.
///
/// `targets[k]` is the id that position `k` must predict and `weights[k]` how
/// much that prediction counts: 0 where the target is a pause, padding, part of
/// a prefix, or past the end of the row.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// How many rows.
    pub rows: usize,
    /// How many positions a row.
    pub length: usize,
    /// Input ids, `rows * length`.
    pub ids: Vec<TokenId>,
    /// Target ids, `rows * length`; where the weight is 0 the value is the padding id.
    pub targets: Vec<TokenId>,
    /// Weights of the targets, `rows * length`.
    pub weights: Vec<f32>,
    /// What the positions hold.
    pub counts: Counts,
}

/// How many positions of a batch are what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Ids that are text or end-of-document.
    pub real: u64,
    /// Pauses.
    pub pauses: u64,
    /// Padding.
    pub padding: u64,
    /// Targets with a weight above 0.
    pub scored: u64,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.real += other.real;
        self.pauses += other.pauses;
        self.padding += other.padding;
        self.scored += other.scored;
    }
}

//! Where pause tokens go.
//!
//! One function serves preparation, loading and generation, so that data
//! written to disk and data made on the fly cannot differ.

pub mod place;
pub mod target;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::rng::Key;
use crate::sequence::Sequence;
use crate::token::TokenId;

/// How pauses enter a sequence.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "policy", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Policy {
    /// No pauses: the baseline.
    #[default]
    None,
    /// Random positions, as in pause-pretraining (arXiv 2310.02226, algorithm 1).
    Random {
        /// Pauses a row over the row's length; 0.1 in the paper.
        fraction: f64,
        /// How positions are drawn.
        #[serde(default)]
        law: Law,
        /// What happens to text that the pauses push out of the row.
        #[serde(default)]
        overflow: Overflow,
    },
    /// `count` pauses after the prefix, as in pause-finetuning (algorithm 2).
    Suffix {
        /// How many; 10 or 50 in the paper.
        count: Count,
    },
}

/// The law by which random positions are drawn; each places exactly M pauses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Law {
    /// Every choice of M of the N + M slots is equally likely.
    #[default]
    UniformInterleaving,
    /// Every choice of M different gaps of the N + 1 is equally likely: pauses never touch.
    DistinctGaps,
    /// Each pause takes one of the N + 1 gaps, independently: runs may form.
    IidGaps,
}

/// What happens to text that pauses push out of a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Overflow {
    /// It opens the next row: no text is lost.
    #[default]
    Carry,
    /// It is dropped and counted, as the paper's trim to 2,048 tokens does.
    Drop,
}

/// How many pauses an example gets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Count {
    /// Always as many.
    Fixed(u32),
    /// Uniformly one of `min..=max`.
    Between {
        /// The least.
        min: u32,
        /// The most.
        max: u32,
    },
    /// Uniformly one of a list; repeat a number to make it likelier.
    OneOf(Vec<u32>),
}

/// Everything that decides where the pauses of a dataset stand.
#[derive(Clone, Debug, PartialEq)]
pub struct Insertion {
    /// The rule.
    pub policy: Policy,
    /// The pause token.
    pub pause: TokenId,
    /// Length of a full row in ids, pauses included.
    pub row_length: usize,
}

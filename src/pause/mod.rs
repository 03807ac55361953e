//! Where pause tokens go.
//!
//! One function serves preparation, loading and generation, so that data
//! written to disk and data made on the fly cannot differ.
//!
//! Random pauses stand anywhere in a pretraining row; in a finetuning row they
//! stand after the prefix, which all policies leave whole. Suffix pauses follow
//! the prefix; a row without one is all prefix, as a prompt is.

pub mod place;
pub mod target;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::rng::{Key, Rng};
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

/// A row with its pauses.
#[derive(Clone, Debug, PartialEq)]
pub struct Placed {
    /// The row; its prefix counts the same ids as before.
    pub sequence: Sequence,
    /// How many real ids the pauses pushed out of the row ([`Overflow::Drop`]).
    pub overflowed: usize,
}

/// A policy that cannot be carried out.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Error {
    /// The fraction is out of range.
    #[error("expected a pause fraction from 0 to {FRACTION_MAX}, found {fraction}")]
    Fraction {
        /// What the policy says.
        fraction: f64,
    },
    /// Pauses are asked for, but rows are so short that none comes out.
    #[error("a pause fraction of {fraction} gives no pause in rows of {row_length} ids")]
    NoPause {
        /// What the policy says.
        fraction: f64,
        /// Length of a full row.
        row_length: usize,
    },
    /// The pauses leave no room for text.
    #[error("expected room for text in rows of {row_length} ids, found {n_pauses} pauses a row")]
    NoText {
        /// Pauses a row.
        n_pauses: usize,
        /// Length of a full row.
        row_length: usize,
    },
    /// The law has fewer places than there are pauses.
    #[error("expected at most {n_gaps} pauses a row, one in each gap, found {n_pauses}")]
    Gaps {
        /// Pauses a row.
        n_pauses: usize,
        /// Gaps between, before and after the real ids of a full row.
        n_gaps: usize,
    },
    /// The list of counts is empty.
    #[error("expected at least one pause count, found an empty list")]
    NoCount,
    /// The range of counts is empty.
    #[error("expected a least pause count of at most {max}, found {min}")]
    Range {
        /// The least.
        min: u32,
        /// The most.
        max: u32,
    },
}

/// The largest share of a row that may be pauses.
pub const FRACTION_MAX: f64 = 0.9;

/// Returns `sequence` with the pauses that `insertion` gives it, drawn by `key`.
///
/// Depends on the arguments alone. The ids keep their order; without
/// [`Overflow::Drop`] none is lost. A policy that [`Policy::validate`] accepts
/// gives a full row exactly [`Insertion::n_pauses`] random pauses.
pub fn apply(insertion: &Insertion, sequence: &Sequence, key: Key) -> Placed {
    match &insertion.policy {
        Policy::None => Placed {
            sequence: sequence.clone(),
            overflowed: 0,
        },
        Policy::Random { law, overflow, .. } => {
            let mut sequence = random(insertion, *law, sequence, &mut key.rng());
            let overflowed = match overflow {
                Overflow::Drop if sequence.prefix.is_none() => cut(insertion, &mut sequence.ids),
                Overflow::Carry | Overflow::Drop => 0,
            };
            Placed {
                sequence,
                overflowed,
            }
        }
        Policy::Suffix { count } => Placed {
            sequence: suffix(sequence, count.draw(&mut key.rng()), insertion.pause),
            overflowed: 0,
        },
    }
}

/// The ids without pauses.
pub fn strip(ids: &[TokenId], pause: TokenId) -> Vec<TokenId> {
    ids.iter().copied().filter(|id| *id != pause).collect()
}

/// The lengths of the runs of pauses, in order; a run is as long as it can be.
pub fn runs(ids: &[TokenId], pause: TokenId) -> impl Iterator<Item = usize> {
    ids.chunk_by(move |a, b| (*a == pause) == (*b == pause))
        .filter(move |chunk| chunk.first() == Some(&pause))
        .map(<[TokenId]>::len)
}

impl Policy {
    /// Whether rows of `row_length` ids can be made.
    pub fn validate(&self, row_length: usize) -> Result<(), Error> {
        match self {
            Self::None => Ok(()),
            Self::Random { fraction, law, .. } => self.validate_random(*fraction, *law, row_length),
            Self::Suffix { count } => count.validate(row_length),
        }
    }

    fn validate_random(&self, fraction: f64, law: Law, row_length: usize) -> Result<(), Error> {
        if !(0.0..=FRACTION_MAX).contains(&fraction) {
            return Err(Error::Fraction { fraction });
        }
        let n_pauses = self.n_pauses(row_length);
        if n_pauses == 0 && 0.0 < fraction {
            return Err(Error::NoPause {
                fraction,
                row_length,
            });
        }
        if row_length <= n_pauses {
            return Err(Error::NoText {
                n_pauses,
                row_length,
            });
        }
        let n_gaps = place::room(law, self.real_per_row(row_length));
        if n_gaps < n_pauses {
            return Err(Error::Gaps { n_pauses, n_gaps });
        }
        Ok(())
    }

    fn n_pauses(&self, row_length: usize) -> usize {
        match self {
            Self::None => 0,
            #[expect(
                clippy::cast_possible_truncation,
                reason = "a fraction of a length, rounded and capped, is a length"
            )]
            Self::Random { fraction, .. } => {
                ((fraction * row_length as f64).round() as usize).min(row_length)
            }
            Self::Suffix { count } => count.max() as usize,
        }
    }

    fn real_per_row(&self, row_length: usize) -> usize {
        match self {
            Self::Random {
                overflow: Overflow::Drop,
                ..
            } => row_length,
            _ => row_length.saturating_sub(self.n_pauses(row_length)),
        }
    }
}

impl Insertion {
    /// Pauses a full row: M for random policies, the largest count for suffixes.
    pub fn n_pauses(&self) -> usize {
        self.policy.n_pauses(self.row_length)
    }

    /// Real ids that a full pretraining row takes from the stream.
    pub fn real_per_row(&self) -> usize {
        self.policy.real_per_row(self.row_length)
    }

    /// Pauses for `n_text` ids: in proportion to a full row, rounded down.
    fn n_pauses_among(&self, law: Law, n_text: usize) -> usize {
        (self.n_pauses() * n_text)
            .checked_div(self.real_per_row())
            .unwrap_or(0)
            .min(place::room(law, n_text))
    }
}

impl Count {
    /// Draws a count.
    pub fn draw(&self, rng: &mut Rng) -> u32 {
        match self {
            Self::Fixed(count) => *count,
            Self::Between { min, max } => {
                let width = u64::from(max.saturating_sub(*min)) + 1;
                let above = u32::try_from(rng.below(width)).unwrap_or(0);
                min.saturating_add(above)
            }
            Self::OneOf(counts) => {
                let index = usize::try_from(rng.below(counts.len() as u64)).unwrap_or(0);
                counts.get(index).copied().unwrap_or(0)
            }
        }
    }

    /// The largest count that may be drawn.
    pub fn max(&self) -> u32 {
        match self {
            Self::Fixed(count) => *count,
            Self::Between { max, .. } => *max,
            Self::OneOf(counts) => counts.iter().copied().max().unwrap_or(0),
        }
    }

    fn validate(&self, row_length: usize) -> Result<(), Error> {
        match self {
            Self::Between { min, max } if max < min => {
                return Err(Error::Range {
                    min: *min,
                    max: *max,
                });
            }
            Self::OneOf(counts) if counts.is_empty() => return Err(Error::NoCount),
            _ => {}
        }
        let n_pauses = self.max() as usize;
        if row_length <= n_pauses {
            return Err(Error::NoText {
                n_pauses,
                row_length,
            });
        }
        Ok(())
    }
}

fn random(insertion: &Insertion, law: Law, sequence: &Sequence, rng: &mut Rng) -> Sequence {
    let (prefix, text) = sequence.parts();
    let n_pauses = insertion.n_pauses_among(law, text.len());
    let mut ids = vec![insertion.pause; sequence.len() + n_pauses];
    let (head, row) = ids.split_at_mut(prefix.len());
    head.copy_from_slice(prefix);
    place::interleave(law, text, insertion.pause, rng, row);
    Sequence {
        ids,
        prefix: sequence.prefix,
        ..Sequence::default()
    }
}

/// Cuts a row to its length; returns how many real ids that costs.
fn cut(insertion: &Insertion, ids: &mut Vec<TokenId>) -> usize {
    let tail = ids.get(insertion.row_length..).unwrap_or_default();
    let overflowed = tail.iter().filter(|id| **id != insertion.pause).count();
    ids.truncate(insertion.row_length);
    overflowed
}

fn suffix(sequence: &Sequence, count: u32, pause: TokenId) -> Sequence {
    let (prefix, target) = match sequence.prefix {
        Some(_) => sequence.parts(),
        None => (sequence.ids.as_slice(), Default::default()),
    };
    let mut ids = Vec::with_capacity(sequence.len() + count as usize);
    ids.extend_from_slice(prefix);
    ids.resize(prefix.len() + count as usize, pause);
    ids.extend_from_slice(target);
    Sequence {
        ids,
        prefix: sequence.prefix,
        ..Sequence::default()
    }
}

#[cfg(test)]
mod tests;

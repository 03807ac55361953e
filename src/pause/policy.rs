//! Policies as a recipe says them: where pauses go, as values.

use regex::bytes::Regex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::place;
use crate::rng::Rng;

/// How pauses enter a sequence.
///
/// All but `prefix` leave the prefix of a finetuning row whole.
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
    /// `count` pauses at the very front of the row, before its prefix: register tokens.
    Prefix {
        /// How many.
        count: Count,
    },
    /// Pauses after every so many ids.
    Stride {
        /// How many ids stand between two runs of pauses.
        every: u32,
        /// Pauses a run.
        #[serde(default = "one")]
        count: u32,
    },
    /// Pauses where words end: a word is letters and digits.
    WordEnds {
        /// At which of these places: 2 is every other one.
        #[serde(default = "one")]
        every: u32,
        /// Pauses a place.
        #[serde(default = "one")]
        count: u32,
    },
    /// Pauses at punctuation; marks that touch are one place.
    Punctuation {
        /// The characters that are punctuation.
        #[serde(default = "punctuation")]
        marks: String,
        /// On which side of them.
        #[serde(default)]
        side: Side,
        /// At which of these places: 2 is every other one.
        #[serde(default = "one")]
        every: u32,
        /// Pauses a place.
        #[serde(default = "one")]
        count: u32,
    },
    /// Pauses between two digits that are not of one token.
    Digits {
        /// Pauses a place.
        #[serde(default = "one")]
        count: u32,
    },
    /// Pauses at the matches of a regular expression in the row's text.
    Regex {
        /// The expression, in the syntax of the `regex` crate.
        pattern: String,
        /// On which side of a match.
        #[serde(default)]
        side: Side,
        /// At which of these places: 2 is every other one.
        #[serde(default = "one")]
        every: u32,
        /// Pauses a place.
        #[serde(default = "one")]
        count: u32,
    },
    /// Pauses at the `k` tokens of a row with the lowest scores; ties go to the earlier.
    /// The source's key `scores` names the column of numbers, one a token.
    Score {
        /// At how many tokens a row.
        k: u32,
        /// On which side of them.
        #[serde(default = "before")]
        side: Side,
        /// Pauses a token.
        #[serde(default = "one")]
        count: u32,
    },
    /// Pauses at character offsets of the text, from the column that the source's
    /// key `positions` names.
    Positions {
        /// Pauses an offset.
        #[serde(default = "one")]
        count: u32,
    },
    /// One of several policies a row, drawn by the row's key.
    Mix {
        /// The policies and their weights.
        of: Vec<Share>,
    },
}

/// One policy of a mixture.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Share {
    /// How likely it is, in proportion to the others.
    pub weight: f64,
    /// The policy.
    #[serde(flatten)]
    pub policy: Policy,
}

/// The law by which random positions are drawn; each places exactly M pauses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Law {
    /// Every choice of M of the N + M slots is equally likely.
    #[default]
    UniformInterleaving,
    /// Every choice of M different gaps of the N + 1 is equally likely: pauses never touch.
    DistinctGaps,
    /// Each pause takes one of the N + 1 gaps, independently: runs may form.
    IidGaps,
    /// Runs of geometric length, each in a gap of its own; the last is cut so that
    /// there are M pauses.
    Runs {
        /// Mean length of a run before it is cut; at least 1.
        mean: f64,
    },
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

/// On which side of its place a pause stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Side {
    /// Before it.
    Before,
    /// After it.
    #[default]
    After,
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
    /// Runs that are shorter than one pause.
    #[error("expected runs of a mean length of 1 or more, found {mean}")]
    Mean {
        /// What the law says.
        mean: f64,
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
    /// A number that must not be 0.
    #[error("expected a `{key}` of 1 or more, found 0")]
    Zero {
        /// The key of the policy.
        key: &'static str,
    },
    /// No character is punctuation.
    #[error("expected punctuation in `marks`, found none")]
    NoMarks,
    /// The expression cannot be read.
    #[error("`pattern` is no regular expression: {reason}")]
    Pattern {
        /// What is wrong with it.
        reason: String,
    },
    /// A mixture that cannot be drawn from.
    #[error("a mixture {problem}")]
    Mix {
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The policy reads text, which this vocabulary does not give exactly.
    #[error(
        "the policy reads the text of token ids, and this tokenizer is not byte-level: \
         the bytes of its tokens are not known"
    )]
    NoBytes,
}

impl Error {
    /// The key of the policy's table that is to blame.
    pub fn key(&self) -> &'static str {
        match self {
            Self::Fraction { .. } | Self::NoPause { .. } | Self::Gaps { .. } => "fraction",
            Self::NoText { .. } | Self::NoCount | Self::Range { .. } => "count",
            Self::Mean { .. } => "law",
            Self::Zero { key } => key,
            Self::NoMarks => "marks",
            Self::Pattern { .. } => "pattern",
            Self::Mix { .. } => "of",
            Self::NoBytes => "policy",
        }
    }
}

/// The largest share of a row that may be pauses.
pub const FRACTION_MAX: f64 = 0.9;

/// How many real ids a full pretraining row takes from the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// Always as many.
    Fixed(usize),
    /// As many as leave room for the pauses that their own text asks for.
    ByText,
}

impl Policy {
    /// Whether rows of `row_length` ids can be made.
    pub fn validate(&self, row_length: usize) -> Result<(), Error> {
        match self {
            Self::None => Ok(()),
            Self::Random { fraction, law, .. } => self.validate_random(*fraction, *law, row_length),
            Self::Suffix { count } | Self::Prefix { count } => count.validate(row_length),
            Self::Stride { every, count } => {
                positive("every", *every)?;
                room(*count as usize, row_length)
            }
            Self::WordEnds { every, count } => {
                positive("every", *every)?;
                room(*count as usize, row_length)
            }
            Self::Punctuation {
                marks,
                every,
                count,
                ..
            } => {
                if marks.is_empty() {
                    return Err(Error::NoMarks);
                }
                positive("every", *every)?;
                room(*count as usize, row_length)
            }
            Self::Digits { count } | Self::Positions { count } => room(*count as usize, row_length),
            Self::Regex {
                pattern,
                every,
                count,
                ..
            } => {
                compile(pattern)?;
                positive("every", *every)?;
                room(*count as usize, row_length)
            }
            Self::Score { k, count, .. } => {
                positive("k", *k)?;
                positive("count", *count)?;
                // Each needs a real id of its own beside its pauses.
                room(
                    (*k as usize).saturating_mul(*count as usize + 1) - 1,
                    row_length,
                )
            }
            Self::Mix { of } => validate_mix(of, row_length),
        }
    }

    fn validate_random(&self, fraction: f64, law: Law, row_length: usize) -> Result<(), Error> {
        if !(0.0..=FRACTION_MAX).contains(&fraction) {
            return Err(Error::Fraction { fraction });
        }
        if let Law::Runs { mean } = law
            && !(1.0..=1e9).contains(&mean)
        {
            return Err(Error::Mean { mean });
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

    /// Pauses of a full row at most, where that does not depend on its text.
    pub(super) fn n_pauses(&self, row_length: usize) -> usize {
        match self {
            #[expect(
                clippy::cast_possible_truncation,
                reason = "a fraction of a length, rounded and capped, is a length"
            )]
            Self::Random { fraction, .. } => {
                ((fraction * row_length as f64).round() as usize).min(row_length)
            }
            Self::Suffix { count } | Self::Prefix { count } => count.max() as usize,
            Self::Stride { every, count } => {
                let last = self.real_per_row(row_length).saturating_sub(1);
                last / (*every as usize).max(1) * *count as usize
            }
            Self::Score { k, count, .. } => (*k as usize).saturating_mul(*count as usize),
            Self::Mix { of } => of
                .iter()
                .map(|share| share.policy.n_pauses(row_length))
                .max()
                .unwrap_or(0),
            Self::None
            | Self::WordEnds { .. }
            | Self::Punctuation { .. }
            | Self::Digits { .. }
            | Self::Regex { .. }
            | Self::Positions { .. } => 0,
        }
    }

    /// Real ids of a full pretraining row, where that does not depend on its text;
    /// otherwise the most there could be.
    pub(super) fn real_per_row(&self, row_length: usize) -> usize {
        match self {
            Self::Random {
                overflow: Overflow::Drop,
                ..
            } => row_length,
            Self::Stride { every, count } => {
                let (every, count) = (*every as usize, *count as usize);
                // The largest n with n + count * ((n - 1) / every) <= row_length.
                let period = (every + count).max(1);
                let runs = row_length.saturating_sub(1) / period;
                runs * every + (row_length - runs * period).min(every)
            }
            Self::Mix { of } => of
                .iter()
                .map(|share| share.policy.real_per_row(row_length))
                .min()
                .unwrap_or(row_length),
            _ => row_length.saturating_sub(self.n_pauses(row_length)),
        }
    }

    /// How full pretraining rows are filled.
    pub(super) fn fill(&self, row_length: usize) -> Fill {
        let by_text = self
            .parts()
            .any(|part| part.reads_text() || matches!(part, Self::Positions { .. }));
        match by_text {
            true => Fill::ByText,
            false => Fill::Fixed(self.real_per_row(row_length)),
        }
    }

    /// The policies that a row may get: itself, or those of a mixture.
    pub fn parts(&self) -> impl Iterator<Item = &Self> {
        let of = match self {
            Self::Mix { of } => of.as_slice(),
            _ => &[],
        };
        let alone = (!matches!(self, Self::Mix { .. })).then_some(self);
        alone
            .into_iter()
            .chain(of.iter().map(|share| &share.policy))
    }

    /// Whether it reads the text of a row, so that it needs the bytes of ids.
    pub fn reads_text(&self) -> bool {
        self.parts().any(|part| {
            matches!(
                part,
                Self::WordEnds { .. }
                    | Self::Punctuation { .. }
                    | Self::Digits { .. }
                    | Self::Regex { .. }
            )
        })
    }

    /// Whether it reads the scores of a document.
    pub fn reads_scores(&self) -> bool {
        self.parts().any(|part| matches!(part, Self::Score { .. }))
    }

    /// Whether it reads the positions of a document.
    pub fn reads_positions(&self) -> bool {
        self.parts()
            .any(|part| matches!(part, Self::Positions { .. }))
    }

    /// Whether it reads numbers that travel with the ids and are not on disk.
    pub fn reads_marks(&self) -> bool {
        self.reads_scores() || self.reads_positions()
    }

    /// Pauses at each place that it finds; 0 for policies that find none.
    pub(super) fn count(&self) -> usize {
        match self {
            Self::Stride { count, .. }
            | Self::WordEnds { count, .. }
            | Self::Punctuation { count, .. }
            | Self::Digits { count }
            | Self::Regex { count, .. }
            | Self::Score { count, .. }
            | Self::Positions { count } => *count as usize,
            Self::None
            | Self::Random { .. }
            | Self::Suffix { .. }
            | Self::Prefix { .. }
            | Self::Mix { .. } => 0,
        }
    }

    /// Whether it finds places in a row, rather than counting pauses.
    pub(super) fn places(&self) -> bool {
        !matches!(
            self,
            Self::None
                | Self::Random { .. }
                | Self::Suffix { .. }
                | Self::Prefix { .. }
                | Self::Mix { .. }
        )
    }

    /// The policy's name in a recipe.
    pub fn name(&self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Random { .. } => "random",
            Self::Suffix { .. } => "suffix",
            Self::Prefix { .. } => "prefix",
            Self::Stride { .. } => "stride",
            Self::WordEnds { .. } => "word-ends",
            Self::Punctuation { .. } => "punctuation",
            Self::Digits { .. } => "digits",
            Self::Regex { .. } => "regex",
            Self::Score { .. } => "score",
            Self::Positions { .. } => "positions",
            Self::Mix { .. } => "mix",
        }
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
        room(self.max() as usize, row_length)
    }
}

/// Reads a regular expression; it is matched against bytes, `.` being a character.
pub(super) fn compile(pattern: &str) -> Result<Regex, Error> {
    Regex::new(pattern).map_err(|error| Error::Pattern {
        reason: match error {
            regex::Error::Syntax(text) => text.lines().last().unwrap_or_default().into(),
            other => other.to_string(),
        },
    })
}

fn validate_mix(of: &[Share], row_length: usize) -> Result<(), Error> {
    let refuse = |problem| Err(Error::Mix { problem });
    if of.is_empty() {
        return refuse("needs at least one policy");
    }
    for Share { weight, policy } in of {
        if !weight.is_finite() || *weight < 0.0 {
            return refuse("has a weight that is not 0 or more");
        }
        match policy {
            Policy::Mix { .. } => return refuse("cannot hold another mixture"),
            Policy::Random {
                overflow: Overflow::Drop,
                ..
            } => return refuse("cannot hold `overflow = \"drop\"`"),
            policy => policy.validate(row_length)?,
        }
    }
    if of.iter().map(|share| share.weight).sum::<f64>() <= 0.0 {
        return refuse("has weights of 0 alone");
    }
    let reads = |reads: fn(&Policy) -> bool| of.iter().any(|share| reads(&share.policy));
    if reads(Policy::reads_scores) && reads(Policy::reads_positions) {
        return refuse("cannot hold both `score` and `positions`");
    }
    Ok(())
}

fn positive(key: &'static str, value: u32) -> Result<(), Error> {
    match value {
        0 => Err(Error::Zero { key }),
        _ => Ok(()),
    }
}

fn room(n_pauses: usize, row_length: usize) -> Result<(), Error> {
    match n_pauses < row_length {
        true => Ok(()),
        false => Err(Error::NoText {
            n_pauses,
            row_length,
        }),
    }
}

fn one() -> u32 {
    1
}

fn before() -> Side {
    Side::Before
}

fn punctuation() -> String {
    ".,;:!?".into()
}

//! Policies that cannot be carried out, and why.

/// The largest share of a row that may be pauses.
pub const FRACTION_MAX: f64 = 0.9;

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
    /// The pause tokens that were asked for do not exist.
    #[error("the pause token {problem}")]
    NoToken {
        /// What is wrong.
        problem: &'static str,
    },
    /// The target rule has no meaning.
    #[error("the target rule {problem}")]
    Rule {
        /// What is wrong.
        problem: &'static str,
    },
    /// The weight of targets has no meaning.
    #[error("the weight of targets {problem}")]
    Weight {
        /// What is wrong.
        problem: String,
    },
    /// Pauses cannot come later than the sources.
    #[error("{reads} of the sources, which are not on disk when a row is read")]
    AtLoad {
        /// What reads what.
        reads: &'static str,
    },
    /// The filler is not one token.
    #[error(
        "expected a filler that is one token of this tokenizer, found `{text}`, which is {tokens}"
    )]
    Filler {
        /// The filler.
        text: String,
        /// How many tokens it is.
        tokens: usize,
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
            Self::NoToken { .. } | Self::Filler { .. } => "token",
            Self::AtLoad { .. } => "when",
            Self::Rule { .. } => "target",
            Self::Weight { .. } => "target_weight",
            Self::NoBytes => "policy",
        }
    }
}

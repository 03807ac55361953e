//! Which ids pauses are: one shared id, or others.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::sequence::{Sequence, Stored};
use crate::token::{Reserved, TokenId};

/// Which tokens a policy inserts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Token {
    /// The pause token, as in the paper.
    #[default]
    Shared,
    /// So many pause tokens `<|pause-0|>`, `<|pause-1|>` and so on, in order over a row
    /// and from the first again: registers.
    Distinct(u32),
    /// The pause token; the first of a run of two or more is `<|pause-open|>`, and the
    /// last is `<|pause-close|>`.
    Delimited,
    /// Text that is one token, such as `.`: the control that asks whether a pause must
    /// be a token of its own.
    Filler(String),
}

impl Token {
    /// How many distinct pause tokens the vocabulary needs.
    pub fn distinct(&self) -> u32 {
        match self {
            Self::Distinct(count) => *count,
            _ => 0,
        }
    }

    /// Whether it is the default.
    pub fn is_shared(&self) -> bool {
        *self == Self::Shared
    }
}

/// The ids of a [`Token`] in one vocabulary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ids {
    Shared,
    Distinct { first: TokenId, count: u32 },
    Delimited { open: TokenId, close: TokenId },
    Filler(TokenId),
}

impl Ids {
    /// The ids of `token`, where the vocabulary reserves enough of them.
    pub fn find(token: &Token, reserved: Reserved) -> Option<Self> {
        let extra = reserved.extra;
        match token {
            // What a filler is, only a tokenizer can tell.
            Token::Shared | Token::Filler(_) => Some(Self::Shared),
            Token::Distinct(count) => (0 < *count && *count <= extra.distinct).then_some({
                Self::Distinct {
                    first: extra.first,
                    count: *count,
                }
            }),
            Token::Delimited => {
                let [open, close] = extra.delimiters()?;
                Some(Self::Delimited { open, close })
            }
        }
    }

    /// Puts these ids where `row` has the shared pause.
    pub fn dress(self, row: &mut Sequence, shared: TokenId) {
        match self {
            Self::Shared => {}
            Self::Distinct { first, count } => {
                let pauses = row.ids.iter_mut().filter(|id| **id == shared);
                for (id, number) in pauses.zip((0..count).cycle()) {
                    *id = TokenId(first.0 + number);
                }
            }
            Self::Delimited { open, close } => {
                for run in row
                    .ids
                    .chunk_by_mut(|a, b| (*a == shared) == (*b == shared))
                {
                    if let [first, .., last] = run
                        && *first == shared
                    {
                        (*first, *last) = (open, close);
                    }
                }
            }
            Self::Filler(filler) => {
                let inserted: Vec<bool> = row.ids.iter().map(|id| *id == shared).collect();
                let pauses = row.ids.iter_mut().filter(|id| **id == shared);
                pauses.for_each(|id| *id = filler);
                row.stored = Some(Box::new(Stored {
                    inserted,
                    ..Stored::default()
                }));
            }
        }
    }
}

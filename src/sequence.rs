//! A row of token ids, and where its prefix ends.

use crate::token::TokenId;

/// Token ids in order; finetuning rows know where their prefix ends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sequence {
    /// The ids.
    pub ids: Vec<TokenId>,
    /// How many of the first ids are prefix, which is read but never scored.
    /// `None` for pretraining rows, where everything is scored.
    pub prefix: Option<u32>,
}

impl Sequence {
    /// A pretraining row.
    pub fn plain(ids: Vec<TokenId>) -> Self {
        Self { ids, prefix: None }
    }

    /// A finetuning row: `prefix`, then `target`.
    pub fn example(prefix: &[TokenId], target: &[TokenId]) -> Self {
        let mut ids = Vec::with_capacity(prefix.len() + target.len());
        ids.extend_from_slice(prefix);
        ids.extend_from_slice(target);
        Self {
            ids,
            prefix: u32::try_from(prefix.len()).ok(),
        }
    }

    /// How many ids the row holds.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether the row holds no id.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }
}

//! Token ids and the ids that a tokenizer reserves.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The id of one token: an index into the vocabulary.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    JsonSchema,
)]
#[serde(transparent)]
#[repr(transparent)]
pub struct TokenId(pub u32);

impl TokenId {
    /// The id as an index.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// The ids that text never yields: each is a single token of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reserved {
    /// The pause token of "Think before you speak" (arXiv 2310.02226).
    pub pause: TokenId,
    /// Ends every document.
    pub end: TokenId,
    /// Fills rows of a batch that are shorter than the longest; never on disk.
    pub pad: TokenId,
}

/// How many bytes one id takes on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IdWidth {
    /// Two bytes, for vocabularies of at most 65,536 ids.
    U16,
    /// Four bytes, for all others.
    U32,
}

impl IdWidth {
    /// The width that holds every id below `vocab_size`, the reserved ids included.
    pub fn for_vocabulary(vocab_size: u32) -> Self {
        if vocab_size <= 1 << 16 {
            Self::U16
        } else {
            Self::U32
        }
    }

    /// Bytes an id.
    pub fn bytes(self) -> usize {
        match self {
            Self::U16 => 2,
            Self::U32 => 4,
        }
    }
}

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
    /// More pause tokens, where a policy asks for them.
    #[serde(default, skip_serializing_if = "Extra::is_none")]
    pub extra: Extra,
}

/// Pause tokens beside the shared one, whose ids follow one another: `distinct`
/// ones that are used in order, then, where there are delimiters, the token that
/// opens a run of pauses and the one that closes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Extra {
    /// The first.
    pub first: TokenId,
    /// How many distinct pauses there are.
    pub distinct: u32,
    /// Whether there are delimiters.
    pub delimiters: bool,
}

impl Extra {
    /// No more pause tokens than the shared one.
    pub const NONE: Self = Self {
        first: TokenId(0),
        distinct: 0,
        delimiters: false,
    };

    /// Whether there are none.
    pub fn is_none(&self) -> bool {
        self.count() == 0
    }

    /// How many there are.
    pub fn count(&self) -> u32 {
        self.distinct
            .saturating_add(if self.delimiters { 2 } else { 0 })
    }

    /// Their ids, in order.
    pub fn ids(&self) -> impl Iterator<Item = TokenId> {
        let first = self.first.0;
        (first..first.saturating_add(self.count())).map(TokenId)
    }

    /// The tokens that open and close a run.
    pub fn delimiters(&self) -> Option<[TokenId; 2]> {
        let open = self.first.0.saturating_add(self.distinct);
        self.delimiters
            .then_some([TokenId(open), TokenId(open.saturating_add(1))])
    }
}

impl Reserved {
    /// The same without its extra pauses, as shards have it.
    pub fn basic(self) -> Self {
        Self {
            extra: Extra::default(),
            ..self
        }
    }
}

/// The ids that are pauses, whichever policy put them there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PauseIds {
    shared: TokenId,
    first: u32,
    count: u32,
}

impl PauseIds {
    /// Whether `id` is one of them.
    pub fn contains(self, id: TokenId) -> bool {
        // Without a branch, so that counting takes many ids at once.
        (id == self.shared) | (id.0.wrapping_sub(self.first) < self.count)
    }

    /// [`PauseIds::contains`] for ids of two bytes, of which a processor compares twice as
    /// many at once; none where a pause is no such id.
    pub fn contains_narrow(self) -> Option<impl Fn(u16) -> bool + Copy> {
        let shared = u16::try_from(self.shared.0).ok()?;
        let (first, count) = (
            u16::try_from(self.first).ok()?,
            u16::try_from(self.count).ok()?,
        );
        let inside = self.first + self.count <= 1 << 16;
        inside.then_some(move |id: u16| (id == shared) | (id.wrapping_sub(first) < count))
    }
}

impl From<TokenId> for PauseIds {
    fn from(shared: TokenId) -> Self {
        Self {
            shared,
            first: 0,
            count: 0,
        }
    }
}

impl From<Reserved> for PauseIds {
    fn from(reserved: Reserved) -> Self {
        Self {
            shared: reserved.pause,
            first: reserved.extra.first.0,
            count: reserved.extra.count(),
        }
    }
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

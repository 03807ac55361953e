//! What the model trains on: rows of one length, with what is scored.
//!
//! A batch is small on its way to a device: ids have the width of the shard, and
//! a bit says whether a position is scored. The target of a position is the next
//! id of its row, so it is not there a second time; a device widens what it reads.

use crate::token::TokenId;

/// Rows of a batch are padded to a multiple of this many positions, so that
/// kernels meet few shapes and the bits of a row are whole bytes; a model's
/// context must hold them.
pub const LENGTH_STEP: usize = 8;

/// Ids of one width.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BatchIds {
    /// Of a vocabulary of at most 65,536 ids.
    U16(Vec<u16>),
    /// Of a larger one.
    U32(Vec<u32>),
}

/// A micro-batch: `rows x length` positions in row-major order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// How many rows.
    pub rows: usize,
    /// How many positions a row, a multiple of [`LENGTH_STEP`].
    pub length: usize,
    /// Input ids, `rows * length`; padding ids after a row's end.
    pub ids: BatchIds,
    /// One bit a position, the lowest of a byte first: whether its prediction counts.
    /// It does not where the target is a pause, padding, part of a prefix, or past
    /// the end of the row.
    pub scored: Vec<u8>,
    /// Targets and weights, where they do not follow from the ids.
    pub stored: Option<StoredTargets>,
    /// How many ids each row has before its padding.
    pub lengths: Vec<u32>,
    /// How many of each row's first ids are prefix; 0 in pretraining.
    pub prefixes: Vec<u32>,
    /// The id that ends a document; where there is none, each row is one document.
    pub end: Option<TokenId>,
    /// What the positions hold.
    pub counts: Counts,
}

/// What each position must predict and how much that counts, `rows * length` of each.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StoredTargets {
    /// The target ids; the padding id where the weight is 0.
    pub targets: Vec<u32>,
    /// The weights; 0 where nothing is scored.
    pub weights: Vec<f32>,
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

impl Default for BatchIds {
    fn default() -> Self {
        Self::U16(Vec::new())
    }
}

impl BatchIds {
    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Self::U16(ids) => ids.len(),
            Self::U32(ids) => ids.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// One of them, widened.
    pub fn get(&self, index: usize) -> Option<u32> {
        match self {
            Self::U16(ids) => ids.get(index).copied().map(u32::from),
            Self::U32(ids) => ids.get(index).copied(),
        }
    }

    /// All of them, widened.
    pub fn widened(&self) -> Vec<u32> {
        match self {
            Self::U16(ids) => ids.iter().map(|id| u32::from(*id)).collect(),
            Self::U32(ids) => ids.clone(),
        }
    }
}

impl From<&[TokenId]> for BatchIds {
    fn from(ids: &[TokenId]) -> Self {
        Self::U32(ids.iter().map(|id| id.0).collect())
    }
}

impl Batch {
    /// Whether the prediction of a position counts.
    pub fn is_scored(&self, position: usize) -> bool {
        let byte = self.scored.get(position / 8);
        byte.is_some_and(|byte| byte >> (position % 8) & 1 == 1)
    }

    /// Where the document of each position begins in its row, `rows * length`.
    ///
    /// A document ends with its end id, and what goes on from an earlier row is a document
    /// of its own. So a pause belongs to the document of the id before it, but after an end
    /// to the one that follows. Padding positions stand alone, each for itself.
    pub fn starts(&self) -> Vec<u32> {
        let mut starts = Vec::with_capacity(self.rows * self.length);
        for row in 0..self.rows {
            let first = row * self.length;
            // A row is shorter than 2^31 ids.
            let n = (self.lengths.get(row)).map_or(u32::MAX, |length| *length);
            let mut start = 0;
            for (place, at) in (first..first + self.length).zip(0..) {
                if n <= at {
                    start = at;
                }
                starts.push(start);
                if self.end.is_some() && self.ids.get(place) == self.end.map(|end| end.0) {
                    start = at + 1;
                }
            }
        }
        starts
    }

    /// Where each position stands in its document, `rows * length`; 0 for padding.
    pub fn positions(&self) -> Vec<u32> {
        let mut positions = self.starts();
        for row in positions.chunks_mut(self.length.max(1)) {
            for (start, place) in row.iter_mut().zip(0..) {
                *start = place - *start;
            }
        }
        positions
    }

    /// Which document of its row each position belongs to, from 0, `rows * length`;
    /// none for padding.
    pub fn documents(&self) -> Vec<Option<u32>> {
        let mut documents = Vec::with_capacity(self.rows * self.length);
        for (row, starts) in self.starts().chunks(self.length.max(1)).enumerate() {
            let n = (self.lengths.get(row)).map_or(starts.len(), |length| *length as usize);
            let (mut document, mut last) = (0, 0);
            documents.extend(starts.iter().take(n).map(|start| {
                document += u32::from(*start != last);
                last = *start;
                Some(document)
            }));
            documents.resize((row + 1) * self.length, None);
        }
        documents
    }

    /// What each position must predict, `rows * length`; any id where the weight is 0.
    pub fn targets(&self) -> Vec<u32> {
        if let Some(stored) = &self.stored {
            return stored.targets.clone();
        }
        // The last position of a row takes the first id of the next, and is never scored.
        let mut ids = self.ids.widened();
        let n = ids.len().min(1);
        ids.rotate_left(n);
        ids
    }

    /// How much each prediction counts, `rows * length`.
    pub fn weights(&self) -> Vec<f32> {
        match &self.stored {
            Some(stored) => stored.weights.clone(),
            None => {
                let bits = self
                    .scored
                    .iter()
                    .flat_map(|byte| (0..8).map(move |bit| f32::from(byte >> bit & 1)));
                bits.take(self.rows * self.length).collect()
            }
        }
    }
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.real += other.real;
        self.pauses += other.pauses;
        self.padding += other.padding;
        self.scored += other.scored;
    }
}

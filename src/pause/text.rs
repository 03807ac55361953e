//! What ids spell, and from a place in that text back to a gap between ids.

use crate::token::TokenId;

/// The bytes of every id of a vocabulary.
#[derive(Debug)]
pub struct Pieces {
    bytes: Vec<u8>,
    /// Where the bytes of each id end.
    ends: Vec<usize>,
}

impl Pieces {
    /// The bytes of ids 0, 1, 2 and so on; an id without any spells nothing.
    pub fn new<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut all = Self {
            bytes: Vec::new(),
            ends: Vec::new(),
        };
        for piece in pieces {
            all.bytes.extend_from_slice(piece);
            all.ends.push(all.bytes.len());
        }
        all
    }

    /// What one id spells.
    pub fn of(&self, id: TokenId) -> &[u8] {
        let end = self.ends.get(id.index()).copied().unwrap_or(0);
        let start = id.index().checked_sub(1);
        let start = start.and_then(|before| self.ends.get(before)).copied();
        self.bytes.get(start.unwrap_or(0)..end).unwrap_or_default()
    }

    /// What ids spell together.
    pub fn spell(&self, ids: &[TokenId]) -> Spelt {
        let mut spelt = Spelt {
            bytes: Vec::with_capacity(4 * ids.len()),
            ends: Vec::with_capacity(ids.len()),
        };
        for id in ids {
            spelt.bytes.extend_from_slice(self.of(*id));
            spelt.ends.push(spelt.bytes.len());
        }
        spelt
    }
}

/// The text of some ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spelt {
    /// Its bytes; a character that the first or last id holds in part is not whole.
    pub bytes: Vec<u8>,
    /// Where the bytes of each id end.
    ends: Vec<usize>,
}

impl Spelt {
    /// The gap for a place in the text: the one at it, or else the one before the
    /// id whose bytes it splits.
    pub fn gap(&self, place: usize) -> usize {
        self.ends.partition_point(|end| *end <= place)
    }

    /// Whether a place is a border between ids.
    pub fn is_border(&self, place: usize) -> bool {
        place == 0 || self.ends.binary_search(&place).is_ok()
    }
}

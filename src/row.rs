//! Rows as they lie in a shard, read without a copy.

use crate::sequence::{Sequence, Stored};
use crate::token::{IdWidth, PauseIds, TokenId};

/// Ids as they lie on disk: little-endian numbers of one width.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ids<'a> {
    /// Two bytes an id.
    U16(&'a [[u8; 2]]),
    /// Four bytes an id.
    U32(&'a [[u8; 4]]),
}

/// A row that is borrowed from where it lies.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RowView<'a> {
    /// The ids.
    pub ids: Ids<'a>,
    /// How many of the first ids are prefix; see [`Sequence::prefix`].
    pub prefix: Option<u32>,
    /// What does not follow from the ids under the paper's rule.
    pub stored: Option<&'a Stored>,
}

impl<'a> Ids<'a> {
    /// The ids in some bytes; what is left of an incomplete id at the end is not seen.
    pub fn from_bytes(bytes: &'a [u8], width: IdWidth) -> Self {
        match width {
            IdWidth::U16 => Self::U16(bytes.as_chunks().0),
            IdWidth::U32 => Self::U32(bytes.as_chunks().0),
        }
    }

    /// How many there are.
    pub fn len(self) -> usize {
        match self {
            Self::U16(ids) => ids.len(),
            Self::U32(ids) => ids.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// The id at a position.
    pub fn get(self, position: usize) -> Option<TokenId> {
        match self {
            Self::U16(ids) => Some(TokenId(u16::from_le_bytes(*ids.get(position)?).into())),
            Self::U32(ids) => Some(TokenId(u32::from_le_bytes(*ids.get(position)?))),
        }
    }

    /// How many bytes each has.
    pub fn width(self) -> IdWidth {
        match self {
            Self::U16(_) => IdWidth::U16,
            Self::U32(_) => IdWidth::U32,
        }
    }

    /// At most `n` of them, from a position on.
    pub fn part(self, from: usize, n: usize) -> Self {
        fn part<T>(ids: &[T], from: usize, n: usize) -> &[T] {
            let rest = ids.get(from..).unwrap_or_default();
            rest.get(..n).unwrap_or(rest)
        }
        match self {
            Self::U16(ids) => Self::U16(part(ids, from, n)),
            Self::U32(ids) => Self::U32(part(ids, from, n)),
        }
    }

    /// Their bytes.
    pub fn bytes(self) -> &'a [u8] {
        match self {
            Self::U16(ids) => ids.as_flattened(),
            Self::U32(ids) => ids.as_flattened(),
        }
    }

    /// All of them, widened.
    pub fn to_vec(self) -> Vec<TokenId> {
        match self {
            Self::U16(ids) => (ids.iter())
                .map(|id| TokenId(u16::from_le_bytes(*id).into()))
                .collect(),
            Self::U32(ids) => (ids.iter())
                .map(|id| TokenId(u32::from_le_bytes(*id)))
                .collect(),
        }
    }

    /// The largest; without an early end this is a few instructions for sixteen ids.
    pub fn largest(self) -> Option<TokenId> {
        match self {
            Self::U16(ids) => {
                let ids = ids.iter().map(|id| u16::from_le_bytes(*id));
                ids.max().map(|id| TokenId(id.into()))
            }
            Self::U32(ids) => {
                let ids = ids.iter().map(|id| u32::from_le_bytes(*id));
                ids.max().map(TokenId)
            }
        }
    }
}

impl RowView<'_> {
    /// How many ids the row holds.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether the row holds no id.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Whether the id at a position was inserted; see [`Sequence::is_pause`].
    pub fn is_pause(&self, position: usize, pauses: PauseIds) -> bool {
        match self.stored {
            Some(stored) if !stored.inserted.is_empty() => {
                stored.inserted.get(position).copied().unwrap_or(false)
            }
            _ => (self.ids.get(position)).is_some_and(|id| pauses.contains(id)),
        }
    }

    /// Makes `words` say which ids were inserted, as [`RowView::is_pause`] tells of each: a
    /// bit an id, the lowest of a word first.
    pub fn pauses(&self, pauses: PauseIds, words: &mut Vec<u64>) {
        let wide = |id: u32| pauses.contains(TokenId(id));
        match (self.stored, self.ids, pauses.contains_narrow()) {
            (Some(stored), _, _) if !stored.inserted.is_empty() => {
                mask(&stored.inserted, words, |inserted| inserted);
            }
            (_, Ids::U16(ids), Some(narrow)) => {
                mask(ids, words, |id| narrow(u16::from_le_bytes(id)));
            }
            (_, Ids::U16(ids), None) => mask(ids, words, |id| wide(u16::from_le_bytes(id).into())),
            (_, Ids::U32(ids), _) => mask(ids, words, |id| wide(u32::from_le_bytes(id))),
        }
    }

    /// A copy that owns what it holds.
    pub fn to_sequence(self) -> Sequence {
        Sequence {
            ids: self.ids.to_vec(),
            prefix: self.prefix,
            stored: self.stored.cloned().map(Box::new),
            ..Sequence::default()
        }
    }
}

/// Makes `words` say of which values something holds: a bit a value, the lowest of a word
/// first.
pub fn mask<T: Copy>(values: &[T], words: &mut Vec<u64>, holds: impl Fn(T) -> bool) {
    words.clear();
    let (chunks, rest) = values.as_chunks::<64>();
    words.extend(chunks.iter().map(|chunk| word(chunk, &holds)));
    if !rest.is_empty() {
        let bit = |word, value: &T| word << 1 | u64::from(holds(*value));
        words.push(rest.iter().rev().fold(0, bit));
    }
}

/// Eight comparisons at a time, which a compiler makes one instruction, and a product that
/// moves the lowest bits of eight bytes into one.
#[inline]
fn word<T: Copy>(values: &[T; 64], holds: impl Fn(T) -> bool) -> u64 {
    const TOGETHER: u64 = 0x0102_0408_1020_4080;
    let (eights, _) = values.as_chunks::<8>();
    let byte = |eight: &[T; 8]| {
        let flags = eight.map(|value| u8::from(holds(value)));
        u64::from_le_bytes(flags).wrapping_mul(TOGETHER) >> 56
    };
    (eights.iter().rev()).fold(0, |word, eight| word << 8 | byte(eight))
}

/// The bytes of a row's ids, for tests that make rows.
#[cfg(test)]
pub(crate) fn bytes(ids: &[TokenId], width: IdWidth) -> Vec<u8> {
    let mut bytes = Vec::new();
    for id in ids {
        match width {
            IdWidth::U16 => bytes.extend(u16::try_from(id.0).unwrap().to_le_bytes()),
            IdWidth::U32 => bytes.extend(id.0.to_le_bytes()),
        }
    }
    bytes
}

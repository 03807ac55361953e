//! The pieces that a thread has seen, with their ids.
//!
//! Short pieces lie with their ids in buckets of one cache line each, or in one of the
//! next few buckets; where these are full, a new piece pushes out the older of two.
//! Longer pieces are looked up by a hash and compared byte by byte; all are forgotten
//! when there are too many. So memory is bounded whatever the text is.

use xxhash_rust::xxh3::xxh3_64;

use super::huge::{Huge, Plain};

/// The longest piece whose bytes are its key.
const SHORT_MAX: usize = 15;
/// The longest piece that is remembered.
pub const LONG_MAX: usize = 192;

/// 2^19 buckets of 64 bytes: 32 MiB.
const BUCKET_BITS: u32 = 19;
/// How many buckets from its own on a piece may lie in.
const REACH: usize = 4;

/// 2^19 places of longer pieces, words of 4 bytes: 2 MiB.
const LONG_BITS: u32 = 19;
/// Words of 4 bytes that hold longer pieces and their ids: 22 MiB.
const RECORDS: usize = 11 << 19;
/// Of a place, the bits that lead to the record; those above are of the hash.
const RECORD_BITS: u32 = 23;

/// Ids that fit beside a key.
pub const INLINE_MAX: usize = 4;

/// Whether text stands by itself or is a part of a longer piece: where merges are ignored
/// for words, that makes a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// All of a piece.
    Piece,
    /// What a piece was cut into.
    Part,
}

/// A piece of at most [`SHORT_MAX`] bytes: these, zeros, and its length in the last byte.
/// A part has one more byte, which no text has. Longer ones have their kind alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Key {
    low: u64,
    high: u64,
}

/// The byte behind a part.
const PART: u128 = 0xff;

impl Key {
    /// The key of all longer pieces.
    pub const LONG: Self = Self { low: 0, high: 0 };
    /// The key of all longer parts.
    const LONG_PART: Self = Self { low: 1, high: 0 };

    /// What this is the key of.
    pub fn kind(self) -> Kind {
        let length = self.high >> LENGTH_SHIFT;
        let bytes = u128::from(self.high) << 64 | u128::from(self.low);
        match length.checked_sub(1) {
            Some(last) if bytes >> (8 * last) & PART == PART => Kind::Part,
            None if self == Self::LONG_PART => Kind::Part,
            _ => Kind::Piece,
        }
    }

    /// Whether this is not the key of one piece or part alone.
    #[inline(always)]
    pub fn is_long(self) -> bool {
        self.high == 0
    }
}

/// Where the length stands in [`Key::high`], and above it, in a slot, how many ids there are.
const LENGTH_SHIFT: u32 = 56;
const COUNT_SHIFT: u32 = 60;

#[expect(clippy::indexing_slicing, reason = "checked when the program is built")]
const MASKS: [u128; SHORT_MAX + 1] = {
    let mut masks = [0; SHORT_MAX + 1];
    let mut length = 1;
    while length <= SHORT_MAX {
        masks[length] = u128::MAX >> (128 - 8 * length);
        length += 1;
    }
    masks
};

/// The key of the piece of `length` bytes at `at`.
#[inline(always)]
pub fn key(text: &[u8], at: usize, length: usize) -> Key {
    match MASKS.get(length) {
        Some(mask) => short_key(first_bytes(text, at) & mask, length),
        None => Key::LONG,
    }
}

/// The key of the part of `length` bytes at `at`.
pub fn part_key(text: &[u8], at: usize, length: usize) -> Key {
    match MASKS.get(length) {
        Some(mask) if length < SHORT_MAX => {
            let bits = first_bytes(text, at) & mask | PART << (8 * length);
            short_key(bits, length + 1)
        }
        _ => Key::LONG_PART,
    }
}

#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "halves of 128 bits")]
fn short_key(bits: u128, length: usize) -> Key {
    Key {
        low: bits as u64,
        high: (bits >> 64) as u64 | (length as u64) << LENGTH_SHIFT,
    }
}

#[inline(always)]
fn first_bytes(text: &[u8], at: usize) -> u128 {
    u128::from_le_bytes(match text.get(at..).and_then(<[u8]>::first_chunk) {
        Some(bytes) => *bytes,
        None => at_the_end(text, at),
    })
}

#[cold]
fn at_the_end(text: &[u8], at: usize) -> [u8; 16] {
    let mut bytes = [0; 16];
    let left = text.get(at..).unwrap_or_default();
    for (to, from) in bytes.iter_mut().zip(left) {
        *to = *from;
    }
    bytes
}

/// Which bucket a key belongs to.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "halves of the product")]
pub fn bucket(key: Key) -> u32 {
    let product =
        u128::from(key.low ^ 0x9e37_79b9_7f4a_7c15) * u128::from(key.high ^ 0xd6e8_feb8_6659_fd93);
    let hash = product as u64 ^ (product >> 64) as u64;
    (hash >> (64 - BUCKET_BITS)) as u32
}

/// A short piece and its ids. Their count stands above the length in the key; it is 0
/// where there are more than fit: then the first is the place of a record, and the second
/// tells whether that is forgotten.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Slot {
    key: Key,
    ids: [u32; INLINE_MAX],
}

impl Slot {
    /// Whether this is the slot of `key`, whatever the count.
    #[inline(always)]
    fn is(&self, key: Key) -> bool {
        let rest = (self.key.high ^ key.high) << (u64::BITS - COUNT_SHIFT);
        (self.key.low ^ key.low) | rest == 0
    }

    #[inline(always)]
    fn count(&self) -> usize {
        (self.key.high >> COUNT_SHIFT) as usize
    }

    /// Whether this is the slot of no piece: each has a length.
    fn is_vacant(&self) -> bool {
        self.key.high == 0
    }
}

#[derive(Clone, Copy, Default)]
#[repr(C, align(64))]
struct Bucket([Slot; 2]);

// SAFETY: integers of 8 and 4 bytes, 64 in all.
unsafe impl Plain for Bucket {}

/// Pieces and their ids.
pub struct Cache {
    short: Huge<Bucket>,
    /// Longer pieces by their hash, open addressing: a part of it, and one more than where
    /// the record begins.
    long: Huge<u32>,
    known_long: usize,
    /// Of each longer piece its length and how many ids it has, these, and its bytes; of a
    /// short one of too many ids these.
    records: Huge<u32>,
    end: usize,
    /// How often all records were forgotten.
    wipes: u32,
}

impl Cache {
    /// Nothing known; at most 56 MiB, taken as it fills.
    pub fn new() -> Self {
        Self {
            short: Huge::new(1 << BUCKET_BITS),
            long: Huge::new(1 << LONG_BITS),
            known_long: 0,
            records: Huge::new(RECORDS),
            end: 0,
            wipes: 0,
        }
    }

    /// Asks for a bucket before it is needed.
    #[inline(always)]
    pub fn prefetch(&self, bucket: u32) {
        self.short.prefetch(bucket as usize);
    }

    /// The ids of a short piece that lies in its own bucket, and how many of the four
    /// there are; [`Cache::get`] may know others, and those of which there are 0.
    #[inline(always)]
    pub fn near(&self, key: Key, bucket: u32) -> Option<(&[u32; INLINE_MAX], usize)> {
        let Bucket([first, second]) = self.short.get(bucket as usize)?;
        let slot = if second.is(key) { second } else { first };
        slot.is(key).then_some((&slot.ids, slot.count()))
    }

    /// The ids of a piece.
    pub fn get(&self, key: Key, piece: &[u8]) -> Option<&[u32]> {
        if key.is_long() {
            return self.get_long(key, piece);
        }
        let (at, second) = self.place(key)?;
        let slot = self.short.get(at)?.0.get(usize::from(second))?;
        match (slot.count(), slot.ids) {
            _ if slot.is_vacant() => None,
            (0, [record, wipes, ..]) if wipes == self.wipes => {
                Some(self.record(record as usize)?.1)
            }
            (0, _) => None,
            (count, _) => slot.ids.get(..count),
        }
    }

    /// Remembers a piece of at most [`LONG_MAX`] bytes.
    pub fn learn(&mut self, key: Key, piece: &[u8], ids: &[u32]) {
        if key.is_long() {
            self.learn_long(key, piece, ids);
            return;
        }
        let mut slot = Slot {
            key,
            ids: [0; INLINE_MAX],
        };
        if ids.len() <= INLINE_MAX {
            slot.ids.iter_mut().zip(ids).for_each(|(to, id)| *to = *id);
            slot.key.high |= (ids.len() as u64) << COUNT_SHIFT;
        } else if let Some(record) = self.write_record(0, ids, &[]) {
            slot.ids = [record, self.wipes, 0, 0];
        } else {
            return;
        }
        if let Some((at, second)) = self.place(key) {
            let place = self.short.get_mut(at);
            if let Some(place) = place.and_then(|bucket| bucket.0.get_mut(usize::from(second))) {
                *place = slot;
            }
        } else if let Some(Bucket([first, second])) = self.short.get_mut(bucket(key) as usize) {
            (*first, *second) = (slot, *first);
        }
    }

    /// Where a short piece lies or may be put: a bucket, and whether it is its second slot.
    fn place(&self, key: Key) -> Option<(usize, bool)> {
        let home = bucket(key) as usize;
        let last = self.short.len().checked_sub(1)?;
        for at in (home..home + REACH).map(|at| at & last) {
            let Bucket([first, second]) = self.short.get(at)?;
            if first.is(key) || first.is_vacant() {
                return Some((at, false));
            }
            if second.is(key) || second.is_vacant() {
                return Some((at, true));
            }
        }
        None
    }

    fn get_long(&self, key: Key, piece: &[u8]) -> Option<&[u32]> {
        let (at, tag) = long_home(piece);
        for at in (at..self.long.len()).chain(0..at) {
            let place = *self.long.get(at)?;
            let record = (place & !(u32::MAX << RECORD_BITS)).checked_sub(1)?;
            if place >> RECORD_BITS == tag
                && let Some(ids) = self.record_of(record as usize, key, piece)
            {
                return Some(ids);
            }
        }
        None
    }

    /// The record at `at`: its lower half word, the ids, and what is behind these.
    fn record(&self, at: usize) -> Option<(u32, &[u32], &[u32])> {
        let [sizes, rest @ ..] = self.records.get(at..)? else {
            return None;
        };
        let (ids, text) = rest.split_at_checked((*sizes >> 16) as usize)?;
        Some((*sizes & 0xffff, ids, text))
    }

    /// The ids of the record at `at`, if it is that of `piece`.
    fn record_of(&self, at: usize, key: Key, piece: &[u8]) -> Option<&[u32]> {
        let (length_there, ids, text) = self.record(at)?;
        let mut words = words(piece).zip(text);
        (length_there == length(key, piece) && words.all(|(a, b)| a == *b)).then_some(ids)
    }

    /// Writes a record: a half word, ids, and bytes; all are forgotten where there is no room.
    fn write_record(&mut self, low: u32, ids: &[u32], bytes: &[u8]) -> Option<u32> {
        let (at, size) = (self.end, |n: usize| u32::try_from(n).unwrap_or(u32::MAX));
        let after = at + 1 + ids.len() + bytes.len().div_ceil(4);
        let record = [size(ids.len()) << 16 | low].into_iter();
        let record = record.chain(ids.iter().copied()).chain(words(bytes));
        let Some(places) = self.records.get_mut(at..after) else {
            self.forget();
            return None;
        };
        places
            .iter_mut()
            .zip(record)
            .for_each(|(to, from)| *to = from);
        self.end = after;
        Some(size(at))
    }

    /// Forgets all records.
    fn forget(&mut self) {
        self.long.fill(0);
        (self.known_long, self.end) = (0, 0);
        self.wipes = self.wipes.wrapping_add(1);
    }

    /// Remembers a piece that has no place among the short ones.
    fn learn_long(&mut self, key: Key, piece: &[u8], ids: &[u32]) {
        // No piece has more ids than bytes.
        if LONG_MAX < piece.len().max(ids.len()) || ids.is_empty() {
            return;
        }
        if 3 * self.long.len() < 4 * self.known_long {
            return self.forget();
        }
        let Some(record) = self.write_record(length(key, piece), ids, piece) else {
            return;
        };
        let (at, tag) = long_home(piece);
        for at in (at..self.long.len()).chain(0..at) {
            if let Some(place) = self.long.get_mut(at).filter(|place| **place == 0) {
                *place = tag << RECORD_BITS | (record + 1);
                break;
            }
        }
        self.known_long += 1;
    }
}

/// The length of a piece in its record, and whether it is a part.
fn length(key: Key, piece: &[u8]) -> u32 {
    let part = u32::from(key == Key::LONG_PART);
    u32::try_from(piece.len()).map_or(u32::MAX, |length| length << 1 | part)
}

/// Bytes as words, zeros behind the last.
fn words(bytes: &[u8]) -> impl Iterator<Item = u32> {
    let (words, rest) = bytes.as_chunks();
    let last = rest
        .iter()
        .rev()
        .fold(0, |word, byte| word << 8 | u32::from(*byte));
    let words = words.iter().map(|word| u32::from_le_bytes(*word));
    words.chain((!rest.is_empty()).then_some(last))
}

/// Where the search for a longer piece begins, and other bits of its hash.
fn long_home(piece: &[u8]) -> (usize, u32) {
    let hash = xxh3_64(piece);
    #[expect(clippy::cast_possible_truncation, reason = "parts of a hash")]
    let (at, tag) = (hash as usize & ((1 << LONG_BITS) - 1), (hash >> 32) as u32);
    (at, tag >> RECORD_BITS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_forgotten_is_not_taken_for_what_lies_there_now() {
        let mut cache = Cache::new();
        let key = |piece: &[u8]| key(piece, 0, piece.len());
        let mut learn_and_get = |learnt: &[u8], ids: &[u32]| {
            cache.forget();
            cache.learn(key(learnt), learnt, ids);
            [b"one", b"two"].map(|piece| cache.get(key(piece), piece).map(<[u32]>::to_vec))
        };
        let (ids, others) = ([1, 2, 3, 4, 5], [6, 7, 8, 9, 10]);
        assert_eq!(learn_and_get(b"one", &ids), [Some(ids.to_vec()), None]);
        assert_eq!(
            learn_and_get(b"two", &others),
            [None, Some(others.to_vec())]
        );
        assert_eq!(learn_and_get(b"one", &ids), [Some(ids.to_vec()), None]);
    }

    /// Pieces lie in words of four bytes, so zeros behind a piece are in its words too; a
    /// hash may lead from the one to the other.
    #[test]
    fn a_long_piece_is_not_one_with_zeros_behind_it() {
        let record = |learnt: &[u8], piece: &[u8]| {
            let mut cache = Cache::new();
            cache.learn(Key::LONG, learnt, &[7, 8]);
            cache.record_of(0, Key::LONG, piece).map(<[u32]>::to_vec)
        };
        let piece = b"seventeen letters";
        assert_eq!(record(piece, piece), Some(vec![7, 8]));
        for zeros in 1..=3 {
            let longer = [&piece[..], &[0; 3][..zeros]].concat();
            assert_eq!(record(piece, &longer), None);
            assert_eq!(record(&longer, piece), None);
            assert_eq!(record(&longer, &longer), Some(vec![7, 8]));
        }
    }
}

//! The pieces that a thread has seen, with their ids.
//!
//! Short pieces lie with their ids in buckets of one cache line each, or in one of the
//! next few buckets; the table grows, and where it may not, a new piece pushes out the
//! older of two. Longer pieces are looked up by a hash and compared byte by byte; they
//! are forgotten when there are too many. So memory is bounded whatever the text is.

use xxhash_rust::xxh3::xxh3_64;

use super::huge::{Huge, Plain};

/// The longest piece whose bytes are its key.
pub const SHORT_MAX: usize = 15;
/// The longest piece that is remembered.
pub const LONG_MAX: usize = 192;

/// The first table has 2^15 buckets of 64 bytes: 2 MiB, a huge page.
const FIRST_BITS: u32 = 15;
/// The last one has 2^19: 32 MiB.
const LAST_BITS: u32 = 19;
/// How many buckets from its own on a piece may lie in.
const REACH: usize = 4;

/// Places of longer pieces: 2 MiB.
const LONG_BITS: u32 = 18;
/// Words of 4 bytes that hold longer pieces and their ids: 16 MiB.
const RECORDS: usize = 4 << 20;

/// Ids that fit beside a key.
pub const INLINE_MAX: usize = 4;

/// A piece of at most [`SHORT_MAX`] bytes: these, zeros, and its length in the last byte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Key {
    low: u64,
    high: u64,
}

impl Key {
    /// The key of no piece.
    pub const NONE: Self = Self { low: 0, high: 0 };
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

/// The key of the `length` bytes at `at`, of 1 to [`SHORT_MAX`]; none for others.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "halves of 128 bits")]
pub fn key(text: &[u8], at: usize, length: usize) -> Key {
    let Some(mask) = MASKS.get(length) else {
        return Key::NONE;
    };
    let bytes = match text.get(at..).and_then(<[u8]>::first_chunk::<16>) {
        Some(bytes) => *bytes,
        None => at_the_end(text, at),
    };
    let bits = u128::from_le_bytes(bytes) & mask;
    Key {
        low: bits as u64,
        high: (bits >> 64) as u64 | (length as u64) << LENGTH_SHIFT,
    }
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

/// A hash of which the upper bits count.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "halves of the product")]
fn hash(key: Key) -> u64 {
    let product =
        u128::from(key.low ^ 0x9e37_79b9_7f4a_7c15) * u128::from(key.high ^ 0xd6e8_feb8_6659_fd93);
    product as u64 ^ (product >> 64) as u64
}

/// A short piece and its ids. Their count stands above the length in the key; it is 0
/// where there are more than fit, and the piece is among the long ones.
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
    /// Of a hash, its right shift to the number of a bucket.
    shift: u32,
    /// Short pieces in the table.
    known: usize,
    /// Longer pieces by their hash, open addressing: its upper half, and one more than the
    /// place of the record.
    long: Huge<u64>,
    known_long: usize,
    /// Of each longer piece its length, how many ids it has, these, and its bytes.
    records: Huge<u32>,
    end: usize,
}

impl Cache {
    /// Nothing known; at most 50 MiB, taken as it fills.
    pub fn new() -> Self {
        Self {
            short: Huge::new(1 << FIRST_BITS),
            shift: u64::BITS - FIRST_BITS,
            known: 0,
            long: Huge::new(1 << LONG_BITS),
            known_long: 0,
            records: Huge::new(RECORDS),
            end: 0,
        }
    }

    /// Which bucket a key belongs to, until something is learnt.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "the shift leaves an index")]
    pub fn bucket(&self, key: Key) -> u32 {
        (hash(key) >> self.shift) as u32
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
        if key != Key::NONE {
            let (at, second) = self.place(key)?;
            let slot = self.short.get(at)?.0.get(usize::from(second))?;
            match slot.count() {
                _ if slot.is_vacant() => return None,
                0 => {}
                count => return slot.ids.get(..count),
            }
        }
        self.get_long(piece)
    }

    /// Remembers a piece of at most [`LONG_MAX`] bytes.
    pub fn learn(&mut self, key: Key, piece: &[u8], ids: &[u32]) {
        if key == Key::NONE || INLINE_MAX < ids.len() {
            self.learn_long(piece, ids);
        }
        if key == Key::NONE {
            return;
        }
        // Up to five of eight slots, few pieces lie beside their bucket.
        if 5 * self.short.len() < 4 * self.known && u64::BITS - LAST_BITS < self.shift {
            self.grow();
        }
        let mut slot = Slot {
            key,
            ids: [0; INLINE_MAX],
        };
        if ids.len() <= INLINE_MAX {
            slot.ids.iter_mut().zip(ids).for_each(|(to, id)| *to = *id);
            slot.key.high |= (ids.len() as u64) << COUNT_SHIFT;
        }
        self.put(key, slot);
    }

    /// Where a short piece lies or may be put: a bucket, and whether it is its second slot.
    fn place(&self, key: Key) -> Option<(usize, bool)> {
        let home = self.bucket(key) as usize;
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

    fn put(&mut self, key: Key, slot: Slot) {
        if let Some((at, second)) = self.place(key) {
            let place = self.short.get_mut(at);
            if let Some(place) = place.and_then(|bucket| bucket.0.get_mut(usize::from(second))) {
                self.known += usize::from(place.is_vacant());
                *place = slot;
            }
        } else {
            let home = self.bucket(key) as usize;
            if let Some(Bucket([first, second])) = self.short.get_mut(home) {
                (*first, *second) = (slot, *first);
            }
        }
    }

    /// Moves the short pieces to a table of twice the size.
    #[cold]
    fn grow(&mut self) {
        let larger = Huge::new(2 * self.short.len());
        if larger.is_empty() {
            return;
        }
        let old = std::mem::replace(&mut self.short, larger);
        self.shift -= 1;
        self.known = 0;
        for slot in old.iter().flat_map(|bucket| bucket.0) {
            if !slot.is_vacant() {
                let key = Key {
                    high: slot.key.high & !(u64::MAX << COUNT_SHIFT),
                    ..slot.key
                };
                self.put(key, slot);
            }
        }
    }

    fn get_long(&self, piece: &[u8]) -> Option<&[u32]> {
        let (at, tag) = long_home(piece);
        for at in (at..self.long.len()).chain(0..at) {
            let place = *self.long.get(at)?;
            let record = (place & u64::from(u32::MAX)).checked_sub(1)?;
            if place & !u64::from(u32::MAX) == tag
                && let Some(ids) = self.record(usize::try_from(record).ok()?, piece)
            {
                return Some(ids);
            }
        }
        None
    }

    /// The ids of the record at `at`, if it is that of `piece`.
    fn record(&self, at: usize, piece: &[u8]) -> Option<&[u32]> {
        let [length, count, rest @ ..] = self.records.get(at..)? else {
            return None;
        };
        let (ids, text) = rest.split_at_checked(*count as usize)?;
        let same = *length as usize == piece.len() && words(piece).zip(text).all(|(a, b)| a == *b);
        same.then_some(ids)
    }

    /// Remembers a piece that has no place among the short ones.
    fn learn_long(&mut self, piece: &[u8], ids: &[u32]) {
        let size = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let after = self.end + 2 + ids.len() + piece.len().div_ceil(4);
        if LONG_MAX < piece.len() || ids.is_empty() {
            return;
        }
        if self.records.len() < after || 3 * self.long.len() < 4 * self.known_long {
            self.long.fill(0);
            (self.known_long, self.end) = (0, 0);
            return;
        }
        let header = [size(piece.len()), size(ids.len())];
        let record = header.into_iter().chain(ids.iter().copied()).chain(words(piece));
        if let Some(places) = self.records.get_mut(self.end..after) {
            places.iter_mut().zip(record).for_each(|(to, from)| *to = from);
        }
        let (at, tag) = long_home(piece);
        let places = (at..self.long.len()).chain(0..at);
        for at in places {
            if let Some(place) = self.long.get_mut(at).filter(|place| **place == 0) {
                *place = tag | (u64::from(size(self.end)) + 1);
                break;
            }
        }
        self.known_long += 1;
        self.end = after;
    }
}

/// Bytes as words, zeros behind the last.
fn words(bytes: &[u8]) -> impl Iterator<Item = u32> {
    bytes.chunks(4).map(|bytes| {
        let byte = |at: usize| bytes.get(at).copied().unwrap_or(0);
        u32::from_le_bytes([byte(0), byte(1), byte(2), byte(3)])
    })
}

/// Where the search for a longer piece begins, and the upper half of its hash.
fn long_home(piece: &[u8]) -> (usize, u64) {
    let hash = xxh3_64(piece);
    #[expect(clippy::cast_possible_truncation, reason = "the lower bits")]
    let at = hash as usize & ((1 << LONG_BITS) - 1);
    (at, hash & !u64::from(u32::MAX))
}

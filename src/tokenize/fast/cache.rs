//! The pieces that a thread has seen, with their ids.
//!
//! Short pieces lie with their ids in buckets of one cache line each; a new piece
//! pushes out the older of the two there. Longer pieces are looked up by a hash and
//! compared byte by byte; their table is emptied when it is full. So memory is
//! bounded whatever the text is.

use xxhash_rust::xxh3::xxh3_64;

use super::huge::{Huge, Plain};

/// The longest piece whose bytes are its key.
pub const SHORT_MAX: usize = 15;
/// The longest piece that is remembered.
pub const LONG_MAX: usize = 192;

/// 2^19 buckets of 64 bytes: 32 MiB.
const BUCKET_BITS: u32 = 19;
/// Pairs of longer pieces: 3 MiB.
const LONG_BITS: u32 = 16;
/// Bytes of longer pieces that are kept, and as many bytes of ids.
const ARENA_BYTES: usize = 4 << 20;

/// Ids that fit beside a key.
const INLINE_MAX: usize = 4;

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
}

#[derive(Clone, Copy, Default)]
#[repr(C, align(64))]
struct Bucket([Slot; 2]);

// SAFETY: integers of 8 and 4 bytes, 64 in all.
unsafe impl Plain for Bucket {}

/// A longer piece: where its bytes and ids lie.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Long {
    hash: u64,
    text: u32,
    ids: u32,
    length: u32,
    count: u32,
}

// SAFETY: integers without padding between them: 8 + 4 * 4 bytes, twice.
unsafe impl Plain for [Long; 2] {}

/// Pieces and their ids.
pub struct Cache {
    short: Huge<Bucket>,
    long: Huge<[Long; 2]>,
    text: Vec<u8>,
    ids: Vec<u32>,
}

impl Cache {
    /// Nothing known; at most 43 MiB, taken as it fills.
    pub fn new() -> Self {
        Self {
            short: Huge::new(1 << BUCKET_BITS),
            long: Huge::new(1 << LONG_BITS),
            text: Vec::new(),
            ids: Vec::new(),
        }
    }

    /// Asks for a bucket before it is needed.
    #[inline(always)]
    pub fn prefetch(&self, bucket: u32) {
        #[cfg(target_arch = "x86_64")]
        if let Some(bucket) = self.short.get(bucket as usize) {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            // SAFETY: a prefetch of a valid reference changes nothing; SSE is part of x86-64.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(bucket).cast()) }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = bucket;
    }

    /// The ids of a short piece, and how many of the four there are; 0 is to say that
    /// [`Cache::long`] may know it.
    #[inline(always)]
    pub fn short(&self, key: Key, bucket: u32) -> Option<(&[u32; INLINE_MAX], usize)> {
        let Bucket([first, second]) = self.short.get(bucket as usize)?;
        let slot = if second.is(key) { second } else { first };
        slot.is(key)
            .then_some((&slot.ids, (slot.key.high >> COUNT_SHIFT) as usize))
    }

    /// Remembers a short piece.
    pub fn learn(&mut self, key: Key, piece: &[u8], ids: &[u32]) {
        let mut slot = Slot {
            key,
            ids: [0; INLINE_MAX],
        };
        if ids.len() <= INLINE_MAX {
            slot.ids.iter_mut().zip(ids).for_each(|(to, id)| *to = *id);
            slot.key.high |= (ids.len() as u64) << COUNT_SHIFT;
        } else {
            self.learn_long(piece, ids);
        }
        if let Some(Bucket([first, second])) = self.short.get_mut(bucket(key) as usize) {
            (*first, *second) = (slot, *first);
        }
    }

    /// The ids of a piece that has no place among the short ones.
    pub fn long(&self, piece: &[u8]) -> Option<&[u32]> {
        let hash = xxh3_64(piece);
        let pair = self.long.get(long_bucket(hash))?;
        let same = |long: &&Long| {
            let text = span(long.text, long.length);
            long.hash == hash && long.count != 0 && self.text.get(text) == Some(piece)
        };
        let long = pair.iter().find(same)?;
        self.ids.get(span(long.ids, long.count))
    }

    /// Remembers a piece of any length up to [`LONG_MAX`].
    pub fn learn_long(&mut self, piece: &[u8], ids: &[u32]) {
        if LONG_MAX < piece.len() || ids.is_empty() {
            return;
        }
        if ARENA_BYTES < self.text.len() + piece.len()
            || ARENA_BYTES < 4 * (self.ids.len() + ids.len())
        {
            self.text.clear();
            self.ids.clear();
            self.long.fill(Default::default());
        }
        let hash = xxh3_64(piece);
        // Both arenas are shorter than ARENA_BYTES.
        let size = |n: usize| u32::try_from(n).unwrap_or(0);
        let long = Long {
            hash,
            text: size(self.text.len()),
            ids: size(self.ids.len()),
            length: size(piece.len()),
            count: size(ids.len()),
        };
        self.text.extend_from_slice(piece);
        self.ids.extend_from_slice(ids);
        if let Some([first, second]) = self.long.get_mut(long_bucket(hash)) {
            (*first, *second) = (long, *first);
        }
    }
}

fn long_bucket(hash: u64) -> usize {
    (hash >> (64 - LONG_BITS)) as usize
}

fn span(from: u32, length: u32) -> std::ops::Range<usize> {
    from as usize..from as usize + length as usize
}

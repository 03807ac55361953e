//! What two neighbouring tokens make: the table of merges.

use super::huge::{Huge, Plain};
use super::merge::set;

/// One more than the rank above the id of what is made, so that the lowest rank is the
/// least number, and 0 is none.
pub type Merge = u64;

/// No merge in a list of which the least counts.
pub const NONE: Merge = u64::MAX;

/// The id that a merge makes.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the lower half")]
pub fn made(merge: Merge) -> u32 {
    merge as u32
}

/// Merges by their pair of ids: open addressing.
pub struct Index {
    entries: Huge<Entry>,
    /// Right shift of the hash of a pair.
    shift: u32,
    /// Pairs that may have a merge.
    filter: Filter,
}

/// The left id above the right one.
type Pair = u64;

/// A pair and what it makes, or zeros.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Entry {
    pair: Pair,
    merge: Merge,
}

// SAFETY: two integers of 8 bytes.
unsafe impl Plain for Entry {}

/// A pair that may have a merge, and where the search for it begins.
#[derive(Clone, Copy)]
pub struct Asked {
    pair: Pair,
    at: usize,
}

impl Index {
    /// The table of merges in order: two ids and what they make. A later merge of the same
    /// pair replaces the earlier one, as in the library.
    ///
    /// Nothing where the system has no memory.
    pub fn new(merges: &[[u32; 3]]) -> Option<Self> {
        // A third of the entries at least stays vacant, so that each search ends.
        let places = (merges.len() + merges.len() / 2).next_power_of_two().max(16);
        let mut index = Self {
            entries: Huge::new(places),
            shift: u64::BITS - places.trailing_zeros(),
            filter: Filter::new(),
        };
        if index.entries.is_empty() {
            return None;
        }
        for (number, [left, right, id]) in (1u64..).zip(merges) {
            let pair = pair(*left, *right);
            index.filter.insert(hash(pair));
            let (at, _) = index.search(index.home(pair));
            let merge = number << 32 | u64::from(*id);
            set(&mut index.entries, at, Entry { pair, merge });
        }
        Some(index)
    }

    /// What a pair of ids makes, or [`NONE`].
    #[inline(always)]
    pub fn find(&self, left: u32, right: u32) -> Merge {
        self.ask(left, right)
            .map_or(NONE, |asked| self.answer(asked))
    }

    /// Fetches the entry of a pair for [`Index::answer`]; nothing where it has no merge.
    #[inline(always)]
    pub fn ask(&self, left: u32, right: u32) -> Option<Asked> {
        let pair = pair(left, right);
        if !self.filter.may_hold(hash(pair)) {
            return None;
        }
        let asked = self.home(pair);
        self.entries.prefetch(asked.at);
        Some(asked)
    }

    /// What a pair makes, or [`NONE`].
    #[inline(always)]
    pub fn answer(&self, asked: Asked) -> Merge {
        match self.search(asked) {
            (_, Entry { merge: 0, .. }) => NONE,
            (_, Entry { merge, .. }) => merge,
        }
    }

    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "the shift leaves an index")]
    fn home(&self, pair: Pair) -> Asked {
        let at = (hash(pair) >> self.shift) as usize;
        Asked { pair, at }
    }

    /// Where a pair stands, or would.
    #[inline(always)]
    fn search(&self, Asked { pair, mut at }: Asked) -> (usize, Entry) {
        loop {
            let entry = self.entries.get(at).copied().unwrap_or_default();
            if entry.pair == pair || entry.merge == 0 {
                return (at, entry);
            }
            at = (at + 1) & (self.entries.len() - 1);
        }
    }

    /// Every id that a merge makes.
    pub fn ids(&self) -> impl Iterator<Item = u32> {
        let merges = self.entries.iter().map(|entry| entry.merge);
        merges.filter(|merge| *merge != 0).map(made)
    }
}

#[inline(always)]
fn pair(left: u32, right: u32) -> Pair {
    u64::from(left) << 32 | u64::from(right)
}

#[inline(always)]
fn hash(pair: Pair) -> u64 {
    (pair ^ pair >> 29).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// A set that may hold more than was put in: two bits for each hash in 256 KiB, which
/// stay in a near cache, while a look-up in a large table mostly misses all of them.
pub struct Filter(Box<[u64]>);

impl Filter {
    /// 2^15 words of 64 bits.
    const WORDS_BITS: u32 = 15;

    /// Holds nothing.
    pub fn new() -> Self {
        Self(vec![0; 1 << Self::WORDS_BITS].into())
    }

    /// The word of a hash, by its upper bits, and two bits, by its middle ones.
    #[inline(always)]
    fn place(hash: u64) -> (usize, u64) {
        let bits = 1 << (hash >> 32 & 63) | 1 << (hash >> 38 & 63);
        ((hash >> (u64::BITS - Self::WORDS_BITS)) as usize, bits)
    }

    /// Puts a hash in.
    pub fn insert(&mut self, hash: u64) {
        let (at, bits) = Self::place(hash);
        if let Some(word) = self.0.get_mut(at) {
            *word |= bits;
        }
    }

    /// Whether a hash may have been put in.
    #[inline(always)]
    pub fn may_hold(&self, hash: u64) -> bool {
        let (at, bits) = Self::place(hash);
        self.0.get(at).is_some_and(|word| word & bits == bits)
    }
}

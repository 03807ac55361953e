//! Merging the bytes of a piece: the byte-pair encoding itself.
//!
//! The pair of the lowest rank is merged first, the leftmost of equals, until no
//! pair has a rank. That is the library's order: a stale entry of its queue that
//! makes the same token as the current pair is the same pair, as no two words of
//! the vocabulary share an id.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use xxhash_rust::xxh3::xxh3_64;

use super::huge::{Huge, Plain};
use super::recognise::Family;

/// Longer pieces are merged with a queue: the scan for the lowest rank is quadratic.
/// One bit a byte tells which are left.
const SCAN_MAX: usize = 64;

/// No merge; ranks are below.
const NONE: u64 = u64::MAX;

/// The merges and the ids of single bytes.
pub struct Merges {
    bytes: [u32; 256],
    /// Rank and id of each pair of bytes, as [`Merge`].
    byte_pairs: Box<[u64]>,
    /// Each merge by its rank.
    merges: Huge<[u32; 3]>,
    /// Merges by their pair of ids, open addressing; 0 is vacant. The rank and the id
    /// stand in the entry, so that work goes on while the pair is compared.
    index: Huge<u64>,
    /// Pairs that may be in the index.
    filter: Filter,
    /// Right shift of the hash of a pair.
    shift: u32,
    /// The words that stand as they are, where merges are ignored for them.
    whole: Option<Whole>,
}

/// Words by their bytes.
struct Whole {
    words: HashMap<Box<[u8]>, u32>,
    filter: Filter,
}

/// A set that may hold more than was put in: two bits for each hash in 256 KiB, which
/// stay in a near cache, while a look-up in a large table mostly misses all of them.
struct Filter(Box<[u64]>);

impl Filter {
    /// 2^15 words of 64 bits.
    const WORDS_BITS: u32 = 15;

    fn new() -> Self {
        Self(vec![0; 1 << Self::WORDS_BITS].into())
    }

    /// The word of a hash, by its upper bits, and two bits, by its middle ones.
    #[inline(always)]
    fn place(hash: u64) -> (usize, u64) {
        let bits = 1 << (hash >> 32 & 63) | 1 << (hash >> 38 & 63);
        ((hash >> (u64::BITS - Self::WORDS_BITS)) as usize, bits)
    }

    fn insert(&mut self, hash: u64) {
        let (at, bits) = Self::place(hash);
        if let Some(word) = self.0.get_mut(at) {
            *word |= bits;
        }
    }

    #[inline(always)]
    fn may_hold(&self, hash: u64) -> bool {
        let (at, bits) = Self::place(hash);
        self.0.get(at).is_some_and(|word| word & bits == bits)
    }
}

/// The rank above the id of what is made, so that the lowest rank is the least number.
type Merge = u64;

/// An entry of the index, from the top: a tag of the hash, one more than the rank, the
/// id. A million merges are enough: the largest known vocabulary has 280 thousand.
const ID_BITS: u32 = 24;
const RANK_BITS: u32 = 20;
const TAG_SHIFT: u32 = ID_BITS + RANK_BITS;

// SAFETY: integers.
unsafe impl Plain for [u32; 3] {}
// SAFETY: an integer.
unsafe impl Plain for u64 {}

/// Memory for merging, used again for every piece.
#[derive(Default)]
pub struct Scratch {
    ids: Vec<u32>,
    ranks: Vec<Merge>,
    next: Vec<u32>,
    before: Vec<u32>,
    queue: BinaryHeap<Reverse<(u32, u32)>>,
}

/// Bytes that UTF-8 never holds need no token.
fn in_utf8(byte: u8) -> bool {
    !matches!(byte, 0xc0 | 0xc1 | 0xf5..)
}

impl Whole {
    fn new(words: &[(Vec<u8>, u32)]) -> Self {
        let mut filter = Filter::new();
        words
            .iter()
            .for_each(|(word, _)| filter.insert(xxh3_64(word)));
        let words = words.iter().map(|(word, id)| (word.as_slice().into(), *id));
        Self {
            words: words.collect(),
            filter,
        }
    }

    fn get(&self, piece: &[u8]) -> Option<&u32> {
        match self.filter.may_hold(xxh3_64(piece)) {
            true => self.words.get(piece),
            false => None,
        }
    }
}

impl Merges {
    /// The merges, where every byte that text has is a token.
    pub fn new(family: &Family) -> Option<Self> {
        let mut bytes = [u32::MAX; 256];
        for (word, id) in &family.words {
            if let [byte] = word.as_slice() {
                *bytes.get_mut(usize::from(*byte))? = *id;
            }
        }
        let lacking = |(byte, id): (u8, &u32)| in_utf8(byte) && *id == u32::MAX;
        if (0..=255).zip(&bytes).any(lacking) {
            return None;
        }
        let n = family.merges.len();
        let large = |[.., id]: &[u32; 3]| 1 << ID_BITS <= *id;
        if 1 << RANK_BITS <= n + 1 || family.merges.iter().any(large) {
            return None;
        }
        let slots = (n + n / 2).next_power_of_two().max(16);
        let mut merges = Self {
            bytes,
            byte_pairs: Box::default(),
            merges: Huge::new(n.max(1)),
            index: Huge::new(slots),
            filter: Filter::new(),
            shift: u64::BITS - slots.trailing_zeros(),
            whole: None,
        };
        if merges.merges.len() < n || merges.index.is_empty() {
            return None;
        }
        for (rank, merge) in family.merges.iter().enumerate() {
            set(&mut merges.merges, rank, *merge);
            merges.insert(rank, *merge);
        }
        let pair = |left: u32| bytes.map(|right| merges.find(left, right));
        merges.byte_pairs = bytes.iter().flat_map(|left| pair(*left)).collect();
        if family.ignore_merges {
            merges.whole = Some(Whole::new(&family.words));
        }
        Some(merges)
    }

    /// A later merge of the same pair replaces the earlier one, as in the library.
    fn insert(&mut self, rank: usize, [left, right, id]: [u32; 3]) {
        let hash = hash(left, right);
        self.filter.insert(hash);
        let (mut at, tag) = self.home(hash);
        loop {
            let other = self.index.get(at).copied().unwrap_or(0);
            if other == 0 || self.pair_of(other) == Some((left, right)) {
                break;
            }
            at = (at + 1) & (self.index.len() - 1);
        }
        let entry = tag << TAG_SHIFT | (rank as u64 + 1) << ID_BITS | u64::from(id);
        set(&mut self.index, at, entry);
    }

    /// Where the search for a pair begins, and its tag.
    #[expect(clippy::cast_possible_truncation, reason = "the shift leaves an index")]
    #[inline(always)]
    fn home(&self, hash: u64) -> (usize, u64) {
        // The tag is of bits below those that choose the place.
        let tag = hash >> 16 & (u64::MAX >> TAG_SHIFT);
        ((hash >> self.shift) as usize, tag)
    }

    #[inline(always)]
    fn pair_of(&self, entry: u64) -> Option<(u32, u32)> {
        let [left, right, _] = self.merges.get(rank(as_merge(entry)) as usize)?;
        Some((*left, *right))
    }

    /// What a pair of ids makes, or [`NONE`].
    #[inline(always)]
    fn find(&self, left: u32, right: u32) -> Merge {
        let hash = hash(left, right);
        if !self.filter.may_hold(hash) {
            return NONE;
        }
        let (mut at, tag) = self.home(hash);
        // A third of the entries is vacant, so that this ends.
        while let Some(entry) = self.index.get(at).copied().filter(|entry| *entry != 0) {
            if entry >> TAG_SHIFT == tag && self.pair_of(entry) == Some((left, right)) {
                return as_merge(entry);
            }
            at = (at + 1) & (self.index.len() - 1);
        }
        NONE
    }

    #[inline(always)]
    fn byte_pair(&self, left: u8, right: u8) -> Merge {
        let at = usize::from(left) << 8 | usize::from(right);
        self.byte_pairs.get(at).copied().unwrap_or(NONE)
    }

    #[inline(always)]
    fn byte(&self, byte: u8) -> u32 {
        self.bytes.get(usize::from(byte)).copied().unwrap_or(0)
    }

    /// Every id that text can yield.
    pub fn yields(&self) -> impl Iterator<Item = u32> {
        let whole = self
            .whole
            .iter()
            .flat_map(|whole| whole.words.values().copied());
        (self.bytes.iter().copied())
            .chain(self.merges.iter().map(|[.., id]| *id))
            .chain(whole)
    }

    /// The ids of `piece`.
    pub fn encode<'a>(&self, piece: &[u8], scratch: &'a mut Scratch) -> &'a [u32] {
        let word = self.whole.as_ref().and_then(|whole| whole.get(piece));
        scratch.ids.clear();
        match word {
            Some(id) => scratch.ids.push(*id),
            None => {
                scratch
                    .ids
                    .extend(piece.iter().map(|byte| self.byte(*byte)));
                scratch.ranks.clear();
                let pairs = piece.windows(2).map(|pair| match pair {
                    [left, right] => self.byte_pair(*left, *right),
                    _ => NONE,
                });
                scratch.ranks.extend(pairs);
                match piece.len() {
                    ..=SCAN_MAX => self.scan(scratch),
                    _ => self.queue(scratch),
                }
            }
        }
        &scratch.ids
    }

    /// Merges by looking for the lowest rank each time; at most [`SCAN_MAX`] bytes.
    fn scan(&self, scratch: &mut Scratch) {
        let Scratch { ids, ranks, .. } = scratch;
        let (ids, ranks) = (ids.as_mut_slice(), ranks.as_mut_slice());
        let mut left = u64::MAX >> (SCAN_MAX - ids.len().clamp(1, SCAN_MAX));
        loop {
            let (mut at, mut merge) = (0, NONE);
            for (index, other) in ranks.iter().enumerate() {
                if *other < merge {
                    (at, merge) = (index, *other);
                }
            }
            if merge == NONE {
                break;
            }
            let above = left & (u64::MAX << at << 1);
            let gone = above.trailing_zeros() as usize;
            left &= !(above & above.wrapping_neg());
            set(ids, at, made(merge));
            set(ranks, gone, NONE);
            let renew = |ranks: &mut [u64], first: usize, second: Option<&u32>| {
                let merge = match (ids.get(first), second) {
                    (Some(first), Some(second)) => self.find(*first, *second),
                    _ => NONE,
                };
                set(ranks, first, merge);
            };
            let next = (above & above.wrapping_sub(1)).trailing_zeros() as usize;
            renew(ranks, at, ids.get(next));
            let below = left & !(u64::MAX << at);
            if below != 0 {
                renew(ranks, 63 - below.leading_zeros() as usize, ids.get(at));
            }
        }
        let mut at = 0;
        scratch.ids.retain(|_| {
            at += 1;
            left >> (at - 1) & 1 == 1
        });
    }

    /// Merges in O(n log n): a queue of ranks and a list of what is left.
    fn queue(&self, scratch: &mut Scratch) {
        let n = scratch.ids.len();
        let end = u32::try_from(n).unwrap_or(u32::MAX);
        scratch.next.clear();
        scratch.next.extend(1..=end);
        scratch.before.clear();
        scratch.before.extend((0..end).map(|at| at.wrapping_sub(1)));
        scratch.ranks.push(NONE);
        scratch.queue.clear();
        let ranks = scratch
            .ranks
            .iter()
            .zip(0..)
            .filter(|(merge, _)| **merge != NONE);
        scratch
            .queue
            .extend(ranks.map(|(merge, at)| Reverse((rank(*merge), at))));
        let Scratch {
            ids,
            ranks,
            next,
            before,
            queue,
        } = scratch;
        let get = |list: &[u32], at: u32| list.get(at as usize).copied().unwrap_or(end);
        while let Some(Reverse((found, at))) = queue.pop() {
            let merge = ranks.get(at as usize).copied().unwrap_or(NONE);
            // The pair here has changed since.
            if merge == NONE || rank(merge) != found {
                continue;
            }
            let gone = get(next, at);
            let after = get(next, gone);
            set(ids, at as usize, made(merge));
            set(ids, gone as usize, u32::MAX);
            set(next, at as usize, after);
            set(before, after as usize, at);
            if let Some(rank) = ranks.get_mut(gone as usize) {
                *rank = NONE;
            }
            let mut renew = |left: u32, right: u32| {
                let merge = match right < end {
                    true => self.find(get(ids, left), get(ids, right)),
                    false => NONE,
                };
                if let Some(rank) = ranks.get_mut(left as usize) {
                    *rank = merge;
                }
                if merge != NONE {
                    queue.push(Reverse((rank(merge), left)));
                }
            };
            renew(at, after);
            let left = get(before, at);
            if left < end {
                renew(left, at);
            }
        }
        ids.retain(|id| *id != u32::MAX);
    }
}

#[inline(always)]
fn hash(left: u32, right: u32) -> u64 {
    let key = u64::from(left) << 32 | u64::from(right);
    (key ^ key >> 29).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// The rank and the id of an entry of the index.
#[inline(always)]
fn as_merge(entry: u64) -> Merge {
    let rank = (entry << (u64::BITS - TAG_SHIFT) >> (u64::BITS - RANK_BITS)).wrapping_sub(1);
    rank << 32 | entry & ((1 << ID_BITS) - 1)
}

/// The id that a merge makes.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the lower half")]
fn made(merge: Merge) -> u32 {
    merge as u32
}

fn rank(merge: Merge) -> u32 {
    made(merge >> 32)
}

#[inline(always)]
fn set<T>(list: &mut [T], at: usize, value: T) {
    if let Some(place) = list.get_mut(at) {
        *place = value;
    }
}

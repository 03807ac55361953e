//! Merging the bytes of a piece: the byte-pair encoding itself.
//!
//! The pair of the lowest rank is merged first, the leftmost of equals, until no
//! pair has a rank. That is the library's order: a stale entry of its queue that
//! makes the same token as the current pair is the same pair, as no two words of
//! the vocabulary share an id.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use super::recognise::Recognised;

/// Longer pieces are merged with a queue: the scan for the lowest rank is quadratic.
const SCAN_MAX: usize = 48;

/// No merge; ranks are below.
const NONE: u64 = u64::MAX;

/// The merges and the ids of single bytes.
pub struct Merges {
    bytes: [u32; 256],
    /// Rank and id of each pair of bytes, as [`Merge`].
    byte_pairs: Box<[u64]>,
    /// Pairs of ids, open addressing.
    pairs: Box<[Pair]>,
    /// Right shift of the hash of a pair.
    shift: u32,
    /// The words that stand as they are, where merges are ignored for them.
    whole: Option<HashMap<Box<[u8]>, u32>>,
}

/// The rank above the id of what is made, so that the lowest rank is the least number.
type Merge = u64;

#[derive(Clone, Copy)]
struct Pair {
    key: u64,
    merge: Merge,
}

const EMPTY: Pair = Pair {
    key: u64::MAX,
    merge: NONE,
};

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

impl Merges {
    /// The merges, where every byte that text has is a token.
    pub fn new(recognised: &Recognised) -> Option<Self> {
        let mut bytes = [u32::MAX; 256];
        for (word, id) in &recognised.words {
            if let [byte] = word.as_slice() {
                *bytes.get_mut(usize::from(*byte))? = *id;
            }
        }
        let lacking = |(byte, id): (u8, &u32)| in_utf8(byte) && *id == u32::MAX;
        if (0..=255).zip(&bytes).any(lacking) {
            return None;
        }
        let slots = (2 * recognised.merges.len()).next_power_of_two().max(16);
        let mut merges = Self {
            bytes,
            byte_pairs: Box::default(),
            pairs: vec![EMPTY; slots].into(),
            shift: u64::BITS - slots.trailing_zeros(),
            whole: None,
        };
        for (rank, [left, right, id]) in (0..).zip(&recognised.merges) {
            merges.insert(
                *left,
                *right,
                u64::from(u32::try_from(rank).ok()?) << 32 | u64::from(*id),
            );
        }
        let pair = |left: u32| bytes.map(|right| merges.find(left, right));
        merges.byte_pairs = bytes.iter().flat_map(|left| pair(*left)).collect();
        if recognised.ignore_merges {
            let words = recognised.words.iter();
            merges.whole = Some(
                words
                    .map(|(word, id)| (word.as_slice().into(), *id))
                    .collect(),
            );
        }
        Some(merges)
    }

    /// A later merge of the same pair replaces the earlier one, as in the library.
    fn insert(&mut self, left: u32, right: u32, merge: Merge) {
        let key = key(left, right);
        let mut at = self.home(key);
        loop {
            at &= self.pairs.len() - 1;
            match self.pairs.get_mut(at) {
                Some(pair) if pair.key == key || pair.merge == NONE => {
                    *pair = Pair { key, merge };
                    return;
                }
                _ => at += 1,
            }
        }
    }

    #[inline(always)]
    fn home(&self, key: u64) -> usize {
        (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> self.shift) as usize
    }

    /// What a pair of ids makes, or [`NONE`].
    #[inline(always)]
    fn find(&self, left: u32, right: u32) -> Merge {
        let key = key(left, right);
        let mut at = self.home(key);
        // Half of the slots are empty, so that this ends.
        while let Some(pair) = self.pairs.get(at) {
            if pair.key == key || pair.merge == NONE {
                return pair.merge;
            }
            at = (at + 1) & (self.pairs.len() - 1);
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
        let whole = self.whole.iter().flat_map(|words| words.values().copied());
        let merged = self.pairs.iter().filter(|pair| pair.merge != NONE);
        (self.bytes.iter().copied())
            .chain(merged.map(|pair| made(pair.merge)))
            .chain(whole)
    }

    /// The ids of `piece`.
    pub fn encode<'a>(&self, piece: &[u8], scratch: &'a mut Scratch) -> &'a [u32] {
        let word = self.whole.as_ref().and_then(|words| words.get(piece));
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

    /// Merges by looking for the lowest rank each time.
    fn scan(&self, scratch: &mut Scratch) {
        let Scratch { ids, ranks, .. } = scratch;
        loop {
            let least = ranks
                .iter()
                .copied()
                .enumerate()
                .min_by_key(|(_, merge)| *merge);
            let Some((at, merge)) = least.filter(|(_, merge)| *merge != NONE) else {
                return;
            };
            ranks.remove(at);
            ids.remove(at + 1);
            if let Some(id) = ids.get_mut(at) {
                *id = made(merge);
            }
            let id = |at: usize| ids.get(at).copied().unwrap_or_default();
            if let Some(rank) = ranks.get_mut(at) {
                *rank = self.find(made(merge), id(at + 1));
            }
            if 0 < at
                && let Some(rank) = ranks.get_mut(at - 1)
            {
                *rank = self.find(id(at - 1), made(merge));
            }
        }
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
            set(ids, at, made(merge));
            set(ids, gone, u32::MAX);
            set(next, at, after);
            set(before, after, at);
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
fn key(left: u32, right: u32) -> u64 {
    u64::from(left) << 32 | u64::from(right)
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

fn set(list: &mut [u32], at: u32, value: u32) {
    if let Some(place) = list.get_mut(at as usize) {
        *place = value;
    }
}

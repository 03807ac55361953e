//! Merging the bytes of pieces: the byte-pair encoding itself.
//!
//! The pair of the lowest rank is merged first, the leftmost of equals, until no
//! pair has a rank. That is the library's order: a stale entry of its queue that
//! makes the same token as the current pair is the same pair, as no two words of
//! the vocabulary share an id.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Range;

use super::cache::Kind;
use super::filter::Filter;
use super::index::{Index, Merge, made, number};
use super::lane::{LANE_BYTES, Lane};
use super::level::SimdLevel;
use super::recognise::Family;
use super::words::Words;

/// Pieces that are merged in turn.
const LANES: usize = 8;

/// The merges and the ids of single bytes.
pub struct Merges {
    bytes: [u32; 256],
    /// What each pair of bytes makes.
    byte_pairs: Box<[Merge]>,
    index: Index,
    /// The words that stand as they are, where merges are ignored for them.
    whole: Option<Whole>,
}

/// Words by their bytes.
struct Whole {
    words: Words<Vec<u8>>,
    filter: Filter,
}

/// The ids of some pieces, and the memory for merging them, used again and again.
#[derive(Default)]
pub struct Merged {
    lanes: Box<[Lane; LANES]>,
    found: Found,
}

/// The ids of pieces, and what finding them needs.
#[derive(Default)]
struct Found {
    ids: Vec<u32>,
    /// Where those of each piece lie.
    spans: Vec<Range<usize>>,
    /// The hashes of the pieces, where some may be words that stand as they are.
    hashes: Vec<u64>,
    queue: Queue,
}

/// Memory for a long piece.
#[derive(Default)]
struct Queue {
    ids: Vec<u32>,
    merges: Vec<Merge>,
    next: Vec<u32>,
    before: Vec<u32>,
    queue: BinaryHeap<Reverse<(u32, u32)>>,
}

impl Merged {
    /// The ids of a piece, by its number.
    pub fn of(&self, piece: usize) -> &[u32] {
        let span = self.found.spans.get(piece).cloned().unwrap_or_default();
        self.found.ids.get(span).unwrap_or_default()
    }
}

impl Found {
    /// Takes the ids of the piece of this number; pieces come in any order.
    #[inline(always)]
    fn put(&mut self, piece: usize, append: impl FnOnce(&mut Vec<u32>)) {
        let from = self.ids.len();
        append(&mut self.ids);
        set(&mut self.spans, piece, from..self.ids.len());
    }
}

/// Bytes that UTF-8 never holds need no token.
fn in_utf8(byte: u8) -> bool {
    !matches!(byte, 0xc0 | 0xc1 | 0xf5..)
}

impl Whole {
    fn new(words: Vec<(Vec<u8>, u32)>) -> Option<Self> {
        let words = Words::new(words)?;
        let mut filter = Filter::new();
        for (word, _) in words.iter() {
            filter.insert(words.hash(word));
        }
        Some(Self { words, filter })
    }

    /// The id of a piece of this hash.
    fn get(&self, piece: &[u8], hash: u64) -> Option<u32> {
        match self.filter.may_hold(hash) {
            true => self.words.id(self.words.find_hashed(piece, hash)?),
            false => None,
        }
    }
}

impl Merges {
    /// The merges, where every byte that text has is a token.
    pub fn new(family: Family) -> Option<Self> {
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
        let largest = bytes.iter().filter(|id| **id != u32::MAX).max();
        let index = Index::new(&family.merges, largest.copied().unwrap_or(0))?;
        let pairs = |left: &u32| bytes.map(|right| index.find(*left, right));
        Some(Self {
            byte_pairs: bytes.iter().flat_map(pairs).collect(),
            bytes,
            index,
            whole: match family.ignore_merges {
                true => Some(Whole::new(family.words)?),
                false => None,
            },
        })
    }

    /// Every id that text can yield.
    pub fn yields(&self) -> impl Iterator<Item = u32> {
        let whole = self
            .whole
            .iter()
            .flat_map(|whole| whole.words.iter().map(|(_, id)| *id));
        self.bytes
            .iter()
            .copied()
            .chain(self.index.ids())
            .chain(whole)
    }

    /// The ids of all `pieces`; `level` must be one of this processor's.
    pub fn encode<'a>(
        &self,
        level: SimdLevel,
        pieces: impl ExactSizeIterator<Item = (&'a [u8], Kind)> + Clone,
        merged: &mut Merged,
    ) {
        match level {
            // SAFETY: `level` is one that `SimdLevel::available` found on this processor.
            #[cfg(target_arch = "x86_64")]
            SimdLevel::Avx2 | SimdLevel::Avx512 => unsafe { self.encode_avx2(pieces, merged) },
            _ => self.encode_with(pieces, merged),
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
    fn encode_avx2<'a>(
        &self,
        pieces: impl ExactSizeIterator<Item = (&'a [u8], Kind)> + Clone,
        merged: &mut Merged,
    ) {
        self.encode_with(pieces, merged);
    }

    /// Several are merged in turn, one merge of each: what one needs of the table comes
    /// from far while the others go on.
    #[inline(always)]
    fn encode_with<'a>(
        &self,
        pieces: impl ExactSizeIterator<Item = (&'a [u8], Kind)> + Clone,
        Merged { lanes, found }: &mut Merged,
    ) {
        found.ids.clear();
        found.spans.clear();
        found.spans.resize(pieces.len(), 0..0);
        found.hashes.clear();
        if let Some(whole) = &self.whole {
            found.hashes.extend(pieces.clone().map(|(piece, _)| {
                let hash = whole.words.hash(piece);
                whole.filter.prefetch(hash);
                hash
            }));
        }
        let mut waiting = pieces.enumerate();
        // Lanes of which the last that is busy is less than this.
        let mut busy = LANES;
        while busy != 0 {
            for (number, lane) in (1..).zip(lanes.iter_mut().take(std::mem::take(&mut busy))) {
                if lane.step(&self.index) {
                    busy = number;
                    continue;
                }
                if let Some(piece) = lane.finish() {
                    found.put(piece, |ids| lane.append_to(ids));
                }
                if self.begin(lane, &mut waiting, found) {
                    busy = number;
                }
            }
        }
    }

    /// Gives a lane the next piece for which lanes are; false where there is none.
    #[inline(always)]
    fn begin<'a>(
        &self,
        lane: &mut Lane,
        waiting: &mut impl Iterator<Item = (usize, (&'a [u8], Kind))>,
        found: &mut Found,
    ) -> bool {
        for (number, (piece, kind)) in waiting {
            let whole = self.whole.as_ref().filter(|_| kind == Kind::Piece);
            let whole = whole.zip(found.hashes.get(number));
            let word = whole.and_then(|(whole, hash)| whole.get(piece, *hash));
            if let Some(id) = word {
                found.put(number, |ids| ids.push(id));
            } else if piece.len() <= LANE_BYTES {
                let (ids, merges) = (self.ids(piece), self.merges(piece));
                lane.begin(number, ids, merges, self.index.nobody());
                return true;
            } else {
                let mut queue = std::mem::take(&mut found.queue);
                self.queue(piece, &mut queue);
                found.put(number, |ids| ids.extend_from_slice(&queue.ids));
                found.queue = queue;
            }
        }
        false
    }

    /// The id of each byte.
    #[inline(always)]
    fn ids(&self, piece: &[u8]) -> impl Iterator<Item = u32> {
        let id = |byte: &u8| self.bytes.get(usize::from(*byte)).copied().unwrap_or(0);
        piece.iter().map(id)
    }

    /// What each byte but the last makes with the next.
    #[inline(always)]
    fn merges(&self, piece: &[u8]) -> impl Iterator<Item = Merge> {
        let merge = |(left, right): (&u8, &u8)| {
            let at = usize::from(*left) << 8 | usize::from(*right);
            self.byte_pairs.get(at).copied().unwrap_or(0)
        };
        piece.iter().zip(piece.iter().skip(1)).map(merge)
    }

    /// Merges in O(n log n), as scanning for the lowest rank would be quadratic: a queue of
    /// ranks and a list of what is left.
    fn queue(&self, piece: &[u8], memory: &mut Queue) {
        let Queue {
            ids,
            merges,
            next,
            before,
            queue,
        } = memory;
        let end = u32::try_from(piece.len()).unwrap_or(u32::MAX);
        ids.clear();
        ids.extend(self.ids(piece));
        merges.clear();
        merges.extend(self.merges(piece).chain([0]));
        next.clear();
        next.extend(1..=end);
        before.clear();
        before.extend((0..end).map(|at| at.wrapping_sub(1)));
        queue.clear();
        let some = merges.iter().zip(0..).filter(|(merge, _)| **merge != 0);
        queue.extend(some.map(|(merge, at)| Reverse((number(*merge), at))));
        let get = |list: &[u32], at: u32| list.get(at as usize).copied().unwrap_or(end);
        while let Some(Reverse((found, at))) = queue.pop() {
            let merge = merges.get(at as usize).copied().unwrap_or(0);
            // The pair here has changed since.
            if merge == 0 || number(merge) != found {
                continue;
            }
            let gone = get(next, at);
            let after = get(next, gone);
            set(ids, at as usize, made(merge));
            set(ids, gone as usize, u32::MAX);
            set(next, at as usize, after);
            set(before, after as usize, at);
            set(merges, gone as usize, 0);
            let mut renew = |left: u32, right: u32| {
                let merge = match right < end {
                    true => self.index.find(get(ids, left), get(ids, right)),
                    false => 0,
                };
                set(merges, left as usize, merge);
                if merge != 0 {
                    queue.push(Reverse((number(merge), left)));
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

/// Sets what is at a place, if there is one.
#[inline(always)]
pub fn set<T>(list: &mut [T], at: usize, value: T) {
    if let Some(place) = list.get_mut(at) {
        *place = value;
    }
}

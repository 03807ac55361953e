//! Merging one piece of a few bytes, merge by merge.

use super::index::{Asked, Index, Merge, made, number};
use super::merge::set;

/// Bytes that a piece may have here: looking for the lowest rank each time is quadratic,
/// and one bit a byte tells which are left.
pub const LANE_BYTES: usize = 64;

/// The place behind the last: nothing stands there.
const NOWHERE: usize = LANE_BYTES;

/// No merge in a list of which the least counts.
const NONE: u32 = u32::MAX;

/// Ranks that are compared at once.
const CHUNK: usize = 16;

/// A piece that is being merged.
pub struct Lane {
    /// The number of the piece.
    piece: Option<usize>,
    /// What stands at each byte, where its bit is set in `left`.
    ids: [u32; LANE_BYTES + 1],
    /// The rank of its merge with the next, and below it the place; [`NONE`] where they
    /// make nothing.
    ranks: [u32; LANE_BYTES + 1],
    /// What that merge makes.
    made: [u32; LANE_BYTES + 1],
    left: u64,
    /// Chunks of `ranks` that count.
    chunks: usize,
    /// Places whose merge was asked for.
    asked: [(usize, Asked); 2],
}

impl Default for Lane {
    fn default() -> Self {
        Self {
            piece: None,
            ids: [0; LANE_BYTES + 1],
            ranks: [NONE; LANE_BYTES + 1],
            made: [0; LANE_BYTES + 1],
            left: 0,
            chunks: 0,
            asked: [(NOWHERE, Asked::NOTHING); 2],
        }
    }
}

impl Lane {
    /// Begins a piece of at most [`LANE_BYTES`] bytes: their ids, and what each makes with
    /// the next. `nobody` is an id that makes nothing.
    #[inline(always)]
    pub fn begin(
        &mut self,
        piece: usize,
        ids: impl Iterator<Item = u32>,
        merges: impl Iterator<Item = Merge>,
        nobody: u32,
    ) {
        self.piece = Some(piece);
        let mut length = 0usize;
        for (place, id) in self.ids.iter_mut().zip(ids) {
            *place = id;
            length += 1;
        }
        let places = self.ranks.iter_mut().zip(&mut self.made);
        for ((at, (rank_of, made_of)), merge) in places.enumerate().zip(merges) {
            *rank_of = rank(at, merge);
            *made_of = made(merge);
        }
        self.chunks = length.div_ceil(CHUNK);
        // The last makes nothing, as what is behind it.
        let rest = self.ranks.iter_mut().take(self.chunks * CHUNK);
        rest.skip(length.saturating_sub(1))
            .for_each(|rank| *rank = NONE);
        self.left = u64::MAX >> (LANE_BYTES - length.clamp(1, LANE_BYTES));
        set(&mut self.ids, NOWHERE, nobody);
        self.asked = [(NOWHERE, Asked::NOTHING); 2];
    }

    /// The piece that is done, if there was one.
    pub fn finish(&mut self) -> Option<usize> {
        self.chunks = 0;
        self.piece.take()
    }

    /// Appends the ids that are left.
    #[inline(always)]
    pub fn append_to(&self, ids: &mut Vec<u32>) {
        ids.reserve(LANE_BYTES);
        let mut left = self.left;
        while left != 0 {
            let at = left.trailing_zeros() as usize;
            ids.extend(self.ids.get(at));
            left &= left - 1;
        }
    }

    /// Makes the merge of the lowest rank, the leftmost of equals; false where there is none.
    #[inline(always)]
    pub fn step(&mut self, index: &Index) -> bool {
        // These two ranks are no part of the list before they are known: reading at once
        // what was just written there would wait for it.
        let mut lowest = self.lowest();
        for (at, asked) in self.asked {
            let merge = index.answer(asked);
            let rank = rank(at, merge);
            set(&mut self.ranks, at, rank);
            set(&mut self.made, at, made(merge));
            lowest = lowest.min(rank);
        }
        if lowest == NONE {
            return false;
        }
        let at = (lowest & 63) as usize;
        let above = self.left & (u64::MAX << at << 1);
        let gone = above.trailing_zeros() as usize;
        self.left &= !(above & above.wrapping_neg());
        let next = (above & above.wrapping_sub(1)).trailing_zeros() as usize;
        let below = self.left & !(u64::MAX << at);
        let before = 63u32.wrapping_sub(below.leading_zeros()).min(64) as usize;
        let id = |at: usize| self.ids.get(at).copied().unwrap_or(0);
        let made = self.made.get(at).copied().unwrap_or(0);
        self.asked = [
            (at, index.ask(made, id(next))),
            (before, index.ask(id(before), made)),
        ];
        set(&mut self.ids, at, made);
        for at in [at, gone, before] {
            set(&mut self.ranks, at, NONE);
        }
        true
    }

    #[inline(always)]
    fn lowest(&self) -> u32 {
        let (chunks, _) = self.ranks.as_chunks::<CHUNK>();
        let mut lowest = [NONE; CHUNK];
        for chunk in chunks.iter().take(self.chunks) {
            for (lowest, rank) in lowest.iter_mut().zip(chunk) {
                *lowest = (*lowest).min(*rank);
            }
        }
        lowest.into_iter().fold(NONE, u32::min)
    }
}

/// The rank of a merge with the place below it, or [`NONE`].
#[inline(always)]
fn rank(at: usize, merge: Merge) -> u32 {
    #[expect(clippy::cast_possible_truncation, reason = "six bits")]
    let place = at as u32 & 63;
    if merge == 0 {
        NONE
    } else {
        number(merge) << 6 | place
    }
}

//! Merging one piece of a few bytes, merge by merge.

use super::index::{Asked, Index, Merge, NONE, made};
use super::merge::set;

/// Bytes that a piece may have here: looking for the lowest rank each time is quadratic,
/// and one bit a byte tells which are left.
pub const LANE_BYTES: usize = 64;

/// A piece that is being merged.
pub struct Lane {
    /// The number of the piece.
    piece: Option<usize>,
    /// What stands at each byte, where its bit is set in `left`.
    ids: [u32; LANE_BYTES],
    /// What it makes with the next.
    merges: [Merge; LANE_BYTES],
    left: u64,
    /// Bytes.
    length: usize,
    /// Places of `merges` that are not known yet.
    asked: [Option<(usize, Asked)>; 2],
}

impl Default for Lane {
    fn default() -> Self {
        Self {
            piece: None,
            ids: [0; LANE_BYTES],
            merges: [NONE; LANE_BYTES],
            left: 0,
            length: 0,
            asked: [None; 2],
        }
    }
}

impl Lane {
    /// Begins a piece of 1 to [`LANE_BYTES`] bytes: the id of each, and what it makes with
    /// the next.
    pub fn begin(&mut self, piece: usize, bytes: impl Iterator<Item = (u32, Merge)>) {
        self.piece = Some(piece);
        self.length = 0;
        for ((id, merge), (to_id, to_merge)) in
            bytes.zip(self.ids.iter_mut().zip(&mut self.merges))
        {
            (*to_id, *to_merge) = (id, merge);
            self.length += 1;
        }
        self.left = u64::MAX >> (LANE_BYTES - self.length.clamp(1, LANE_BYTES));
        self.asked = [None; 2];
    }

    /// The piece that is done, if there was one.
    pub fn finish(&mut self) -> Option<usize> {
        self.length = 0;
        self.piece.take()
    }

    /// The ids that are left.
    pub fn ids(&self) -> impl Iterator<Item = u32> {
        let mut left = self.left;
        std::iter::from_fn(move || {
            let id = self.ids.get(left.trailing_zeros() as usize);
            left &= left.wrapping_sub(1);
            id.copied()
        })
    }

    /// Makes the merge of the lowest rank, the leftmost of equals; false where there is none.
    #[inline(always)]
    pub fn step(&mut self, index: &Index) -> bool {
        for (at, asked) in self.asked.iter_mut().filter_map(Option::take) {
            set(&mut self.merges, at, index.answer(asked));
        }
        let (mut at, mut merge) = (0, NONE);
        for (place, other) in self.merges.iter().take(self.length).enumerate() {
            if *other < merge {
                (at, merge) = (place, *other);
            }
        }
        if merge == NONE {
            return false;
        }
        let above = self.left & (u64::MAX << at << 1);
        let gone = above.trailing_zeros() as usize;
        self.left &= !(above & above.wrapping_neg());
        set(&mut self.ids, at, made(merge));
        set(&mut self.merges, at, NONE);
        set(&mut self.merges, gone, NONE);
        let next = (above & above.wrapping_sub(1)).trailing_zeros() as usize;
        let below = self.left & !(u64::MAX << at);
        let before = 63usize.wrapping_sub(below.leading_zeros() as usize);
        let ask = |left: usize, right: usize| {
            let asked = index.ask(*self.ids.get(left)?, *self.ids.get(right)?)?;
            Some((left, asked))
        };
        self.asked = [ask(at, next), ask(before, at)];
        set(&mut self.merges, before, NONE);
        true
    }
}

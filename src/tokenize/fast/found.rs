//! What looking up the pieces of a text has found so far.

use std::ops::Range;

use super::cache::{self, Cache, INLINE_MAX, Key};
use super::merge::Merged;

/// Pieces that are hashed before the first of them is looked up.
pub const AHEAD: usize = 64;

/// The ids of pieces that were looked up, and the pieces that nobody knew.
#[derive(Default)]
pub struct Found {
    /// Ids, the first `n` of which count.
    ids: Vec<u32>,
    n: usize,
    /// Pieces to be merged, each once.
    pub new: Vec<New>,
    /// Where those belong: how many ids come before, and the number of the piece.
    lacking: Vec<(usize, usize)>,
    /// Long pieces, each from where to where its ids stand.
    pub long: Vec<(Range<Mark>, Range<usize>)>,
    /// By their key, the numbers of short pieces that may be among the new ones.
    numbers: Numbers,
}

/// A place between pieces: how many known ids come before it, and how many that are lacking.
#[derive(Clone, Copy, Default)]
pub struct Mark {
    known: usize,
    lacking: usize,
}

/// A piece that nobody knew.
pub struct New {
    /// Its key.
    pub key: Key,
    /// Where it lies in the text.
    pub span: Range<usize>,
}

impl Found {
    /// Begins anew.
    pub fn clear(&mut self) {
        self.n = 0;
        self.new.clear();
        self.long.clear();
        self.lacking.clear();
    }

    /// Has room for the ids of [`AHEAD`] pieces more.
    pub fn make_room(&mut self) {
        let n = self.n + INLINE_MAX * AHEAD;
        if self.ids.len() < n {
            self.ids.resize(n, 0);
        }
    }

    /// Adds the first `count` of `ids`, where there is room.
    #[inline(always)]
    pub fn push(&mut self, ids: &[u32; INLINE_MAX], count: usize) {
        if let Some(place) = self.ids.get_mut(self.n..self.n + INLINE_MAX) {
            // All of them, whatever the count: the next overwrites the rest.
            place.copy_from_slice(ids);
            self.n += count;
        }
    }

    /// Adds ids, and has room as before.
    pub fn extend(&mut self, ids: &[u32]) {
        let from = self.n;
        self.n += ids.len();
        self.make_room();
        if let Some(places) = self.ids.get_mut(from..self.n) {
            places.copy_from_slice(ids);
        }
    }

    /// Adds the ids of a piece of this key that is not where short ones mostly are, with
    /// the place of the piece.
    #[inline(never)]
    pub fn find(&mut self, cache: &Cache, key: Key, (piece, from): (&[u8], usize)) {
        let number = self.numbers.of(key);
        let same = |new: &New| !key.is_long() && new.key == key;
        if self.new.get(usize::from(*number)).is_some_and(same) {
            self.lacking.push((self.n, usize::from(*number)));
        } else if let Some(ids) = cache.get(key, piece) {
            self.extend(ids);
        } else {
            // Where there are more, it leads to another piece, or none.
            *number = u16::try_from(self.new.len()).unwrap_or(u16::MAX);
            self.lacking.push((self.n, self.new.len()));
            let span = from..from + piece.len();
            self.new.push(New { key, span });
        }
    }

    /// Where the next piece will stand.
    pub fn mark(&self) -> Mark {
        Mark {
            known: self.n,
            lacking: self.lacking.len(),
        }
    }

    /// Calls `each` with all ids between two marks, in order.
    pub fn each(&self, marks: Range<Mark>, merged: &Merged, mut each: impl FnMut(&[u32])) {
        let Range { start, end } = marks;
        let known = |from: usize, to: usize| self.ids.get(from..to).unwrap_or_default();
        let mut from = start.known;
        let lacking = self.lacking.get(start.lacking..end.lacking);
        for (at, number) in lacking.unwrap_or_default() {
            each(known(from, *at));
            each(merged.of(*number));
            from = *at;
        }
        each(known(from, end.known));
    }
}

/// Numbers of pieces by a few bits of their key; whether it is theirs must be looked up.
struct Numbers([u16; 256]);

impl Numbers {
    /// That of a key.
    #[inline(always)]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::indexing_slicing,
        reason = "a byte has 256 values"
    )]
    fn of(&mut self, key: Key) -> &mut u16 {
        &mut self.0[usize::from(cache::bucket(key) as u8)]
    }
}

impl Default for Numbers {
    fn default() -> Self {
        Self([0; 256])
    }
}

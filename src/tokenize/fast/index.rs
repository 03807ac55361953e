//! What two neighbouring tokens make: the table of merges.
//!
//! A pair is mixed to a number of as many bits, of which no other pair has the same. Its
//! upper bits choose a line of the table, and the rest stands in an entry there together
//! with what the pair makes: one fetch from memory answers, without a comparison of ids.

use super::huge::{Huge, Plain};

/// One more than the rank above the id of what is made; 0 is no merge.
pub type Merge = u64;

/// The id that a merge makes.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the lower half")]
pub fn made(merge: Merge) -> u32 {
    merge as u32
}

/// One more than the rank of a merge.
#[inline(always)]
pub fn number(merge: Merge) -> u32 {
    made(merge >> 32)
}

/// Merges by their pair of ids.
pub struct Index {
    lines: Huge<Line>,
    /// Bits of a line's number.
    line_bits: u32,
    /// Bits of an id, and of one more than a rank.
    id_bits: u32,
    number_bits: u32,
}

/// A cache line of entries: from the top the tag of the pair, one more than the rank, and
/// the id of what is made; 0 is vacant.
#[derive(Clone, Copy, Default)]
#[repr(C, align(64))]
struct Line([u64; LINE]);

// SAFETY: integers of 8 bytes, 64 in all.
unsafe impl Plain for Line {}

/// Entries of a line.
const LINE: usize = 8;
/// Where a line is full, the next one is taken, and so on up to this many; the tag says
/// how far from its own line an entry lies.
const REACH_BITS: u32 = 3;

/// A pair that was asked for: its line, and its tag there.
#[derive(Clone, Copy)]
pub struct Asked {
    line: usize,
    tag: u64,
}

impl Asked {
    /// No pair, which makes nothing.
    pub const NOTHING: Self = Self {
        line: usize::MAX,
        tag: 0,
    };
}

impl Index {
    /// The table of merges in order: two ids and what they make. A later merge of the same
    /// pair replaces the earlier one, as in the library.
    ///
    /// Nothing where the merges or ids are too many: half a million of each fit.
    pub fn new(merges: &[[u32; 3]], largest: u32) -> Option<Self> {
        let largest = merges.iter().flatten().fold(largest, |a, b| a.max(*b));
        // A little more than half of the entries are taken at most.
        let lines = (merges.len() * 20 / (11 * LINE)).next_power_of_two();
        let mut index = Self {
            lines: Huge::new(lines),
            line_bits: lines.trailing_zeros(),
            // The largest id is of no token, so that no pair with it has a merge.
            id_bits: u32::BITS - (largest.checked_add(1)?).leading_zeros(),
            number_bits: usize::BITS - merges.len().leading_zeros(),
        };
        let pair_bits = 2 * index.id_bits;
        let tag_bits = (pair_bits + REACH_BITS).checked_sub(index.line_bits)?;
        let fits = tag_bits + index.number_bits + index.id_bits <= u64::BITS;
        if !fits || pair_bits < index.line_bits || index.lines.is_empty() {
            return None;
        }
        for (number, [left, right, id]) in (1u64..).zip(merges) {
            index.insert(*left, *right, number << index.id_bits | u64::from(*id))?;
        }
        Some(index)
    }

    /// An id that stands in no merge.
    pub fn nobody(&self) -> u32 {
        u32::MAX >> (u32::BITS - self.id_bits)
    }

    fn insert(&mut self, left: u32, right: u32, merge: u64) -> Option<()> {
        let Asked { line: home, tag } = self.place(left, right);
        let shift = self.number_bits + self.id_bits;
        for distance in 0..1 << REACH_BITS {
            let line = (home + distance) & (self.lines.len() - 1);
            let tag = tag | distance as u64;
            for entry in &mut self.lines.get_mut(line)?.0 {
                if *entry == 0 || *entry >> shift == tag {
                    *entry = tag << shift | merge;
                    return Some(());
                }
            }
        }
        None
    }

    /// The line of a pair, and its tag in that line.
    #[inline(always)]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "fewer bits than a line's number has"
    )]
    fn place(&self, left: u32, right: u32) -> Asked {
        let bits = 2 * self.id_bits;
        let pair = u64::from(left) << self.id_bits | u64::from(right);
        // Each of the three steps has an inverse.
        let pair = pair ^ pair >> self.id_bits;
        let pair = pair.wrapping_mul(0x9e37_79b9_7f4a_7c15) & (u64::MAX >> (u64::BITS - bits));
        let pair = pair ^ pair >> self.id_bits;
        let rest = bits - self.line_bits;
        Asked {
            line: (pair >> rest) as usize,
            tag: (pair & !(u64::MAX << rest)) << REACH_BITS,
        }
    }

    /// Fetches what [`Index::answer`] needs to tell of a pair.
    #[inline(always)]
    pub fn ask(&self, left: u32, right: u32) -> Asked {
        let asked = self.place(left, right);
        self.lines.prefetch(asked.line);
        asked
    }

    /// What a pair makes, or 0.
    #[inline(always)]
    pub fn answer(&self, Asked { line, tag }: Asked) -> Merge {
        let Some(Line(entries)) = self.lines.get(line) else {
            return 0;
        };
        let entry = self.entry(entries, tag);
        // A line is filled from its start. Whether a pair has a merge is hard to guess, so
        // that no branch is on that alone.
        let full = entries.last().is_some_and(|last| *last != 0);
        if full & (entry == 0) {
            return self.answer_beyond(line, tag);
        }
        self.merge(entry)
    }

    /// The entry of a tag, or 0.
    #[inline(always)]
    fn entry(&self, entries: &[u64; LINE], tag: u64) -> u64 {
        let shift = self.number_bits + self.id_bits;
        let one = |entry: &u64| if *entry >> shift == tag { *entry } else { 0 };
        entries.iter().map(one).fold(0, |a, b| a | b)
    }

    #[cold]
    fn answer_beyond(&self, home: usize, tag: u64) -> Merge {
        for distance in 1..1 << REACH_BITS {
            let line = (home + distance) & (self.lines.len() - 1);
            let Some(Line(entries)) = self.lines.get(line) else {
                break;
            };
            let entry = self.entry(entries, tag | distance as u64);
            if entry != 0 || entries.last() == Some(&0) {
                return self.merge(entry);
            }
        }
        0
    }

    /// What an entry says.
    #[inline(always)]
    fn merge(&self, entry: u64) -> Merge {
        let number = entry >> self.id_bits & !(u64::MAX << self.number_bits);
        number << 32 | entry & !(u64::MAX << self.id_bits)
    }

    /// What a pair makes, or 0.
    pub fn find(&self, left: u32, right: u32) -> Merge {
        self.answer(self.place(left, right))
    }

    /// Every id that a merge makes.
    pub fn ids(&self) -> impl Iterator<Item = u32> {
        let entries = self.lines.iter().flat_map(|line| line.0);
        entries
            .filter(|entry| *entry != 0)
            .map(|entry| made(self.merge(entry)))
    }
}

//! Where pieces begin: the pre-tokenizers' regular expressions as algebra on masks.
//!
//! A block of 64 bytes is seen together with the one after it; what the blocks
//! before it left is in [`Carry`]. `scalar` says the same character by character.

use super::block::{BLOCK, Blocks, Masks};
use super::class::Table;
#[cfg(target_arch = "x86_64")]
use super::level::{Avx2, Avx512};
use super::level::{Level, Portable, SimdLevel};
use super::recognise::Pattern;
use super::scalar::{self, Case, contraction};
use super::window;

/// Blocks that one call of [`Splitter::fill`] looks at.
const BATCH_BLOCKS: usize = 32;

/// Piece starts that one call may find.
pub const STARTS_MAX: usize = BATCH_BLOCKS * BLOCK;

/// Starts that are written at once.
const UNROLLED: usize = 8;

/// The starts of pieces, as offsets into the text.
#[derive(Default)]
pub struct Starts {
    at: Box<[usize]>,
    n: usize,
}

impl Starts {
    /// Room for one call of [`Splitter::fill`].
    pub fn new() -> Self {
        Self {
            at: vec![0; STARTS_MAX + UNROLLED].into(),
            n: 0,
        }
    }

    /// What the last call found.
    pub fn found(&self) -> &[usize] {
        self.at.get(..self.n).unwrap_or_default()
    }

    #[inline(always)]
    fn push(&mut self, start: usize) {
        if let Some(place) = self.at.get_mut(self.n) {
            *place = start;
            self.n += 1;
        }
    }

    #[inline(always)]
    fn push_bits(&mut self, base: usize, mut bits: u64) {
        let n = self.n + bits.count_ones() as usize;
        let places = self.at.get_mut(self.n..).unwrap_or_default();
        // Some more than there are, so that the processor need not guess how many.
        for places in places.as_chunks_mut::<UNROLLED>().0 {
            for place in places {
                *place = base + bits.trailing_zeros() as usize;
                bits &= bits.wrapping_sub(1);
            }
            if bits == 0 {
                break;
            }
        }
        self.n = n;
    }
}

/// Cuts one text into pieces.
pub struct Splitter<'a> {
    pattern: Pattern,
    level: SimdLevel,
    text: &'a [u8],
    table: &'a Table,
    blocks: Blocks<'a>,
    /// Where the next block, or for o200k the next piece, begins.
    at: usize,
    /// Those of the block at `at`.
    next: Masks,
    carry: Carry,
}

impl<'a> Splitter<'a> {
    /// Begins at the start of `text`; `level` must be one of this processor's.
    pub fn new(pattern: Pattern, level: SimdLevel, text: &'a [u8], table: &'a Table) -> Self {
        Self {
            pattern,
            level,
            text,
            table,
            blocks: Blocks::new(text, table),
            at: 0,
            next: Masks::default(),
            carry: Carry::default(),
        }
    }

    /// Finds the next starts; false when the text is at its end.
    pub fn fill(&mut self, starts: &mut Starts) -> bool {
        starts.n = 0;
        if self.text.len() <= self.at {
            return false;
        }
        match self.level {
            SimdLevel::Portable => self.fill_with::<Portable>(starts),
            // SAFETY: `level` is one that `SimdLevel::available` found on this processor.
            #[cfg(target_arch = "x86_64")]
            SimdLevel::Avx2 => unsafe { self.fill_avx2(starts) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            SimdLevel::Avx512 => unsafe { self.fill_avx512(starts) },
            #[cfg(not(target_arch = "x86_64"))]
            _ => self.fill_with::<Portable>(starts),
        }
        true
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
    fn fill_avx2(&mut self, starts: &mut Starts) {
        self.fill_with::<Avx2>(starts);
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi2,avx2,bmi1,bmi2,lzcnt,popcnt")]
    fn fill_avx512(&mut self, starts: &mut Starts) {
        self.fill_with::<Avx512>(starts);
    }

    /// Where pieces of o200k begin: by windows of ASCII, or by characters.
    #[inline(always)]
    fn fill_o200k<L: Level>(&mut self, starts: &mut Starts) {
        while self.at < self.text.len() && starts.n + BLOCK <= STARTS_MAX {
            let bits = window::starts::<L>(self.text, self.at);
            // The last one begins the next window.
            let last = highest(bits);
            if last <= 1 {
                starts.push(self.at);
                self.at = scalar::piece_end(self.pattern, self.text, self.at, self.table);
            } else {
                starts.push_bits(self.at, bits ^ last);
                self.at += last.trailing_zeros() as usize;
            }
        }
    }

    #[inline(always)]
    fn fill_with<L: Level>(&mut self, starts: &mut Starts) {
        if self.pattern == Pattern::O200k {
            return self.fill_o200k::<L>(starts);
        }
        if self.at == 0 {
            self.next = self.blocks.next::<L>();
        }
        // Masks that are moved in memory as a whole are read before they are written.
        let mut next = self.next;
        for _ in 0..BATCH_BLOCKS {
            if self.text.len() <= self.at {
                break;
            }
            let now = std::mem::replace(&mut next, self.blocks.next::<L>());
            let mut bits = match self.pattern {
                Pattern::Gpt2 => self.gpt2(now, next),
                Pattern::Cl100k => self.cl100k(now, next, Digits::UpToThree),
                Pattern::Qwen | Pattern::O200k => self.cl100k(now, next, Digits::One),
            };
            let left = self.text.len() - self.at;
            if left < BLOCK {
                bits &= (1 << left) - 1;
            }
            starts.push_bits(self.at, bits);
            self.at += BLOCK;
        }
        self.next = next;
    }

    /// `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
    #[inline(always)]
    fn gpt2(&mut self, now: Masks, next: Masks) -> u64 {
        let carry = &self.carry;
        let before = Masks {
            letter: carry.letter.before(now.letter),
            number: carry.number.before(now.number),
            other: carry.other.before(now.other),
            white: carry.white.before(now.white),
            space: carry.space.before(now.space),
            ..Masks::default()
        };
        let other = now.other & !before.other & !before.space;
        let words = (now.letter & !before.letter | now.number & !before.number) & !before.space;
        let whites = now.white & !before.white | last_white(now, next);
        let starts = other | words | whites;
        let carry = &mut self.carry;
        carry.letter.keep(now.letter);
        carry.number.keep(now.number);
        carry.other.keep(now.other);
        carry.white.keep(now.white);
        carry.space.keep(now.space);
        self.contractions(starts, now.apostrophe & other, Case::Sensitive)
    }

    /// `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
    #[inline(always)]
    fn cl100k(&mut self, now: Masks, next: Masks, digits: Digits) -> u64 {
        let carry = &mut self.carry;
        let letter_before = carry.letter.next(now.letter);
        let other_before = carry.other.next(now.other);
        let space_before = carry.space.next(now.space);
        // Newlines right after punctuation belong to it.
        let taken = run_from(now.newline, now.newline & other_before, &mut carry.taken);
        let white = now.white & !taken;
        let blank = white & !now.newline;
        let white_before = carry.white.next(white);
        let blank_before = carry.blank.next(blank);
        let newline_before = carry.newline.next(now.newline & !taken);
        // Punctuation that begins a piece; its first character may begin a word instead.
        let other = now.other & !other_before & !space_before;
        let prefixed = carry.after_first.behind(other, now.inner);
        let words = now.letter & !letter_before & !blank_before & !prefixed;
        let numbers = match now.number {
            0 => {
                carry.digits = 0;
                0
            }
            number => carry.numbers(number, now.inner, digits),
        };
        let whites = white & !white_before | last_white(now, next) & !now.newline;
        let blanks = self.after_last_newline(now.newline, next, blank, blank & newline_before);
        let starts = other | words | numbers | whites | blanks;
        self.contractions(starts, now.apostrophe & other, Case::Folded)
    }

    /// Those of `candidates`, blanks right after a newline, behind which no other
    /// newline stands in the same white space.
    #[inline(always)]
    fn after_last_newline(
        &self,
        newline: u64,
        next: Masks,
        blank: u64,
        mut candidates: u64,
    ) -> u64 {
        if candidates == 0 {
            return 0;
        }
        let (sum, over) = blank.overflowing_add(candidates);
        if over && self.blanks_lead_to_newline(next.white, next.newline) {
            candidates &= !highest(candidates);
        }
        not_before(sum & !blank & newline, candidates)
    }

    /// Whether the blanks that the next block begins with end at a newline.
    fn blanks_lead_to_newline(&self, white: u64, newline: u64) -> bool {
        let blank = white & !newline;
        let run = blank.trailing_ones();
        if (run as usize) < BLOCK {
            return newline >> run & 1 == 1;
        }
        let mut at = self.at + 2 * BLOCK;
        // A character may begin in the block before.
        while self.text.get(at).is_some_and(|byte| byte & 0xc0 == 0x80) {
            at += 1;
        }
        scalar::blanks_lead_to_newline(self.text, at, self.table)
    }

    /// Cuts words after the contractions that begin at `apostrophes`.
    #[inline(always)]
    fn contractions(&mut self, mut starts: u64, mut apostrophes: u64, case: Case) -> u64 {
        let (set, clear) = std::mem::take(&mut self.carry.contraction);
        starts = starts & !clear | set;
        while apostrophes != 0 {
            let at = apostrophes.trailing_zeros();
            let length = contraction(self.text, self.at + at as usize, case);
            if length != 0 {
                // The letter behind the apostrophe begins nothing; what follows the
                // contraction does.
                let clear = 2u128 << at;
                let set = 1u128 << (at as usize + length);
                #[expect(clippy::cast_possible_truncation, reason = "the lower half is meant")]
                let (low, high) = (|x: u128| x as u64, |x: u128| (x >> 64) as u64);
                starts = starts & !low(clear) | low(set);
                self.carry.contraction.0 |= high(set);
                self.carry.contraction.1 |= high(clear);
            }
            apostrophes &= apostrophes - 1;
        }
        starts
    }
}

/// The first byte of each white character before one that is none: it stands
/// before the next word, apart from the white space before it.
#[inline(always)]
fn last_white(now: Masks, next: Masks) -> u64 {
    let (white, next) = (now.white, next.white);
    let [one, two, three] = now.white_starts;
    let mut last = one & !(white >> 1 | next << 63);
    if two | three != 0 {
        last |= two & !(white >> 2 | next << 62) | three & !(white >> 3 | next << 61);
    }
    last
}

/// Those of `candidates` that are not the last before one of `ends`.
#[inline(always)]
pub fn not_before(mut ends: u64, mut candidates: u64) -> u64 {
    while ends != 0 {
        let end = ends & ends.wrapping_neg();
        candidates &= !highest(candidates & (end - 1));
        ends &= ends - 1;
    }
    candidates
}

/// How many digits a piece takes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Digits {
    One,
    UpToThree,
}

/// What a block leaves to the next.
#[derive(Default)]
struct Carry {
    letter: Bit,
    number: Bit,
    other: Bit,
    white: Bit,
    space: Bit,
    blank: Bit,
    newline: Bit,
    taken: u64,
    after_first: AfterFirst,
    /// Characters of the number at the end of the block, beyond its last whole piece.
    digits: u32,
    /// Starts to set and to clear at the start of the next block.
    contraction: (u64, u64),
}

/// The last bit of a mask.
#[derive(Clone, Copy, Default)]
struct Bit(u64);

impl Bit {
    /// The mask of the byte before each byte.
    #[inline(always)]
    fn before(self, mask: u64) -> u64 {
        mask << 1 | self.0
    }

    #[inline(always)]
    fn keep(&mut self, mask: u64) {
        self.0 = mask >> 63;
    }

    #[inline(always)]
    fn next(&mut self, mask: u64) -> u64 {
        let before = self.before(mask);
        self.keep(mask);
        before
    }
}

/// The runs of `mask` that begin at `starts`; `carry` is one where the last went on.
#[inline(always)]
pub fn run_from(mask: u64, starts: u64, carry: &mut u64) -> u64 {
    let starts = starts | (*carry & mask);
    if starts == 0 {
        *carry = 0;
        return 0;
    }
    let run = mask & !mask.wrapping_add(starts);
    *carry = run >> 63;
    run
}

/// Finds the byte behind the first character of a run, over the border of blocks.
#[derive(Default)]
struct AfterFirst([Bit; 4]);

impl AfterFirst {
    /// For each bit of `starts`, first bytes of characters, the first byte of the next.
    #[inline(always)]
    fn behind(&mut self, starts: u64, inner: u64) -> u64 {
        let [one, two, three, four] = &mut self.0;
        let mut reached = one.next(starts);
        if inner == 0 {
            let pending = reached | two.0 | three.0 | four.0;
            (two.0, three.0, four.0) = (0, 0, 0);
            return pending;
        }
        let mut behind = reached & !inner;
        for bit in [two, three, four] {
            reached = bit.next(reached & inner);
            behind |= reached & !inner;
        }
        behind
    }
}

impl Carry {
    /// The starts of pieces in numbers.
    #[inline(always)]
    fn numbers(&mut self, number: u64, inner: u64, digits: Digits) -> u64 {
        let mut left = number & !inner;
        if digits == Digits::One {
            return left;
        }
        let mut starts = 0;
        let mut count = self.digits;
        // A run that begins at bit 0 goes on from the block before.
        let fresh = number & !(number << 1) & !1;
        while left != 0 {
            let bit = left & left.wrapping_neg();
            if fresh & bit != 0 {
                count = 0;
            }
            if u32::is_multiple_of(count, 3) {
                starts |= bit;
            }
            count += 1;
            left &= left - 1;
        }
        self.digits = if number >> 63 == 1 { count % 3 } else { 0 };
        starts
    }
}

/// The highest bit alone.
#[inline(always)]
pub fn highest(mask: u64) -> u64 {
    match mask {
        0 => 0,
        mask => 1 << (63 - mask.leading_zeros()),
    }
}

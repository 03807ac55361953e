//! Where pieces of o200k begin in some bytes of ASCII that begin with a piece.
//!
//! Unlike `split`, a window knows nothing of what is before it and ends where a
//! character decides that it does not know: beyond ASCII, or what its last piece is.

use super::level::Level;
use super::scalar::{Case, contraction};
use super::split::{highest, not_before, run_from};

/// The starts of pieces in the block at `at`, where a piece begins, as far as they are
/// certain: bit 0 among others; none where less than a block is left.
#[inline(always)]
pub fn starts<L: Level>(text: &[u8], at: usize) -> u64 {
    let Some(block) = text.get(at..).and_then(<[u8]>::first_chunk) else {
        return 0;
    };
    let ascii = L::ascii(block);
    let upper = L::within(block, b'A', 25);
    let slash = L::within(block, b'/', 0);
    // A slash behind a newline may belong to the punctuation before.
    let unknown = ascii.high | slash & ascii.newline << 1;
    let known = match unknown.trailing_zeros() {
        64.. => u64::MAX,
        n => (1 << n) - 1,
    };
    let white = ascii.white & known;
    let letter = ascii.letter & known;
    let number = ascii.digit & known;
    let other = known & !(white | letter | number);
    let newline = ascii.newline & known;
    // Newlines right after punctuation belong to it.
    let taken = run_from(newline, newline & other << 1, &mut 0);
    let white = white & !taken;
    let blank = white & !newline;
    // Punctuation that begins a piece; its first character may begin a word instead.
    let punctuation = other & !(other << 1) & !(ascii.space << 1);
    let capital = letter & upper & (letter & !upper) << 1;
    let words = letter & !((letter | blank | punctuation) << 1) | capital;
    let whites = white & !(white << 1) | blank & !(white >> 1);
    let after_newline = blank & (newline & !taken) << 1;
    let behind = (blank.wrapping_add(after_newline)) & !blank & newline;
    let blanks = not_before(behind, after_newline);
    let starts = punctuation | words | numbers(number) | whites | blanks;
    // How the white space at the end goes on is not known, only where it begins.
    let end = match highest(known & !white) {
        0 => 1,
        last => last << 1,
    };
    let certain = end | end.wrapping_sub(1);
    let starts = starts & known & certain | 1;
    contractions(text, at, starts, ascii.apostrophe & known & letter << 1)
}

/// The starts of pieces in numbers: every third digit.
#[inline(always)]
fn numbers(number: u64) -> u64 {
    let mut at = number & !(number << 1);
    let mut starts = at;
    while at != 0 {
        for _ in 0..3 {
            at = at << 1 & number;
        }
        starts |= at;
    }
    starts
}

/// A word takes the contraction behind it, at one of `apostrophes`, but no second one.
#[inline(always)]
fn contractions(text: &[u8], at: usize, mut starts: u64, mut apostrophes: u64) -> u64 {
    let mut end = 0;
    while apostrophes != 0 {
        let apostrophe = apostrophes & apostrophes.wrapping_neg();
        apostrophes ^= apostrophe;
        let length = contraction(
            text,
            at + apostrophe.trailing_zeros() as usize,
            Case::Folded,
        );
        if length != 0 && apostrophe != end {
            end = apostrophe << length;
            starts = starts & !end.wrapping_sub(apostrophe) | end;
        }
    }
    starts
}

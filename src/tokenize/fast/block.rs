//! 64 bytes of text as masks: one bit a byte, for each kind of character.
//!
//! Every byte of a character has the bits of that character.

use super::class::{LETTER, NUMBER, Table, WHITE, decode};
use super::level::Level;

/// How many bytes a block has.
pub const BLOCK: usize = 64;

/// What stands behind the end of the text: white space that is no newline and no space.
const FILL: u8 = b'\t';

/// The bytes of a block by their own value, ASCII characters alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ascii {
    /// 0x80 and above.
    pub high: u64,
    /// 0xc0 and above: the first byte of a character beyond ASCII.
    pub lead: u64,
    /// `A` to `Z` and `a` to `z`.
    pub letter: u64,
    /// `0` to `9`.
    pub digit: u64,
    /// Tab, line feed, vertical tab, form feed, carriage return, space.
    pub white: u64,
    /// Line feed and carriage return.
    pub newline: u64,
    /// Space.
    pub space: u64,
    /// Apostrophe.
    pub apostrophe: u64,
}

/// The characters of a block by their class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Masks {
    /// `\p{L}`.
    pub letter: u64,
    /// `\p{N}`.
    pub number: u64,
    /// `\s`.
    pub white: u64,
    /// None of these three.
    pub other: u64,
    /// Line feed and carriage return.
    pub newline: u64,
    /// Space.
    pub space: u64,
    /// Apostrophe.
    pub apostrophe: u64,
    /// Bytes of a character behind its first.
    pub inner: u64,
    /// First bytes of white space of 1, 2 and 3 bytes.
    pub white_starts: [u64; 3],
}

/// Reads the blocks of a text in order.
pub struct Blocks<'a> {
    text: &'a [u8],
    table: &'a Table,
    at: usize,
    /// The class of the character that goes on in the next block, and its bytes there.
    rest: (u8, u32),
}

impl<'a> Blocks<'a> {
    /// Begins at the start of `text`.
    pub fn new(text: &'a [u8], table: &'a Table) -> Self {
        Self {
            text,
            table,
            at: 0,
            rest: (0, 0),
        }
    }

    /// The masks of the next block; behind the end of the text there is white space.
    #[inline(always)]
    pub fn next<L: Level>(&mut self) -> Masks {
        let ascii = match self.text.get(self.at..).and_then(<[u8]>::first_chunk) {
            Some(block) => L::ascii(block),
            None => L::ascii(&self.last()),
        };
        let mut masks = Masks {
            letter: ascii.letter,
            number: ascii.digit,
            white: ascii.white,
            newline: ascii.newline,
            space: ascii.space,
            apostrophe: ascii.apostrophe,
            inner: ascii.high & !ascii.lead,
            white_starts: [ascii.white, 0, 0],
            other: 0,
        };
        if ascii.high != 0 {
            self.add_high(ascii.lead, &mut masks);
        }
        masks.other = !(masks.letter | masks.number | masks.white);
        self.at += BLOCK;
        masks
    }

    #[cold]
    fn last(&self) -> [u8; BLOCK] {
        let mut block = [FILL; BLOCK];
        let left = self.text.get(self.at..).unwrap_or_default();
        for (to, from) in block.iter_mut().zip(left) {
            *to = *from;
        }
        block
    }

    /// Adds the characters beyond ASCII that begin in this block, and the rest of one before.
    #[inline(always)]
    fn add_high(&mut self, mut lead: u64, masks: &mut Masks) {
        let (class, bytes) = std::mem::take(&mut self.rest);
        let (mut letter, mut number, mut white) = (0, 0, 0);
        let mut add = |class: u8, bits: u64| {
            let all = |bit: u8| 0u64.wrapping_sub(u64::from(class & bit != 0));
            letter |= bits & all(LETTER);
            number |= bits & all(NUMBER);
            white |= bits & all(WHITE);
        };
        add(class, (1 << bytes) - 1);
        while lead != 0 {
            let at = lead.trailing_zeros();
            let (code_point, length) = decode(self.text, self.at + at as usize);
            let class = self.table.of(code_point);
            add(class, ((1 << length) - 1) << at);
            if class & WHITE != 0
                && let Some(starts) = masks.white_starts.get_mut(length as usize - 1)
            {
                *starts |= 1 << at;
            }
            if BLOCK < (at + length) as usize {
                #[expect(clippy::cast_possible_truncation, reason = "a block is 64 bytes")]
                let block = BLOCK as u32;
                self.rest = (class, at + length - block);
            }
            lead &= lead - 1;
        }
        masks.letter |= letter;
        masks.number |= number;
        masks.white |= white;
    }
}

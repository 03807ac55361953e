//! The pre-tokenizers character by character: what each regular expression says,
//! alternative by alternative.
//!
//! This is the oracle of the masks in `split` and `window`, and what o200k runs on
//! beyond ASCII.

use super::class::{LETTER, LOWER, NUMBER, Table, UPPER, WHITE, decode};
use super::recognise::Pattern;

/// Where the piece that starts at `at` ends.
pub fn piece_end(pattern: Pattern, text: &[u8], at: usize, table: &Table) -> usize {
    let text = Text { bytes: text, table };
    match pattern {
        Pattern::Gpt2 => text.gpt2(at),
        Pattern::Cl100k => text.cl100k(at, 3),
        Pattern::Qwen => text.cl100k(at, 1),
        Pattern::O200k => text.o200k(at),
    }
}

/// One character.
#[derive(Clone, Copy)]
struct Char {
    class: u8,
    code: u32,
    end: usize,
}

impl Char {
    fn is(self, classes: u8) -> bool {
        self.class & classes != 0
    }

    fn is_newline(self) -> bool {
        self.code == 10 || self.code == 13
    }

    /// `[^\s\p{L}\p{N}]`.
    fn is_other(self) -> bool {
        !self.is(LETTER | NUMBER | WHITE)
    }

    /// `[^\r\n\p{L}\p{N}]`.
    fn is_prefix(self) -> bool {
        !self.is(LETTER | NUMBER) && !self.is_newline()
    }
}

/// Which letters may follow the apostrophe of a contraction.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Case {
    /// Lower case alone.
    Sensitive,
    /// Any case; U+017F is an `s`.
    Folded,
}

/// How many bytes the contraction at `at` has, its apostrophe included; 0 for none.
pub fn contraction(text: &[u8], at: usize, case: Case) -> usize {
    let byte = |i: usize| {
        let byte = text.get(at + i).copied().unwrap_or(0);
        match case {
            Case::Sensitive => byte,
            Case::Folded => byte.to_ascii_lowercase(),
        }
    };
    if byte(0) != b'\'' {
        return 0;
    }
    match (byte(1), byte(2)) {
        (b's' | b't' | b'm' | b'd', _) => 2,
        (b'r' | b'v', b'e') | (b'l', b'l') => 3,
        // U+017F, the long s.
        (0xc5, 0xbf) if case == Case::Folded => 3,
        _ => 0,
    }
}

/// Whether white space without newlines from `at` on, perhaps none, ends at a newline.
pub fn blanks_lead_to_newline(text: &[u8], at: usize, table: &Table) -> bool {
    let text = Text { bytes: text, table };
    let end = text.run(at, usize::MAX, |c| c.is(WHITE) && !c.is_newline());
    text.char(end).is_some_and(Char::is_newline)
}

struct Text<'a> {
    bytes: &'a [u8],
    table: &'a Table,
}

impl Text<'_> {
    #[inline(always)]
    fn char(&self, at: usize) -> Option<Char> {
        let byte = *self.bytes.get(at)?;
        let (code, length) = match byte {
            0..0x80 => (u32::from(byte), 1),
            _ => decode(self.bytes, at),
        };
        Some(Char {
            class: self.table.of(code),
            code,
            end: at + length as usize,
        })
    }

    /// The end of the longest run from `at` of characters that `is` takes, `most` at most.
    #[inline(always)]
    fn run(&self, mut at: usize, most: usize, is: impl Fn(Char) -> bool) -> usize {
        for _ in 0..most {
            match self.char(at) {
                Some(c) if is(c) => at = c.end,
                _ => break,
            }
        }
        at
    }

    /// `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
    fn gpt2(&self, at: usize) -> usize {
        let contraction = contraction(self.bytes, at, Case::Sensitive);
        if contraction != 0 {
            return at + contraction;
        }
        let start = self.run(at, 1, |c| c.code == u32::from(b' '));
        for is in [
            |c: Char| c.is(LETTER),
            |c: Char| c.is(NUMBER),
            Char::is_other,
        ] {
            let end = self.run(start, usize::MAX, is);
            if start < end {
                return end;
            }
        }
        self.white(at)
    }

    /// `\s+(?!\S)|\s+`
    fn white(&self, at: usize) -> usize {
        let (mut last, mut end) = (at, at);
        while let Some(c) = self.char(end) {
            if !c.is(WHITE) {
                // The last one stands before the next word, unless it is the only one.
                return if at < last { last } else { end };
            }
            (last, end) = (end, c.end);
        }
        end
    }

    /// `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
    fn cl100k(&self, at: usize, digits: usize) -> usize {
        let contraction = contraction(self.bytes, at, Case::Folded);
        if contraction != 0 {
            return at + contraction;
        }
        let start = self.run(at, 1, Char::is_prefix);
        let end = self.run(start, usize::MAX, |c| c.is(LETTER));
        if start < end {
            return end;
        }
        self.no_word(at, digits, |c| c.is_newline())
    }

    /// `\p{N}{1,digits}| ?[^\s\p{L}\p{N}]+TAIL*|\s*[\r\n]+|\s+(?!\S)|\s+`
    fn no_word(&self, at: usize, digits: usize, tail: impl Fn(Char) -> bool) -> usize {
        let end = self.run(at, digits, |c| c.is(NUMBER));
        if at < end {
            return end;
        }
        let start = self.run(at, 1, |c| c.code == u32::from(b' '));
        let end = self.run(start, usize::MAX, Char::is_other);
        if start < end {
            return self.run(end, usize::MAX, tail);
        }
        let (mut end, mut newline) = (at, None);
        while let Some(c) = self.char(end).filter(|c| c.is(WHITE)) {
            end = c.end;
            newline = if c.is_newline() { Some(end) } else { newline };
        }
        newline.unwrap_or_else(|| self.white(at))
    }

    /// `[^\r\n\p{L}\p{N}]?U*B+C?|[^\r\n\p{L}\p{N}]?U+B*C?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+`
    ///
    /// U is [`UPPER`], B is [`LOWER`], C a contraction.
    fn o200k(&self, at: usize) -> usize {
        let start = self.run(at, 1, Char::is_prefix);
        let word = (self.lower_word(start))
            .or_else(|| (at < start).then(|| self.lower_word(at)).flatten())
            .or_else(|| self.upper_word(start))
            .or_else(|| (at < start).then(|| self.upper_word(at)).flatten());
        match word {
            Some(end) => end + contraction(self.bytes, end, Case::Folded),
            None => self.no_word(at, 3, |c| c.is_newline() || c.code == u32::from(b'/')),
        }
    }

    /// `U*B+`
    fn lower_word(&self, at: usize) -> Option<usize> {
        let (mut end, mut last) = (at, None);
        while let Some(c) = self.char(end).filter(|c| c.is(UPPER)) {
            end = c.end;
            last = if c.is(LOWER) { Some(end) } else { last };
        }
        let lower = self.run(end, usize::MAX, |c| c.is(LOWER));
        // Without one that is lower only, the last that may be either is given back.
        if end < lower { Some(lower) } else { last }
    }

    /// `U+B*`
    fn upper_word(&self, at: usize) -> Option<usize> {
        let end = self.run(at, usize::MAX, |c| c.is(UPPER));
        (at < end).then(|| self.run(end, usize::MAX, |c| c.is(LOWER)))
    }
}

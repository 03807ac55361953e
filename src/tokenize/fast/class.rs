//! What kind of character each code point is, as the pre-tokenizers' regular
//! expressions ask.
//!
//! The table comes from `regex-syntax`, which also feeds the library's regex
//! engine, so that both mean the same characters by `\p{L}`, `\p{N}` and `\s`.

use std::sync::LazyLock;

use regex_syntax::Parser;
use regex_syntax::hir::{Class as RegexClass, HirKind};

/// `\p{L}`.
pub const LETTER: u8 = 1;
/// `\p{N}`.
pub const NUMBER: u8 = 2;
/// `\s`.
pub const WHITE: u8 = 4;
/// `[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]`: may stand in the upper part of a word of o200k.
pub const UPPER: u8 = 8;
/// `[\p{Ll}\p{Lm}\p{Lo}\p{M}]`: may stand in the lower part of a word of o200k.
pub const LOWER: u8 = 16;

const CLASSES: [(u8, &str); 5] = [
    (LETTER, r"\p{L}"),
    (NUMBER, r"\p{N}"),
    (WHITE, r"\s"),
    (UPPER, r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"),
    (LOWER, r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"),
];

/// One more than the last code point.
const CODE_POINTS: usize = 0x11_0000;

/// The classes of every code point.
pub struct Table(Vec<u8>);

static TABLE: LazyLock<Option<Table>> = LazyLock::new(Table::build);

impl Table {
    /// The table, unless `regex-syntax` lacks a class.
    pub fn get() -> Option<&'static Self> {
        TABLE.as_ref()
    }

    fn build() -> Option<Self> {
        let mut table = vec![0; CODE_POINTS];
        for (bit, pattern) in CLASSES {
            let hir = Parser::new().parse(pattern).ok()?;
            let HirKind::Class(RegexClass::Unicode(class)) = hir.kind() else {
                return None;
            };
            for range in class.ranges() {
                let range = range.start() as usize..=range.end() as usize;
                table.get_mut(range)?.iter_mut().for_each(|c| *c |= bit);
            }
        }
        Some(Self(table))
    }

    /// The classes of one code point.
    #[inline(always)]
    pub fn of(&self, code_point: u32) -> u8 {
        self.0.get(code_point as usize).copied().unwrap_or(0)
    }
}

/// The code point that starts at `at`, and how many bytes it takes.
///
/// `text` is UTF-8 and `at` the start of a character beyond ASCII.
#[inline(always)]
pub fn decode(text: &[u8], at: usize) -> (u32, u32) {
    let byte = |i: usize| u32::from(text.get(at + i).copied().unwrap_or(0));
    let tail = |i: usize| byte(i) & 0x3f;
    match byte(0) {
        lead @ 0..0xe0 => ((lead & 0x1f) << 6 | tail(1), 2),
        lead @ 0xe0..0xf0 => ((lead & 0x0f) << 12 | tail(1) << 6 | tail(2), 3),
        lead => (
            (lead & 0x07) << 18 | tail(1) << 12 | tail(2) << 6 | tail(3),
            4,
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_character_is_decoded() {
        for c in '\u{80}'..=char::MAX {
            let text = format!("a{c}b");
            let expected = (u32::from(c), u32::try_from(c.len_utf8()).unwrap());
            assert_eq!(decode(text.as_bytes(), 1), expected);
        }
    }

    #[test]
    fn classes_of_some_characters() {
        let table = Table::get().unwrap();
        let of = |c: char| table.of(u32::from(c));
        assert_eq!(of('A'), LETTER | UPPER);
        assert_eq!(of('ſ'), LETTER | LOWER);
        assert_eq!(of('日'), LETTER | UPPER | LOWER);
        assert_eq!(of('\u{301}'), UPPER | LOWER);
        assert_eq!(of('Ⅷ'), NUMBER);
        assert_eq!(of('\u{85}'), WHITE);
        assert_eq!(of('\u{3000}'), WHITE);
        assert_eq!(of('!'), 0);
        assert_eq!(of('\u{1c}'), 0);
    }
}

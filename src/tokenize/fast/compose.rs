//! Canonical composition (NFC), by the crate that the library uses, so that both
//! know the same version of Unicode.

use std::borrow::Cow;
use std::sync::LazyLock;

use unicode_normalization_alignments::{IsNormalized, UnicodeNormalization, is_nfc_quick};

/// Code points that the table tells about.
const TABLE: usize = 0x1_0000;

/// One bit a code point: whether it stays as it is next to any other such.
static STEADY: LazyLock<Box<[u64]>> = LazyLock::new(|| {
    let mut table = vec![0u64; TABLE / 64];
    for (word, base) in table.iter_mut().zip((0u32..).step_by(64)) {
        let steady = (0..64).filter(|bit| char::from_u32(base + bit).is_some_and(is_steady));
        *word = steady.map(|bit| 1u64 << bit).sum();
    }
    table.into()
});

/// Whether a character is composed, never composes, and has combining class 0.
fn is_steady(c: char) -> bool {
    // Beside marks of class 240 and 1, a mark of any class is out of order on one side.
    [[c, 'a'], ['\u{345}', c], [c, '\u{334}']]
        .into_iter()
        .all(|text| is_nfc_quick(text.into_iter()) == IsNormalized::Yes)
        && c != '\u{345}'
        && c != '\u{334}'
}

/// The composed form of `text`.
pub fn nfc(text: &str) -> Cow<'_, str> {
    let steady = |c: char| {
        let code = c as usize;
        let word = STEADY.get(code / 64).copied().unwrap_or(0);
        word >> (code % 64) & 1 == 1
    };
    if text.is_ascii() || text.chars().all(|c| c.is_ascii() || steady(c)) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.nfc().map(|(c, _)| c).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steady_characters_stay_as_they_are() {
        let all = ('\0'..='\u{ffff}')
            .filter(|c| nfc(&String::from(*c)) == Cow::Borrowed(c.encode_utf8(&mut [0; 4])));
        let steady: String = all
            .filter(|c| STEADY[*c as usize / 64] >> (*c as usize % 64) & 1 == 1)
            .collect();
        assert!(60_000 < steady.chars().count());
        let composed: String = steady.nfc().map(|(c, _)| c).collect();
        assert!(composed == steady);
        let reversed: String = steady.chars().rev().collect();
        let composed: String = reversed.nfc().map(|(c, _)| c).collect();
        assert!(composed == reversed);
    }

    #[test]
    fn some_texts_are_composed() {
        assert_eq!(nfc("e\u{301}"), "é");
        assert_eq!(nfc("a\u{345}\u{301}"), "á\u{345}");
        assert_eq!(nfc("\u{212b}"), "Å");
        assert_eq!(nfc("\u{1100}\u{1161}"), "가");
        assert!(matches!(nfc("naïve 日本語 Привет"), Cow::Borrowed(_)));
    }
}

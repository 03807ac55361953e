//! The text that a JSON string stands for, found 64 bytes at a time.
//!
//! A block is copied as a whole, and then once more from behind each escape in it to
//! where that leaves off: what is copied too much is overwritten by what follows. So
//! text with many escapes takes little longer than text with few.

/// Bytes that are looked at together.
const BLOCK: usize = 64;

/// A block and what may be copied together with its last bytes.
type Window = [u8; 2 * BLOCK];

/// Text on its way out of a string.
struct Text {
    /// UTF-8, of which `length` bytes count; there is room for a block behind them.
    bytes: Vec<u8>,
    length: usize,
}

/// What a window came to.
enum End {
    /// Where the next one begins.
    Open(usize),
    /// Where the mark stands that ends the string.
    Closed(usize),
    /// Where an escape by number stands.
    Number(usize),
}

/// The text of the string whose first byte begins `rest`, and what stands behind the mark
/// that ends it. `number` knows the character of an escape such as `\u00e9`, which it is
/// given from its `u` on, and what stands behind. None where the string does not end, has
/// a control character, or an escape that means nothing.
pub fn unescape<'a>(
    rest: &'a str,
    number: impl Fn(&'a str) -> Option<(char, &'a str)>,
) -> Option<(String, &'a str)> {
    let mut text = Text {
        bytes: vec![0; rest.len() + BLOCK],
        length: 0,
    };
    let mut at = 0;
    loop {
        let left = rest.as_bytes().get(at..)?;
        let padded;
        let window = match left.first_chunk() {
            Some(window) => window,
            None => {
                padded = pad(left);
                &padded
            }
        };
        match text.take(window)? {
            End::Open(next) => at += next,
            End::Closed(end) => return Some((text.finish(), rest.get(at + end + 1..)?)),
            End::Number(escape) => {
                let (character, behind) = number(rest.get(at + escape + 1..)?)?;
                text.push(character)?;
                at = rest.len() - behind.len();
            }
        }
    }
}

impl Text {
    /// Takes the first block of a window, or what there is before the end of the string;
    /// a little more where its last byte begins an escape.
    #[inline(always)]
    fn take(&mut self, window: &Window) -> Option<End> {
        let mut from = 0;
        let mut marks = marks(window);
        while marks != 0 {
            let stop = marks.trailing_zeros() as usize;
            self.copy(window, from)?;
            self.length += stop - from;
            let (mark, sign) = (*window.get(stop)?, *window.get(stop + 1)?);
            match (mark, plain(sign)) {
                (b'"', _) => return Some(End::Closed(stop)),
                (b'\\', Some(byte)) => {
                    *self.bytes.get_mut(self.length)? = byte;
                    self.length += 1;
                    from = stop + 2;
                    marks &= !(0b11 << stop);
                }
                (b'\\', None) if sign == b'u' => return Some(End::Number(stop)),
                _ => return None,
            }
        }
        if from < BLOCK {
            self.copy(window, from)?;
            self.length += BLOCK - from;
        }
        Some(End::Open(BLOCK.max(from)))
    }

    /// Puts the 64 bytes from `from` on behind the text, whether they belong to it or not.
    #[inline(always)]
    fn copy(&mut self, window: &Window, from: usize) -> Option<()> {
        let bytes: &[u8; BLOCK] = window.get(from..)?.first_chunk()?;
        let place = self.bytes.get_mut(self.length..)?.first_chunk_mut()?;
        *place = *bytes;
        Some(())
    }

    fn push(&mut self, character: char) -> Option<()> {
        let place = self.bytes.get_mut(self.length..)?;
        self.length += match place.len() < character.len_utf8() {
            true => return None,
            false => character.encode_utf8(place).len(),
        };
        Some(())
    }

    fn finish(mut self) -> String {
        self.bytes.truncate(self.length);
        // SAFETY: stretches of a `str` that were cut before and behind characters of ASCII,
        // and characters between them.
        unsafe { String::from_utf8_unchecked(self.bytes) }
    }
}

/// The byte that an escape of one letter stands for.
#[inline(always)]
fn plain(sign: u8) -> Option<u8> {
    #[expect(clippy::indexing_slicing, reason = "checked when the program is built")]
    const BYTES: [u8; 256] = {
        let mut bytes = [0; 256];
        let known = *br#"n"\/trbf"#;
        let stand = *b"\n\"\\/\t\r\x08\x0c";
        let mut at = 0;
        while at < known.len() {
            bytes[known[at] as usize] = stand[at];
            at += 1;
        }
        bytes
    };
    let byte = BYTES.get(usize::from(sign)).copied().unwrap_or(0);
    (byte != 0).then_some(byte)
}

/// The last bytes of a line, and zeros, which no string holds.
#[cold]
fn pad(left: &[u8]) -> Window {
    let mut window = [0; 2 * BLOCK];
    for (to, from) in window.iter_mut().zip(left) {
        *to = *from;
    }
    window
}

/// Which of the first 64 bytes are no text as they stand: quotation marks, backslashes and
/// control characters; the first in the lowest bit.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn marks(window: &Window) -> u64 {
    use std::arch::x86_64::*;

    let mut marks = 0;
    for (part, bytes) in window
        .as_chunks::<16>()
        .0
        .iter()
        .take(BLOCK / 16)
        .enumerate()
    {
        // SAFETY: the load is these 16 bytes; SSE2 is part of x86-64.
        let bits = unsafe {
            let bytes = _mm_loadu_si128(bytes.as_ptr().cast());
            let is = |sign: u8| _mm_cmpeq_epi8(bytes, _mm_set1_epi8(sign.cast_signed()));
            let control = _mm_cmpeq_epi8(_mm_min_epu8(bytes, _mm_set1_epi8(0x1f)), bytes);
            _mm_movemask_epi8(_mm_or_si128(control, _mm_or_si128(is(b'"'), is(b'\\'))))
        };
        marks |= u64::from(bits.cast_unsigned()) << (16 * part);
    }
    marks
}

#[cfg(not(target_arch = "x86_64"))]
fn marks(window: &Window) -> u64 {
    marks_one_by_one(window)
}

/// [`marks`], on any processor.
#[cfg(any(test, not(target_arch = "x86_64")))]
fn marks_one_by_one(window: &Window) -> u64 {
    let mark = |byte: &u8| u64::from(matches!(byte, ..b' ' | b'"' | b'\\'));
    let block = window.iter().take(BLOCK).rev();
    block.fold(0, |marks, byte| marks << 1 | mark(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_at_every_place_is_told_alike() {
        for byte in 0..=255u8 {
            let window: Window =
                std::array::from_fn(|at| byte.wrapping_add(u8::try_from(at).unwrap()));
            assert_eq!(marks(&window), marks_one_by_one(&window));
        }
    }
}

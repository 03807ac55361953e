//! Instruction sets: what a processor can do with 64 bytes at once.

use super::block::{Ascii, BLOCK};

/// The widest instructions that this processor has, found at run time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SimdLevel {
    /// Any processor.
    Portable,
    /// x86-64 with AVX2 and BMI.
    Avx2,
    /// x86-64 with AVX-512 (F, BW, VL, VBMI2) and BMI.
    Avx512,
}

impl SimdLevel {
    /// Every level that this processor has, the slowest first.
    pub fn available() -> Vec<Self> {
        #[allow(unused_mut, reason = "other architectures have one level")]
        let mut levels = vec![Self::Portable];
        #[cfg(target_arch = "x86_64")]
        {
            let bmi = is_x86_feature_detected!("bmi1")
                && is_x86_feature_detected!("bmi2")
                && is_x86_feature_detected!("lzcnt")
                && is_x86_feature_detected!("popcnt");
            if bmi && is_x86_feature_detected!("avx2") {
                levels.push(Self::Avx2);
                if is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512vbmi2")
                {
                    levels.push(Self::Avx512);
                }
            }
        }
        levels
    }

    /// The fastest level of this processor.
    pub fn best() -> Self {
        Self::available().pop().unwrap_or(Self::Portable)
    }

    /// How reports name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
        }
    }
}

/// One level's operations; a type, so that loops are compiled once for each.
///
/// Calls are sound only where the processor has the level: `split` makes the one
/// call that decides, behind [`SimdLevel::best`].
pub trait Level {
    /// The bytes of a block by their value.
    fn ascii(block: &[u8; BLOCK]) -> Ascii;

    /// The bytes of a block from `from` to `from + width`.
    fn within(block: &[u8; BLOCK], from: u8, width: u8) -> u64;
}

/// Byte by byte.
pub struct Portable;

#[expect(
    clippy::cast_possible_truncation,
    clippy::indexing_slicing,
    reason = "checked when the program is built"
)]
const KINDS: [u8; 256] = {
    let mut kinds = [0u8; 256];
    let mut byte = 0;
    while byte < 256 {
        let b = byte as u8;
        kinds[byte] = (0x80 <= b) as u8
            | ((0xc0 <= b) as u8) << 1
            | (b.is_ascii_alphabetic() as u8) << 2
            | (b.is_ascii_digit() as u8) << 3
            | (matches!(b, 9..=13 | b' ') as u8) << 4
            | (matches!(b, b'\n' | b'\r') as u8) << 5
            | ((b == b' ') as u8) << 6
            | ((b == b'\'') as u8) << 7;
        byte += 1;
    }
    kinds
};

impl Level for Portable {
    #[inline(always)]
    fn ascii(block: &[u8; BLOCK]) -> Ascii {
        let mut masks = [0u64; 8];
        let (groups, _) = block.as_chunks::<8>();
        for (index, group) in groups.iter().enumerate() {
            #[expect(clippy::indexing_slicing, reason = "a byte has 256 values")]
            let rows = u64::from_le_bytes(group.map(|byte| KINDS[usize::from(byte)]));
            let columns = transpose(rows).to_le_bytes();
            for (mask, column) in masks.iter_mut().zip(columns) {
                *mask |= u64::from(column) << (8 * index);
            }
        }
        let [high, lead, letter, digit, white, newline, space, apostrophe] = masks;
        Ascii {
            high,
            lead,
            letter,
            digit,
            white,
            newline,
            space,
            apostrophe,
        }
    }

    #[inline(always)]
    fn within(block: &[u8; BLOCK], from: u8, width: u8) -> u64 {
        let bit = |byte: &u8| u64::from(byte.wrapping_sub(from) <= width);
        block
            .iter()
            .rev()
            .fold(0, |mask, byte| mask << 1 | bit(byte))
    }
}

/// Turns an 8 by 8 matrix of bits: bit j of byte i becomes bit i of byte j.
#[inline(always)]
fn transpose(x: u64) -> u64 {
    let swap = |x: u64, mask: u64, by: u32| {
        let t = (x ^ (x >> by)) & mask;
        x ^ t ^ (t << by)
    };
    let x = swap(x, 0x00aa_00aa_00aa_00aa, 7);
    let x = swap(x, 0x0000_cccc_0000_cccc, 14);
    swap(x, 0x0000_0000_f0f0_f0f0, 28)
}

#[cfg(target_arch = "x86_64")]
pub use x86::{Avx2, Avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{Ascii, BLOCK, Level};

    /// 32 bytes at once.
    pub struct Avx2;

    impl Level for Avx2 {
        #[inline(always)]
        fn ascii(block: &[u8; BLOCK]) -> Ascii {
            // SAFETY: the processor has AVX2, as `Level` demands.
            unsafe { ascii_avx2(block) }
        }

        #[inline(always)]
        fn within(block: &[u8; BLOCK], from: u8, width: u8) -> u64 {
            // SAFETY: the processor has AVX2, as `Level` demands.
            unsafe { within_avx2(load_avx2(block), from, width) }
        }
    }

    // Intrinsics are inlined only into functions that say that they have them: closures
    // and generic functions do not.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn ascii_avx2(block: &[u8; BLOCK]) -> Ascii {
        let x = load_avx2(block);
        let space = equal_avx2(x, b' ');
        let lower = x.map(|x| _mm256_or_si256(x, _mm256_set1_epi8(0x20)));
        Ascii {
            high: join_avx2(x),
            lead: within_avx2(x, 0xc0, 0x3f),
            letter: within_avx2(lower, b'a', 25),
            digit: within_avx2(x, b'0', 9),
            white: space | within_avx2(x, 9, 4),
            newline: equal_avx2(x, b'\n') | equal_avx2(x, b'\r'),
            space,
            apostrophe: equal_avx2(x, b'\''),
        }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn load_avx2(block: &[u8; BLOCK]) -> [__m256i; 2] {
        // SAFETY: both loads lie in the block.
        unsafe {
            [
                _mm256_loadu_si256(block.as_ptr().cast()),
                _mm256_loadu_si256(block.as_ptr().add(32).cast()),
            ]
        }
    }

    /// The highest bits of all bytes.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn join_avx2([low, high]: [__m256i; 2]) -> u64 {
        let low = _mm256_movemask_epi8(low).cast_unsigned();
        let high = _mm256_movemask_epi8(high).cast_unsigned();
        u64::from(low) | u64::from(high) << 32
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn equal_avx2([low, high]: [__m256i; 2], byte: u8) -> u64 {
        let byte = _mm256_set1_epi8(byte.cast_signed());
        join_avx2([_mm256_cmpeq_epi8(low, byte), _mm256_cmpeq_epi8(high, byte)])
    }

    /// Bytes from `from` to `from + width`.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn within_avx2([low, high]: [__m256i; 2], from: u8, width: u8) -> u64 {
        let from = _mm256_set1_epi8(from.cast_signed());
        let width = _mm256_set1_epi8(width.cast_signed());
        let (low, high) = (_mm256_sub_epi8(low, from), _mm256_sub_epi8(high, from));
        join_avx2([
            _mm256_cmpeq_epi8(_mm256_min_epu8(low, width), low),
            _mm256_cmpeq_epi8(_mm256_min_epu8(high, width), high),
        ])
    }

    /// 64 bytes at once.
    pub struct Avx512;

    impl Level for Avx512 {
        #[inline(always)]
        fn ascii(block: &[u8; BLOCK]) -> Ascii {
            // SAFETY: the processor has AVX-512 F and BW, as `Level` demands.
            unsafe { ascii_avx512(block) }
        }

        #[inline(always)]
        fn within(block: &[u8; BLOCK], from: u8, width: u8) -> u64 {
            // SAFETY: the processor has AVX-512 F and BW, as `Level` demands.
            unsafe { within_avx512(load_avx512(block), from, width) }
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn ascii_avx512(block: &[u8; BLOCK]) -> Ascii {
        let x = load_avx512(block);
        let space = equal_avx512(x, b' ');
        Ascii {
            high: _mm512_movepi8_mask(x),
            lead: within_avx512(x, 0xc0, 0x3f),
            letter: within_avx512(_mm512_or_si512(x, _mm512_set1_epi8(0x20)), b'a', 25),
            digit: within_avx512(x, b'0', 9),
            white: space | within_avx512(x, 9, 4),
            newline: equal_avx512(x, b'\n') | equal_avx512(x, b'\r'),
            space,
            apostrophe: equal_avx512(x, b'\''),
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn load_avx512(block: &[u8; BLOCK]) -> __m512i {
        // SAFETY: the load is the block.
        unsafe { _mm512_loadu_si512(block.as_ptr().cast()) }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn equal_avx512(x: __m512i, byte: u8) -> u64 {
        _mm512_cmpeq_epi8_mask(x, _mm512_set1_epi8(byte.cast_signed()))
    }

    /// Bytes from `from` to `from + width`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn within_avx512(x: __m512i, from: u8, width: u8) -> u64 {
        let x = _mm512_sub_epi8(x, _mm512_set1_epi8(from.cast_signed()));
        _mm512_cmple_epu8_mask(x, _mm512_set1_epi8(width.cast_signed()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_at_every_place_is_told_alike() {
        for byte in 0..=255u8 {
            let block: [u8; BLOCK] =
                std::array::from_fn(|i| byte.wrapping_add(u8::try_from(i).unwrap()));
            let expected = Portable::ascii(&block);
            let bits = |f: &dyn Fn(u8) -> bool| {
                let set = block.iter().enumerate().filter(|(_, byte)| f(**byte));
                set.map(|(i, _)| 1u64 << i).sum::<u64>()
            };
            assert_eq!(expected.high, bits(&|b| 0x80 <= b));
            assert_eq!(expected.lead, bits(&|b| 0xc0 <= b));
            assert_eq!(expected.letter, bits(&|b| b.is_ascii_alphabetic()));
            assert_eq!(expected.digit, bits(&|b| b.is_ascii_digit()));
            assert_eq!(expected.white, bits(&|b| matches!(b, 9..=13 | b' ')));
            assert_eq!(expected.newline, bits(&|b| b == b'\n' || b == b'\r'));
            assert_eq!(expected.space, bits(&|b| b == b' '));
            assert_eq!(expected.apostrophe, bits(&|b| b == b'\''));
            let upper = bits(&|b| b.is_ascii_uppercase());
            assert_eq!(Portable::within(&block, b'A', 25), upper);
            #[cfg(target_arch = "x86_64")]
            for level in SimdLevel::available() {
                match level {
                    SimdLevel::Portable => {}
                    SimdLevel::Avx2 => {
                        assert_eq!(Avx2::ascii(&block), expected);
                        assert_eq!(Avx2::within(&block, b'A', 25), upper);
                    }
                    SimdLevel::Avx512 => {
                        assert_eq!(Avx512::ascii(&block), expected);
                        assert_eq!(Avx512::within(&block, b'A', 25), upper);
                    }
                }
            }
        }
    }
}

//! Questions about many ids at once, with the widest instructions that pay.

/// An id as it lies on disk.
pub trait Id: Copy {
    /// Its number.
    type Number: Copy + Ord;

    /// Its number.
    fn number(self) -> Self::Number;

    /// Which of 64 ids are `one`, the first in the lowest bit.
    ///
    /// # Safety
    /// The processor has AVX2.
    #[cfg(target_arch = "x86_64")]
    unsafe fn equal_avx2(ids: &[Self; 64], one: Self::Number) -> u64;
}

/// The largest of some ids.
pub fn largest<T: Id>(ids: &[T]) -> Option<T::Number> {
    #[inline(always)]
    fn body<T: Id>(ids: &[T]) -> Option<T::Number> {
        // Without an early end, so that a compiler takes many at once.
        ids.iter().map(|id| id.number()).max()
    }

    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2")]
        fn wide<T: Id>(ids: &[T]) -> Option<T::Number> {
            body(ids)
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the processor was just asked and has AVX2.
            return unsafe { wide(ids) };
        }
    }
    body(ids)
}

/// Appends the numbers of some ids.
pub fn append<T: Id>(ids: &[T], numbers: &mut Vec<T::Number>) {
    #[inline(always)]
    fn body<T: Id>(ids: &[T], numbers: &mut Vec<T::Number>) {
        numbers.extend(ids.iter().map(|id| id.number()));
    }

    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2")]
        fn wide<T: Id>(ids: &[T], numbers: &mut Vec<T::Number>) {
            body(ids, numbers);
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the processor was just asked and has AVX2.
            return unsafe { wide(ids, numbers) };
        }
    }
    body(ids, numbers);
}

/// How many bits are set.
pub fn ones(words: &[u64]) -> u64 {
    #[inline(always)]
    fn body(words: &[u64]) -> u64 {
        words.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "popcnt")]
        fn counted(words: &[u64]) -> u64 {
            body(words)
        }
        if is_x86_feature_detected!("popcnt") {
            // SAFETY: the processor was just asked and counts bits.
            return unsafe { counted(words) };
        }
    }
    body(words)
}

/// Makes `words` say which ids are `one`: a bit an id, the lowest of a word first.
pub fn equal<T: Id>(ids: &[T], one: T::Number, words: &mut Vec<u64>) {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2")]
        fn wide<T: Id>(ids: &[[T; 64]], one: T::Number, words: &mut Vec<u64>) {
            // SAFETY: this function has AVX2.
            words.extend(ids.iter().map(|ids| unsafe { T::equal_avx2(ids, one) }));
        }
        if is_x86_feature_detected!("avx2") {
            words.clear();
            let (whole, rest) = ids.as_chunks();
            // SAFETY: the processor was just asked and has AVX2.
            unsafe { wide(whole, one, words) };
            if !rest.is_empty() {
                words.push(word(rest, |id| id.number() == one));
            }
            return;
        }
    }
    mask(ids, words, |id| id.number() == one);
}

/// Makes `words` say of which values something holds: a bit a value, the lowest of a word
/// first.
pub fn mask<T: Copy>(values: &[T], words: &mut Vec<u64>, holds: impl Fn(T) -> bool) {
    words.clear();
    words.extend(values.chunks(64).map(|values| word(values, &holds)));
}

/// The bits of 64 values or fewer.
fn word<T: Copy>(values: &[T], holds: impl Fn(T) -> bool) -> u64 {
    let bit = |word, value: &T| word << 1 | u64::from(holds(*value));
    values.iter().rev().fold(0, bit)
}

impl Id for [u8; 2] {
    type Number = u16;

    #[inline(always)]
    fn number(self) -> u16 {
        u16::from_le_bytes(self)
    }

    #[cfg(target_arch = "x86_64")]
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn equal_avx2(ids: &[Self; 64], one: u16) -> u64 {
        use std::arch::x86_64::*;

        let one = _mm256_set1_epi16(one.cast_signed());
        let (halves, _) = ids.as_chunks::<32>();
        let bits = |half: &[Self; 32]| {
            // SAFETY: both loads lie in the half, which has 64 bytes.
            let (low, high) = unsafe {
                let start: *const __m256i = half.as_ptr().cast();
                (_mm256_loadu_si256(start), _mm256_loadu_si256(start.add(1)))
            };
            let (low, high) = (_mm256_cmpeq_epi16(low, one), _mm256_cmpeq_epi16(high, one));
            // Packing takes from both in turn, 8 bytes each: 0, 2, 1, 3 puts them in order.
            let bytes = _mm256_permute4x64_epi64(_mm256_packs_epi16(low, high), 0b11_01_10_00);
            u64::from(_mm256_movemask_epi8(bytes).cast_unsigned())
        };
        halves
            .iter()
            .rev()
            .fold(0, |word, half| word << 32 | bits(half))
    }
}

impl Id for [u8; 4] {
    type Number = u32;

    #[inline(always)]
    fn number(self) -> u32 {
        u32::from_le_bytes(self)
    }

    #[cfg(target_arch = "x86_64")]
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn equal_avx2(ids: &[Self; 64], one: u32) -> u64 {
        use std::arch::x86_64::*;

        let one = _mm256_set1_epi32(one.cast_signed());
        let (eights, _) = ids.as_chunks::<8>();
        let bits = |eight: &[Self; 8]| {
            // SAFETY: eight ids have 32 bytes.
            let ids = unsafe { _mm256_loadu_si256(eight.as_ptr().cast()) };
            let equal = _mm256_castsi256_ps(_mm256_cmpeq_epi32(ids, one));
            u64::from(_mm256_movemask_ps(equal).cast_unsigned())
        };
        eights
            .iter()
            .rev()
            .fold(0, |word, eight| word << 8 | bits(eight))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Bits and the largest, id by id.
    fn check<T: Id<Number: std::fmt::Debug>>(ids: &[T], one: T::Number) {
        assert_eq!(largest(ids), ids.iter().map(|id| id.number()).max());
        let mut numbers = vec![one];
        append(ids, &mut numbers);
        let by_one = ids.iter().map(|id| id.number());
        assert!(numbers.into_iter().eq(std::iter::once(one).chain(by_one)));
        let mut words = vec![7];
        equal(ids, one, &mut words);
        assert_eq!(words.len(), ids.len().div_ceil(64));
        let mut by_one = Vec::new();
        mask(ids, &mut by_one, |id| id.number() == one);
        assert_eq!(words, by_one);
        for place in 0..64 * words.len() {
            let bit = words[place / 64] >> (place % 64) & 1 == 1;
            assert_eq!(
                bit,
                ids.get(place).is_some_and(|id| id.number() == one),
                "{place}"
            );
        }
    }

    proptest! {
        #[test]
        fn bits_are_those_of_each_id(
            ids in prop::collection::vec(prop_oneof![0u32..3, any::<u32>()], 0..300),
            one in prop_oneof![0u32..3, any::<u32>()],
        ) {
            let narrow = |id: u32| (id & 0xffff) as u16;
            let short: Vec<[u8; 2]> = ids.iter().map(|id| narrow(*id).to_le_bytes()).collect();
            check(&short, narrow(one));
            let long: Vec<[u8; 4]> = ids.iter().map(|id| id.to_le_bytes()).collect();
            check(&long, one);
        }
    }
}

//! Questions about many ids at once, with the widest instructions that pay.

use std::cell::Cell;
use std::mem::MaybeUninit;

use crate::token::TokenId;

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

    /// As [`Id::equal_avx2`].
    ///
    /// # Safety
    /// The processor has AVX-512 with its instructions for bytes and words.
    #[cfg(target_arch = "x86_64")]
    unsafe fn equal_avx512(ids: &[Self; 64], one: Self::Number) -> u64;

    /// As [`spread`].
    ///
    /// # Safety
    /// The processor has AVX-512 with its instructions for bytes and words, and VBMI2.
    #[cfg(target_arch = "x86_64")]
    unsafe fn spread_avx512(text: &[Self], slots: &[u64], one: Self, row: &mut [Self]);
}

/// Whether [`Id::equal_avx512`] and [`Id::spread_avx512`] may be called.
#[cfg(target_arch = "x86_64")]
fn has_avx512() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vbmi2")
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

/// Appends the low halves of some ids, little-endian, and returns the largest id.
pub fn narrow(ids: &[TokenId], bytes: &mut Vec<u8>) -> Option<TokenId> {
    #[inline(always)]
    fn body(ids: &[TokenId], places: &mut [[MaybeUninit<u8>; 2]]) -> u32 {
        let mut largest = 0;
        for (place, id) in places.iter_mut().zip(ids) {
            #[expect(clippy::cast_possible_truncation, reason = "the low half is asked for")]
            let low = id.0 as u16;
            *place = low.to_le_bytes().map(MaybeUninit::new);
            largest = id.0.max(largest);
        }
        largest
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn wide(ids: &[TokenId], places: &mut [[MaybeUninit<u8>; 2]]) -> u32 {
        body(ids, places)
    }

    if ids.is_empty() {
        return None;
    }
    let length = bytes.len() + 2 * ids.len();
    bytes.reserve(2 * ids.len());
    let (places, _) = bytes.spare_capacity_mut().as_chunks_mut();
    #[cfg(target_arch = "x86_64")]
    let largest = match is_x86_feature_detected!("avx2") {
        // SAFETY: the processor was just asked and has AVX2.
        true => unsafe { wide(ids, places) },
        false => body(ids, places),
    };
    #[cfg(not(target_arch = "x86_64"))]
    let largest = body(ids, places);
    // SAFETY: there is room for two bytes an id, all of which were just written.
    unsafe { bytes.set_len(length) };
    Some(TokenId(largest))
}

/// Fills `row` with the `text` in its order, and with `one` in the slots whose bits are set,
/// the lowest of a word first: as many as the row is longer than the text.
pub fn spread<T: Id>(text: &[T], slots: &[u64], one: T, row: &mut [T]) {
    #[cfg(target_arch = "x86_64")]
    if has_avx512() {
        // SAFETY: the processor was just asked.
        return unsafe { T::spread_avx512(text, slots, one, row) };
    }
    spread_each(text, slots, one, row);
}

/// Ids that are copied at once: most stretches of text between two pauses are shorter,
/// and what is copied beyond one is overwritten by what follows it.
const STRETCH: usize = 32;

/// As [`spread`], a stretch between two slots at a time, of any values.
#[expect(
    clippy::indexing_slicing,
    reason = "the caller sets as many slots as the row is longer, and none behind it"
)]
pub fn spread_each<T: Copy>(text: &[T], slots: &[u64], one: T, row: &mut [T]) {
    let (mut from, mut at) = (0, 0);
    for (word, bits) in slots.iter().enumerate() {
        let mut left = *bits;
        while left != 0 {
            let slot = 64 * word + left.trailing_zeros() as usize;
            left &= left - 1;
            copy(&text[from..], &mut row[at..], slot - at);
            row[slot] = one;
            from += slot - at;
            at = slot + 1;
        }
    }
    row[at..].copy_from_slice(&text[from..]);
}

/// Copies the first `n` values, and perhaps others that stand behind them.
fn copy<T: Copy>(from: &[T], to: &mut [T], n: usize) {
    if n <= STRETCH
        && let (Some(from), Some(to)) = (
            from.first_chunk::<STRETCH>(),
            to.first_chunk_mut::<STRETCH>(),
        )
    {
        *to = *from;
        return;
    }
    for (to, from) in to.iter_mut().zip(from).take(n) {
        *to = *from;
    }
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

/// Makes each bit say that the one behind it was not set, the lowest of a word first; what
/// the last bit says means nothing.
pub fn before_unset(words: &mut [u64]) {
    #[inline(always)]
    fn body(words: &mut [u64]) {
        let cells = Cell::from_mut(words).as_slice_of_cells();
        for pair in cells.windows(2) {
            if let [word, next] = pair {
                word.set(!word.get() >> 1 | !next.get() << 63);
            }
        }
        if let Some(last) = cells.last() {
            last.set(!last.get() >> 1);
        }
    }

    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2")]
        fn wide(words: &mut [u64]) {
            body(words);
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the processor was just asked and has AVX2.
            return unsafe { wide(words) };
        }
    }
    body(words);
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
        #[target_feature(enable = "avx512f,avx512bw")]
        fn widest<T: Id>(ids: &[[T; 64]], one: T::Number, words: &mut Vec<u64>) {
            // SAFETY: the caller asked for all of AVX-512 that is needed.
            words.extend(ids.iter().map(|ids| unsafe { T::equal_avx512(ids, one) }));
        }
        if is_x86_feature_detected!("avx2") {
            words.clear();
            let (whole, rest) = ids.as_chunks();
            match has_avx512() {
                // SAFETY: the processor was just asked.
                true => unsafe { widest(whole, one, words) },
                // SAFETY: the processor was just asked and has AVX2.
                false => unsafe { wide(whole, one, words) },
            }
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

/// What [`Id`] does by AVX-512, for numbers of a type, so many in a register, with
/// a bit for each in a mask: the forms of the instructions for their width.
macro_rules! avx512 {
    ($number:ty, $lanes:literal, $mask:ty, $all:ident, $equal:ident, $load:ident, $expand:ident, $store:ident) => {
        #[cfg(target_arch = "x86_64")]
        #[inline]
        #[target_feature(enable = "avx512f,avx512bw")]
        unsafe fn equal_avx512(ids: &[Self; 64], one: $number) -> u64 {
            use std::arch::x86_64::*;

            let one = $all(one.cast_signed());
            let (parts, _) = ids.as_chunks::<$lanes>();
            parts.iter().rev().fold(0, |word, part| {
                // SAFETY: a part has 64 bytes.
                let ids = unsafe { _mm512_loadu_si512(part.as_ptr().cast()) };
                word << $lanes | u64::from($equal(ids, one))
            })
        }

        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx512f,avx512bw,avx512vbmi2,popcnt")]
        unsafe fn spread_avx512(text: &[Self], slots: &[u64], one: Self, row: &mut [Self]) {
            use std::arch::x86_64::*;

            // Which of the next lanes are values that are there.
            let first = |there: usize| match there {
                $lanes.. => <$mask>::MAX,
                there => (1 << there) - 1,
            };
            let one = $all(one.number().cast_signed());
            let mut rest = text;
            let parts = slots
                .iter()
                .flat_map(|word| (0..64 / $lanes).map(move |part| word >> (part * $lanes)));
            for (part, bits) in row.chunks_mut($lanes).zip(parts) {
                #[expect(clippy::cast_possible_truncation, reason = "the bits of this part")]
                let real = !(bits as $mask);
                // SAFETY: lanes that are not there are not read.
                let next = unsafe { $load(first(rest.len()), rest.as_ptr().cast()) };
                let spread = $expand(one, real, next);
                // SAFETY: lanes that are not there are not written.
                unsafe { $store(part.as_mut_ptr().cast(), first(part.len()), spread) };
                rest = rest.get(real.count_ones() as usize..).unwrap_or_default();
            }
        }
    };
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

    avx512!(
        u16,
        32,
        u32,
        _mm512_set1_epi16,
        _mm512_cmpeq_epi16_mask,
        _mm512_maskz_loadu_epi16,
        _mm512_mask_expand_epi16,
        _mm512_mask_storeu_epi16
    );
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

    avx512!(
        u32,
        16,
        u16,
        _mm512_set1_epi32,
        _mm512_cmpeq_epi32_mask,
        _mm512_maskz_loadu_epi32,
        _mm512_mask_expand_epi32,
        _mm512_mask_storeu_epi32
    );
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
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the processor was just asked and has AVX2.
            let narrow = ids
                .as_chunks()
                .0
                .iter()
                .map(|ids| unsafe { T::equal_avx2(ids, one) });
            assert!(narrow.eq(words.iter().copied().take(ids.len() / 64)));
        }
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

    /// Values and ones, slot by slot.
    fn spread_slowly<T: Copy>(text: &[T], slots: &[bool], one: T) -> Vec<T> {
        let mut text = text.iter();
        let value = |slot: &bool| match slot {
            true => one,
            false => *text.next().unwrap(),
        };
        slots.iter().map(value).collect()
    }

    proptest! {
        #[test]
        fn a_bit_says_that_the_next_was_not_set(words in prop::collection::vec(any::<u64>(), 0..40)) {
            let mut moved = words.clone();
            before_unset(&mut moved);
            let bit = |words: &[u64], at: usize| words[at / 64] >> (at % 64) & 1 == 1;
            for at in 1..64 * words.len() {
                prop_assert_eq!(bit(&moved, at - 1), !bit(&words, at), "{}", at);
            }
        }

        #[test]
        fn text_goes_where_no_slot_is(slots in prop::collection::vec(
            prop_oneof![9 => Just(false), 1 => Just(true)], 0..300), many in any::<bool>(),
        ) {
            let slots: Vec<bool> = slots.iter().map(|slot| *slot ^ many).collect();
            let n_text = u16::try_from(slots.iter().filter(|slot| !**slot).count()).unwrap();
            let mut words = Vec::new();
            mask(&slots, &mut words, |slot| slot);
            let short: Vec<[u8; 2]> = (1..=n_text).map(u16::to_le_bytes).collect();
            let long: Vec<[u8; 4]> = (1..=u32::from(n_text)).map(u32::to_le_bytes).collect();
            let (mut row, mut each) = (vec![[7; 2]; slots.len()], vec![[7; 2]; slots.len()]);
            spread(&short, &words, [9; 2], &mut row);
            spread_each(&short, &words, [9; 2], &mut each);
            let expected = spread_slowly(&short, &slots, [9; 2]);
            prop_assert_eq!(&row, &expected);
            prop_assert_eq!(&each, &expected);
            let mut row = vec![[7; 4]; slots.len()];
            spread(&long, &words, [9; 4], &mut row);
            prop_assert_eq!(row, spread_slowly(&long, &slots, [9; 4]));
        }

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
            let tokens: Vec<TokenId> = ids.iter().copied().map(TokenId).collect();
            let mut bytes = vec![7];
            prop_assert_eq!(super::narrow(&tokens, &mut bytes), tokens.iter().max().copied());
            prop_assert_eq!(&bytes[1..], short.as_flattened());
        }
    }
}

//! The innermost loop of a matrix product, in AVX-512.
//!
//! A tile of the result stays in registers while it is summed: six rows by four
//! vectors take 24 of the 32. Each element is one chain of fused additions over the
//! depth, so its bits depend neither on the tile that it falls in nor on threads.

#![expect(
    clippy::indexing_slicing,
    reason = "arrays of registers, indexed below their length"
)]

use std::arch::x86_64::{
    __m512, __m512bh, __m512i, __mmask16, _mm512_add_ps, _mm512_castpd_ps, _mm512_castps_pd,
    _mm512_castsi512_ps, _mm512_cvtne2ps_pbh, _mm512_dpbf16_ps, _mm512_fmadd_ps, _mm512_loadu_ps,
    _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps, _mm512_mul_ps, _mm512_permutexvar_epi16,
    _mm512_set1_ps, _mm512_setzero_ps, _mm512_shuffle_f32x4, _mm512_storeu_ps, _mm512_unpackhi_pd,
    _mm512_unpackhi_ps, _mm512_unpacklo_pd, _mm512_unpacklo_ps,
};

/// Columns that one call takes at most.
pub const WIDTH: usize = 4 * LANES;
/// Floats in a vector.
pub const LANES: usize = 16;
/// Rows of a tile.
const ROWS: usize = 6;

/// A product `c = factor * a b`, or `c + factor * a b`, of at most [`WIDTH`] columns.
#[derive(Clone, Copy)]
pub struct Strip {
    /// Rows of `a` and `c`.
    pub rows: usize,
    /// Columns of `a`, rows of `b`.
    pub depth: usize,
    /// Columns of `b` and `c`; 1 to [`WIDTH`].
    pub width: usize,
    /// The left side, with the strides of its rows and columns.
    pub a: (*const f32, usize, usize),
    /// The right side, with the stride of its rows.
    pub b: (*const f32, usize),
    /// The result, with the stride of its rows.
    pub c: (*mut f32, usize),
    /// Multiplies the product.
    pub factor: f32,
    /// Whether the result is added to what is there.
    pub add: bool,
}

/// Whether the processor has these instructions.
pub fn is_available() -> bool {
    std::arch::is_x86_feature_detected!("avx512f")
}

/// Whether it has those of bfloat16, too.
pub fn has_pairs() -> bool {
    is_available()
        && std::arch::is_x86_feature_detected!("avx512bw")
        && std::arch::is_x86_feature_detected!("avx512bf16")
}

/// The loops over tiles, for operands of one kind.
macro_rules! tiles {
    ($(#[$about:meta])* $kind:ident, $features:literal, $dot:expr) => {
        $(#[$about])*
        pub mod $kind {
            use super::*;

            /// Multiplies.
            ///
            /// # Safety
            /// The processor has the instructions; all elements that the sizes and strides
            /// reach may be read in `a` and `b`, and written in `c`, which overlaps neither.
            #[target_feature(enable = $features)]
            pub unsafe fn multiply(strip: Strip) {
                // SAFETY: the caller's promise.
                unsafe {
                    match strip.width.div_ceil(LANES) {
                        1 => rows::<1>(strip),
                        2 => rows::<2>(strip),
                        3 => rows::<3>(strip),
                        _ => rows::<4>(strip),
                    }
                }
            }

            /// # Safety
            /// As [`multiply`]; the width takes `VECTORS` vectors.
            #[target_feature(enable = $features)]
            unsafe fn rows<const VECTORS: usize>(strip: Strip) {
                let full = strip.rows - strip.rows % ROWS;
                // SAFETY: the caller's promise; tiles cover the rows and no more.
                unsafe {
                    for row in (0..full).step_by(ROWS) {
                        tile::<ROWS, VECTORS>(strip, row);
                    }
                    match strip.rows - full {
                        0 => {}
                        1 => tile::<1, VECTORS>(strip, full),
                        2 => tile::<2, VECTORS>(strip, full),
                        3 => tile::<3, VECTORS>(strip, full),
                        4 => tile::<4, VECTORS>(strip, full),
                        _ => tile::<5, VECTORS>(strip, full),
                    }
                }
            }

            /// # Safety
            /// As [`multiply`]; `HEIGHT` rows from `row` on exist.
            #[inline]
            #[target_feature(enable = $features)]
            unsafe fn tile<const HEIGHT: usize, const VECTORS: usize>(strip: Strip, row: usize) {
                let (a, a_row, a_column) = strip.a;
                let (b, b_row) = strip.b;
                let mask = |vector: usize| mask::<VECTORS>(strip.width, vector);
                let mut sums = [[_mm512_setzero_ps(); VECTORS]; HEIGHT];
                // SAFETY: rows from `row` to `row + HEIGHT`, the depth and the masked columns
                // lie inside what the caller promised.
                unsafe {
                    let a = a.add(row * a_row);
                    for step in 0..strip.depth {
                        let mut right = [_mm512_setzero_ps(); VECTORS];
                        for (vector, right) in right.iter_mut().enumerate() {
                            let from = b.add(step * b_row + vector * LANES);
                            *right = _mm512_maskz_loadu_ps(mask(vector), from);
                        }
                        for (height, sums) in sums.iter_mut().enumerate() {
                            let left = _mm512_set1_ps(*a.add(height * a_row + step * a_column));
                            for (sum, right) in sums.iter_mut().zip(right) {
                                *sum = $dot(*sum, left, right);
                            }
                        }
                    }
                    store(strip, row, &sums);
                }
            }
        }
    };
}

tiles!(
    /// Of single precision.
    single,
    "avx512f",
    |sum, left, right| _mm512_fmadd_ps(left, right, sum)
);
tiles!(
    /// Of pairs of bfloat16, each pair in the place of one float, its first in the low half.
    ///
    /// The second numbers of a pair are multiplied and added first, then the first ones; each
    /// product is fused with its sum, and what is too small for a normal number is 0.
    pairs,
    "avx512f,avx512bf16",
    |sum, left: __m512, right: __m512| {
        _mm512_dpbf16_ps(sum, pairs_of(left), pairs_of(right))
    }
);

/// Which values of a vector are the first so many, at most all.
#[inline(always)]
fn first_of(values: usize) -> __mmask16 {
    match LANES - values {
        LANES => 0,
        others => __mmask16::MAX >> others,
    }
}

/// Which columns of a vector there are.
#[inline(always)]
fn mask<const VECTORS: usize>(width: usize, vector: usize) -> __mmask16 {
    let last = width - (VECTORS - 1) * LANES;
    match vector + 1 < VECTORS {
        true => __mmask16::MAX,
        false => first_of(last),
    }
}

/// Writes the sums of a tile where they belong.
///
/// # Safety
/// As `multiply`; the tile's rows from `row` on exist.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn store<const HEIGHT: usize, const VECTORS: usize>(
    strip: Strip,
    row: usize,
    sums: &[[__m512; VECTORS]; HEIGHT],
) {
    let (c, c_row) = strip.c;
    let factor = (strip.factor != 1.0).then(|| _mm512_set1_ps(strip.factor));
    for (height, sums) in sums.iter().enumerate() {
        for (vector, sum) in sums.iter().enumerate() {
            let mask = mask::<VECTORS>(strip.width, vector);
            // SAFETY: the caller's promise.
            unsafe {
                let to = c.add((row + height) * c_row + vector * LANES);
                let product = factor.map_or(*sum, |factor| _mm512_mul_ps(*sum, factor));
                let value = match strip.add {
                    true => _mm512_add_ps(product, _mm512_maskz_loadu_ps(mask, to)),
                    false => product,
                };
                _mm512_mask_storeu_ps(to, mask, value);
            }
        }
    }
}

/// A vector of bits as the pairs that they are.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn pairs_of(bits: __m512) -> __m512bh {
    // SAFETY: as many bits, all of which mean something in both.
    unsafe { std::mem::transmute::<__m512, __m512bh>(bits) }
}

/// A vector of bfloat16 as its bits.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn bits_of(vector: __m512bh) -> __m512i {
    // SAFETY: as many bits, all of which mean something in both.
    unsafe { std::mem::transmute::<__m512bh, __m512i>(vector) }
}

/// Rounds neighbours to a pair of bfloat16; the last of an odd number stands beside a 0.
#[target_feature(enable = "avx512f,avx512bf16")]
pub fn pair_neighbours(from: &[f32], to: &mut [f32]) {
    for (from, to) in from.chunks(2 * LANES).zip(to.chunks_mut(LANES)) {
        let (low, high) = from.split_at(from.len().min(LANES));
        // SAFETY: masks keep to what the slices have.
        unsafe {
            let first = _mm512_maskz_loadu_ps(first_of(low.len()), low.as_ptr());
            let second = _mm512_maskz_loadu_ps(first_of(high.len()), high.as_ptr());
            let pairs = _mm512_castsi512_ps(bits_of(_mm512_cvtne2ps_pbh(second, first)));
            _mm512_mask_storeu_ps(to.as_mut_ptr(), first_of(to.len()), pairs);
        }
    }
}

/// Rounds what stands at one place of two rows to a pair of bfloat16; of no second row, 0.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub fn pair_rows(first: &[f32], second: Option<&[f32]>, to: &mut [f32]) {
    // One of the first row, one of the second, which the conversion leaves behind it.
    let mut order = [0u16; 2 * LANES];
    for (word, place) in (0u16..).zip(&mut order) {
        *place = word / 2 + word % 2 * 16;
    }
    // SAFETY: an array of as many bits.
    let order = unsafe { std::mem::transmute::<[u16; 2 * LANES], __m512i>(order) };
    for (block, to) in to.chunks_mut(LANES).enumerate() {
        let some = first_of(to.len());
        let load = |row: &[f32]| {
            let row = &row[block * LANES..][..to.len()];
            // SAFETY: the mask keeps to what the slice has.
            unsafe { _mm512_maskz_loadu_ps(some, row.as_ptr()) }
        };
        let low = load(first);
        let high = second.map_or(_mm512_setzero_ps(), load);
        // SAFETY: the mask keeps to what the slice has.
        unsafe {
            let words = bits_of(_mm512_cvtne2ps_pbh(high, low));
            let pairs = _mm512_castsi512_ps(_mm512_permutexvar_epi16(order, words));
            _mm512_mask_storeu_ps(to.as_mut_ptr(), some, pairs);
        }
    }
}

/// Exchanges rows and columns of [`LANES`] by [`LANES`] values, given the strides of rows.
///
/// # Safety
/// [`is_available`] was true; the rows may be read and written and do not overlap.
#[target_feature(enable = "avx512f")]
pub unsafe fn transpose((from, from_row): (*const f32, usize), (to, to_row): (*mut f32, usize)) {
    // SAFETY: the caller's promise.
    let rows: [__m512; LANES] =
        std::array::from_fn(|row| unsafe { _mm512_loadu_ps(from.add(row * from_row)) });
    // Pairs of rows, then fours of rows: lane L of `fours[4 g + j]` has column 4 L + j of
    // the rows 4 g to 4 g + 3.
    let pairs: [__m512; LANES] = std::array::from_fn(|index| {
        let (low, high) = (rows[index & !1], rows[index | 1]);
        match index & 1 {
            0 => _mm512_unpacklo_ps(low, high),
            _ => _mm512_unpackhi_ps(low, high),
        }
    });
    let fours: [__m512; LANES] = std::array::from_fn(|index| {
        let first = (index & !3) + (index & 2) / 2;
        let (low, high) = (
            _mm512_castps_pd(pairs[first]),
            _mm512_castps_pd(pairs[first + 2]),
        );
        _mm512_castpd_ps(match index & 1 {
            0 => _mm512_unpacklo_pd(low, high),
            _ => _mm512_unpackhi_pd(low, high),
        })
    });
    const EVEN: i32 = 0x88;
    const ODD: i32 = 0xdd;
    for column in 0..4 {
        let [a, b, c, d] = [0, 4, 8, 12].map(|group| fours[group + column]);
        let (low, high) = (
            _mm512_shuffle_f32x4(a, b, EVEN),
            _mm512_shuffle_f32x4(c, d, EVEN),
        );
        let columns = [
            _mm512_shuffle_f32x4(low, high, EVEN),
            _mm512_shuffle_f32x4(low, high, ODD),
        ];
        let (low, high) = (
            _mm512_shuffle_f32x4(a, b, ODD),
            _mm512_shuffle_f32x4(c, d, ODD),
        );
        let others = [
            _mm512_shuffle_f32x4(low, high, EVEN),
            _mm512_shuffle_f32x4(low, high, ODD),
        ];
        for (half, (even, odd)) in columns.into_iter().zip(others).enumerate() {
            let at = 8 * half + column;
            // SAFETY: the caller's promise.
            unsafe {
                _mm512_storeu_ps(to.add(at * to_row), even);
                _mm512_storeu_ps(to.add((at + 4) * to_row), odd);
            }
        }
    }
}

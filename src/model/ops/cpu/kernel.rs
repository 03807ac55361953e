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
    __m512, __mmask16, _mm512_add_ps, _mm512_castpd_ps, _mm512_castps_pd, _mm512_fmadd_ps,
    _mm512_loadu_ps, _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps, _mm512_mul_ps, _mm512_set1_ps,
    _mm512_setzero_ps, _mm512_shuffle_f32x4, _mm512_storeu_ps, _mm512_unpackhi_pd,
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

/// Multiplies.
///
/// # Safety
/// [`is_available`] was true; all elements that the sizes and strides reach may be read
/// in `a` and `b`, and written in `c`, which overlaps neither.
#[target_feature(enable = "avx512f")]
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
#[target_feature(enable = "avx512f")]
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
#[target_feature(enable = "avx512f")]
unsafe fn tile<const HEIGHT: usize, const VECTORS: usize>(strip: Strip, row: usize) {
    let (a, a_row, a_column) = strip.a;
    let (b, b_row) = strip.b;
    let (c, c_row) = strip.c;
    let last = strip.width - (VECTORS - 1) * LANES;
    let mask = |vector: usize| -> __mmask16 {
        if vector + 1 < VECTORS || last == LANES {
            __mmask16::MAX
        } else {
            (1 << last) - 1
        }
    };
    let mut sums = [[_mm512_setzero_ps(); VECTORS]; HEIGHT];
    // SAFETY: rows from `row` to `row + HEIGHT`, the depth and the masked columns lie
    // inside what the caller promised.
    unsafe {
        let a = a.add(row * a_row);
        for step in 0..strip.depth {
            let mut right = [_mm512_setzero_ps(); VECTORS];
            for (vector, right) in right.iter_mut().enumerate() {
                *right = _mm512_maskz_loadu_ps(mask(vector), b.add(step * b_row + vector * LANES));
            }
            for (height, sums) in sums.iter_mut().enumerate() {
                let left = _mm512_set1_ps(*a.add(height * a_row + step * a_column));
                for (sum, right) in sums.iter_mut().zip(right) {
                    *sum = _mm512_fmadd_ps(left, right, *sum);
                }
            }
        }
        let factor = _mm512_set1_ps(strip.factor);
        for (height, sums) in sums.iter().enumerate() {
            for (vector, sum) in sums.iter().enumerate() {
                let to = c.add((row + height) * c_row + vector * LANES);
                let product: __m512 = _mm512_mul_ps(*sum, factor);
                let value = match strip.add {
                    true => _mm512_add_ps(product, _mm512_maskz_loadu_ps(mask(vector), to)),
                    false => product,
                };
                _mm512_mask_storeu_ps(to, mask(vector), value);
            }
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

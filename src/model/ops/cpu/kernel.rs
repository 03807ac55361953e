//! The innermost loop of a matrix product, in AVX-512.
//!
//! A tile of the result stays in registers while it is summed: six rows by four
//! vectors take 24 of the 32. Each element is one chain of fused additions over the
//! depth, so its bits depend neither on the tile that it falls in nor on threads.

use std::arch::x86_64::{
    __m512, __mmask16, _mm512_add_ps, _mm512_fmadd_ps, _mm512_mask_storeu_ps,
    _mm512_maskz_loadu_ps, _mm512_mul_ps, _mm512_set1_ps, _mm512_setzero_ps,
};

/// Columns that one call takes at most.
pub const WIDTH: usize = 4 * LANES;
/// Floats in a vector.
const LANES: usize = 16;
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

//! Elementwise arithmetic that the compiler turns into vector instructions.
//!
//! Every function here gives the same bits on every machine: the order of each
//! sum is written out, and no product is fused with an addition.

#![expect(
    clippy::indexing_slicing,
    reason = "loops over slices of asserted length"
)]

/// Compiles a function for AVX-512, for AVX2 and for the baseline, and picks one when called.
macro_rules! vectorised {
    ($(#[$attr:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $out:ty)? $body:block) => {
        $(#[$attr])*
        $vis fn $name($($arg: $ty),*) $(-> $out)? {
            #[inline(always)]
            fn body($($arg: $ty),*) $(-> $out)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
                fn widest($($arg: $ty),*) $(-> $out)? {
                    body($($arg),*)
                }
                #[target_feature(enable = "avx2")]
                fn wide($($arg: $ty),*) $(-> $out)? {
                    body($($arg),*)
                }
                if $crate::model::ops::cpu::simd::has_widest() {
                    // SAFETY: the processor was just asked and has them.
                    return unsafe { widest($($arg),*) };
                }
                if std::arch::is_x86_feature_detected!("avx2") {
                    // SAFETY: the processor was just asked and has AVX2.
                    return unsafe { wide($($arg),*) };
                }
            }
            body($($arg),*)
        }
    };
}
pub(crate) use vectorised;

/// Whether the processor has all that AVX-512 brought first.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(crate) fn has_widest() -> bool {
    use std::arch::is_x86_feature_detected as has;
    has!("avx512f") && has!("avx512bw") && has!("avx512dq") && has!("avx512vl")
}

/// Partial sums kept side by side, so that a sum fills vector registers.
const LANES: usize = 16;

/// `e^x` within 3e-7 of its value for `-87 <= x <= 88`; outside, the value at the nearer end.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    // Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits.
    const ROUND: f32 = 12_582_912.0;
    // ln 2 in two parts: the high part has trailing zeros, so k * HIGH is exact.
    const HIGH: f32 = 0.693_359_4;
    const LOW: f32 = -2.121_944_4e-4;
    let x = x.clamp(-87.0, 88.0);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let k = shifted - ROUND;
    let r = (x - k * HIGH) - k * LOW;
    // The Taylor series: at |r| <= ln 2 / 2 the next term is below 6e-9.
    let p = 1.0 / 5040.0;
    let p = p * r + 1.0 / 720.0;
    let p = p * r + 1.0 / 120.0;
    let p = p * r + 1.0 / 24.0;
    let p = p * r + 1.0 / 6.0;
    let p = p * r + 0.5;
    let p = p * (r * r) + r + 1.0;
    p * f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23))
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// The hyperbolic tangent, within 3e-7 of its value.
#[inline(always)]
pub fn tanh(x: f32) -> f32 {
    let size = x.abs();
    let decay = exp(-2.0 * size);
    let far = (1.0 - decay) / (1.0 + decay);
    // Near 0 the difference above loses digits: the Taylor series, whose next term is
    // below 2e-8 of the value at 0.35.
    let square = x * x;
    let near = -1382.0 / 155_925.0;
    let near = near * square + 62.0 / 2835.0;
    let near = near * square - 17.0 / 315.0;
    let near = near * square + 2.0 / 15.0;
    let near = near * square - 1.0 / 3.0;
    let near = size + size * (square * near);
    let value = if size < 0.35 { near } else { far };
    value.copysign(x)
}

/// The sum of what `f` makes of the values at each place of some slices of one length, in
/// sixteen interleaved partial sums.
#[inline(always)]
pub fn sum_of<const N: usize>(slices: [&[f32]; N], f: impl Fn([f32; N]) -> f32) -> f32 {
    let len = slices.first().map_or(0, |slice| slice.len());
    let mut lanes = [0.0f32; LANES];
    let whole = len - len % LANES;
    for start in (0..whole).step_by(LANES) {
        // Of a length that is known: nothing is checked value by value.
        let mut blocks = [&[0.0; LANES]; N];
        for (block, slice) in blocks.iter_mut().zip(slices) {
            if let Some(values) = slice[start..].first_chunk() {
                *block = values;
            }
        }
        let mut terms = [0.0; LANES];
        for (lane, term) in terms.iter_mut().enumerate() {
            *term = f(blocks.map(|block| block[lane]));
        }
        for (total, term) in lanes.iter_mut().zip(terms) {
            *total += term;
        }
    }
    let mut rest = 0.0;
    for index in whole..len {
        rest += f(slices.map(|slice| slice[index]));
    }
    fold(lanes, |a, b| a + b) + rest
}

/// The largest value; NaN is passed over.
#[inline(always)]
pub fn max(values: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = values.chunks_exact(LANES);
    let mut largest = chunks
        .remainder()
        .iter()
        .fold(f32::NEG_INFINITY, |a, &b| a.max(b));
    for chunk in chunks {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            *lane = if value > *lane { value } else { *lane };
        }
    }
    largest = largest.max(fold(lanes, f32::max));
    largest
}

/// The dot product of two slices of one length.
#[inline(always)]
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    sum_of([a, &b[..a.len()]], |[a, b]| a * b)
}

/// `to += from`, elementwise.
#[inline(always)]
pub fn add(to: &mut [f32], from: &[f32]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to += from;
    }
}

/// Replaces each value by `exp(value - shift)` and returns the sum.
#[inline(always)]
pub fn exp_and_sum(values: &mut [f32], shift: f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let mut chunks = values.chunks_exact_mut(LANES);
    for chunk in &mut chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *value = exp(*value - shift);
            *lane += *value;
        }
    }
    let mut rest = 0.0;
    for value in chunks.into_remainder() {
        *value = exp(*value - shift);
        rest += *value;
    }
    fold(lanes, |a, b| a + b) + rest
}

vectorised! {
    /// Multiplies every value by `factor`.
    pub fn scale(values: &mut [f32], factor: f32) {
        for value in values {
            *value *= factor;
        }
    }
}

vectorised! {
    /// Rounds every value to the nearest bfloat16, to the even one of two; what is too
    /// small for a normal number becomes 0, as the processors' own conversions have it.
    pub fn round(values: &mut [f32]) {
        const EXPONENT: u32 = 0x7f80_0000;
        for value in values {
            let bits = value.to_bits();
            let nearest = bits.wrapping_add(0x7fff + (bits >> 16 & 1));
            let small = bits & EXPONENT == 0;
            let whole = if value.is_nan() { bits | 0x0040_0000 } else { nearest };
            let kept = if small { bits & 0x8000_0000 } else { whole & 0xffff_0000 };
            *value = f32::from_bits(kept);
        }
    }
}

vectorised! {
    /// Turns scores into probabilities.
    pub fn softmax(scores: &mut [f32]) {
        let sum = exp_and_sum(scores, max(scores));
        let inverse = 1.0 / sum;
        for score in scores {
            *score *= inverse;
        }
    }
}

vectorised! {
    /// Adds `bias` to every row of a matrix of its width.
    pub fn add_bias(rows: &mut [f32], bias: &[f32]) {
        for row in rows.chunks_exact_mut(bias.len().max(1)) {
            add(row, bias);
        }
    }
}

/// Combines lanes pairwise: the order is fixed and the tree shallow.
#[inline(always)]
fn fold(mut lanes: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] = f(lanes[lane], lanes[lane + width]);
        }
        width /= 2;
    }
    lanes[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_accurate() {
        let mut worst = 0.0f64;
        for step in 0..=1_750_000 {
            let x = -87.0 + step as f32 * 1e-4;
            let truth = f64::from(x).exp();
            worst = worst.max((f64::from(exp(x)) - truth).abs() / truth);
        }
        assert!(worst < 3e-7, "relative error {worst}");
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(f32::NAN).is_nan());
        assert!(exp(-1e30) < 1e-37 && exp(1e30).is_finite());
    }

    #[test]
    fn tanh_is_accurate() {
        let mut worst = 0.0f64;
        for step in 0..=200_000 {
            let x = step as f32 * 1e-4 - 10.0;
            let truth = f64::from(x).tanh();
            worst = worst.max((f64::from(tanh(x)) - truth).abs() / truth.abs().max(1e-30));
        }
        assert!(worst < 4e-7, "relative error {worst}");
        assert_eq!((tanh(0.0), tanh(1e30), tanh(-1e30)), (0.0, 1.0, -1.0));
        assert!(tanh(f32::NAN).is_nan());
    }

    #[test]
    fn rounding_is_that_of_bfloat16() {
        let bits = (0..=u32::MAX)
            .step_by(65_521)
            .chain((0..70_000).map(|i| 0x3f80_0000 + i));
        for value in bits
            .map(f32::from_bits)
            .chain([f32::INFINITY, f32::MAX, -0.0])
        {
            let mut found = [value];
            round(&mut found);
            let expected = match value.is_subnormal() {
                true => 0.0f32.copysign(value),
                false => half::bf16::from_f32(value).to_f32(),
            };
            assert_eq!(found[0].to_bits(), expected.to_bits(), "{value:e}");
        }
    }

    #[test]
    fn sums_equal_their_naive_twins() {
        for len in [0, 1, 15, 16, 17, 100, 1000] {
            let values: Vec<f32> = (0..len).map(|i| ((i * 37) % 101) as f32 - 50.0).collect();
            let naive: f32 = values.iter().map(|x| x * x).sum();
            assert_eq!(dot(&values, &values), naive, "whole numbers add exactly");
            let largest = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            assert_eq!(max(&values), largest);
        }
    }

    #[test]
    fn exp_and_sum_returns_what_it_leaves() {
        let mut values: Vec<f32> = (0..37).map(|i| i as f32 * 0.25 - 4.0).collect();
        let sum = exp_and_sum(&mut values, 1.0);
        let naive: f64 = (0..37).map(|i| (f64::from(i) * 0.25 - 5.0).exp()).sum();
        assert!((f64::from(sum) - naive).abs() < 1e-5 * naive);
        assert!((values[0] - (-5.0f32).exp()).abs() < 1e-8);
    }
}

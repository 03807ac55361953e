//! Layer norm and RMS norm over rows, forward and backward.

#![expect(
    clippy::indexing_slicing,
    reason = "loops over slices of asserted length"
)]

use super::simd::{sum_of, vectorised};
use crate::model::config;
use crate::model::layout::NormLayout;

/// A normalisation with its parameters.
#[derive(Clone, Copy)]
pub struct Norm<'a> {
    gain: &'a [f32],
    bias: Option<&'a [f32]>,
    kind: config::Norm,
    eps: f32,
}

impl<'a> Norm<'a> {
    /// Finds the parameters in their group.
    pub fn new(params: &'a [f32], layout: &NormLayout, kind: config::Norm, eps: f32) -> Self {
        Self {
            gain: &params[layout.weight.clone()],
            bias: layout.bias.clone().map(|range| &params[range]),
            kind,
            eps,
        }
    }

    /// Normalises each row of `x` into `out`.
    pub fn forward(&self, x: &[f32], out: &mut [f32]) {
        forward(*self, x, out);
    }

    /// Adds to `dx` the gradient of each row of `x`, given that of the output,
    /// and to `parameters` (gain, then bias) theirs.
    pub fn backward(&self, x: &[f32], dy: &[f32], dx: &mut [f32], parameters: &mut [f32]) {
        backward(*self, x, dy, dx, parameters);
    }

    /// Floats of gain and bias together.
    pub fn parameters(&self) -> usize {
        self.gain.len() + self.bias.map_or(0, <[f32]>::len)
    }

    /// The mean that is taken away, and one over the deviation.
    #[inline(always)]
    fn statistics(&self, row: &[f32]) -> (f32, f32) {
        let n = row.len() as f32;
        let mean = match self.kind {
            config::Norm::LayerNorm => sum_of([row], |[x]| x) / n,
            config::Norm::RmsNorm => 0.0,
        };
        let square = sum_of([row], |[x]| (x - mean) * (x - mean)) / n;
        (mean, 1.0 / (square + self.eps).sqrt())
    }
}

vectorised! {
    fn forward(norm: Norm<'_>, x: &[f32], out: &mut [f32]) {
        let d = norm.gain.len();
        for (row, out) in x.chunks_exact(d).zip(out.chunks_exact_mut(d)) {
            let (mean, inverse) = norm.statistics(row);
            match norm.bias {
                Some(bias) => {
                    for i in 0..d {
                        out[i] = (row[i] - mean) * inverse * norm.gain[i] + bias[i];
                    }
                }
                None => {
                    for i in 0..d {
                        out[i] = (row[i] - mean) * inverse * norm.gain[i];
                    }
                }
            }
        }
    }
}

vectorised! {
    fn backward(norm: Norm<'_>, x: &[f32], dy: &[f32], dx: &mut [f32], parameters: &mut [f32]) {
        let d = norm.gain.len();
        let (d_gain, d_bias) = parameters.split_at_mut(d);
        let gain = &norm.gain[..d];
        for ((row, dy), dx) in x.chunks_exact(d).zip(dy.chunks_exact(d)).zip(dx.chunks_exact_mut(d)) {
            let (mean, inverse) = norm.statistics(row);
            for i in 0..d {
                d_gain[i] += dy[i] * (row[i] - mean) * inverse;
            }
            if norm.bias.is_some() {
                super::simd::add(d_bias, dy);
            }
            let along = sum_of([dy, gain, row], |[dy, gain, x]| dy * gain * (x - mean)) * inverse / d as f32;
            let offset = match norm.kind {
                config::Norm::LayerNorm => sum_of([dy, gain], |[dy, gain]| dy * gain) / d as f32,
                config::Norm::RmsNorm => 0.0,
            };
            for i in 0..d {
                let hat = (row[i] - mean) * inverse;
                dx[i] += inverse * (dy[i] * gain[i] - offset - hat * along);
            }
        }
    }
}

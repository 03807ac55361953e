//! The activation of the feed-forward layer, forward and backward.

#![expect(
    clippy::indexing_slicing,
    reason = "loops over slices of asserted length"
)]

use super::simd::{sigmoid, vectorised};
use crate::model::config::Activation;

/// `sqrt(2 / pi)`, twice: GELU's tanh form is `u * sigmoid(2 z)`.
const TWICE_ROOT: f32 = 2.0 * 0.797_884_6;
const CUBIC: f32 = 0.044_715;

/// Activates rows: `u` is `d_ff` wide for GELU and `2 d_ff` (gate, up) for SwiGLU.
pub fn forward(activation: Activation, u: &[f32], out: &mut [f32], d_ff: usize) {
    match activation {
        Activation::Gelu => gelu(u, out),
        Activation::SwiGlu => swiglu(u, out, d_ff),
    }
}

/// Turns the gradient `da` of the activated rows into `du`, and computes the
/// activated rows again over `da`, which is where the weights' gradient wants them.
pub fn backward(activation: Activation, u: &[f32], da: &mut [f32], du: &mut [f32], d_ff: usize) {
    match activation {
        Activation::Gelu => gelu_backward(u, da, du),
        Activation::SwiGlu => swiglu_backward(u, da, du, d_ff),
    }
}

vectorised! {
    fn gelu(u: &[f32], out: &mut [f32]) {
        for (&u, out) in u.iter().zip(out) {
            *out = u * sigmoid(TWICE_ROOT * (u + CUBIC * u * u * u));
        }
    }
}

vectorised! {
    fn gelu_backward(u: &[f32], da: &mut [f32], du: &mut [f32]) {
        for ((&u, da), du) in u.iter().zip(da).zip(du) {
            let s = sigmoid(TWICE_ROOT * (u + CUBIC * u * u * u));
            let slope = s + u * s * (1.0 - s) * TWICE_ROOT * (1.0 + 3.0 * CUBIC * u * u);
            *du = *da * slope;
            *da = u * s;
        }
    }
}

vectorised! {
    fn swiglu(u: &[f32], out: &mut [f32], d_ff: usize) {
        for (u, out) in u.chunks_exact(2 * d_ff).zip(out.chunks_exact_mut(d_ff)) {
            let (gate, up) = u.split_at(d_ff);
            for i in 0..d_ff {
                out[i] = gate[i] * sigmoid(gate[i]) * up[i];
            }
        }
    }
}

vectorised! {
    fn swiglu_backward(u: &[f32], da: &mut [f32], du: &mut [f32], d_ff: usize) {
        let rows = u.chunks_exact(2 * d_ff).zip(da.chunks_exact_mut(d_ff));
        for ((u, da), du) in rows.zip(du.chunks_exact_mut(2 * d_ff)) {
            let (gate, up) = u.split_at(d_ff);
            let (d_gate, d_up) = du.split_at_mut(d_ff);
            for i in 0..d_ff {
                let s = sigmoid(gate[i]);
                let silu = gate[i] * s;
                d_gate[i] = da[i] * up[i] * (s + silu * (1.0 - s));
                d_up[i] = da[i] * silu;
                da[i] = silu * up[i];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// GELU in its tanh form, in double precision.
    fn gelu_naive(u: f64) -> f64 {
        let z = (2.0 / std::f64::consts::PI).sqrt() * (u + 0.044_715 * u.powi(3));
        0.5 * u * (1.0 + z.tanh())
    }

    fn silu_naive(g: f64) -> f64 {
        g / (1.0 + (-g).exp())
    }

    #[test]
    fn activations_equal_their_definitions() {
        let u: Vec<f32> = (0..64).map(|i| i as f32 * 0.3 - 9.6).collect();
        let mut out = vec![0.0; 64];
        forward(Activation::Gelu, &u, &mut out, 64);
        for (u, out) in u.iter().zip(&out) {
            let truth = gelu_naive(f64::from(*u));
            assert!((f64::from(*out) - truth).abs() < 1e-6 * truth.abs().max(1e-3));
        }
        forward(Activation::SwiGlu, &u, &mut out[..32], 32);
        for i in 0..32 {
            let truth = silu_naive(f64::from(u[i])) * f64::from(u[i + 32]);
            assert!((f64::from(out[i]) - truth).abs() < 1e-6 * truth.abs().max(1e-3));
        }
    }

    #[test]
    fn slopes_equal_finite_differences() {
        let h = 1e-5;
        let u: Vec<f32> = (0..32).map(|i| i as f32 * 0.4 - 6.4).collect();
        let (mut da, mut du) = (vec![1.0; 32], vec![0.0; 32]);
        backward(Activation::Gelu, &u, &mut da, &mut du, 32);
        for (u, du) in u.iter().zip(&du) {
            let u = f64::from(*u);
            let slope = (gelu_naive(u + h) - gelu_naive(u - h)) / (2.0 * h);
            assert!((f64::from(*du) - slope).abs() < 5e-6, "at {u}");
        }
        let (mut da, mut du) = (vec![1.0; 16], vec![0.0; 32]);
        backward(Activation::SwiGlu, &u, &mut da, &mut du, 16);
        for i in 0..16 {
            let (g, up) = (f64::from(u[i]), f64::from(u[i + 16]));
            let slope = up * (silu_naive(g + h) - silu_naive(g - h)) / (2.0 * h);
            assert!((f64::from(du[i]) - slope).abs() < 2e-6 * slope.abs().max(1.0));
            assert!((f64::from(du[i + 16]) - silu_naive(g)).abs() < 1e-6);
        }
    }
}

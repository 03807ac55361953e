//! Rotary position embedding in the rotate-half convention.

#![expect(
    clippy::indexing_slicing,
    reason = "loops over slices of asserted length"
)]

use super::simd::vectorised;
use crate::model::config::{Config, RopeScaling};

/// Cosines and sines of every angle of a context, times the amplitude of the scaling.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    cos: Vec<f32>,
    sin: Vec<f32>,
    half: usize,
}

/// Which way a vector turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// By the angle of its position, as in the forward pass, and longer by the amplitude.
    Forward,
    /// Back again, as a gradient does, which the amplitude makes longer too.
    Back,
}

impl Rope {
    /// The table of a model's context for heads of `head` dimensions.
    pub fn new(config: &Config, head: usize) -> Self {
        let (context, half) = (config.context, head / 2);
        let scaling = config.rope_scaling.as_ref();
        let angles = scaling.map(|scaling| scaling.angles(config.rope_theta, half));
        let amplitude = scaling.map_or(1.0, RopeScaling::amplitude);
        let periods = (0..half).map(|pair| config.rope_theta.powf(pair as f64 / half as f64));
        let periods: Vec<f64> = periods.collect();
        let angle = |index: usize| {
            let (position, pair) = (index / half, index % half);
            match &angles {
                Some(angles) => position as f64 * angles[pair],
                None => position as f64 / periods[pair],
            }
        };
        #[expect(
            clippy::cast_possible_truncation,
            reason = "cosines are rounded to the precision of the model"
        )]
        let single = |x: f64| (amplitude * x) as f32;
        let table = |f: fn(f64) -> f64| (0..context * half).map(|i| single(f(angle(i)))).collect();
        Self {
            cos: table(f64::cos),
            sin: table(f64::sin),
            half,
        }
    }

    /// The cosines, `[context, head / 2]`.
    pub fn cos(&self) -> &[f32] {
        &self.cos
    }

    /// The sines, `[context, head / 2]`.
    pub fn sin(&self) -> &[f32] {
        &self.sin
    }

    /// Turns every head of one row, which holds whole heads, at `position`.
    pub fn turn(&self, heads: &mut [f32], position: usize, turn: Turn) {
        let at = position * self.half;
        let (cos, sin) = (&self.cos[at..][..self.half], &self.sin[at..][..self.half]);
        rotate(
            heads,
            cos,
            sin,
            match turn {
                Turn::Forward => 1.0,
                Turn::Back => -1.0,
            },
        );
    }
}

vectorised! {
    fn rotate(heads: &mut [f32], cos: &[f32], sin: &[f32], sign: f32) {
        let half = cos.len();
        for head in heads.chunks_exact_mut(2 * half) {
            let (a, b) = head.split_at_mut(half);
            for i in 0..half {
                let (x, y, s) = (a[i], b[i], sign * sin[i]);
                a[i] = x * cos[i] - y * s;
                b[i] = y * cos[i] + x * s;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::testing::llama;

    fn of(context: usize) -> Config {
        Config { context, ..llama() }
    }

    #[test]
    fn scaled_angles_are_in_the_table() {
        let with = |scaling| Config {
            rope_scaling: Some(scaling),
            ..of(64)
        };
        let plain = Rope::new(&of(64), 8);
        let last = 63 * 4;
        let linear = Rope::new(&with(RopeScaling::Linear { linear: 8.0 }), 8);
        let angle = 63.0 / 1000.0 / 8.0;
        assert!((f64::from(linear.sin[last + 3]) - f64::sin(angle)).abs() < 1e-6);
        let dynamic = Rope::new(&with(RopeScaling::Dynamic { dynamic: 8.0 }), 8);
        let near = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-6);
        assert!(near(&plain.cos, &dynamic.cos) && near(&plain.sin, &dynamic.sin));
        let yarn = RopeScaling::Yarn {
            yarn: 4.0,
            amplitude: 1.5,
            beta_fast: 32.0,
            beta_slow: 1.0,
            truncate: false,
            original_context: 32,
        };
        let yarn = Rope::new(&with(yarn), 8);
        assert_eq!(yarn.cos[..4], [1.5; 4]);
    }

    #[test]
    fn turning_back_undoes_turning() {
        let rope = Rope::new(&of(40), 8);
        let start: Vec<f32> = (0..24).map(|i| (i as f32).sin()).collect();
        let mut heads = start.clone();
        rope.turn(&mut heads, 17, Turn::Forward);
        assert!(heads.iter().zip(&start).any(|(a, b)| (a - b).abs() > 0.1));
        rope.turn(&mut heads, 17, Turn::Back);
        assert!(heads.iter().zip(&start).all(|(a, b)| (a - b).abs() < 1e-6));
    }

    #[test]
    fn scores_depend_on_distance_alone() {
        let rope = Rope::new(&of(64), 8);
        let score = |m, n| {
            let mut q: Vec<f32> = (0..8).map(|i| (i as f32 + 0.5).cos()).collect();
            let mut k: Vec<f32> = (0..8).map(|i| (i as f32 * 1.7).sin()).collect();
            rope.turn(&mut q, m, Turn::Forward);
            rope.turn(&mut k, n, Turn::Forward);
            super::super::simd::dot(&q, &k)
        };
        assert!((score(5, 2) - score(45, 42)).abs() < 1e-5);
        assert!((score(5, 2) - score(5, 4)).abs() > 1e-3);
    }
}

//! Rotary position embedding in the rotate-half convention.

#![expect(
    clippy::indexing_slicing,
    reason = "loops over slices of asserted length"
)]

use super::simd::vectorised;
use crate::model::config::Config;

/// Cosines and sines of every angle of a context.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    cos: Vec<f32>,
    sin: Vec<f32>,
    half: usize,
}

/// Which way a vector turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// By the angle of its position, as in the forward pass.
    Forward,
    /// Back again, as a gradient does.
    Back,
}

impl Rope {
    /// The table of a model's context for heads of `head` dimensions.
    pub fn new(config: &Config, head: usize) -> Self {
        let (context, half) = (config.context, head / 2);
        let angle = |index: usize| {
            let (position, pair) = (index / half, index % half);
            let period = config.rope_theta.powf(pair as f64 / half as f64);
            match config.rope_scaling {
                Some(scaling) => position as f64 * scaling.scale(1.0 / period),
                None => position as f64 / period,
            }
        };
        #[expect(
            clippy::cast_possible_truncation,
            reason = "cosines are rounded to the precision of the model"
        )]
        let table = |f: fn(f64) -> f64| (0..context * half).map(|i| f(angle(i)) as f32).collect();
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
    use crate::model::config::RopeScaling;
    use crate::model::testing::llama;

    fn of(context: usize) -> Config {
        Config { context, ..llama() }
    }

    #[test]
    fn scaling_slows_what_turns_slowly() {
        let scaling = RopeScaling {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_context: 4096,
        };
        let turning = |turns: f64| turns * std::f64::consts::TAU / 4096.0;
        for (turns, kept) in [
            (0.5, 0.125),
            (1.0, 0.125),
            (2.5, 0.5625),
            (4.0, 1.0),
            (9.0, 1.0),
        ] {
            let found = scaling.scale(turning(turns)) / turning(turns);
            assert!((found - kept).abs() < 1e-12, "{turns}: {found}");
        }
        let config = Config {
            rope_scaling: Some(scaling),
            ..of(64)
        };
        let (plain, scaled) = (Rope::new(&of(64), 8), Rope::new(&config, 8));
        let last = 63 * 4;
        assert_eq!(plain.sin[last], scaled.sin[last]);
        let angle = 63.0 / 1000.0 / 8.0;
        assert!((f64::from(scaled.sin[last + 3]) - f64::sin(angle)).abs() < 1e-6);
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

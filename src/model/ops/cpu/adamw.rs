//! AdamW in one pass over a flat tensor, and the norm of a gradient.

#![expect(
    clippy::indexing_slicing,
    reason = "ranges come from the layout of the group"
)]

use rayon::prelude::*;

use super::simd::vectorised;
use crate::model::layout::{Decay, Part};
use crate::model::ops::AdamStep;

/// Elements a task.
const CHUNK: usize = 1 << 14;

/// Changes parameters and both moments in place.
pub fn step(
    param: &mut [f32],
    gradient: &[f32],
    (first, second): (&mut [f32], &mut [f32]),
    step: &AdamStep,
    parts: &[Part],
) {
    let (mut param, mut first, mut second) = (param, first, second);
    let mut tasks = Vec::new();
    for part in parts {
        let rates = Rates::new(step, part.decay);
        let (p, p_rest) = param.split_at_mut(part.range.len());
        let (m, m_rest) = first.split_at_mut(part.range.len());
        let (v, v_rest) = second.split_at_mut(part.range.len());
        (param, first, second) = (p_rest, m_rest, v_rest);
        let chunks = p
            .chunks_mut(CHUNK)
            .zip(gradient[part.range.clone()].chunks(CHUNK))
            .zip(m.chunks_mut(CHUNK).zip(v.chunks_mut(CHUNK)));
        tasks.extend(chunks.map(|chunk| (chunk, rates)));
    }
    tasks
        .into_par_iter()
        .for_each(|(((p, g), (m, v)), rates)| update(p, g, m, v, rates));
}

/// The sum of the squares of a gradient, in an order that depends on its length alone.
pub fn norm_squared(gradient: &[f32]) -> f64 {
    let sums: Vec<f64> = gradient.par_chunks(CHUNK).map(squares).collect();
    sums.iter().sum()
}

/// The constants of a step in the precision of the parameters.
#[derive(Clone, Copy)]
struct Rates {
    scale: f32,
    keep: f32,
    beta1: f32,
    beta2: f32,
    rate: f32,
    root: f32,
    eps: f32,
}

impl Rates {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "constants are rounded to the precision of the parameters"
    )]
    fn new(step: &AdamStep, decay: Decay) -> Self {
        let correct = |beta: f64| 1.0 - beta.powf(step.index as f64);
        Self {
            scale: step.gradient_scale as f32,
            keep: step.keep(decay) as f32,
            beta1: step.beta1 as f32,
            beta2: step.beta2 as f32,
            rate: (step.rate / correct(step.beta1)) as f32,
            root: (1.0 / correct(step.beta2).sqrt()) as f32,
            eps: step.eps as f32,
        }
    }
}

vectorised! {
    fn update(p: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32], rates: Rates) {
        for (((p, g), m), v) in p.iter_mut().zip(g).zip(m).zip(v) {
            let g = g * rates.scale;
            *m = rates.beta1 * *m + (1.0 - rates.beta1) * g;
            *v = rates.beta2 * *v + (1.0 - rates.beta2) * (g * g);
            *p = rates.keep * *p - rates.rate * *m / (v.sqrt() * rates.root + rates.eps);
        }
    }
}

vectorised! {
    fn squares(values: &[f32]) -> f64 {
        let mut lanes = [0.0f64; 8];
        let chunks = values.chunks_exact(8);
        let rest: f64 = chunks.remainder().iter().map(|&x| f64::from(x) * f64::from(x)).sum();
        for chunk in chunks {
            for (lane, &x) in lanes.iter_mut().zip(chunk) {
                *lane += f64::from(x) * f64::from(x);
            }
        }
        lanes.iter().sum::<f64>() + rest
    }
}

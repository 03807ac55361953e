//! The final norm, the head and the weighted cross entropy, in one pass.
//!
//! Only scored positions are multiplied with the head, so pauses and padding
//! cost nothing here, and no more logits exist than one span of them. The
//! gradient is computed while the logits are at hand.

#![expect(
    clippy::indexing_slicing,
    reason = "targets below the vocabulary size are the caller's promise"
)]

use rayon::prelude::*;

use super::TOKENS;
use super::block::Partials;
use super::buffer::{self, Buffer};
use super::matrix::{Mat, MatMut};
use super::norm::Norm;
use super::product::{Onto, Packed, matmul, matmul_packed};
use super::simd::{exp_and_sum, max, tanh, vectorised};
use crate::model::ops::{Loss, Objective, Shape, Targets};
use crate::model::precision::Precision;

/// At most this many logits (32 MiB) exist at once, or one chunk of tokens'.
const LOGITS: usize = 8 << 20;
/// Rows of the head's gradient that one task computes.
const VOCABULARY_ROWS: usize = 192;

/// The parameters that the loss reads.
#[derive(Clone, Copy)]
pub struct Head<'a> {
    /// The group `final`.
    pub last: &'a [f32],
    /// The group `embedding`.
    pub embedding: &'a [f32],
    /// What the head multiplies in.
    pub precision: Precision,
}

/// Where gradients are added.
pub struct Into<'a> {
    /// Of the group `final`, where it is wanted.
    pub last: Option<&'a mut [f32]>,
    /// Of the group `embedding`, whose table may be the head, where it is wanted.
    pub embedding: Option<&'a mut [f32]>,
    /// Of the rows of these ids alone, where the table is the head.
    pub rows: Option<(&'a [u32], &'a mut [f32])>,
}

impl<'a> Head<'a> {
    fn table(&self, shape: &Shape) -> Mat<'a> {
        let values = match &shape.last.head {
            Some(range) => &self.last[range.clone()],
            None => &self.embedding[shape.embedding.token.clone()],
        };
        Mat::new(values, shape.vocabulary(), shape.d)
    }

    /// The table as the right side that makes logits.
    fn columns(&self, shape: &Shape) -> Packed<'a> {
        Packed::new(self.table(shape).t(), self.precision)
    }

    /// The table as the right side of the gradients of logits.
    fn rows(&self, shape: &Shape) -> Packed<'a> {
        Packed::new(self.table(shape), self.precision)
    }

    fn norm(&self, shape: &Shape) -> Norm<'a> {
        Norm::new(self.last, &shape.last.norm, shape.norm, shape.eps)
    }
}

/// Returns the logits `[n, V]` of every position.
pub fn logits(x: &[f32], head: Head<'_>, shape: &Shape) -> Vec<f32> {
    let (d, v) = (shape.d, shape.vocabulary());
    let (table, norm) = (head.columns(shape), head.norm(shape));
    let mut out = vec![0.0; x.len() / d * v];
    out.par_chunks_mut(TOKENS * v)
        .zip(x.par_chunks(TOKENS * d))
        .for_each(|(out, x)| {
            let n = x.len() / d;
            let mut hidden = Buffer::new(x.len());
            norm.forward(x, &mut hidden);
            let mut out = MatMut::new(out, n, v);
            let hidden = Mat::new(&hidden, n, d);
            matmul_packed(&mut out, Onto::Nothing, hidden, &table, 1.0);
            if let Some(cap) = shape.soft_cap {
                (0..n).for_each(|row| bound(out.row_mut(row), cap));
            }
        });
    out
}

/// Returns the loss of a batch.
pub fn loss(x: &[f32], head: Head<'_>, targets: &Targets, z_loss: f32, shape: &Shape) -> Loss {
    let (scored, columns) = (scored(targets), head.columns(shape));
    let objective = Objective {
        z_loss,
        ..Objective::PLAIN
    };
    let mut total = Loss::default();
    for span in scored.chunks(span(shape)) {
        let mut work = Work::new(span.len(), shape);
        let aim = (targets, &objective, span);
        total += work.read(x, (head, &columns), aim, shape, |_, _| {});
    }
    total
}

/// Returns the loss of a batch and the gradient of the residual stream, `[n, d]`; adds
/// those of the parameters.
pub fn differentiate(
    x: &[f32],
    head: Head<'_>,
    targets: &Targets,
    objective: &Objective,
    shape: &Shape,
    into: Into<'_>,
) -> (Loss, Vec<f32>) {
    let d = shape.d;
    let norm = head.norm(shape);
    let (columns, rows) = (head.columns(shape), head.rows(shape));
    let mut dx = buffer::zeros(x.len());
    let (mut d_norm, d_head) = match into.last {
        Some(last) => {
            let (d_norm, d_head) = last.split_at_mut(norm.parameters());
            (Some(d_norm), Some(d_head))
        }
        None => (None, None),
    };
    let mut d_table = match shape.last.head {
        Some(_) => d_head,
        None => (into.embedding).map(|group| &mut group[shape.embedding.token.clone()]),
    };
    let mut rows_wanted = into.rows.filter(|_| shape.last.head.is_none());
    let scored = scored(targets);
    let mut total = Loss::default();
    for span in scored.chunks(span(shape)) {
        let mut work = Work::new(span.len(), shape);
        let aim = (targets, objective, span);
        total += work.read(x, (head, &columns), aim, shape, |chunk, norms| {
            let n = chunk.rows.len() / d;
            let logits = Mat::new(chunk.logits, n, shape.vocabulary());
            let mut d_hidden = Buffer::new(chunk.rows.len());
            let mut view = MatMut::new(&mut d_hidden, n, d);
            matmul_packed(&mut view, Onto::Nothing, logits, &rows, 1.0);
            let mut d_rows = Buffer::new(chunk.rows.len());
            d_rows.fill(0.0);
            norm.backward(chunk.rows, &d_hidden, &mut d_rows, norms);
            chunk.rows.copy_from_slice(&d_rows);
        });
        if let Some(d_norm) = &mut d_norm {
            work.norms.sum_into(d_norm);
        }
        if let Some(d_table) = &mut d_table {
            work.add_table(d_table, head.precision, shape);
        }
        if let Some((ids, into)) = &mut rows_wanted {
            work.add_rows(ids, into, shape);
        }
        for (row, &position) in work.rows.chunks_exact(d).zip(span) {
            dx[position * d..][..d].copy_from_slice(row);
        }
    }
    (total, dx)
}

/// Arrays for one span of scored positions.
struct Work {
    /// The residual stream, later its gradient, `[n, d]`.
    rows: Buffer,
    /// After the norm, `[n, d]`.
    hidden: Buffer,
    /// The logits, later their gradient, `[n, V]`.
    logits: Buffer,
    norms: Partials,
}

/// One chunk of a span after its logits became their gradient.
struct Chunk<'a> {
    rows: &'a mut [f32],
    logits: &'a [f32],
}

impl Work {
    fn new(n: usize, shape: &Shape) -> Self {
        let norm = shape.last.norm.bias.as_ref().map_or(1, |_| 2) * shape.d;
        Self {
            rows: Buffer::new(n * shape.d),
            hidden: Buffer::new(n * shape.d),
            logits: Buffer::new(n * shape.vocabulary()),
            norms: Partials::new(n, norm),
        }
    }

    /// Given the head's table as `columns`, computes the loss of a span and leaves the
    /// gradient of the logits; `after` sees each chunk while its logits are in the cache.
    fn read(
        &mut self,
        x: &[f32],
        (head, columns): (Head<'_>, &Packed<'_>),
        (targets, objective, span): (&Targets, &Objective, &[usize]),
        shape: &Shape,
        after: impl Fn(Chunk<'_>, &mut [f32]) + Sync,
    ) -> Loss {
        let (d, v) = (shape.d, shape.vocabulary());
        let norm = head.norm(shape);
        let losses: Vec<Loss> = self
            .rows
            .par_chunks_mut(TOKENS * d)
            .zip(self.hidden.par_chunks_mut(TOKENS * d))
            .zip(self.logits.par_chunks_mut(TOKENS * v))
            .zip(self.norms.chunks())
            .zip(span.par_chunks(TOKENS))
            .map(|((((rows, hidden), logits), norms), span)| {
                for (row, &position) in rows.chunks_exact_mut(d).zip(span) {
                    row.copy_from_slice(&x[position * d..][..d]);
                }
                norm.forward(rows, hidden);
                let mut view = MatMut::new(logits, span.len(), v);
                let hidden = Mat::new(hidden, span.len(), d);
                matmul_packed(&mut view, Onto::Nothing, hidden, columns, 1.0);
                let mut bounded = Buffer::new(shape.soft_cap.map_or(0, |_| v));
                let mut sum = Loss::default();
                for (row, &position) in logits.chunks_exact_mut(v).zip(span) {
                    let aim = Aim {
                        target: targets.ids[position] as usize,
                        weight: targets.weights[position] * objective.scale,
                        z_loss: objective.z_loss,
                    };
                    let [entropy, z_loss] = match shape.soft_cap {
                        None => score(row, aim),
                        Some(cap) => score_bounded(row, &mut bounded, cap, aim),
                    };
                    let weight = f64::from(targets.weights[position]);
                    sum += Loss {
                        cross_entropy: weight * f64::from(entropy),
                        z_loss: weight * f64::from(z_loss),
                    };
                }
                after(Chunk { rows, logits }, norms);
                sum
            })
            .collect();
        let mut total = Loss::default();
        losses.into_iter().for_each(|loss| total += loss);
        total
    }

    /// Adds this span's part to the gradient of the head's table.
    fn add_table(&self, table: &mut [f32], precision: Precision, shape: &Shape) {
        let (d, v) = (shape.d, shape.vocabulary());
        let n = self.hidden.len() / d;
        let logits = Mat::new(&self.logits, n, v).t();
        let hidden = Packed::new(Mat::new(&self.hidden, n, d), precision);
        table
            .par_chunks_mut(VOCABULARY_ROWS * d)
            .enumerate()
            .for_each(|(block, into)| {
                let rows = block * VOCABULARY_ROWS..block * VOCABULARY_ROWS + into.len() / d;
                let mut into = MatMut::new(into, rows.len(), d);
                matmul_packed(&mut into, Onto::Old, logits.rows(rows), &hidden, 1.0);
            });
    }
}

impl Work {
    /// Adds this span's part to the gradient of some rows of the head's table.
    fn add_rows(&self, ids: &[u32], into: &mut [f32], shape: &Shape) {
        let (d, v, k) = (shape.d, shape.vocabulary(), ids.len());
        let n = self.hidden.len() / d;
        let mut picked = Buffer::new(n * k);
        for (picked, logits) in picked.chunks_exact_mut(k).zip(self.logits.chunks_exact(v)) {
            for (picked, id) in picked.iter_mut().zip(ids) {
                *picked = logits[*id as usize];
            }
        }
        let (picked, hidden) = (Mat::new(&picked, n, k), Mat::new(&self.hidden, n, d));
        matmul(
            &mut MatMut::new(into, k, d),
            Onto::Old,
            picked.t(),
            hidden,
            1.0,
        );
    }
}

/// The positions that count.
fn scored(targets: &Targets) -> Vec<usize> {
    let weights = targets.weights.iter().enumerate();
    weights
        .filter(|&(_, &weight)| weight != 0.0)
        .map(|(position, _)| position)
        .collect()
}

/// Positions a span: whole chunks.
fn span(shape: &Shape) -> usize {
    (LOGITS / shape.vocabulary().max(1) / TOKENS).max(1) * TOKENS
}

/// What one position is asked for, and how much that counts.
#[derive(Clone, Copy)]
struct Aim {
    target: usize,
    weight: f32,
    z_loss: f32,
}

vectorised! {
    /// Replaces the logits of one position by the gradient of `weight` times its loss;
    /// returns cross entropy and z-loss without the weight.
    fn score(logits: &mut [f32], aim: Aim) -> [f32; 2] {
        slope(logits, aim)
    }
}

vectorised! {
    /// [`score`] of logits that are bounded first; `bounded` has room for them.
    fn score_bounded(logits: &mut [f32], bounded: &mut [f32], cap: f32, aim: Aim) -> [f32; 2] {
        let inverse = 1.0 / cap;
        for (logit, ratio) in logits.iter_mut().zip(bounded.iter_mut()) {
            *ratio = tanh(*logit * inverse);
            *logit = cap * *ratio;
        }
        let loss = slope(logits, aim);
        for (gradient, ratio) in logits.iter_mut().zip(bounded) {
            *gradient *= 1.0 - *ratio * *ratio;
        }
        loss
    }
}

#[inline(always)]
fn slope(logits: &mut [f32], aim: Aim) -> [f32; 2] {
    let shift = max(logits);
    let gained = logits[aim.target] - shift;
    let sum = exp_and_sum(logits, shift);
    let rest = sum.ln();
    // The logarithm of the sum of the exponentials of the logits as they were.
    let z = shift + rest;
    let factor = aim.weight * (1.0 + 2.0 * aim.z_loss * z) / sum;
    for value in logits.iter_mut() {
        *value *= factor;
    }
    logits[aim.target] -= aim.weight;
    [rest - gained, aim.z_loss * z * z]
}

vectorised! {
    /// Bounds logits softly: `cap * tanh(logit / cap)`.
    pub fn bound(logits: &mut [f32], cap: f32) {
        let inverse = 1.0 / cap;
        for logit in logits {
            *logit = cap * tanh(*logit * inverse);
        }
    }
}

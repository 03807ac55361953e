//! Causal attention with grouped-query heads, forward and backward.
//!
//! Queries are taken in blocks, keys after the block are never touched, and the
//! probabilities are computed again in the backward pass from the logarithm of
//! their sum. One task is one row and one group of query heads, so that the
//! gradients of its key and value head are its own.

use rayon::prelude::*;

use super::buffer::Buffer;
use super::matrix::{Mat, MatMut};
use super::product::{Onto, matmul};
use super::rotary::{Rope, Turn};
use super::simd::{dot, exp, exp_and_sum, max, vectorised};
use crate::model::ops::{Extent, Shape};

/// Queries a block: small enough that half-empty blocks on the diagonal cost little.
const QUERIES: usize = 64;

/// Returns the attended values `[n, d]` and the logarithms `[rows, heads, length]`,
/// given query, key and value columns of every position.
pub fn forward(qkv: &[f32], shape: &Shape, extent: Extent) -> (Buffer, Buffer) {
    let Extent { rows, length } = extent;
    let mut out = Buffer::new(rows * length * shape.d);
    let mut logs = Buffer::new(rows * shape.heads * length);
    let tasks: Vec<_> = out
        .chunks_exact_mut(length * shape.d)
        .flat_map(|row| MatMut::new(row, length, shape.d).column_blocks(shape.group() * shape.head))
        .zip(logs.chunks_exact_mut(shape.group() * length))
        .enumerate()
        .collect();
    tasks.into_par_iter().for_each(|(task, (out, logs))| {
        let view = Row::new(qkv, shape, extent, task);
        let heads = out.column_blocks(shape.head).into_iter();
        for (index, (mut out, logs)) in heads.zip(logs.chunks_exact_mut(length)).enumerate() {
            attend(&view, index, &mut out, logs);
        }
    });
    (out, logs)
}

/// What the backward pass needs beside the gradient.
pub struct Saved<'a> {
    /// Rotated query, key and value columns.
    pub qkv: &'a [f32],
    /// What [`forward`] returned first.
    pub out: &'a [f32],
    /// What [`forward`] returned second.
    pub logs: &'a [f32],
}

/// Returns the gradient of the query, key and value columns before rotation.
pub fn backward(saved: &Saved<'_>, d_out: &[f32], shape: &Shape, extent: Extent) -> Buffer {
    let Extent { rows, length } = extent;
    let mut gradient = Buffer::new(rows * length * shape.qkv_width());
    let tasks: Vec<_> = gradient
        .chunks_exact_mut(length * shape.qkv_width())
        .flat_map(|row| {
            let all = MatMut::new(row, length, shape.qkv_width());
            let (queries, rest) = all.split_columns(shape.d);
            let (keys, values) = rest.split_columns(shape.kv_heads * shape.head);
            let queries = queries.column_blocks(shape.group() * shape.head);
            let pairs = keys.column_blocks(shape.head).into_iter();
            queries
                .into_iter()
                .zip(pairs.zip(values.column_blocks(shape.head)))
        })
        .enumerate()
        .collect();
    tasks
        .into_par_iter()
        .for_each(|(task, (d_queries, (mut d_key, mut d_value)))| {
            let view = Row::new(saved.qkv, shape, extent, task);
            for position in 0..length {
                d_key.row_mut(position).fill(0.0);
                d_value.row_mut(position).fill(0.0);
            }
            for (index, mut d_query) in d_queries.column_blocks(shape.head).into_iter().enumerate()
            {
                let into = Into {
                    query: &mut d_query,
                    key: &mut d_key,
                    value: &mut d_value,
                };
                let head = view.saved_head(saved, d_out, index);
                differentiate(&view, &head, into);
                turn_back(&mut d_query, shape.rope.as_deref(), length);
            }
            turn_back(&mut d_key, shape.rope.as_deref(), length);
        });
    gradient
}

/// One row of a batch as one group of query heads sees it.
struct Row<'a> {
    qkv: &'a [f32],
    shape: &'a Shape,
    length: usize,
    row: usize,
    /// Which key and value head.
    pair: usize,
}

/// What the forward pass left of one query head, and its gradient.
struct SavedHead<'a> {
    query: Mat<'a>,
    out: Mat<'a>,
    d_out: Mat<'a>,
    logs: &'a [f32],
}

/// Where the gradients of one query head go; key and value are added to.
struct Into<'a, 'b> {
    query: &'a mut MatMut<'b>,
    key: &'a mut MatMut<'b>,
    value: &'a mut MatMut<'b>,
}

impl<'a> Row<'a> {
    fn new(qkv: &'a [f32], shape: &'a Shape, extent: Extent, task: usize) -> Self {
        let (row, pair) = (task / shape.kv_heads, task % shape.kv_heads);
        let width = extent.length * shape.qkv_width();
        Self {
            qkv: qkv.get(row * width..(row + 1) * width).unwrap_or_default(),
            shape,
            length: extent.length,
            row,
            pair,
        }
    }

    fn columns(&self, start: usize) -> Mat<'a> {
        Mat::new(self.qkv, self.length, self.shape.qkv_width())
            .columns(start..start + self.shape.head)
    }

    fn query(&self, index: usize) -> Mat<'a> {
        self.columns((self.pair * self.shape.group() + index) * self.shape.head)
    }

    fn key(&self) -> Mat<'a> {
        self.columns(self.shape.d + self.pair * self.shape.head)
    }

    fn value(&self) -> Mat<'a> {
        let keys = self.shape.kv_heads * self.shape.head;
        self.columns(self.shape.d + keys + self.pair * self.shape.head)
    }

    fn scale(&self) -> f32 {
        1.0 / (self.shape.head as f32).sqrt()
    }

    fn saved_head(&self, saved: &Saved<'a>, d_out: &'a [f32], index: usize) -> SavedHead<'a> {
        let head = self.pair * self.shape.group() + index;
        let (d, length) = (self.shape.d, self.length);
        let span = self.row * length * d..(self.row + 1) * length * d;
        let columns = head * self.shape.head..(head + 1) * self.shape.head;
        let of = |all: &'a [f32]| {
            let row = all.get(span.clone()).unwrap_or_default();
            Mat::new(row, length, d).columns(columns.clone())
        };
        let start = (self.row * self.shape.heads + head) * length;
        SavedHead {
            query: self.query(index),
            out: of(saved.out),
            d_out: of(d_out),
            logs: saved.logs.get(start..start + length).unwrap_or_default(),
        }
    }
}

fn attend(view: &Row<'_>, index: usize, out: &mut MatMut<'_>, logs: &mut [f32]) {
    let length = view.length;
    let (query, key, value) = (view.query(index), view.key(), view.value());
    let mut scores = Buffer::new(QUERIES.min(length) * length);
    for start in (0..length).step_by(QUERIES) {
        let end = length.min(start + QUERIES);
        let mut block = MatMut::strided(&mut scores, end - start, end, length);
        let (queries, keys) = (query.rows(start..end), key.rows(0..end));
        matmul(&mut block, Onto::Nothing, queries, keys.t(), view.scale());
        let mut sums = [0.0; QUERIES];
        for (row, (log, sum)) in logs.iter_mut().skip(start).zip(&mut sums).enumerate() {
            if row == end - start {
                break;
            }
            let (shift, total) = weigh(block.row_mut(row), start + row + 1);
            *sum = total;
            *log = shift + total.ln();
        }
        let weights = Mat::strided(&scores, end - start, end, length);
        let mut out = out.rows_mut(start..end);
        matmul(&mut out, Onto::Nothing, weights, value.rows(0..end), 1.0);
        for (row, sum) in sums.iter().enumerate().take(end - start) {
            super::simd::scale(out.row_mut(row), 1.0 / sum);
        }
    }
}

fn differentiate(view: &Row<'_>, head: &SavedHead<'_>, into: Into<'_, '_>) {
    let length = view.length;
    let (key, value) = (view.key(), view.value());
    let mut weights = Buffer::new(QUERIES.min(length) * length);
    let mut slopes = Buffer::new(QUERIES.min(length) * length);
    for start in (0..length).step_by(QUERIES) {
        let end = length.min(start + QUERIES);
        let m = end - start;
        let (queries, d_out) = (head.query.rows(start..end), head.d_out.rows(start..end));
        let mut p = MatMut::strided(&mut weights, m, end, length);
        let mut ds = MatMut::strided(&mut slopes, m, end, length);
        matmul(
            &mut p,
            Onto::Nothing,
            queries,
            key.rows(0..end).t(),
            view.scale(),
        );
        matmul(&mut ds, Onto::Nothing, d_out, value.rows(0..end).t(), 1.0);
        for (row, log) in head.logs.iter().skip(start).take(m).enumerate() {
            let delta = inner(head.out.row(start + row), d_out.row(row));
            let terms = Terms {
                log: *log,
                delta,
                scale: view.scale(),
                known: start + row + 1,
            };
            slope(p.row_mut(row), ds.row_mut(row), terms);
        }
        let p = Mat::strided(&weights, m, end, length);
        let ds = Mat::strided(&slopes, m, end, length);
        let mut d_query = into.query.rows_mut(start..end);
        matmul(&mut d_query, Onto::Nothing, ds, key.rows(0..end), 1.0);
        let mut d_key = into.key.rows_mut(0..end);
        matmul(&mut d_key, Onto::Old, ds.t(), queries, 1.0);
        let mut d_value = into.value.rows_mut(0..end);
        matmul(&mut d_value, Onto::Old, p.t(), d_out, 1.0);
    }
}

fn turn_back(gradient: &mut MatMut<'_>, rope: Option<&Rope>, length: usize) {
    if let Some(rope) = rope {
        for position in 0..length {
            rope.turn(gradient.row_mut(position), position, Turn::Back);
        }
    }
}

/// Constants of one query in the backward pass.
#[derive(Clone, Copy)]
struct Terms {
    log: f32,
    delta: f32,
    scale: f32,
    known: usize,
}

vectorised! {
    /// Turns scores into weights that are not yet divided by their sum; returns
    /// the shift and the sum. Scores from `known` on are of the future.
    fn weigh(scores: &mut [f32], known: usize) -> (f32, f32) {
        let (past, future) = scores.split_at_mut(known);
        future.fill(0.0);
        let shift = max(past);
        (shift, exp_and_sum(past, shift))
    }
}

vectorised! {
    fn inner(a: &[f32], b: &[f32]) -> f32 {
        dot(a, b)
    }
}

vectorised! {
    /// Turns scores into probabilities and their gradients into those of the scores.
    fn slope(scores: &mut [f32], gradients: &mut [f32], terms: Terms) {
        let (past, future) = scores.split_at_mut(terms.known);
        let (d_past, d_future) = gradients.split_at_mut(terms.known);
        future.fill(0.0);
        d_future.fill(0.0);
        for (score, gradient) in past.iter_mut().zip(d_past) {
            let p = exp(*score - terms.log);
            *score = p;
            *gradient = p * (*gradient - terms.delta) * terms.scale;
        }
    }
}

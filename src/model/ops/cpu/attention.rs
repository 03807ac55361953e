//! Attention with grouped-query heads, forward and backward.
//!
//! Queries are taken in blocks, keys that none of a block sees are never touched, and the
//! probabilities are computed again in the backward pass from the logarithm of
//! their sum. One task is one row and one group of query heads, so that the
//! gradients of its key and value head are its own.

use std::ops::Range;

use rayon::prelude::*;

use super::buffer::Buffer;
use super::matrix::{Mat, MatMut};
use super::product::{Onto, matmul_in};
use super::rotary::Turn;
use super::simd::{dot, exp, exp_and_sum, max, vectorised};
use crate::model::mask::{Mask, Reach};
use crate::model::ops::{Extent, Pass, Shape};
use crate::model::precision::Precision;

/// Queries a block: small enough that half-empty blocks on the diagonal cost little.
const QUERIES: usize = 64;

/// Returns the attended values `[n, heads * head]` and the logarithms `[rows, heads, length]`,
/// given query, key and value columns of every position.
pub fn forward(qkv: &[f32], pass: &Pass, precision: Precision) -> (Buffer, Buffer) {
    let (shape, Extent { rows, length }) = (&*pass.shape, pass.extent);
    let width = shape.query_width();
    let mut out = Buffer::new(rows * length * width);
    let mut logs = Buffer::new(rows * shape.heads * length);
    let tasks: Vec<_> = out
        .chunks_exact_mut(length * width)
        .flat_map(|row| MatMut::new(row, length, width).column_blocks(shape.group() * shape.head))
        .zip(logs.chunks_exact_mut(shape.group() * length))
        .enumerate()
        .collect();
    tasks.into_par_iter().for_each(|(task, (out, logs))| {
        let view = Row::new(qkv, pass, task, precision);
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
    /// What it multiplied in.
    pub precision: Precision,
}

/// Returns the gradient of the query, key and value columns before rotation.
pub fn backward(saved: &Saved<'_>, d_out: &[f32], pass: &Pass) -> Buffer {
    let (shape, Extent { rows, length }) = (&*pass.shape, pass.extent);
    let mut gradient = Buffer::new(rows * length * shape.qkv_width());
    let tasks: Vec<_> = gradient
        .chunks_exact_mut(length * shape.qkv_width())
        .flat_map(|row| {
            let all = MatMut::new(row, length, shape.qkv_width());
            let (queries, rest) = all.split_columns(shape.query_width());
            let (keys, values) = rest.split_columns(shape.key_width());
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
            let view = Row::new(saved.qkv, pass, task, saved.precision);
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
                view.turn_back(&mut d_query);
            }
            view.turn_back(&mut d_key);
        });
    gradient
}

/// One row of a batch as one group of query heads sees it.
struct Row<'a> {
    qkv: &'a [f32],
    shape: &'a Shape,
    mask: &'a Mask,
    length: usize,
    row: usize,
    /// Which key and value head.
    pair: usize,
    precision: Precision,
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
    fn new(qkv: &'a [f32], pass: &'a Pass, task: usize, precision: Precision) -> Self {
        let (shape, length) = (&*pass.shape, pass.extent.length);
        let (row, pair) = (task / shape.kv_heads, task % shape.kv_heads);
        let width = length * shape.qkv_width();
        Self {
            qkv: qkv.get(row * width..(row + 1) * width).unwrap_or_default(),
            shape,
            mask: &pass.mask,
            length,
            row,
            pair,
            precision,
        }
    }

    /// What a position of the row sees.
    fn reach(&self, position: usize) -> Reach {
        self.mask.reach(self.row * self.length + position)
    }

    /// The keys that any of some queries sees.
    fn span(&self, queries: Range<usize>) -> Range<usize> {
        let first = self.row * self.length;
        self.mask.span(first + queries.start..first + queries.end)
    }

    /// Turns a gradient back as its positions were turned.
    fn turn_back(&self, gradient: &mut MatMut<'_>) {
        if let Some(rope) = &self.shape.rope {
            for position in 0..self.length {
                let place = self.reach(position).place();
                rope.turn(gradient.row_mut(position), place, Turn::Back);
            }
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
        self.columns(self.shape.query_width() + self.pair * self.shape.head)
    }

    fn value(&self) -> Mat<'a> {
        let before = self.shape.query_width() + self.shape.key_width();
        self.columns(before + self.pair * self.shape.head)
    }

    fn scale(&self) -> f32 {
        1.0 / (self.shape.head as f32).sqrt()
    }

    fn saved_head(&self, saved: &Saved<'a>, d_out: &'a [f32], index: usize) -> SavedHead<'a> {
        let head = self.pair * self.shape.group() + index;
        let (width, length) = (self.shape.query_width(), self.length);
        let span = self.row * length * width..(self.row + 1) * length * width;
        let columns = head * self.shape.head..(head + 1) * self.shape.head;
        let of = |all: &'a [f32]| {
            let row = all.get(span.clone()).unwrap_or_default();
            Mat::new(row, length, width).columns(columns.clone())
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
    let (length, precision) = (view.length, view.precision);
    let (query, key, value) = (view.query(index), view.key(), view.value());
    let mut scores = Buffer::new(QUERIES.min(length) * length);
    for start in (0..length).step_by(QUERIES) {
        let end = length.min(start + QUERIES);
        let span = view.span(start..end);
        let mut block = MatMut::strided(&mut scores, end - start, span.len(), length);
        let (queries, keys) = (query.rows(start..end), key.rows(span.clone()));
        matmul_in(
            precision,
            &mut block,
            Onto::Nothing,
            queries,
            keys.t(),
            view.scale(),
        );
        let mut sums = [0.0; QUERIES];
        for (row, (log, sum)) in logs.iter_mut().skip(start).zip(&mut sums).enumerate() {
            if row == end - start {
                break;
            }
            let seen = within(view.reach(start + row), &span);
            let (shift, total) = weigh(block.row_mut(row), seen);
            *sum = total;
            *log = shift + total.ln();
        }
        let weights = Mat::strided(&scores, end - start, span.len(), length);
        let mut out = out.rows_mut(start..end);
        matmul_in(
            precision,
            &mut out,
            Onto::Nothing,
            weights,
            value.rows(span),
            1.0,
        );
        for (row, sum) in sums.iter().enumerate().take(end - start) {
            super::simd::scale(out.row_mut(row), 1.0 / sum);
        }
    }
}

fn differentiate(view: &Row<'_>, head: &SavedHead<'_>, into: Into<'_, '_>) {
    let (length, precision) = (view.length, view.precision);
    let (key, value) = (view.key(), view.value());
    let mut weights = Buffer::new(QUERIES.min(length) * length);
    let mut slopes = Buffer::new(QUERIES.min(length) * length);
    for start in (0..length).step_by(QUERIES) {
        let end = length.min(start + QUERIES);
        let (m, span) = (end - start, view.span(start..end));
        let (queries, d_out) = (head.query.rows(start..end), head.d_out.rows(start..end));
        let (keys, values) = (key.rows(span.clone()), value.rows(span.clone()));
        let mut p = MatMut::strided(&mut weights, m, span.len(), length);
        let mut ds = MatMut::strided(&mut slopes, m, span.len(), length);
        matmul_in(
            precision,
            &mut p,
            Onto::Nothing,
            queries,
            keys.t(),
            view.scale(),
        );
        matmul_in(precision, &mut ds, Onto::Nothing, d_out, values.t(), 1.0);
        for (row, log) in head.logs.iter().skip(start).take(m).enumerate() {
            let delta = inner(head.out.row(start + row), d_out.row(row));
            let terms = Terms {
                log: *log,
                delta,
                scale: view.scale(),
                seen: within(view.reach(start + row), &span),
            };
            slope(p.row_mut(row), ds.row_mut(row), terms);
        }
        let p = Mat::strided(&weights, m, span.len(), length);
        let ds = Mat::strided(&slopes, m, span.len(), length);
        let mut d_query = into.query.rows_mut(start..end);
        matmul_in(precision, &mut d_query, Onto::Nothing, ds, keys, 1.0);
        let mut d_key = into.key.rows_mut(span.clone());
        matmul_in(precision, &mut d_key, Onto::Old, ds.t(), queries, 1.0);
        let mut d_value = into.value.rows_mut(span);
        matmul_in(precision, &mut d_value, Onto::Old, p.t(), d_out, 1.0);
    }
}

/// The keys that a position sees, counted from the first of those that its block sees.
fn within(reach: Reach, span: &Range<usize>) -> Seen {
    let keys = reach.keys();
    Seen {
        first: keys.start - span.start,
        end: keys.end - span.start,
    }
}

/// A range of scores.
#[derive(Clone, Copy)]
struct Seen {
    first: usize,
    end: usize,
}

/// Constants of one query in the backward pass.
#[derive(Clone, Copy)]
struct Terms {
    log: f32,
    delta: f32,
    scale: f32,
    seen: Seen,
}

vectorised! {
    /// Turns scores into weights that are not yet divided by their sum; returns
    /// the shift and the sum. Scores of what is not seen become 0.
    fn weigh(scores: &mut [f32], seen: Seen) -> (f32, f32) {
        let seen = only(scores, seen);
        let shift = max(seen);
        (shift, exp_and_sum(seen, shift))
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
        let (scores, gradients) = (only(scores, terms.seen), only(gradients, terms.seen));
        for (score, gradient) in scores.iter_mut().zip(gradients) {
            let p = exp(*score - terms.log);
            *score = p;
            *gradient = p * (*gradient - terms.delta) * terms.scale;
        }
    }
}

/// The values that are seen; the others become 0.
#[inline(always)]
fn only(values: &mut [f32], seen: Seen) -> &mut [f32] {
    let (values, after) = values.split_at_mut(seen.end);
    let (before, values) = values.split_at_mut(seen.first);
    before.fill(0.0);
    after.fill(0.0);
    values
}

//! Token and position embedding, forward and backward.

#![expect(
    clippy::indexing_slicing,
    reason = "ids below the vocabulary size are the caller's promise"
)]

use rayon::prelude::*;

use super::TOKENS;
use super::buffer;
use super::matrix::MatMut;
use super::simd::{add, vectorised};
use crate::model::ops::{Pass, Rows};

/// Columns a task of the backward pass: each sums its columns in the order of
/// the positions, so neither atomics nor threads can change a sum.
const COLUMNS: usize = 64;

/// Returns `[n, d]`: each id's row, plus its position's.
pub fn forward(params: &[f32], ids: &[u32], pass: &Pass) -> Vec<f32> {
    let (shape, d) = (&pass.shape, pass.shape.d);
    let table = &params[shape.embedding.token.clone()];
    let positions = shape.embedding.position.clone().map(|range| &params[range]);
    let mut out = buffer::array(ids.len() * d);
    out.par_chunks_mut(TOKENS * d)
        .zip(ids.par_chunks(TOKENS))
        .enumerate()
        .for_each(|(chunk, (out, ids))| {
            for (index, (out, &id)) in out.chunks_exact_mut(d).zip(ids).enumerate() {
                out.copy_from_slice(&table[id as usize * d..][..d]);
                if let Some(positions) = positions {
                    let position = pass.mask.reach(chunk * TOKENS + index).place();
                    accumulate(out, &positions[position * d..][..d]);
                }
            }
        });
    out
}

/// Adds the gradient of the group, given that of the output.
pub fn backward(dy: &[f32], ids: &[u32], pass: &Pass, gradient: &mut [f32]) {
    let (shape, extent, d) = (&pass.shape, pass.extent, pass.shape.d);
    let (tokens, positions) = gradient.split_at_mut(shape.embedding.token.end);
    let rows = tokens.len() / d;
    MatMut::new(tokens, rows, d)
        .column_blocks(COLUMNS)
        .into_par_iter()
        .enumerate()
        .for_each(|(block, mut table)| {
            for (dy, &id) in dy.chunks_exact(d).zip(ids) {
                let row = table.row_mut(id as usize);
                accumulate(row, &dy[block * COLUMNS..][..row.len()]);
            }
        });
    if shape.embedding.position.is_none() {
        return;
    }
    if pass.mask.is_causal() {
        positions
            .par_chunks_mut(d)
            .take(extent.length)
            .enumerate()
            .for_each(|(position, sum)| {
                for row in 0..extent.rows {
                    let at = (row * extent.length + position) * d;
                    accumulate(sum, &dy[at..][..d]);
                }
            });
    } else {
        // Documents are of any length, so that places come in any order.
        let rows = positions.len() / d;
        MatMut::new(positions, rows, d)
            .column_blocks(COLUMNS)
            .into_par_iter()
            .enumerate()
            .for_each(|(block, mut table)| {
                for (index, dy) in dy.chunks_exact(d).enumerate() {
                    let row = table.row_mut(pass.mask.reach(index).place());
                    accumulate(row, &dy[block * COLUMNS..][..row.len()]);
                }
            });
    }
}

vectorised! {
    fn accumulate(to: &mut [f32], from: &[f32]) {
        add(to, from);
    }
}

/// Adds the gradient of the rows of some ids, which are in order, given that of the output.
pub fn backward_rows(dy: &[f32], ids: &[u32], rows: Rows<'_>, into: &mut [f32]) {
    for (dy, id) in dy.chunks_exact(rows.width).zip(ids) {
        if let Ok(row) = rows.ids.binary_search(id) {
            accumulate(&mut into[row * rows.width..][..rows.width], dy);
        }
    }
}

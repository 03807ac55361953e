//! Muon on the hidden matrices of a group, AdamW on the rest of it.

#![expect(
    clippy::indexing_slicing,
    reason = "ranges come from the layout of the group"
)]

use rayon::prelude::*;

use super::buffer::Buffer;
use super::matrix::{Mat, MatMut};
use super::product::{Onto, Packed, matmul_packed};
use super::{adamw, simd::vectorised};
use crate::model::layout::{Decay, Part};
use crate::model::ops::AdamStep;
use crate::model::ops::muon::{COEFFICIENTS, EPS, MOMENTUM, Matrix, ROUNDS};
use crate::model::precision::Precision;

/// Elements a task.
const CHUNK: usize = 1 << 14;
/// Rows a task of a product.
const ROWS: usize = 64;

/// Changes parameters and moments in place; a matrix has no second moment.
pub fn step(
    param: &mut [f32],
    gradient: &[f32],
    (first, second): (&mut [f32], &mut [f32]),
    step: &AdamStep,
    (parts, matrices): (&[Part], &[Matrix]),
) {
    let is_hidden = |part: &Part| {
        matrices
            .iter()
            .any(|matrix| part.range.contains(&matrix.start))
    };
    for part in parts.iter().filter(|part| !is_hidden(part)) {
        let range = part.range.clone();
        let moments = (&mut first[range.clone()], &mut second[range.clone()]);
        let alone = Part {
            range: 0..range.len(),
            ..part.clone()
        };
        adamw::step(
            &mut param[range.clone()],
            &gradient[range],
            moments,
            step,
            &[alone],
        );
    }
    for part in parts.iter().filter(|part| is_hidden(part)) {
        let range = part.range.clone();
        let mut update = Buffer::new(range.len());
        (first[range.clone()].par_chunks_mut(CHUNK))
            .zip(gradient[range.clone()].par_chunks(CHUNK))
            .zip(update.par_chunks_mut(CHUNK))
            .for_each(|((first, gradient), update)| momentum(first, gradient, update));
        let inside = matrices
            .iter()
            .filter(|matrix| range.contains(&matrix.start));
        let made: Vec<(Matrix, Buffer)> = inside
            .map(|matrix| {
                let values = &update[matrix.start - range.start..];
                (*matrix, orthogonal(values, matrix))
            })
            .collect();
        move_by(&mut param[range.clone()], range.start, &made, step);
    }
}

vectorised! {
    fn momentum(first: &mut [f32], gradient: &[f32], update: &mut [f32]) {
        #[expect(clippy::cast_possible_truncation, reason = "weights are single precision")]
        let keep = MOMENTUM as f32;
        for ((m, g), u) in first.iter_mut().zip(gradient).zip(update) {
            *m = keep * *m + (1.0 - keep) * g;
            *u = keep * *m + (1.0 - keep) * g;
        }
    }
}

/// Moves a part by the orthogonal updates of its matrices.
fn move_by(param: &mut [f32], start: usize, made: &[(Matrix, Buffer)], step: &AdamStep) {
    let stride = made.first().map_or(1, |(matrix, _)| matrix.stride);
    #[expect(
        clippy::cast_possible_truncation,
        reason = "weights are single precision"
    )]
    let keep = step.keep(Decay::Yes) as f32;
    param
        .par_chunks_mut(stride.max(1))
        .enumerate()
        .for_each(|(row, values)| {
            for (matrix, update) in made {
                let column = matrix.start - start;
                let values = &mut values[column..column + matrix.columns];
                let update = &update[row * matrix.columns..][..matrix.columns];
                #[expect(
                    clippy::cast_possible_truncation,
                    reason = "weights are single precision"
                )]
                let rate = (step.rate * matrix.scale()) as f32;
                for (value, update) in values.iter_mut().zip(update) {
                    *value = keep * *value - rate * update;
                }
            }
        });
}

/// The matrix with its singular values near 1, row-major.
///
/// Products are cut by rows, whose bits do not depend on where they are cut.
pub fn orthogonal(values: &[f32], matrix: &Matrix) -> Buffer {
    let whole = Mat::strided(values, matrix.rows, matrix.columns, matrix.stride);
    // The shorter side makes the smaller square.
    let turned = matrix.columns < matrix.rows;
    let (rows, columns) = match turned {
        true => (matrix.columns, matrix.rows),
        false => (matrix.rows, matrix.columns),
    };
    let mut x = Buffer::new(rows * columns);
    for row in 0..matrix.rows {
        let from = whole.row(row);
        match turned {
            true => (0..rows).for_each(|at| x[at * columns + row] = from[at]),
            false => x[row * columns..][..columns].copy_from_slice(from),
        }
    }
    #[expect(
        clippy::cast_possible_truncation,
        reason = "weights are single precision"
    )]
    let norm = adamw::norm_squared(&x).sqrt() as f32 + EPS;
    x.par_chunks_mut(CHUNK)
        .for_each(|chunk| chunk.iter_mut().for_each(|value| *value /= norm));
    let [a, b, c] = COEFFICIENTS;
    let mut square = Buffer::new(rows * rows);
    let mut factor = Buffer::new(rows * rows);
    let mut next = Buffer::new(rows * columns);
    for _ in 0..ROUNDS {
        let from = Mat::new(&x, rows, columns);
        product(&mut square, Onto::Nothing, from, from.t(), 1.0);
        let squared = Mat::new(&square, rows, rows);
        scaled(&mut factor, &square, b);
        product(&mut factor, Onto::Old, squared, squared, c);
        scaled(&mut next, &x, a);
        product(
            &mut next,
            Onto::Old,
            Mat::new(&factor, rows, rows),
            from,
            1.0,
        );
        std::mem::swap(&mut x, &mut next);
    }
    if !turned {
        return x;
    }
    for (row, values) in next.chunks_exact_mut(rows.max(1)).enumerate() {
        for (column, value) in values.iter_mut().enumerate() {
            *value = x[column * columns + row];
        }
    }
    next
}

fn scaled(to: &mut [f32], from: &[f32], factor: f32) {
    to.par_chunks_mut(CHUNK)
        .zip(from.par_chunks(CHUNK))
        .for_each(|(to, from)| to.iter_mut().zip(from).for_each(|(to, x)| *to = factor * x));
}

/// `to = factor * a b`, or `to + factor * a b`.
fn product(to: &mut [f32], onto: Onto, a: Mat<'_>, b: Mat<'_>, factor: f32) {
    let (height, width) = (a.height(), b.width());
    let right = Packed::new(b, Precision::Single);
    to.par_chunks_mut((ROWS * width).max(1))
        .enumerate()
        .for_each(|(index, to)| {
            let rows = index * ROWS..height.min((index + 1) * ROWS);
            let mut to = MatMut::new(to, rows.len(), width);
            matmul_packed(&mut to, onto, a.rows(rows), &right, factor);
        });
}

#[cfg(test)]
#[expect(
    clippy::cast_possible_truncation,
    clippy::needless_range_loop,
    reason = "rows and columns change together, and weights are single precision"
)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The eigenvalues of a symmetric matrix, by Jacobi's rotations.
    fn eigenvalues(mut a: Vec<Vec<f64>>) -> Vec<f64> {
        let n = a.len();
        for _ in 0..60 {
            for p in 0..n {
                for q in p + 1..n {
                    let angle = 0.5 * (2.0 * a[p][q]).atan2(a[q][q] - a[p][p]);
                    let (s, c) = angle.sin_cos();
                    for k in 0..n {
                        let (x, y) = (a[k][p], a[k][q]);
                        (a[k][p], a[k][q]) = (c * x - s * y, s * x + c * y);
                    }
                    for k in 0..n {
                        let (x, y) = (a[p][k], a[q][k]);
                        (a[p][k], a[q][k]) = (c * x - s * y, s * x + c * y);
                    }
                }
            }
        }
        (0..n).map(|i| a[i][i]).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        /// Of a matrix whose own are not all but 0, as those of random wide ones are not.
        #[test]
        fn singular_values_come_near_1(
            short in 1usize..9,
            wide in prop::bool::ANY,
            spare in 0usize..4,
            seed in 0u64..1000,
            size in prop::sample::select(vec![1e-4f32, 1.0, 1e4]),
        ) {
            let long = 3 * short + 5;
            let (rows, columns) = if wide { (short, long) } else { (long, short) };
            let stride = columns + spare;
            let matrix = Matrix { start: 0, rows, columns, stride };
            let mut rng = crate::rng::Key::new(seed).rng();
            let values: Vec<f32> = (0..rows * stride).map(|_| size * rng.normal() as f32).collect();
            let made = orthogonal(&values, &matrix);
            let at = |i: usize, j: usize| f64::from(match wide {
                true => made[i * columns + j],
                false => made[j * columns + i],
            });
            let gram = |i: usize, j: usize| (0..long).map(|k| at(i, k) * at(j, k)).sum::<f64>();
            let gram: Vec<Vec<f64>> = (0..short).map(|i| (0..short).map(|j| gram(i, j)).collect()).collect();
            for value in eigenvalues(gram) {
                prop_assert!((0.6..1.25).contains(&value.sqrt()), "{}", value.sqrt());
            }
        }
    }
}

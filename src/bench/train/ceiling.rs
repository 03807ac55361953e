//! What the machine's matrix product can do at best.

use super::super::clock::measure;
use crate::model::ops::cpu::matrix::{Mat, MatMut};
use crate::model::ops::cpu::product::{Onto, Packed, matmul_packed};
use crate::model::precision::Precision;

/// Rows and columns of the matrices.
const SIZE: usize = 2048;
/// Products; the best one counts.
const ROUNDS: usize = 5;

/// Operations a second, in billions, of a large product on one thread.
pub fn gflops(precision: Precision) -> f64 {
    let values = |step: usize| (0..SIZE * SIZE).map(move |i| (i * step % 1000) as f32 * 1e-3);
    let (a, b): (Vec<f32>, Vec<f32>) = (values(7).collect(), values(13).collect());
    let b = Packed::new(Mat::new(&b, SIZE, SIZE), precision);
    let mut to = vec![0.0; SIZE * SIZE];
    let mut best = 0.0f64;
    for _ in 0..ROUNDS {
        let ((), took) = measure(|| {
            let a = Mat::new(&a, SIZE, SIZE);
            let mut to = MatMut::new(&mut to, SIZE, SIZE);
            matmul_packed(&mut to, Onto::Nothing, a, &b, 1.0);
        });
        best = best.max(2.0 * (SIZE as f64).powi(3) / took.cpu_seconds / 1e9);
    }
    best
}

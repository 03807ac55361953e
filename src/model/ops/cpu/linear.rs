//! Linear layers over rows of tokens, and the gradients of their weights.

#![expect(
    clippy::indexing_slicing,
    reason = "ranges come from the layout of the group"
)]

use rayon::prelude::*;

use super::matrix::{Mat, MatMut, Onto, matmul};
use super::simd::{add, add_bias, vectorised};
use crate::model::layout::LinearLayout;

/// Rows of a weight's gradient that one task computes.
const WEIGHT_ROWS: usize = 96;

/// A linear layer with its parameters.
#[derive(Clone, Copy)]
pub struct Linear<'a> {
    weight: Mat<'a>,
    bias: Option<&'a [f32]>,
    inputs: usize,
    outputs: usize,
}

impl<'a> Linear<'a> {
    /// Finds the parameters in their group.
    pub fn new(params: &'a [f32], layout: &LinearLayout) -> Self {
        Self {
            weight: Mat::new(
                &params[layout.weight.clone()],
                layout.inputs,
                layout.outputs,
            ),
            bias: layout.bias.clone().map(|range| &params[range]),
            inputs: layout.inputs,
            outputs: layout.outputs,
        }
    }

    /// `y = x W + b`, or `y + x W + b`, for a chunk of rows.
    pub fn forward(&self, x: &[f32], y: &mut [f32], onto: Onto) {
        let n = x.len() / self.inputs;
        let x = Mat::new(x, n, self.inputs);
        matmul(
            &mut MatMut::new(y, n, self.outputs),
            onto,
            x,
            self.weight,
            1.0,
        );
        if let Some(bias) = self.bias {
            add_bias(y, bias);
        }
    }

    /// `dx = dy Wᵀ` for a chunk of rows.
    pub fn backward(&self, dy: &[f32], dx: &mut [f32]) {
        let n = dy.len() / self.outputs;
        let dy = Mat::new(dy, n, self.outputs);
        let mut dx = MatMut::new(dx, n, self.inputs);
        matmul(&mut dx, Onto::Nothing, dy, self.weight.t(), 1.0);
    }
}

/// A sum over tokens that is added to the gradient of one linear layer.
pub struct WeightSum<'a> {
    weight: &'a mut [f32],
    bias: Option<&'a mut [f32]>,
    input: &'a [f32],
    output: &'a [f32],
    n: usize,
}

impl<'a> WeightSum<'a> {
    /// The sum over `n` rows of what the layer read and the gradient of what it
    /// wrote, for the gradients of weight and bias.
    pub fn new(
        (weight, bias): (&'a mut [f32], Option<&'a mut [f32]>),
        input: &'a [f32],
        output: &'a [f32],
        n: usize,
    ) -> Self {
        Self {
            weight,
            bias,
            input,
            output,
            n,
        }
    }
}

/// Adds `inputᵀ output` to each weight and the sum of the rows of `output` to
/// each bias. A task owns whole rows of one weight, so sums have one order.
pub fn add_weight_sums(sums: Vec<WeightSum<'_>>) {
    let mut tasks = Vec::new();
    for sum in sums {
        let (inputs, outputs) = (sum.input.len() / sum.n, sum.output.len() / sum.n);
        let input = Mat::new(sum.input, sum.n, inputs).t();
        let output = Mat::new(sum.output, sum.n, outputs);
        for (block, into) in sum.weight.chunks_mut(WEIGHT_ROWS * outputs).enumerate() {
            let rows = block * WEIGHT_ROWS..block * WEIGHT_ROWS + into.len() / outputs;
            tasks.push(Task::Weight(into, input.rows(rows), output));
        }
        tasks.extend(sum.bias.map(|into| Task::Bias(into, sum.output)));
    }
    tasks
        .into_par_iter()
        .with_max_len(1)
        .for_each(|task| match task {
            Task::Weight(into, input, output) => {
                let columns = output.width();
                let mut into = MatMut::new(into, input.height(), columns);
                matmul(&mut into, Onto::Old, input, output, 1.0);
            }
            Task::Bias(into, output) => sum_rows(output, into),
        });
}

enum Task<'a> {
    Weight(&'a mut [f32], Mat<'a>, Mat<'a>),
    Bias(&'a mut [f32], &'a [f32]),
}

/// Splits a linear layer's part of a gradient into weight and bias.
pub fn halves<'a>(
    part: &'a mut [f32],
    layout: &LinearLayout,
) -> (&'a mut [f32], Option<&'a mut [f32]>) {
    let (weight, bias) = part.split_at_mut(layout.weight.len());
    (weight, layout.bias.is_some().then_some(bias))
}

vectorised! {
    /// Adds every row of `rows` to `sum`.
    pub fn sum_rows(rows: &[f32], sum: &mut [f32]) {
        for row in rows.chunks_exact(sum.len().max(1)) {
            add(sum, row);
        }
    }
}

//! Linear layers over rows of tokens, and the gradients of their weights.

#![expect(
    clippy::indexing_slicing,
    reason = "ranges come from the layout of the group"
)]

use rayon::prelude::*;

use super::adapter::Adapter;
use super::matrix::{Mat, MatMut};
use super::product::{Onto, Packed, matmul_in, matmul_packed};
use super::simd::{add, add_bias, vectorised};
use crate::model::layout::LinearLayout;
use crate::model::precision::Precision;

/// Rows of a weight's gradient that one task computes.
const WEIGHT_ROWS: usize = 96;

/// Fewer rows than this are not worth laying out a matrix.
const PACKED_ROWS_MIN: usize = 64;

/// A linear layer with its parameters, or the way back through one.
pub struct Linear<'a> {
    matrix: Right<'a>,
    bias: Option<&'a [f32]>,
    adapter: Option<&'a Adapter<'a>>,
    way: Way,
    inputs: usize,
    outputs: usize,
}

/// Which way a layer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// `y = x W + b`.
    Forward,
    /// `dx = dy Wᵀ`.
    Back,
}

/// The right side of the layer's product.
enum Right<'a> {
    Packed(Packed<'a>),
    Plain(Mat<'a>, Precision),
}

impl<'a> Linear<'a> {
    /// One way of the layer, for `rows` rows in all; finds the parameters in their group.
    pub fn new(
        params: &'a [f32],
        layout: &LinearLayout,
        rows: usize,
        (way, precision): (Way, Precision),
    ) -> Self {
        let matrix = Mat::new(
            &params[layout.weight.clone()],
            layout.inputs,
            layout.outputs,
        );
        let (matrix, bias) = match way {
            Way::Forward => (matrix, layout.bias.clone().map(|range| &params[range])),
            Way::Back => (matrix.t(), None),
        };
        Self {
            adapter: None,
            way,
            inputs: matrix.height(),
            outputs: matrix.width(),
            bias,
            matrix: match PACKED_ROWS_MIN <= rows {
                true => Right::Packed(Packed::new(matrix, precision)),
                false => Right::Plain(matrix, precision),
            },
        }
    }

    /// The same with adapters.
    pub fn with(self, adapter: Option<&'a Adapter<'a>>) -> Self {
        Self { adapter, ..self }
    }

    /// Its adapters.
    pub fn adapter(&self) -> Option<&'a Adapter<'a>> {
        self.adapter
    }

    /// Writes or adds what comes out for a chunk of rows.
    pub fn apply(&self, x: &[f32], y: &mut [f32], onto: Onto) {
        let n = x.len() / self.inputs;
        let x = Mat::new(x, n, self.inputs);
        let mut view = MatMut::new(y, n, self.outputs);
        match &self.matrix {
            Right::Packed(matrix) => matmul_packed(&mut view, onto, x, matrix, 1.0),
            Right::Plain(matrix, precision) => {
                matmul_in(*precision, &mut view, onto, x, *matrix, 1.0);
            }
        }
        match (self.adapter, self.way) {
            (None, _) => {}
            (Some(adapter), Way::Forward) => adapter.forward(x, &mut view),
            (Some(adapter), Way::Back) => adapter.back(x, &mut view),
        }
        if let Some(bias) = self.bias {
            add_bias(y, bias);
        }
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
        (input, output): (&'a [f32], &'a [f32]),
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
pub fn add_weight_sums(precision: Precision, sums: Vec<WeightSum<'_>>) {
    let outputs: Vec<Packed<'_>> = sums
        .iter()
        .map(|sum| {
            let output = Mat::new(sum.output, sum.n, sum.output.len() / sum.n);
            Packed::new(output, precision)
        })
        .collect();
    let mut tasks = Vec::new();
    for (sum, output) in sums.into_iter().zip(&outputs) {
        let (inputs, outputs) = (sum.input.len() / sum.n, sum.output.len() / sum.n);
        let input = Mat::new(sum.input, sum.n, inputs).t();
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
                let columns = into.len() / input.height();
                let mut into = MatMut::new(into, input.height(), columns);
                matmul_packed(&mut into, Onto::Old, input, output, 1.0);
            }
            Task::Bias(into, output) => sum_rows(output, into),
        });
}

enum Task<'a> {
    Weight(&'a mut [f32], Mat<'a>, &'a Packed<'a>),
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

//! Muon: the momentum of a hidden matrix, made orthogonal.
//!
//! Keller Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024,
//! <https://kellerjordan.github.io/posts/muon/>), with the size of updates and the weight
//! decay of Moonlight (arXiv 2502.16982), so that AdamW's learning rate carries over.

use super::Shape;
use crate::model::config::Activation;
use crate::model::layout::LinearLayout;
use crate::model::tuning::{AdapterLayout, LoraLayout};

/// How much of the momentum stays at a step; Nesterov's form.
pub const MOMENTUM: f64 = 0.95;

/// `a x + b x^3 + c x^5`, as often as [`ROUNDS`], takes singular values of 0 to 1 into about
/// 0.7 to 1.2: the coefficients of the paper, chosen for their slope at 0.
pub const COEFFICIENTS: [f32; 3] = [3.4445, -4.7750, 2.0315];

/// Steps of the Newton-Schulz iteration, as in the paper.
pub const ROUNDS: usize = 5;

/// Added to a matrix's norm.
pub const EPS: f32 = 1e-7;

/// A hidden matrix of a block's group, or one of an adapter. Those that lie side by side, as queries, keys and
/// values do, are made orthogonal one by one, as the paper advises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Matrix {
    /// Its first element in the group.
    pub start: usize,
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub columns: usize,
    /// Elements from row to row.
    pub stride: usize,
}

impl Matrix {
    /// What an orthogonal update is multiplied by beside the learning rate: 0.2 times the
    /// root of the longer side, about the size of AdamW's (Moonlight, section 2.2).
    pub fn scale(&self) -> f64 {
        0.2 * (self.rows.max(self.columns) as f64).sqrt()
    }
}

/// The hidden matrices of a block, in the order in which they lie.
pub fn matrices(shape: &Shape) -> Vec<Matrix> {
    let block = &shape.block;
    let (queries, keys) = (shape.query_width(), shape.key_width());
    let up = match shape.activation {
        Activation::Gelu => vec![shape.d_ff],
        Activation::SwiGlu => vec![shape.d_ff; 2],
    };
    let layers: [(&LinearLayout, Vec<usize>); 4] = [
        (&block.qkv, vec![queries, keys, keys]),
        (&block.out, vec![shape.d]),
        (&block.up, up),
        (&block.down, vec![shape.d]),
    ];
    let side_by_side = |(layer, widths): (&LinearLayout, Vec<usize>)| {
        let (start, rows, stride) = (layer.weight.start, layer.inputs, layer.outputs);
        let mut column = 0;
        widths.into_iter().map(move |columns| {
            let matrix = Matrix {
                start: start + column,
                rows,
                columns,
                stride,
            };
            column += columns;
            matrix
        })
    };
    layers.into_iter().flat_map(side_by_side).collect()
}

/// The matrices of a block's adapters, `A` and `B` of each.
pub fn adapter_matrices(lora: &LoraLayout) -> Vec<Matrix> {
    let of = |layer: &AdapterLayout| {
        let stride = layer.rank * layer.parts.len();
        let a = (0..layer.parts.len()).map(|place| Matrix {
            start: layer.a.start + place * layer.rank,
            rows: layer.inputs,
            columns: layer.rank,
            stride,
        });
        let b = layer.parts.iter().map(|part| Matrix {
            start: part.b.start,
            rows: layer.rank,
            columns: part.columns.len(),
            stride: part.columns.len(),
        });
        a.chain(b).collect::<Vec<_>>()
    };
    lora.layers().into_iter().flat_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::layout::layout;
    use crate::model::lora::{Lora, Target};
    use crate::model::testing;

    /// How many of the matrices each element of a group is in.
    fn seen(matrices: &[Matrix], len: usize) -> Vec<i32> {
        let mut seen = vec![0; len];
        for matrix in matrices {
            for row in 0..matrix.rows {
                let at = matrix.start + row * matrix.stride;
                seen[at..at + matrix.columns]
                    .iter_mut()
                    .for_each(|n| *n += 1);
            }
        }
        seen
    }

    #[test]
    fn every_element_of_adapters_is_in_one_matrix() {
        for config in testing::table() {
            for targets in [None, Some(vec![Target::Q, Target::V, Target::Down])] {
                let lora = Lora {
                    rank: 3,
                    alpha: 6.0,
                    targets,
                };
                let (layout, group) = LoraLayout::describe(&lora, &config);
                let matrices = adapter_matrices(&layout);
                assert_eq!(matrices.len(), 2 * lora.targets(&config).len());
                assert!(seen(&matrices, group.len).iter().all(|n| *n == 1));
                let short = |matrix: &Matrix| matrix.rows.min(matrix.columns);
                assert!(matrices.iter().all(|matrix| short(matrix) == 3));
            }
        }
    }

    #[test]
    fn hidden_matrices_are_all_that_decays_in_a_block() {
        for config in testing::table() {
            let shape = Shape::new(&config);
            let seen = seen(&matrices(&shape), shape.block.len);
            for part in &layout(&config)[1].parts {
                let expected = i32::from(part.shape.len() == 2);
                assert!(seen[part.range.clone()].iter().all(|n| *n == expected));
            }
        }
    }
}

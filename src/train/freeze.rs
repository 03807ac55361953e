//! Weights that a run leaves as they are.

use burn::tensor::{Tensor, TensorData};

use crate::model::Model;
use crate::recipe::Freeze;
use crate::token::{PauseIds, Reserved, TokenId};

/// Which weights steps may change: those of the embedding's group that are marked, and
/// none of the other groups.
#[derive(Clone, Debug)]
pub struct Thawed {
    /// 1 where a weight may change, else 0.
    embedding: Tensor<1>,
}

impl Thawed {
    /// What a recipe leaves free; all is free where it freezes nothing.
    pub fn new(freeze: Option<Freeze>, model: &Model, reserved: Reserved) -> Option<Self> {
        let Freeze::AllButPause = freeze?;
        let (embedding, group) = (model.tensors.first()?, model.groups.first()?);
        let (shape, pauses) = (model.shape(), PauseIds::from(reserved));
        let mut marks = vec![0.0f32; group.len];
        let table = marks.get_mut(shape.embedding.token.clone())?;
        for (id, row) in (0..).map(TokenId).zip(table.chunks_exact_mut(shape.d)) {
            if pauses.contains(id) {
                row.fill(1.0);
            }
        }
        let marks = TensorData::new(marks, [group.len]);
        Some(Self {
            embedding: Tensor::from_data(marks, &embedding.device()),
        })
    }

    /// Gradients without those of frozen weights.
    pub fn clear(&self, gradients: Vec<Tensor<1>>) -> Vec<Tensor<1>> {
        let clear = |(index, gradient): (usize, Tensor<1>)| match index {
            0 => gradient * self.embedding.clone(),
            _ => gradient.zeros_like(),
        };
        gradients.into_iter().enumerate().map(clear).collect()
    }
}

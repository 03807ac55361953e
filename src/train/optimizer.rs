//! The moments of AdamW and Muon, one pair of flat tensors for each group of the model.

use burn::tensor::{Tensor, TensorData};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};

use crate::model::layout::Group;
use crate::model::ops::numbers::Coming;
use crate::model::ops::{self, AdamState, AdamStep, muon};
use crate::model::{Device, Model};
use crate::recipe::Optimizer as Kind;

/// The moments' file in a checkpoint.
pub const FILE: &str = "optimizer.safetensors";

/// Moments that do not fit the model.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file is no safetensors file, or lacks a tensor.
    #[error("cannot read the optimizer's moments")]
    Format(#[from] safetensors::SafeTensorError),
    /// A tensor has another size than the model's group.
    #[error("moment `{name}` holds {found} values, expected {expected}")]
    Length {
        /// The tensor.
        name: String,
        /// The group's length.
        expected: usize,
        /// The tensor's length.
        found: usize,
    },
}

/// The state of AdamW (arXiv 1711.05101), or of Muon, whose matrices have no second moment.
#[derive(Clone)]
pub struct Optimizer {
    states: Vec<AdamState>,
}

impl Optimizer {
    /// Moments of 0, for a first step.
    pub fn new(model: &Model, device: &Device) -> Self {
        let state = |group: &Group| AdamState::new(group.len, device);
        Self {
            states: model.trained_groups().iter().map(state).collect(),
        }
    }

    /// Moves the model's tensors by one step; see [`ops::adamw`].
    pub fn update(
        &mut self,
        model: &mut Model,
        gradients: Vec<Tensor<1>>,
        step: (&AdamStep, Option<&Coming>),
        kind: Kind,
    ) {
        let matrices = match kind {
            Kind::Adamw => Vec::new(),
            Kind::Muon => muon::matrices(model.shape()),
        };
        // Between the embedding and the last norm are the blocks.
        let blocks = 1..=model.config.n_layers;
        let (kernels, states) = (model.kernels(), std::mem::take(&mut self.states));
        model.train(|groups, tensors| {
            let groups = groups.iter().enumerate();
            let mut moved = Vec::with_capacity(tensors.len());
            for ((((index, group), tensor), gradient), state) in
                groups.zip(tensors).zip(gradients).zip(states)
            {
                let parts = group.parts.as_slice();
                let (tensor, state) = match kind == Kind::Muon && blocks.contains(&index) {
                    true => {
                        let of = (parts, matrices.as_slice());
                        ops::muon_step(kernels, tensor, gradient, state, step, of)
                    }
                    false => ops::adamw(kernels, tensor, gradient, state, step, parts),
                };
                moved.push(tensor);
                self.states.push(state);
            }
            moved
        });
    }

    /// The moments as a safetensors file: `<group>.first` and `<group>.second`, exact f32.
    pub fn to_bytes(&self, model: &Model) -> Result<Vec<u8>, Error> {
        let mut named = Vec::new();
        for (group, state) in model.trained_groups().iter().zip(&self.states) {
            named.push((name(&group.name, "first"), bytes(&state.first)));
            named.push((name(&group.name, "second"), bytes(&state.second)));
        }
        let views = named
            .iter()
            .map(|(name, bytes)| {
                Ok((
                    name,
                    TensorView::new(Dtype::F32, vec![bytes.len() / 4], bytes)?,
                ))
            })
            .collect::<Result<Vec<_>, Error>>()?;
        Ok(safetensors::serialize(views, None)?)
    }

    /// The moments of a file that [`Self::to_bytes`] wrote.
    pub fn from_bytes(bytes: &[u8], model: &Model, device: &Device) -> Result<Self, Error> {
        let file = SafeTensors::deserialize(bytes)?;
        let moment = |group: &str, which: &str, expected: usize| {
            let name = name(group, which);
            let values = values(file.tensor(&name)?.data());
            if values.len() != expected {
                let found = values.len();
                return Err(Error::Length {
                    name,
                    expected,
                    found,
                });
            }
            Ok(Tensor::from_data(
                TensorData::new(values, [expected]),
                device,
            ))
        };
        let state = |group: &Group| {
            Ok(AdamState {
                first: moment(&group.name, "first", group.len)?,
                second: moment(&group.name, "second", group.len)?,
            })
        };
        let states = model
            .trained_groups()
            .iter()
            .map(state)
            .collect::<Result<_, Error>>()?;
        Ok(Self { states })
    }
}

/// Little-endian f32, as safetensors has it.
fn bytes(tensor: &Tensor<1>) -> Vec<u8> {
    let values = tensor.to_data();
    values.iter::<f32>().flat_map(f32::to_le_bytes).collect()
}

fn values(bytes: &[u8]) -> Vec<f32> {
    let (values, _) = bytes.as_chunks::<4>();
    values
        .iter()
        .map(|value| f32::from_le_bytes(*value))
        .collect()
}

fn name(group: &str, which: &str) -> String {
    format!("{group}.{which}")
}

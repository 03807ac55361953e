//! The moments of AdamW and Muon, one pair of flat tensors for each group of the model.

use std::ops::Range;

use burn::tensor::{Tensor, TensorData};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};

use crate::model::layout::Group;
use crate::model::ops::numbers::Coming;
use crate::model::ops::{self, AdamState, AdamStep, muon};
use crate::model::{Device, Model};
use crate::recipe::Optimizer as Kind;

/// The moments' file in a checkpoint.
pub const FILE: &str = "optimizer.safetensors";

/// Moments, or trained weights, that do not fit the model.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file is no safetensors file, or lacks a tensor.
    #[error("cannot read the optimizer's moments or the trained weights")]
    Format(#[from] safetensors::SafeTensorError),
    /// A tensor has another size than the model's group.
    #[error("tensor `{name}` holds {found} values, expected {expected}")]
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
        let (blocks, matrices) = hidden(model, kind);
        let (kernels, states) = (model.kernels(), std::mem::take(&mut self.states));
        model.train(|groups, tensors| {
            let groups = groups.iter().enumerate();
            let mut moved = Vec::with_capacity(tensors.len());
            for ((((index, group), tensor), gradient), state) in
                groups.zip(tensors).zip(gradients).zip(states)
            {
                let parts = group.parts.as_slice();
                let (tensor, state) = match blocks.contains(&index) {
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
        let groups = model.trained_groups().iter();
        let named = groups.zip(&self.states).flat_map(|(group, state)| {
            let first = (name(&group.name, "first"), &state.first);
            [first, (name(&group.name, "second"), &state.second)]
        });
        to_bytes(named.collect())
    }

    /// The moments of a file that [`Self::to_bytes`] wrote.
    pub fn from_bytes(bytes: &[u8], model: &Model, device: &Device) -> Result<Self, Error> {
        let file = SafeTensors::deserialize(bytes)?;
        let moment = |group: &str, which: &str, len: usize| -> Result<Tensor<1>, Error> {
            let values = flat(&file, name(group, which), len)?;
            Ok(Tensor::from_data(TensorData::new(values, [len]), device))
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

/// Which of the groups that are trained have matrices that Muon moves, and where these lie:
/// the blocks, between the embedding and the last norm; or else their adapters, which come
/// before trained rows.
fn hidden(model: &Model, kind: Kind) -> (Range<usize>, Vec<muon::Matrix>) {
    let (shape, layers) = (model.shape(), model.config.n_layers);
    match (kind, model.tuning(), &shape.lora) {
        (Kind::Adamw, ..) | (Kind::Muon, Some(_), None) => (0..0, Vec::new()),
        (Kind::Muon, None, _) => (1..layers + 1, muon::matrices(shape)),
        (Kind::Muon, Some(_), Some(lora)) => (0..layers, muon::adapter_matrices(lora)),
    }
}

/// The trained groups of a model as a safetensors file, each by its name, exact f32.
pub fn trained_to_bytes(model: &Model) -> Result<Vec<u8>, Error> {
    let groups = model.trained_groups().iter();
    let named = groups.zip(model.trained_tensors());
    to_bytes(
        named
            .map(|(group, tensor)| (group.name.clone(), tensor))
            .collect(),
    )
}

/// The values of a file that [`trained_to_bytes`] wrote, for a model with the same groups.
pub fn trained_from_bytes(bytes: &[u8], model: &Model) -> Result<Vec<Vec<f32>>, Error> {
    let file = SafeTensors::deserialize(bytes)?;
    let groups = model.trained_groups().iter();
    groups
        .map(|group| flat(&file, group.name.clone(), group.len))
        .collect()
}

fn to_bytes(named: Vec<(String, &Tensor<1>)>) -> Result<Vec<u8>, Error> {
    let arrays = named.iter();
    let arrays: Vec<_> = arrays.map(|(name, tensor)| (name, bytes(tensor))).collect();
    let views = arrays.iter().map(|(name, bytes)| {
        let view = TensorView::new(Dtype::F32, vec![bytes.len() / 4], bytes)?;
        Ok((name, view))
    });
    let views = views.collect::<Result<Vec<_>, Error>>()?;
    Ok(safetensors::serialize(views, None)?)
}

fn flat(file: &SafeTensors<'_>, name: String, expected: usize) -> Result<Vec<f32>, Error> {
    let values = values(file.tensor(&name)?.data());
    match values.len() == expected {
        true => Ok(values),
        false => Err(Error::Length {
            name,
            expected,
            found: values.len(),
        }),
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

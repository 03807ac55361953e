//! A model's parameters on a device, its loss and its gradients.

use std::sync::Arc;

pub use burn::tensor::Device;
use burn::tensor::{Tensor, TensorData};
use rayon::prelude::*;

use super::config::Config;
use super::layout::{Group, Part, layout};
use super::mask::Mask;
use super::ops::{
    self, Extent, Input, Kernels, Loss, Objective, Parameters, Pass, Shape, Targets,
};
use crate::batch::Batch;
use crate::rng::{Key, Stream};
use crate::token::TokenId;

/// Standard deviation of initial weights, as in GPT-2.
pub(super) const DEVIATION: f64 = 0.02;

/// A device that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The name is none of ours.
    #[error("unknown device `{name}`: expected `auto`, `cpu` or `cuda:N`")]
    UnknownDevice {
        /// What was asked for.
        name: String,
    },
    /// This build has no CUDA code.
    #[error("device `{name}` needs a build with `--features cuda`")]
    NoCuda {
        /// What was asked for.
        name: String,
    },
    /// The machine has fewer CUDA devices.
    #[error("device `{name}` does not exist: this machine has {found} CUDA devices")]
    NoSuchDevice {
        /// What was asked for.
        name: String,
        /// How many there are.
        found: usize,
    },
}

/// Finds a device by name: `auto`, `cpu` or `cuda:N`.
pub fn device(name: &str) -> Result<Device, Error> {
    let unknown = || Error::UnknownDevice { name: name.into() };
    match name {
        "cpu" => Ok(Device::flex()),
        "auto" => Ok(cuda_devices().into_iter().next().unwrap_or(Device::flex())),
        _ => {
            let index = name.strip_prefix("cuda:").ok_or_else(unknown)?;
            let index: usize = index.parse().map_err(|_| unknown())?;
            if cfg!(not(feature = "cuda")) {
                return Err(Error::NoCuda { name: name.into() });
            }
            let devices = cuda_devices();
            let found = devices.len();
            devices.into_iter().nth(index).ok_or(Error::NoSuchDevice {
                name: name.into(),
                found,
            })
        }
    }
}

/// Asks before opening one: opening a device that is not there would panic in burn.
#[cfg(feature = "cuda")]
fn cuda_devices() -> Vec<Device> {
    Device::enumerate(burn::tensor::DeviceType::Cuda).into_vec()
}

#[cfg(not(feature = "cuda"))]
fn cuda_devices() -> Vec<Device> {
    Vec::new()
}

/// A transformer with its parameters: one flat tensor a group.
#[derive(Clone, Debug)]
pub struct Model {
    /// The shape.
    pub config: Config,
    /// What the tensors hold.
    pub groups: Vec<Group>,
    /// The parameters, outside autodiff, in the order of `groups`.
    pub tensors: Vec<Tensor<1>>,
    kernels: Kernels,
    shape: Arc<Shape>,
}

impl Model {
    /// A model with fresh weights: normal with deviation 0.02, layers that end in
    /// the residual stream by `1 / sqrt(2 L)` less; gains 1, biases 0. Drawn part
    /// by part from the key, so any device and any number of threads agree.
    pub fn new(config: &Config, key: Key, device: &Device) -> Self {
        let key = key.stream(Stream::Weights);
        let groups = layout(config);
        let draw = |(index, group): (usize, &Group)| {
            let parts =
                group.parts.par_iter().enumerate().map(|(part, of)| {
                    initial(of, config, key.item(index as u64).item(part as u64))
                });
            parts.collect::<Vec<_>>().concat()
        };
        let values = groups.iter().enumerate().map(draw).collect();
        Self::from_values(config, values, device)
    }

    /// A model with given weights: one flat array a group of [`layout`].
    pub fn from_values(config: &Config, values: Vec<Vec<f32>>, device: &Device) -> Self {
        let groups = layout(config);
        let device = device.clone().inner();
        assert_eq!(values.len(), groups.len(), "one array a group");
        let tensors = values.into_iter().zip(&groups).map(|(values, group)| {
            assert_eq!(values.len(), group.len, "values of `{}`", group.name);
            Tensor::from_data(TensorData::new(values, [group.len]), &device)
        });
        Self {
            config: config.clone(),
            tensors: tensors.collect(),
            groups,
            kernels: Kernels::for_device(&device),
            shape: Arc::new(Shape::new(config)),
        }
    }

    /// The same model with another form of the operations.
    pub fn with_kernels(self, kernels: Kernels) -> Self {
        Self { kernels, ..self }
    }

    /// The parameters: one flat array a group.
    pub fn values(&self) -> Vec<Vec<f32>> {
        self.tensors.iter().map(to_vec).collect()
    }

    /// What the operations know of this model.
    pub fn shape(&self) -> &Arc<Shape> {
        &self.shape
    }

    /// How many parameters.
    pub fn n_parameters(&self) -> usize {
        self.groups.iter().map(|group| group.len).sum()
    }

    /// The sum over positions of weight times loss: not divided, so that micro-batches of
    /// unequal counts add up.
    pub fn loss(&self, batch: &Batch, z_loss: f32) -> Loss {
        ops::loss(self.kernels, self.parameters(), &self.input(batch), z_loss)
    }

    /// The loss of some batches together, and the gradients of the objective in the order of
    /// `tensors`.
    pub fn gradients<'a>(
        &self,
        batches: impl IntoIterator<Item = &'a Batch>,
        objective: &Objective,
    ) -> (Loss, Vec<Tensor<1>>) {
        let mut inputs = batches.into_iter().map(|batch| self.input(batch));
        ops::gradients(self.kernels, self.parameters(), &mut inputs, objective)
    }

    /// The logits of every position, `[n, V]`, of rows that are one document each and have
    /// no prefix.
    pub fn logits(&self, ids: &[TokenId], rows: usize, length: usize) -> Tensor<2> {
        self.logits_of(&Batch {
            rows,
            length,
            ids: ids.into(),
            ..Batch::default()
        })
    }

    /// The logits of every position of a batch, `[n, V]`.
    pub fn logits_of(&self, batch: &Batch) -> Tensor<2> {
        let (ids, pass) = (batch.ids.widened(), self.pass(batch));
        assert_eq!(ids.len(), pass.extent.positions(), "ids fill the batch");
        ops::logits(self.kernels, self.parameters(), &ids, &pass)
    }

    fn parameters(&self) -> Parameters<'_> {
        Parameters {
            base: &self.tensors,
        }
    }

    fn input(&self, batch: &Batch) -> Input {
        let (ids, pass) = (batch.ids.widened(), self.pass(batch));
        assert_eq!(ids.len(), pass.extent.positions(), "ids fill the batch");
        let targets = Targets {
            ids: batch.targets(),
            weights: batch.weights(),
        };
        Input { ids, targets, pass }
    }

    fn pass(&self, batch: &Batch) -> Pass {
        let (rows, length) = (batch.rows, batch.length);
        assert!(
            length <= self.config.context,
            "rows of {length} positions fit the context of {}",
            self.config.context
        );
        Pass {
            shape: self.shape.clone(),
            extent: Extent { rows, length },
            mask: Mask::new(&self.config, batch),
        }
    }
}

/// A tensor's values in order.
pub fn to_vec(tensor: &Tensor<1>) -> Vec<f32> {
    tensor.clone().into_data().iter::<f32>().collect()
}

fn initial(part: &Part, config: &Config, key: Key) -> Vec<f32> {
    if part.shape.len() < 2 {
        let value = if part.name.ends_with("bias") {
            0.0
        } else {
            1.0
        };
        return vec![value; part.range.len()];
    }
    let into_stream = part.name == "out.weight" || part.name == "down.weight";
    let deviation = match into_stream {
        true => DEVIATION / (2.0 * config.n_layers as f64).sqrt(),
        false => DEVIATION,
    };
    let mut rng = key.rng();
    #[expect(
        clippy::cast_possible_truncation,
        reason = "weights are single precision"
    )]
    let draws = part
        .range
        .clone()
        .map(|_| (rng.normal() * deviation) as f32);
    draws.collect()
}

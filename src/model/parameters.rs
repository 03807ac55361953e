//! A model's parameters on a device, its loss and its gradients.

use std::sync::Arc;

pub use burn::tensor::Device;
use burn::tensor::{Tensor, TensorData};
use rayon::prelude::*;

use super::config::Config;
use super::layout::{Group, Part, layout};
use super::mask::Mask;
use super::ops::{self, Extent, HeadTensors, Kernels, Pass, Shape, Targets};
use crate::batch::{Batch, BatchIds};
use crate::rng::{Key, Stream};
use crate::token::TokenId;

/// Standard deviation of initial weights, as in GPT-2.
const DEVIATION: f64 = 0.02;

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
    /// There is a GPU, or one was asked for, and something that it needs is missing.
    #[error("device `{name}` lacks its {what}: looked for {}", looked.join(", "))]
    Incomplete {
        /// What was asked for.
        name: String,
        /// What is missing.
        what: &'static str,
        /// Where it might have been.
        looked: Vec<String>,
        /// What to do.
        hint: &'static str,
    },
    /// The name of a form of the operations is none of ours.
    #[error("unknown kernels `{name}`: expected `auto`, `burn`, `f32` or `bf16`")]
    UnknownKernels {
        /// What was asked for.
        name: String,
    },
    /// The CPU computes in single precision.
    #[error("kernels `{name}` are those of a GPU: the device is the CPU")]
    NoSuchKernels {
        /// What was asked for.
        name: String,
    },
    /// Our own kernels do not know a model of this shape.
    #[error("our own kernels on a GPU do not take this model: {reason}")]
    Shape {
        /// What is not as they need it.
        reason: String,
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
        "auto" => {
            let gpu = cuda_devices(name)?.into_iter().next();
            Ok(gpu.unwrap_or(Device::flex()))
        }
        _ => {
            let index = name.strip_prefix("cuda:").ok_or_else(unknown)?;
            let index: usize = index.parse().map_err(|_| unknown())?;
            if cfg!(not(feature = "cuda")) {
                return Err(Error::NoCuda { name: name.into() });
            }
            let devices = cuda_devices(name)?;
            let found = devices.len();
            devices.into_iter().nth(index).ok_or(Error::NoSuchDevice {
                name: name.into(),
                found,
            })
        }
    }
}

/// Asks before opening one: opening a device that is not there, or that lacks its
/// compiler, would panic in burn. `auto` takes no driver for no GPU, not for an error.
#[cfg(feature = "cuda")]
fn cuda_devices(name: &str) -> Result<Vec<Device>, Error> {
    use super::gpu;
    if name == "auto" && !gpu::has_driver() {
        return Ok(Vec::new());
    }
    if let Some(need) = gpu::missing().next() {
        return Err(Error::Incomplete {
            name: name.into(),
            what: need.name,
            looked: need.looked.clone(),
            hint: need.hint,
        });
    }
    Ok(Device::enumerate(burn::tensor::DeviceType::Cuda).into_vec())
}

#[cfg(not(feature = "cuda"))]
fn cuda_devices(_: &str) -> Result<Vec<Device>, Error> {
    Ok(Vec::new())
}

/// Finds a form of the operations by name: `burn` is burn's own operations, `f32` and
/// `bf16` our kernels with activations in that precision; `auto`, which is none, leaves the
/// choice to the device.
pub fn kernels(name: &str, device: &Device, config: &Config) -> Result<Option<Kernels>, Error> {
    let on_cpu = Kernels::for_device(device) == Kernels::Fused;
    let kernels = match (name, on_cpu) {
        ("auto", _) => return Ok(None),
        ("burn", _) => Kernels::Plain,
        ("f32", true) => Kernels::Fused,
        ("bf16", true) => return Err(Error::NoSuchKernels { name: name.into() }),
        #[cfg(feature = "cuda")]
        ("f32" | "bf16", false) => {
            use ops::cuda::engine::{Precision, supports};
            supports(&Shape::new(config)).map_err(|reason| Error::Shape { reason })?;
            Kernels::Cuda(match name {
                "f32" => Precision::Single,
                _ => Precision::Bf16,
            })
        }
        _ => return Err(Error::UnknownKernels { name: name.into() }),
    };
    Ok(Some(kernels))
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

    /// Which form of the operations it runs.
    pub fn kernels(&self) -> Kernels {
        self.kernels
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

    /// The sum over positions of weight times cross entropy: not divided, so that
    /// micro-batches of unequal counts add up.
    pub fn loss_sum(&self, batch: &Batch) -> Tensor<1> {
        self.loss(&self.tensors, batch)
    }

    /// The loss sum, and the gradients of `scale` times the loss sum in the order
    /// of `tensors`.
    pub fn gradients(&self, batch: &Batch, scale: f32) -> (f64, Vec<Tensor<1>>) {
        let leaves: Vec<_> = self
            .tensors
            .iter()
            .map(|tensor| tensor.clone().autodiff().require_grad())
            .collect();
        let loss = self.loss(&leaves, batch);
        let sum = f64::from(loss.clone().inner().into_scalar::<f32>());
        let mut gradients = (loss * scale).backward();
        let of = |leaf: &Tensor<1>| {
            let zeros = || Tensor::zeros_like(&leaf.clone().inner());
            leaf.grad_remove(&mut gradients).unwrap_or_else(zeros)
        };
        (sum, leaves.iter().map(of).collect())
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
        let pass = self.pass(batch);
        let x = self.stream(&self.tensors, &batch.ids, &pass);
        ops::logits(self.kernels, x, head(&self.tensors), &pass)
    }

    fn loss(&self, tensors: &[Tensor<1>], batch: &Batch) -> Tensor<1> {
        let pass = self.pass(batch);
        let x = self.stream(tensors, &batch.ids, &pass);
        let targets = Targets {
            ids: batch.targets(),
            weights: batch.weights(),
        };
        ops::linear_cross_entropy(self.kernels, x, head(tensors), Arc::new(targets), &pass)
    }

    /// The residual stream after the last block, `[n, d]`.
    fn stream(&self, tensors: &[Tensor<1>], ids: &BatchIds, pass: &Pass) -> Tensor<2> {
        let ids: Arc<[u32]> = ids.widened().into();
        assert_eq!(ids.len(), pass.extent.positions(), "ids fill the batch");
        let [embedding, blocks @ .., _] = tensors else {
            unreachable!("a layout has at least two groups")
        };
        let x = ops::embedding(self.kernels, embedding.clone(), ids, pass);
        blocks.iter().fold(x, |x, params| {
            ops::block(self.kernels, x, params.clone(), pass)
        })
    }

    fn pass(&self, batch: &Batch) -> Pass {
        let (rows, length) = (batch.rows, batch.length);
        assert!(
            length <= self.config.context,
            "rows of {length} positions fit the context of {}",
            self.config.context
        );
        let pass = Pass {
            shape: self.shape.clone(),
            extent: Extent { rows, length },
            mask: Mask::new(&self.config, batch),
            #[cfg(feature = "cuda")]
            uploaded: None,
        };
        #[cfg(feature = "cuda")]
        if let (Kernels::Cuda(_), Some(tensor)) = (self.kernels, self.tensors.first()) {
            let uploaded = Some(ops::cuda::device::Uploaded::new(&pass, &tensor.device()));
            return Pass { uploaded, ..pass };
        }
        pass
    }
}

/// A tensor's values in order.
pub fn to_vec(tensor: &Tensor<1>) -> Vec<f32> {
    tensor.clone().into_data().iter::<f32>().collect()
}

fn head(tensors: &[Tensor<1>]) -> HeadTensors {
    let [embedding, .., last] = tensors else {
        unreachable!("a layout has at least two groups")
    };
    HeadTensors {
        last: last.clone(),
        embedding: embedding.clone(),
    }
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

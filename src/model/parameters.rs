//! A model's parameters on a device, its loss and its gradients.

use std::sync::Arc;

pub use burn::tensor::Device;
use burn::tensor::{Tensor, TensorData};
use rayon::prelude::*;

use super::config::Config;
use super::layout::{Group, Part, layout};
use super::mask::Mask;
use super::ops::numbers::Sums;
use super::ops::{
    self, Extent, Input, Kernels, Loss, Objective, Parameters, Pass, Rows, Shape, Targets,
};
use super::precision::{Precision, single};
use super::tuning::{self, LoraLayout, Tuning};
use crate::batch::Batch;
use crate::rng::{Key, Stream};
use crate::token::TokenId;

/// Standard deviation of initial weights, as in GPT-2.
pub(super) const DEVIATION: f64 = 0.02;

/// A device that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The name is none of ours.
    #[error(
        "unknown device `{name}`: expected `auto`, `cpu`, `cuda` or `cuda:N`, or several, as in \
         `cuda:0,1`, `cuda:all` or `cpu,cpu`"
    )]
    UnknownDevice {
        /// What was asked for.
        name: String,
    },
    /// A GPU would have two ranks.
    #[error("`{name}` names GPU {number} twice: expected one rank on each")]
    Twice {
        /// What was asked for.
        name: String,
        /// Which GPU.
        number: usize,
    },
    /// Several devices for what one does.
    #[error("expected one device, found `{name}`: several share the batches of training alone")]
    Several {
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

/// Asks before opening one: opening a device that is not there, or that lacks its
/// compiler, would panic in burn. `auto` takes no driver for no GPU, not for an error.
#[cfg(feature = "cuda")]
pub(super) fn cuda_devices(name: &str) -> Result<Vec<Device>, Error> {
    use super::gpu;
    if name == "auto" && !gpu::has_driver() {
        return Ok(Vec::new());
    }
    if let Some(need) = gpu::missing().next() {
        return Err(need.lacking(name));
    }
    Ok(Device::enumerate(burn::tensor::DeviceType::Cuda).into_vec())
}

#[cfg(not(feature = "cuda"))]
pub(super) fn cuda_devices(_: &str) -> Result<Vec<Device>, Error> {
    Ok(Vec::new())
}

/// Finds a form of the operations by name: `burn` is burn's own operations, `f32` and
/// `bf16` our kernels with activations in that precision; `auto`, which is none, leaves the
/// choice to the device.
#[cfg_attr(
    not(feature = "cuda"),
    expect(unused_variables, reason = "the CPU's kernels take every model")
)]
pub fn kernels(name: &str, device: &Device, config: &Config) -> Result<Option<Kernels>, Error> {
    let precision = match name {
        "auto" => return Ok(None),
        "burn" => return Ok(Some(Kernels::Plain)),
        "f32" => Precision::Single,
        "bf16" => Precision::Bf16,
        _ => return Err(Error::UnknownKernels { name: name.into() }),
    };
    let on_cpu = Kernels::for_device(device) == Kernels::FUSED;
    #[cfg(feature = "cuda")]
    if !on_cpu {
        let known = ops::cuda::engine::supports(config);
        known.map_err(|reason| Error::Shape { reason })?;
        return Ok(Some(Kernels::Cuda(precision)));
    }
    match on_cpu {
        true => Ok(Some(Kernels::Fused(precision))),
        false => Err(Error::UnknownKernels { name: name.into() }),
    }
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
    /// What training changes, where that is not everything: then its groups come last.
    tuning: Option<Tuning>,
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
            tuning: None,
            groups,
            kernels: Kernels::for_device(&device),
            shape: Arc::new(Shape::new(config)),
        }
    }

    /// The same model with another form of the operations.
    pub fn with_kernels(self, kernels: Kernels) -> Self {
        Self { kernels, ..self }
    }

    /// The same model, of which training changes a part. Adapters begin by the key, and
    /// change nothing yet.
    pub fn tuned(mut self, tuning: Tuning, key: Key) -> Self {
        let device = self.device();
        for group in tuning.groups(&self.config) {
            let values = match group.name == tuning::ROWS {
                true => self.rows_of(&tuning.rows),
                false => tuning::initial(&group, key, self.groups.len()),
            };
            let values = TensorData::new(values, [group.len]);
            self.tensors.push(Tensor::from_data(values, &device));
            self.groups.push(group);
        }
        let lora = tuning.lora.as_ref();
        let shape = Shape {
            lora: lora.map(|lora| LoraLayout::describe(lora, &self.config).0),
            ..Shape::clone(&self.shape)
        };
        Self {
            shape: Arc::new(shape),
            tuning: Some(tuning),
            ..self
        }
    }

    /// The tensors of [`Self::trained_groups`].
    pub fn trained_tensors(&self) -> &[Tensor<1>] {
        self.tensors.get(self.first_trained()..).unwrap_or_default()
    }

    /// The values of the groups that are trained.
    pub fn trained(&self) -> Vec<Vec<f32>> {
        self.trained_tensors().iter().map(to_vec).collect()
    }

    /// The same model with other values for the groups that are trained.
    pub fn with_trained(mut self, values: Vec<Vec<f32>>) -> Self {
        self.train(|_, tensors| {
            let tensor = |(values, old): (Vec<f32>, &Tensor<1>)| {
                let len = values.len();
                Tensor::from_data(TensorData::new(values, [len]), &old.device())
            };
            values.into_iter().zip(&tensors).map(tensor).collect()
        });
        self
    }

    /// Where it is.
    pub fn device(&self) -> Device {
        let first = self.tensors.first();
        first.map_or_else(Device::flex, Tensor::device)
    }

    /// Which form of the operations it runs.
    pub fn kernels(&self) -> Kernels {
        self.kernels
    }

    /// What training changes, where that is not everything.
    pub fn tuning(&self) -> Option<&Tuning> {
        self.tuning.as_ref()
    }

    /// The rows of the embedding that some ids have.
    fn rows_of(&self, ids: &[u32]) -> Vec<f32> {
        let (d, table) = (self.config.d_model, self.tensors.first().map(to_vec));
        let table = table.unwrap_or_default();
        let row = |id: &u32| {
            table
                .get(*id as usize * d..)
                .unwrap_or_default()
                .iter()
                .take(d)
        };
        ids.iter().flat_map(row).copied().collect()
    }

    /// The first group that is trained, and all after it are.
    fn first_trained(&self) -> usize {
        match self.tuning {
            None => 0,
            Some(_) => self.config.n_layers + 2,
        }
    }

    /// The groups that are trained.
    pub fn trained_groups(&self) -> &[Group] {
        self.groups.get(self.first_trained()..).unwrap_or_default()
    }

    /// Replaces the tensors of [`Self::trained_groups`] by what `change` makes of them.
    pub fn train(&mut self, change: impl FnOnce(&[Group], Vec<Tensor<1>>) -> Vec<Tensor<1>>) {
        let trained = self.tensors.split_off(self.first_trained());
        self.tensors.extend(change(self.trained_groups(), trained));
        let rows = self.tuning.iter().map(|tuning| &tuning.rows);
        let Some(ids) = rows.into_iter().find(|rows| !rows.is_empty()) else {
            return;
        };
        // The table has what was trained, as everything reads it there.
        let table = self.tensors.first_mut();
        let table =
            table.map(|table| std::mem::replace(table, Tensor::empty([0], &table.device())));
        if let (Some(table), Some(rows)) = (table, self.tensors.last()) {
            let table = ops::replace_rows(self.kernels, table, ids, rows, self.config.d_model);
            if let Some(first) = self.tensors.first_mut() {
                *first = table;
            }
        }
    }

    /// The parameters, with adapters' products in the matrices: one flat array a group of
    /// [`layout`].
    pub fn values(&self) -> Vec<Vec<f32>> {
        let base = self.config.n_layers + 2;
        let mut values: Vec<Vec<f32>> = self.tensors.iter().take(base).map(to_vec).collect();
        let blocks = values.iter_mut().skip(1);
        for (block, adapters) in blocks.zip(self.adapters()) {
            ops::cpu::merge(block, &to_vec(adapters), &self.shape);
        }
        values
    }

    /// The adapters' tensors, one a block; none where there are none.
    pub fn adapters(&self) -> &[Tensor<1>] {
        let lora = self.tuning.as_ref().and_then(|tuning| tuning.lora.as_ref());
        let (first, count) = (self.first_trained(), self.config.n_layers);
        let some = lora.and_then(|_| self.tensors.get(first..first + count));
        some.unwrap_or_default()
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
        let (sums, gradients) = self.queue_gradients(batches, objective);
        (sums.read(), gradients)
    }

    /// [`Self::gradients`], which a device may still be computing; of no batch, zeros.
    pub fn queue_gradients<'a>(
        &self,
        batches: impl IntoIterator<Item = &'a Batch>,
        objective: &Objective,
    ) -> (Sums, Vec<Tensor<1>>) {
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
        let base = self.config.n_layers + 2;
        Parameters {
            base: self.tensors.get(..base).unwrap_or_default(),
            adapters: self.adapters(),
            rows: self.tuning.as_ref().map(|tuning| Rows {
                ids: &tuning.rows,
                width: self.config.d_model,
            }),
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
    let draws = part.range.clone();
    draws.map(|_| single(rng.normal() * deviation)).collect()
}

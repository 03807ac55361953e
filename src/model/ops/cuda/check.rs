//! Whether a GPU computes what the CPU does: seen at the start of a run, with a small model
//! of the run's own kind (heads, norm, activation, positions, biases, what positions see)
//! whose loss, gradients and first update the CPU computes on the spot.

use burn::tensor::{Device, Tensor, TensorData};

#[cfg(feature = "cuda")]
use super::agreement::Agreement;
use super::agreement::{Expected, Moved, Outcome};
use super::engine::Precision;
use crate::batch::{Batch, BatchIds, StoredTargets};
use crate::model::Model;
use crate::model::config::Config;
use crate::model::ops::numbers::Limits;
use crate::model::ops::{self, AdamState, AdamStep, Kernels, Objective};
use crate::model::precision::single;
use crate::rng::{Key, Rng};
use crate::token::TokenId;

/// Rows of the first batch, and positions of each: two whole tiles of attention and a part
/// of a third.
const ROWS: [usize; 2] = [2, 136];
/// Of the second.
const LAST_ROWS: [usize; 2] = [1, 64];
/// The id that ends a document.
const END: TokenId = TokenId(0);

/// A small model, its batches, and what is done with them.
pub struct Fixture {
    /// The shape: the run's, but for its size.
    pub config: Config,
    /// Its weights.
    pub values: Vec<Vec<f32>>,
    /// Micro-batches of one step.
    pub batches: Vec<Batch>,
    /// What gradients are taken of.
    pub objective: Objective,
    /// The update.
    pub step: AdamStep,
}

impl Fixture {
    /// A small model of a run's kind.
    pub fn new(run: &Config) -> Self {
        let head = run.d_model / run.n_heads.max(1);
        let group = (run.n_heads / run.n_kv_heads.max(1)).clamp(1, 4);
        let n_kv_heads = run.n_kv_heads.clamp(1, 2);
        let n_heads = group * n_kv_heads;
        // Of a width that kernels take, where heads have one of their own.
        let d_model = (n_heads * head).next_multiple_of(8);
        let config = Config {
            // Odd where the run's is, so that the head's products are of its kind.
            vocab_size: 192 + run.vocab_size % 64,
            context: ROWS[1],
            n_layers: 2,
            n_heads,
            n_kv_heads,
            d_model,
            d_ff: d_model + 8,
            window: run.window.map(|window| window.min(37)),
            ..run.clone()
        };
        // No bias is 0 and no gain 1; scores are spread, so that places and masks count.
        let (mut noise, size) = (Key::new(2).rng(), 1.2 / (config.d_model as f64).sqrt());
        let mut values = Model::new(&config, Key::new(1), &Device::flex()).values();
        for value in values.iter_mut().flatten() {
            *value += single(size * noise.normal());
        }
        let batches = [ROWS, LAST_ROWS].map(|[rows, length]| batch(&config, rows, length));
        Self {
            config,
            values,
            batches: batches.into(),
            objective: Objective {
                scale: 0.01,
                z_loss: 1e-3,
                recompute: false,
            },
            step: AdamStep {
                index: 3,
                rate: 1e-2,
                beta1: 0.9,
                beta2: 0.95,
                eps: 1e-8,
                weight_decay: 0.1,
                decay_tables: false,
                gradient_scale: 1.0,
            },
        }
    }

    /// Means are over as many as scored positions weigh, and any norm is clipped.
    pub fn limits(&self, norm: f64) -> Limits {
        Limits {
            mean: 0.01,
            clip: 0.5 * norm,
        }
    }

    /// A model with the fixture's weights.
    pub fn model(&self, device: &Device) -> Model {
        Model::from_values(&self.config, self.values.clone(), device)
    }

    /// What a model on a device makes of the batches.
    pub fn run(&self, model: &Model) -> Result<Outcome, String> {
        let (sums, gradients) = model.queue_gradients(&self.batches, &self.objective);
        // The loss is read last: if anything failed before, that is what is told.
        let gradients = gradients.into_iter().map(read);
        let gradients = gradients.collect::<Result<_, String>>()?;
        Ok(Outcome {
            loss: sums.read(),
            gradients,
        })
    }

    /// What a device's optimizer makes of given gradients.
    pub fn update(&self, of: &Outcome, kernels: Kernels, device: &Device) -> Result<Moved, String> {
        use ops::numbers::{Numbers, Sums, numbers};
        let model = self.model(device);
        let tensor = |values: &[f32]| {
            let data = TensorData::new(values.to_vec(), [values.len()]);
            Tensor::<1>::from_data(data, &device.clone().inner())
        };
        let gradients: Vec<_> = of.gradients.iter().map(|of| tensor(of)).collect();
        let limits = self.limits(norm(&of.gradients));
        let sums = match kernels {
            Kernels::Fused(_) => Sums::Known(of.loss),
            _ => Sums::Coming(tensor(&[single(of.loss.cross_entropy), 0.0])),
        };
        let (coming, scale) = match numbers(kernels, sums, &gradients, &limits) {
            Numbers::Known(known) => (None, limits.scale(known.norm)),
            Numbers::Coming(coming) => (Some(coming), 1.0),
        };
        let step = AdamStep {
            gradient_scale: scale,
            ..self.step
        };
        let step = (&step, coming.as_ref());
        let groups = model.groups.iter().zip(&model.tensors).zip(gradients);
        let moved = groups.map(|((group, param), gradient)| {
            let state = AdamState::new(group.len, &device.clone().inner());
            let (param, state) =
                ops::adamw(kernels, param.clone(), gradient, state, step, &group.parts);
            Ok([read(param)?, read(state.first)?, read(state.second)?])
        });
        moved.collect()
    }

    /// What the CPU makes of all of it.
    pub fn expected(&self) -> Result<Expected, String> {
        let device = Device::flex();
        let run = |precision| {
            let model = self.model(&device);
            self.run(&model.with_kernels(Kernels::Fused(precision)))
        };
        let outcome = run(Precision::Single)?;
        let config = &self.config;
        let sums = [
            ROWS.iter().product(),
            config.vocab_size,
            2 * config.d_ff,
            config.query_width() + 2 * config.key_width(),
        ];
        Ok(Expected {
            moved: self.update(&outcome, Kernels::FUSED, &device)?,
            outcome,
            rounded: run(Precision::Bf16)?,
            terms: sums.into_iter().max().unwrap_or_default(),
        })
    }

    /// How well our kernels on a device agree with that.
    #[cfg(feature = "cuda")]
    fn found(
        &self,
        expected: &Expected,
        device: &Device,
        precision: Precision,
    ) -> Result<Agreement, String> {
        let kernels = Kernels::Cuda(precision);
        let outcome = self.run(&self.model(device).with_kernels(kernels))?;
        let moved = self.update(&expected.outcome, kernels, device)?;
        let found = (&outcome, &moved);
        Ok(Agreement::new(&self.config, expected, found, precision))
    }
}

/// Sees whether our kernels agree with the CPU's on each of some devices, all at once; why
/// not where that cannot be seen.
#[cfg(feature = "cuda")]
pub fn on_devices(
    run: &Config,
    devices: &[Device],
    precision: Precision,
) -> Result<Vec<Result<Agreement, String>>, String> {
    let fixture = Fixture::new(run);
    let expected = fixture.expected()?;
    let seen = |device: &Device| {
        // burn panics where a device cannot be had after all.
        let found = || fixture.found(&expected, device, precision);
        let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(found));
        found.unwrap_or_else(|panic| Err(crate::panics::message(panic.as_ref()).into()))
    };
    let [first, others @ ..] = devices else {
        return Ok(Vec::new());
    };
    // Each compiles its kernels, which takes seconds; the first on the thread that computes
    // on it later.
    Ok(std::thread::scope(|scope| {
        let others = others.iter().map(|device| scope.spawn(|| seen(device)));
        let others: Vec<_> = others.collect();
        let first = std::iter::once(seen(first));
        let told = others.into_iter().map(|other| {
            let gone = |_| Err("its thread ended".into());
            other.join().unwrap_or_else(gone)
        });
        first.chain(told).collect()
    }))
}

/// Rows of several documents with prefixes, a quarter of whose weights are 0.
fn batch(config: &Config, rows: usize, length: usize) -> Batch {
    let mut rng = Key::new(3).item(length as u64).rng();
    let n = rows * length;
    let id = |rng: &mut Rng| match rng.below(16) {
        0 => END.0,
        _ => u32::try_from(rng.below(config.vocab_size as u64)).unwrap_or(0),
    };
    let ids: Vec<u32> = (0..n).map(|_| id(&mut rng)).collect();
    let targets = (0..n).map(|_| id(&mut rng)).collect();
    let weights = (0..n).map(|_| [0.0, 0.5, 1.0, 2.0].get(index(&mut rng, 4)).copied());
    let short = |row: usize| u32::try_from(length - 12 * row).unwrap_or(0);
    Batch {
        rows,
        length,
        ids: BatchIds::U32(ids),
        stored: Some(StoredTargets {
            targets,
            weights: weights.map(Option::unwrap_or_default).collect(),
        }),
        lengths: (0..rows).map(short).collect(),
        prefixes: (0..rows)
            .map(|row| if row == 0 { 21 } else { 90 })
            .collect(),
        end: Some(END),
        ..Batch::default()
    }
}

/// The values of a tensor, or what its device said instead.
fn read(tensor: Tensor<1>) -> Result<Vec<f32>, String> {
    let data = tensor.try_into_data();
    let data = data.map_err(|error| format!("{error:?}"))?;
    Ok(data.iter::<f32>().collect())
}

fn index(rng: &mut Rng, below: u64) -> usize {
    usize::try_from(rng.below(below)).unwrap_or(0)
}

fn norm(arrays: &[Vec<f32>]) -> f64 {
    let squares = arrays.iter().flatten().map(|x| f64::from(*x).powi(2));
    squares.sum::<f64>().sqrt()
}

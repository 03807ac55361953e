//! One optimizer step, and what a run is between two of them.

use burn::tensor::Tensor;

use crate::batch::Counts;
use crate::digest::Checksum;
use crate::loader::GlobalBatch;
use crate::model::collective::{Absent, Seat};
use crate::model::config::Config;
use crate::model::flops::Flops;
use crate::model::ops::numbers::{self, Arrival, Known, Limits, Lost, Numbers, Sums};
use crate::model::ops::{AdamStep, Kernels, Loss, Objective};
use crate::model::precision::single;
use crate::model::{Device, Model};
use crate::recipe::{Optimizer as Optimizing, Train};
use crate::train::average::Average;
use crate::train::optimizer::Optimizer;
use crate::train::record::Totals;
use crate::train::schedule::learning_rate;
use crate::train::watch::{self, Anomaly, Watch};

/// A model in training.
pub struct Learner {
    /// The model.
    pub model: Model,
    /// The optimizer's moments.
    pub optimizer: Optimizer,
    /// Steps done.
    pub step: u64,
    /// The loader's next global batch: as many as the steps, but for those that a run
    /// went past when it rolled back.
    pub next: u64,
    /// What was trained on so far.
    pub totals: Totals,
    /// What is remembered of the steps.
    pub watch: Watch,
    /// The average of the weights over steps, with `train.ema`.
    pub average: Option<Average>,
    /// Its place among those that share each global batch.
    pub seat: Seat,
}

/// What one step did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Report {
    /// Sum of the scored targets' losses over their count, before the update.
    pub loss: f64,
    /// The mean that the z-loss adds to it, its weight included, where there is any.
    pub z_loss: Option<f64>,
    /// The learning rate.
    pub lr: f64,
    /// The gradient's norm before clipping.
    pub grad_norm: f64,
    /// Floating-point operations of forward and backward passes.
    pub flops: Flops,
}

/// A step that was begun, whose numbers a device may still be computing.
pub struct Begun {
    /// What the learner counts after it.
    pub after: Counted,
    lr: f64,
    flops: Flops,
    has_z_loss: bool,
    numbers: Arrival,
}

/// What a learner counts.
#[derive(Clone, Copy, Debug)]
pub struct Counted {
    /// See [`Learner::step`].
    pub step: u64,
    /// See [`Learner::next`].
    pub next: u64,
    /// See [`Learner::totals`].
    pub totals: Totals,
}

/// Why a step was not taken.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Trouble {
    /// It must not be.
    #[error(transparent)]
    Anomaly(#[from] Anomaly),
    /// The device failed.
    #[error(transparent)]
    Lost(#[from] Lost),
    /// Another rank is gone.
    #[error(transparent)]
    Absent(#[from] Absent),
}

impl Begun {
    /// Whether nobody need wait for its numbers.
    pub fn is_known(&self) -> bool {
        matches!(self.numbers, Arrival::Known(_))
    }

    /// What it did; waits for the device. Where that met an anomaly it changed no weight.
    pub fn finish(self) -> Result<Report, Trouble> {
        let Known { loss, norm } = self.numbers.wait()?;
        watch::finite(loss.total(), norm)?;
        Ok(Report {
            loss: loss.cross_entropy,
            z_loss: self.has_z_loss.then_some(loss.z_loss),
            lr: self.lr,
            grad_norm: norm,
            flops: self.flops,
        })
    }
}

impl Learner {
    /// A learner before its first step.
    pub fn new(model: Model, device: &Device) -> Self {
        Self {
            optimizer: Optimizer::new(&model, device),
            model,
            step: 0,
            next: 0,
            totals: Totals::default(),
            watch: Watch::default(),
            average: None,
            seat: Seat::alone(device),
        }
    }

    /// Trains on one global batch, together with the other ranks; on an anomaly, all is as
    /// before.
    ///
    /// The loss is the sum over all scored targets of the global batch divided
    /// by their count, however the rows are cut into micro-batches.
    pub fn step(&mut self, batch: &GlobalBatch, train: &Train) -> Result<Report, Trouble> {
        let before = self.counted();
        let done = self.begin(batch, train)?.finish();
        if done.is_err() {
            (self.step, self.next, self.totals) = (before.step, before.next, before.totals);
        }
        done
    }

    /// [`Self::step`], without waiting for a device: an anomaly that it meets shows when the
    /// step is finished, and then no weight is changed by it. With `train.spike` the numbers
    /// are waited for, because those of a step decide whether its update may be made.
    pub fn begin(&mut self, batch: &GlobalBatch, train: &Train) -> Result<Begun, Trouble> {
        match self.model.kernels() {
            // On a thread of the pool, so that the many parallel loops of a step need not
            // wake one each.
            Kernels::Fused(_) => rayon::scope(|_| self.compute(batch, train)),
            // A GPU gives each thread that asks a stream and memory of its own.
            _ => self.compute(batch, train),
        }
    }

    fn compute(&mut self, batch: &GlobalBatch, train: &Train) -> Result<Begun, Trouble> {
        let (sums, gradients) = queue_gradients(&self.model, batch, train, &self.seat)?;
        let limits = Limits {
            mean: 1.0 / scored(batch.counts),
            clip: train.clip,
        };
        let kernels = self.model.kernels();
        // What burn computes, devices may compute by different kernels.
        let alike = kernels != Kernels::Plain && train.optimizer == Optimizing::Adamw;
        let mut numbers = numbers::numbers(kernels, sums, &gradients, &limits);
        if !alike {
            numbers = self.seat.align_numbers(numbers)?;
        }
        let spike = train.spike.as_ref();
        let (known, coming) = match numbers {
            Numbers::Known(known) => (Some(known), None),
            Numbers::Coming(coming) if spike.is_some() => {
                (Some(coming.send().wait()?), Some(coming))
            }
            Numbers::Coming(coming) => (None, Some(coming)),
        };
        if let Some(Known { loss, norm }) = known {
            self.watch.judge(spike, loss.total(), norm)?;
        }
        let lr = learning_rate(train, self.step + 1);
        let update = AdamStep {
            // What was skipped moved no moment.
            index: self.step + 1 - self.watch.skipped,
            rate: lr,
            beta1: train.betas[0],
            beta2: train.betas[1],
            eps: train.eps,
            weight_decay: train.weight_decay,
            decay_tables: train.decay_embeddings,
            // Where the device has the norm, it scales gradients itself.
            gradient_scale: match (known, &coming) {
                (Some(known), None) => limits.scale(known.norm),
                _ => 1.0,
            },
        };
        let step = (&update, coming.as_ref());
        self.optimizer
            .update(&mut self.model, gradients, step, train.optimizer);
        if !alike {
            self.seat.align_weights(&mut self.model)?;
        }
        if let Some(average) = &mut self.average {
            average.take_in(&self.model, update.index);
        }
        if let Some(Known { loss, norm }) = known {
            self.watch.remember(spike, loss.total(), norm);
        }
        self.step += 1;
        self.next += 1;
        let flops = flops(&self.model.config, batch, train);
        self.totals.add(batch.counts, flops);
        let numbers = match (known, coming) {
            (None, Some(coming)) => coming.send(),
            (known, _) => Arrival::Known(known.unwrap_or_default()),
        };
        Ok(Begun {
            after: self.counted(),
            lr,
            flops,
            has_z_loss: 0.0 < train.z_loss,
            numbers,
        })
    }

    fn counted(&self) -> Counted {
        Counted {
            step: self.step,
            next: self.next,
            totals: self.totals,
        }
    }

    /// The same learner with another form of the operations.
    pub fn with_kernels(self, kernels: Kernels) -> Self {
        Self {
            model: self.model.with_kernels(kernels),
            ..self
        }
    }

    /// Goes on with the next batch, and leaves everything else as it is.
    pub fn skip(&mut self) {
        self.step += 1;
        self.next += 1;
        self.watch.skipped += 1;
    }

    /// The model that the run has made so far: the average, where there is one.
    pub fn result(&self) -> Model {
        match &self.average {
            Some(average) => average.model(&self.model),
            None => self.model.clone(),
        }
    }

    /// A checksum of the weights: ranks that are alike have the same.
    pub fn checksum(&self) -> u64 {
        let mut sum = Checksum::default();
        for tensor in &self.model.tensors {
            sum.update(tensor.clone().into_data().as_bytes());
        }
        sum.finish()
    }

    /// Whether every weight is a number: an update may overflow though its
    /// gradients were finite.
    pub fn is_finite(&self) -> bool {
        let sums = self.model.tensors.iter().map(|tensor| tensor.clone().sum());
        sums.map(|sum| sum.into_scalar::<f32>()).all(f32::is_finite)
    }
}

/// The mean loss of a global batch and its gradients, summed over the micro-batches of all
/// ranks.
pub fn gradients(
    model: &Model,
    batch: &GlobalBatch,
    train: &Train,
    seat: &Seat,
) -> Result<(Loss, Vec<Tensor<1>>), Absent> {
    let (sums, gradients) = queue_gradients(model, batch, train, seat)?;
    Ok((sums.read() * (1.0 / scored(batch.counts)), gradients))
}

/// The sums of the losses of a global batch and the gradients of their mean, which a device
/// may still be computing.
fn queue_gradients(
    model: &Model,
    batch: &GlobalBatch,
    train: &Train,
    seat: &Seat,
) -> Result<(Sums, Vec<Tensor<1>>), Absent> {
    let objective = Objective {
        scale: single(1.0 / scored(batch.counts)),
        z_loss: single(train.z_loss),
        recompute: train.recompute,
    };
    seat.gradients(model, &batch.micro_batches, &objective)
}

/// The operations of a global batch.
pub fn flops(config: &Config, batch: &GlobalBatch, train: &Train) -> Flops {
    let mut sum = Flops::default();
    for micro in &batch.micro_batches {
        sum += Flops::of(config, micro.rows, micro.length, micro.counts.scored);
    }
    let micro = batch.micro_batches.iter();
    let positions = micro.map(|micro| micro.rows * micro.length).sum::<usize>() as u64;
    if train.freeze.is_some() || train.lora.is_some() {
        let adapters = train.lora.iter().map(|lora| lora.n_parameters(config));
        sum = sum.frozen(adapters.sum::<u64>() * positions);
    }
    match train.recompute {
        true => sum.recomputed(config, positions),
        false => sum,
    }
}

/// What losses of a batch are divided by. A batch without a scored target,
/// such as one short row of one id, has a loss and gradients of 0.
fn scored(counts: Counts) -> f64 {
    counts.scored.max(1) as f64
}

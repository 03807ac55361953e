//! One optimizer step, and what a run is between two of them.

use burn::tensor::Tensor;

use crate::batch::Counts;
use crate::loader::GlobalBatch;
use crate::model::config::Config;
use crate::model::flops::Flops;
use crate::model::ops::AdamStep;
use crate::model::{Device, Model};
use crate::recipe::Train;
use crate::train::average::Average;
use crate::train::freeze::Thawed;
use crate::train::optimizer::{self, Optimizer};
use crate::train::record::Totals;
use crate::train::schedule::learning_rate;
use crate::train::watch::{Anomaly, Watch};

/// A model in training.
pub struct Learner {
    /// The model.
    pub model: Model,
    /// The optimizer's moments.
    pub optimizer: Optimizer,
    /// Which weights steps may change, where not all are.
    pub thawed: Option<Thawed>,
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
}

/// What one step did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Report {
    /// Sum of the scored targets' losses over their count, before the update.
    pub loss: f64,
    /// The learning rate.
    pub lr: f64,
    /// The gradient's norm before clipping.
    pub grad_norm: f64,
    /// Floating-point operations of forward and backward passes.
    pub flops: Flops,
}

impl Learner {
    /// A learner before its first step.
    pub fn new(model: Model, thawed: Option<Thawed>, device: &Device) -> Self {
        Self {
            optimizer: Optimizer::new(&model, device),
            thawed,
            model,
            step: 0,
            next: 0,
            totals: Totals::default(),
            watch: Watch::default(),
            average: None,
        }
    }

    /// Trains on one global batch; on an anomaly, all is as before.
    ///
    /// The loss is the sum over all scored targets of the global batch divided
    /// by their count, however the rows are cut into micro-batches.
    pub fn step(&mut self, batch: &GlobalBatch, train: &Train) -> Result<Report, Anomaly> {
        // On a thread of the pool, so that the many parallel loops of a step need not
        // wake one each.
        rayon::scope(|_| self.compute(batch, train))
    }

    fn compute(&mut self, batch: &GlobalBatch, train: &Train) -> Result<Report, Anomaly> {
        let (loss, mut gradients) = gradients(&self.model, batch);
        if let Some(thawed) = &self.thawed {
            gradients = thawed.clear(gradients);
        }
        let grad_norm = optimizer::global_norm(&gradients);
        let spike = train.spike.as_ref();
        self.watch.judge(spike, loss, grad_norm)?;
        let lr = learning_rate(train, self.step + 1);
        let update = AdamStep {
            // What was skipped moved no moment.
            index: self.step + 1 - self.watch.skipped,
            rate: lr,
            beta1: train.betas[0],
            beta2: train.betas[1],
            eps: train.eps,
            weight_decay: match self.thawed {
                // What is frozen must not decay, and a few rows need not.
                Some(_) => 0.0,
                None => train.weight_decay,
            },
            decay_tables: train.decay_embeddings,
            gradient_scale: clip(grad_norm, train.clip),
        };
        self.optimizer
            .update(&mut self.model, gradients, &update, train.optimizer);
        if let Some(average) = &mut self.average {
            average.take_in(&self.model, update.index);
        }
        self.watch.remember(spike, loss, grad_norm);
        self.step += 1;
        self.next += 1;
        let flops = flops(&self.model.config, batch);
        self.totals.add(batch.counts, flops);
        Ok(Report {
            loss,
            lr,
            grad_norm,
            flops,
        })
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

    /// Whether every weight is a number: an update may overflow though its
    /// gradients were finite.
    pub fn is_finite(&self) -> bool {
        let sums = self.model.tensors.iter().map(|tensor| tensor.clone().sum());
        sums.map(|sum| sum.into_scalar::<f32>()).all(f32::is_finite)
    }
}

/// The loss of a global batch and its gradients, summed over the micro-batches.
pub fn gradients(model: &Model, batch: &GlobalBatch) -> (f64, Vec<Tensor<1>>) {
    let scale = 1.0 / scored(batch.counts);
    #[expect(
        clippy::cast_possible_truncation,
        reason = "gradients are single precision"
    )]
    let gradient_scale = scale as f32;
    let mut loss = 0.0;
    let mut sums: Vec<Tensor<1>> = Vec::new();
    for micro_batch in &batch.micro_batches {
        let (loss_sum, gradients) = model.gradients(micro_batch, gradient_scale);
        loss += loss_sum * scale;
        sums = match sums.is_empty() {
            true => gradients,
            false => sums
                .into_iter()
                .zip(gradients)
                .map(|(a, b)| a + b)
                .collect(),
        };
    }
    (loss, sums)
}

/// The operations of a global batch.
pub fn flops(config: &Config, batch: &GlobalBatch) -> Flops {
    let mut sum = Flops::default();
    for micro in &batch.micro_batches {
        sum += Flops::of(config, micro.rows, micro.length, micro.counts.scored);
    }
    sum
}

/// What losses of a batch are divided by. A batch without a scored target,
/// such as one short row of one id, has a loss and gradients of 0.
fn scored(counts: Counts) -> f64 {
    counts.scored.max(1) as f64
}

/// What gradients are multiplied by so that their norm is `largest` at most.
fn clip(norm: f64, largest: f64) -> f64 {
    if norm <= largest { 1.0 } else { largest / norm }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_large_gradients_are_clipped() {
        assert_eq!(clip(0.5, 1.0), 1.0);
        assert_eq!(clip(1.0, 1.0), 1.0);
        assert_eq!(clip(4.0, 1.0), 0.25);
        assert_eq!(clip(0.0, 0.0), 1.0);
        assert_eq!(clip(1e30, f64::INFINITY), 1.0);
    }
}

//! One step computed by several ranks, each with a device and a copy of the model of its own.
//!
//! The micro-batches of a global batch are dealt to ranks in turn, and the sums over all of
//! them come to every rank, which then makes the same update as all others. [`Ordered`] sums
//! on the CPU by the index of the micro-batch: the same bits for any number of ranks.
//! [`Devices`] sums on GPUs, by NCCL: the same bits for the same number of ranks, and what
//! another number gives but for rounding.

mod devices;
mod meeting;
mod ordered;

use std::fmt::Debug;
use std::sync::Arc;

use burn::tensor::Tensor;

pub use devices::Devices;
pub use meeting::{Absent, Meeting};
pub use ordered::Ordered;

use super::ops::numbers::{Coming, Numbers, Sums};
use super::ops::{Kernels, Objective};
use super::{Device, Model};
use crate::batch::Batch;

/// What a part of a global batch adds to a step.
#[derive(Clone, Debug)]
pub struct Term {
    /// Its losses.
    pub sums: Sums,
    /// Its gradients, one for each group that is trained.
    pub gradients: Vec<Tensor<1>>,
}

/// How many micro-batches one term is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grain {
    /// One.
    One,
    /// All that a rank has.
    All,
}

/// A way to sum over ranks.
///
/// All ranks make the same calls in the same order; each waits in its call for the others.
/// Once a rank is absent, every call fails, those that wait already included.
pub trait Collective: Debug + Send + Sync {
    /// How many ranks there are.
    fn ranks(&self) -> usize;
    /// What terms are of.
    fn grain(&self) -> Grain;
    /// The sum of all terms of all ranks, of which none has more than `rounds`. A term is
    /// asked for when those before it are taken care of.
    fn sum(
        &self,
        rank: usize,
        rounds: usize,
        terms: &mut dyn Iterator<Item = Term>,
    ) -> Result<Term, Absent>;
    /// Rank 0's tensors, where ranks may have come to others of their own.
    fn align(&self, rank: usize, tensors: Vec<Tensor<1>>) -> Result<Vec<Tensor<1>>, Absent>;
    /// Says that a rank makes no more calls.
    fn lose(&self, absent: &Absent);
}

/// The way to sum that belongs to some devices, one a rank, all of one kind.
pub fn of(devices: &[Device]) -> Arc<dyn Collective> {
    match devices.iter().all(on_cpu) {
        true => Arc::new(Ordered::new(devices.len().max(1))),
        false => Arc::new(Devices::new(devices.to_vec())),
    }
}

/// Whether a device is the processor.
pub fn on_cpu(device: &Device) -> bool {
    Kernels::for_device(device) == Kernels::FUSED
}

/// The place of one rank among all.
#[derive(Clone, Debug)]
pub struct Seat {
    rank: usize,
    collective: Arc<dyn Collective>,
}

impl Seat {
    /// That of a rank, from 0.
    pub fn new(rank: usize, collective: Arc<dyn Collective>) -> Self {
        Self { rank, collective }
    }

    /// That of a rank without others.
    pub fn alone(device: &Device) -> Self {
        Self::new(0, of(std::slice::from_ref(device)))
    }

    /// Which rank this is, from 0.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// How many ranks there are.
    pub fn ranks(&self) -> usize {
        self.collective.ranks()
    }

    /// The losses of the batches together and the gradients of the objective, of which all
    /// ranks have computed, or are computing, their part.
    pub fn gradients(
        &self,
        model: &Model,
        batches: &[Batch],
        objective: &Objective,
    ) -> Result<(Sums, Vec<Tensor<1>>), Absent> {
        if self.ranks() == 1 && !matches!(model.kernels(), Kernels::Fused(_)) {
            return Ok(model.queue_gradients(batches, objective));
        }
        let own = batches.iter().skip(self.rank).step_by(self.ranks());
        let term = |(sums, gradients)| Term { sums, gradients };
        let rounds = batches.len().div_ceil(self.ranks());
        let sum = match self.collective.grain() {
            Grain::One => {
                let one = |batch| term(model.queue_gradients([batch], objective));
                self.collective.sum(self.rank, rounds, &mut own.map(one))
            }
            Grain::All => {
                // A rank without a batch adds zeros.
                let all = || term(model.queue_gradients(own, objective));
                self.collective
                    .sum(self.rank, 1, &mut std::iter::once_with(all))
            }
        }?;
        Ok((sum.sums, sum.gradients))
    }

    /// [`Self::align`], of the numbers of a step.
    pub fn align_numbers(&self, numbers: Numbers) -> Result<Numbers, Absent> {
        let Numbers::Coming(Coming(own)) = numbers else {
            return Ok(numbers);
        };
        let aligned = self.align(vec![own.clone()])?.pop();
        Ok(Numbers::Coming(Coming(aligned.unwrap_or(own))))
    }

    /// Rank 0's tensors, where ranks may have come to others: burn chooses the kernels of a
    /// device by their speed there, and a sum may come out otherwise by another.
    pub fn align(&self, tensors: Vec<Tensor<1>>) -> Result<Vec<Tensor<1>>, Absent> {
        match self.ranks() {
            1 => Ok(tensors),
            _ => self.collective.align(self.rank, tensors),
        }
    }

    /// [`Self::align`], of a model's weights.
    pub fn align_weights(&self, model: &mut Model) -> Result<(), Absent> {
        let mut aligned = Ok(());
        model.train(|_, tensors| {
            let kept = tensors.clone();
            self.align(tensors).unwrap_or_else(|absent| {
                aligned = Err(absent);
                kept
            })
        });
        aligned
    }
}

#[cfg(test)]
mod tests;

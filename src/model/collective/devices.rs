//! Sums over devices of another kind than the CPU, by burn's collectives.
//!
//! On several GPUs those are NCCL's, which is loaded at run time; `gpu::collective` says
//! whether it is there. The operation is queued on all devices by one thread, the last rank
//! to come: so no device waits in it for one that was lost before.

use burn::tensor::Tensor;
use burn::tensor::distributed::ReduceOperation;

use super::{Collective, Grain, Lost, Meeting, Term};
use crate::model::Device;

/// See the module.
#[derive(Debug)]
pub struct Devices {
    devices: Vec<Device>,
    terms: Meeting<Term, Term>,
    aligned: Meeting<Vec<Tensor<1>>, Vec<Tensor<1>>>,
}

impl Devices {
    /// Of one rank a device.
    pub fn new(devices: Vec<Device>) -> Self {
        let ranks = devices.len();
        Self {
            devices,
            terms: Meeting::new(ranks),
            aligned: Meeting::new(ranks),
        }
    }
}

impl Collective for Devices {
    fn ranks(&self) -> usize {
        self.devices.len()
    }

    fn grain(&self) -> Grain {
        Grain::All
    }

    fn sum(
        &self,
        rank: usize,
        _: usize,
        terms: &mut dyn Iterator<Item = Term>,
    ) -> Result<Term, Lost> {
        let own = terms.reduce(|sum, term| {
            let gradients = sum.gradients.into_iter().zip(term.gradients);
            let gradients = gradients.map(|(sum, more)| sum + more).collect();
            let mut loss = sum.loss;
            loss += term.loss;
            Term { loss, gradients }
        });
        let own = own.unwrap_or_default();
        match self.ranks() {
            1 => Ok(own),
            _ => self.terms.meet(rank, own, all_reduced),
        }
    }

    fn align(&self, rank: usize, tensors: Vec<Tensor<1>>) -> Result<Vec<Tensor<1>>, Lost> {
        if self.ranks() == 1 {
            return Ok(tensors);
        }
        let first = |all: Vec<Vec<Tensor<1>>>| {
            let first = all.into_iter().next().unwrap_or_default();
            let copies = first
                .into_iter()
                .map(|tensor| Tensor::broadcast(tensor, &self.devices));
            by_rank(self.ranks(), copies)
        };
        self.aligned.meet(rank, tensors, first)
    }

    fn lose(&self, lost: &Lost) {
        self.terms.lose(lost);
        self.aligned.lose(lost);
    }
}

/// The sum of all terms, for each rank on its own device.
fn all_reduced(terms: Vec<Term>) -> Vec<Term> {
    let ranks = terms.len();
    let mut loss = super::Loss::default();
    let mut gradients = Vec::with_capacity(ranks);
    for term in terms {
        loss += term.loss;
        gradients.push(term.gradients.into_iter());
    }
    let groups = gradients.first().map_or(0, ExactSizeIterator::len);
    let sums = (0..groups).map(|_| {
        let members = gradients.iter_mut().filter_map(Iterator::next).collect();
        Tensor::all_reduce(members, ReduceOperation::Sum)
    });
    let sums = by_rank(ranks, sums).into_iter();
    sums.map(|gradients| Term { loss, gradients }).collect()
}

/// What each rank has, of what each group gives all of them.
fn by_rank(ranks: usize, groups: impl Iterator<Item = Vec<Tensor<1>>>) -> Vec<Vec<Tensor<1>>> {
    let mut of_ranks: Vec<Vec<Tensor<1>>> = (0..ranks).map(|_| Vec::new()).collect();
    for group in groups {
        for (own, tensor) in of_ranks.iter_mut().zip(group) {
            own.push(tensor);
        }
    }
    of_ranks
}

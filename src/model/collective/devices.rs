//! Sums over devices of another kind than the CPU, by burn's collectives.
//!
//! On several GPUs those are NCCL's, which is loaded at run time; `gpu::collective` says
//! whether it is there. The operation is queued on all devices by one thread, the last rank
//! to come: so no device waits in it for one that was lost before.

use burn::tensor::Tensor;
use burn::tensor::distributed::ReduceOperation;

use super::{Absent, Collective, Grain, Meeting, Term};
use crate::model::Device;
use crate::model::ops::numbers::Sums;

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
    ) -> Result<Term, Absent> {
        let Some(own) = terms.next() else {
            unreachable!("a term of all that a rank has is there, be it of nothing")
        };
        self.terms.meet(rank, own, all_reduced)
    }

    fn align(&self, rank: usize, tensors: Vec<Tensor<1>>) -> Result<Vec<Tensor<1>>, Absent> {
        let first = |all: Vec<Vec<Tensor<1>>>| {
            let first = all.into_iter().next().unwrap_or_default();
            let copies = first
                .into_iter()
                .map(|tensor| Tensor::broadcast(tensor, &self.devices));
            by_rank(self.ranks(), copies)
        };
        self.aligned.meet(rank, tensors, first)
    }

    fn lose(&self, absent: &Absent) {
        self.terms.lose(absent);
        self.aligned.lose(absent);
    }
}

/// The sum of all terms, for each rank on its own device.
fn all_reduced(terms: Vec<Term>) -> Vec<Term> {
    let ranks = terms.len();
    let mut loss = None;
    let mut tensors = Vec::with_capacity(ranks);
    for term in terms {
        let mut own = term.gradients;
        match term.sums {
            Sums::Known(known) => *loss.get_or_insert_default() += known,
            // Where devices still compute it, it is one more tensor, the last.
            Sums::Coming(coming) => own.push(coming),
        }
        tensors.push(own.into_iter());
    }
    let groups = tensors.first().map_or(0, ExactSizeIterator::len);
    let sums = (0..groups).map(|_| {
        let members = tensors.iter_mut().filter_map(Iterator::next).collect();
        Tensor::all_reduce(members, ReduceOperation::Sum)
    });
    let of_ranks = by_rank(ranks, sums).into_iter();
    let term = |mut gradients: Vec<Tensor<1>>| {
        let last = loss.is_none().then(|| gradients.pop()).flatten();
        let sums = last.map_or_else(|| Sums::Known(loss.unwrap_or_default()), Sums::Coming);
        Term { sums, gradients }
    };
    of_ranks.map(term).collect()
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

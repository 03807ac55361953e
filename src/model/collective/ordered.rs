//! Sums in the memory of one process, whose bits depend on no number of ranks.
//!
//! In each round every rank brings the gradients of one micro-batch, and adds its own stretch
//! of all of them, in the order of their index, to that stretch of the sum; at the end each
//! takes the stretches of the others.

use std::ops::Range;
use std::sync::Arc;

use burn::backend::Flex;
use burn::tensor::Tensor;
use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::{Absent, Collective, Grain, Meeting, Term};
use crate::model::ops::Loss;
use crate::model::ops::cpu::{buffer, flex, recycle, vector};
use crate::model::ops::numbers::Sums;

/// Elements a task.
const CHUNK: usize = 1 << 14;

/// What one rank brings to a round; nothing where it has no micro-batch left.
type Brought = Option<(Loss, Vec<FlexTensor>)>;

/// A rank's stretch of each gradient.
type Stretches = Vec<Vec<f32>>;

/// See the module.
#[derive(Debug)]
pub struct Ordered {
    rounds: Meeting<Brought, Arc<Vec<Brought>>>,
    stretches: Meeting<Stretches, Arc<Vec<Stretches>>>,
}

impl Ordered {
    /// Of so many ranks.
    pub fn new(ranks: usize) -> Self {
        Self {
            rounds: Meeting::new(ranks),
            stretches: Meeting::new(ranks),
        }
    }

    /// Every rank's stretches, joined.
    fn joined(&self, rank: usize, stretches: Stretches) -> Result<Stretches, Absent> {
        if self.ranks() == 1 {
            return Ok(stretches);
        }
        let groups = stretches.len();
        let all = self.stretches.meet(rank, stretches, shared)?;
        let of = |group: usize| all.iter().filter_map(move |rank| rank.get(group));
        let join = |group: usize| {
            let mut sum = buffer::array(of(group).map(Vec::len).sum());
            let mut rest = sum.as_mut_slice();
            for stretch in of(group) {
                let (to, after) = rest.split_at_mut(stretch.len());
                to.copy_from_slice(stretch);
                rest = after;
            }
            sum
        };
        let sums = (0..groups).map(join).collect();
        if let Some(all) = Arc::into_inner(all) {
            all.into_iter().flatten().for_each(buffer::give_back);
        }
        Ok(sums)
    }
}

impl Collective for Ordered {
    fn ranks(&self) -> usize {
        self.rounds.ranks()
    }

    fn grain(&self) -> Grain {
        Grain::One
    }

    fn sum(
        &self,
        rank: usize,
        rounds: usize,
        terms: &mut dyn Iterator<Item = Term>,
    ) -> Result<Term, Absent> {
        let (mut loss, mut stretches) = (Loss::default(), Vec::new());
        for _ in 0..rounds {
            let brought = terms.next().map(|term| {
                let gradients = term.gradients.into_iter().map(flex);
                (term.sums.read(), gradients.collect())
            });
            let all = self.rounds.meet(rank, brought, shared)?;
            for (more, gradients) in all.iter().flatten() {
                loss += *more;
                // A rank without others begins with the arrays themselves, below.
                if 1 < self.ranks() || !stretches.is_empty() {
                    take_in(&mut stretches, gradients, (rank, self.ranks()));
                }
            }
            // Who looks last has them for itself.
            let all = Arc::into_inner(all).unwrap_or_default().into_iter();
            let gradients = all.flatten().flat_map(|(_, gradients)| gradients);
            match stretches.is_empty() {
                true => stretches = gradients.map(values).collect(),
                false => gradients.for_each(recycle),
            }
        }
        let sums = self.joined(rank, stretches)?.into_iter();
        let tensor = |values| Tensor::from_primitive::<Flex>(vector(values));
        Ok(Term {
            sums: Sums::Known(loss),
            gradients: sums.map(tensor).collect(),
        })
    }

    /// Every rank computed the same bits.
    fn align(&self, _: usize, tensors: Vec<Tensor<1>>) -> Result<Vec<Tensor<1>>, Absent> {
        Ok(tensors)
    }

    fn lose(&self, absent: &Absent) {
        self.rounds.lose(absent);
        self.stretches.lose(absent);
    }
}

/// The values of a gradient, without a copy where nobody else holds it.
fn values(gradient: FlexTensor) -> Vec<f32> {
    match gradient.into_data().try_into_vec() {
        Ok(values) => values,
        Err(_) => unreachable!("gradients are single precision"),
    }
}

/// What all brought, for each of them.
fn shared<T>(all: Vec<T>) -> Vec<Arc<Vec<T>>> {
    let all = Arc::new(all);
    all.iter().map(|_| all.clone()).collect()
}

/// Adds a rank's stretch of each gradient to those of the sums; the first one begins them.
fn take_in(sums: &mut Vec<Vec<f32>>, gradients: &[FlexTensor], of: (usize, usize)) {
    let begin = sums.is_empty();
    for (index, gradient) in gradients.iter().enumerate() {
        let values: &[f32] = gradient.storage();
        let stretch = values.get(stretch(values.len(), of)).unwrap_or_default();
        if begin {
            let mut sum = buffer::array(stretch.len());
            sum.copy_from_slice(stretch);
            sums.push(sum);
        } else if let Some(sum) = sums.get_mut(index) {
            let chunks = sum.par_chunks_mut(CHUNK).zip(stretch.par_chunks(CHUNK));
            chunks.for_each(|(sum, more)| {
                for (sum, more) in sum.iter_mut().zip(more) {
                    *sum += more;
                }
            });
        }
    }
}

/// The part of so many values that one of some ranks adds up.
fn stretch(len: usize, (rank, ranks): (usize, usize)) -> Range<usize> {
    let cut = |rank: usize| len / ranks * rank + (len % ranks).min(rank);
    cut(rank)..cut(rank + 1)
}

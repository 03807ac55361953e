//! Every way to sum against a sum of numbers.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use proptest::prelude::*;

use super::*;
use crate::model::lora::Lora;
use crate::model::ops::Loss;
use crate::model::tuning::Tuning;
use crate::model::{testing, to_vec};
use crate::rng::Key;

/// Losses and gradients of some micro-batches, as plain numbers.
type Plain = (f64, Vec<Vec<f32>>);

fn term((loss, gradients): &Plain) -> Term {
    let tensor = |values: &Vec<f32>| Tensor::from_floats(values.as_slice(), &Device::flex());
    Term {
        sums: Sums::Known(Loss {
            cross_entropy: *loss,
            z_loss: 2.0 * loss,
        }),
        gradients: gradients.iter().map(tensor).collect(),
    }
}

/// What a device that is not done yet would say.
fn coming(plain: &Plain) -> Term {
    let Term { sums, gradients } = term(plain);
    let loss = sums.read();
    let sums = burn::tensor::TensorData::from([loss.cross_entropy, loss.z_loss]).convert::<f32>();
    Term {
        sums: Sums::Coming(Tensor::from_data(sums, &Device::flex())),
        gradients,
    }
}

/// What each rank gets of terms that are dealt in turn.
fn summed(
    collective: &dyn Collective,
    terms: &[Plain],
    term: impl Fn(&Plain) -> Term + Sync,
) -> Vec<Plain> {
    let ranks = collective.ranks();
    let rounds = terms.len().div_ceil(ranks);
    let rank = |rank: usize| {
        let mut own = terms.iter().skip(rank).step_by(ranks).map(&term);
        let sum = collective.sum(rank, rounds, &mut own).unwrap();
        let loss = sum.sums.read();
        assert_eq!(loss.z_loss, 2.0 * loss.cross_entropy);
        let gradients = sum.gradients.iter().map(to_vec).collect();
        (loss.cross_entropy, gradients)
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..ranks)
            .map(|index| scope.spawn(move || rank(index)))
            .collect();
        let joined = threads.into_iter().map(|thread| thread.join().unwrap());
        joined.collect()
    })
}

/// One after the other, as the first rank of one does it.
fn plainly(terms: &[Plain]) -> Plain {
    let mut sum = terms[0].clone();
    for (loss, gradients) in &terms[1..] {
        sum.0 += loss;
        for (sum, more) in sum.1.iter_mut().zip(gradients) {
            sum.iter_mut()
                .zip(more)
                .for_each(|(sum, more)| *sum += more);
        }
    }
    sum
}

fn bits((loss, gradients): &Plain) -> (u64, Vec<Vec<u32>>) {
    let gradients = gradients.iter();
    let bits = |values: &Vec<f32>| values.iter().map(|value| value.to_bits()).collect();
    (loss.to_bits(), gradients.map(bits).collect())
}

/// Up to nine micro-batches of a model of some groups.
fn terms() -> impl Strategy<Value = Vec<Plain>> {
    let lengths = prop::collection::vec(1usize..40, 1..4);
    (lengths, 1usize..10).prop_flat_map(|(lengths, count)| {
        let values = |len: &usize| prop::collection::vec(-1e3f32..1e3, *len);
        let gradients: Vec<_> = lengths.iter().map(values).collect();
        prop::collection::vec((0.0..1e3, gradients), count)
    })
}

proptest! {
    #[test]
    fn sums_in_memory_are_those_of_one_rank_to_the_bit(terms in terms(), ranks in 1usize..6) {
        let expected = bits(&plainly(&terms));
        for sum in summed(&Ordered::new(ranks), &terms, term) {
            prop_assert_eq!(bits(&sum), expected.clone());
        }
    }

    /// Burn's collectives run on the CPU too, if not by NCCL.
    #[test]
    fn sums_of_devices_are_the_same_on_all_and_those_of_one_rank_but_for_rounding(
        terms in terms(),
        ranks in 1usize..6,
    ) {
        let terms = &terms[..ranks.min(terms.len())];
        let expected = plainly(terms);
        let devices = Devices::new(vec![Device::flex(); terms.len()]);
        let known = summed(&devices, terms, term);
        let late = summed(&devices, terms, coming);
        for (sum, first) in known.iter().zip(vec![&known[0]; ranks]).chain(late.iter().zip(vec![&late[0]; ranks])) {
            prop_assert_eq!(bits(sum), bits(first));
            prop_assert!((sum.0 - expected.0).abs() <= 1e-5 * expected.0);
            for (found, expected) in sum.1.iter().flatten().zip(expected.1.iter().flatten()) {
                prop_assert!((found - expected).abs() <= 1e-2, "{} {}", found, expected);
            }
        }
    }
}

#[test]
fn devices_that_differ_are_given_what_rank_0_has() {
    let devices = Devices::new(vec![Device::flex(); 3]);
    let ordered = Ordered::new(3);
    let both: [(&dyn Collective, _); 2] = [(&devices, [7.0; 3]), (&ordered, [7.0, 8.0, 9.0])];
    for (collective, expected) in both {
        let rank = |(rank, own): (usize, f32)| {
            let own = Tensor::from_floats([own], &Device::flex());
            to_vec(&collective.align(rank, vec![own]).unwrap()[0])[0]
        };
        thread::scope(|scope| {
            let ranks = [(0, 7.0), (1, 8.0), (2, 9.0)];
            let threads = ranks.map(|own| scope.spawn(move || rank(own)));
            assert_eq!(threads.map(|thread| thread.join().unwrap()), expected);
        });
    }
}

/// A rank without a micro-batch adds nothing, whatever is trained and by whichever operations.
#[test]
fn fewer_batches_than_ranks_are_those_batches() {
    let config = testing::gpt2();
    let batches = [5, 6].map(|seed| testing::batch(&config, 2, 16, seed));
    let tunings = [
        None,
        Some(Tuning {
            rows: vec![0, 5],
            lora: Some(Lora {
                rank: 2,
                alpha: 4.0,
                targets: None,
            }),
        }),
    ];
    for (tuning, kernels) in tunings.iter().flat_map(|tuning| {
        let kernels = [Kernels::Plain, Kernels::FUSED];
        kernels.map(|kernels| (tuning, kernels))
    }) {
        let model = Model::new(&config, Key::new(1), &Device::flex()).with_kernels(kernels);
        let model = match tuning {
            Some(tuning) => model.tuned(tuning.clone(), Key::new(2)),
            None => model,
        };
        let (loss, expected) = model.gradients(&batches, &Objective::PLAIN);
        let collective = Arc::new(Devices::new(vec![Device::flex(); 3]));
        let rank = |rank| {
            let seat = Seat::new(rank, collective.clone());
            let sum = || seat.gradients(&model, &batches, &Objective::PLAIN);
            let summed = catch_unwind(AssertUnwindSafe(sum)).unwrap_or_else(|_| {
                // Or the others would wait for it.
                let reason = "it failed".into();
                let absent = Absent { rank, reason };
                collective.lose(&absent);
                Err(absent)
            });
            let (sums, gradients) = summed.unwrap();
            let off = sums.read().cross_entropy - loss.cross_entropy;
            assert!(off.abs() < 1e-5 * loss.cross_entropy, "{kernels:?} {off}");
            assert_eq!(gradients.len(), expected.len());
            for (found, expected) in gradients.iter().zip(&expected) {
                let off = testing::distance(&to_vec(found), &to_vec(expected));
                assert!(off < 1e-5, "{kernels:?} {tuning:?}: {off}");
            }
        };
        thread::scope(|scope| {
            let threads: Vec<_> = (0..3)
                .map(|index| scope.spawn(move || rank(index)))
                .collect();
            threads
                .into_iter()
                .for_each(|thread| thread.join().unwrap());
        });
    }
}

#[test]
fn a_rank_that_is_lost_ends_the_sums_of_all() {
    let absent = Absent {
        rank: 1,
        reason: "no memory".into(),
    };
    let plain = (1.0, vec![vec![1.0; 9]]);
    let collectives: [Box<dyn Collective>; 2] = [
        Box::new(Ordered::new(2)),
        Box::new(Devices::new(vec![Device::flex(); 2])),
    ];
    for collective in collectives {
        thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                let mut terms = std::iter::once_with(|| term(&plain));
                collective.sum(0, 1, &mut terms).map(drop)
            });
            collective.lose(&absent);
            assert_eq!(waiting.join().unwrap(), Err(absent.clone()));
        });
    }
}

//! Training a part of a model: adapters and rows.

use super::muon::adapter_matrices;
use super::tests::{adam_step, gradient_norm, model, slope, to_vec};
use super::{AdamState, Kernels, Objective, gradient_norm_squared, muon_step};
use crate::model::config::Config;
use crate::model::lora::{Lora, Target};
use crate::model::testing::{batch, distance, table, wide};
use crate::model::tuning::Tuning;
use crate::model::{Device, Model};
use crate::rng::Key;

/// Rows alone, adapters alone, and some of both.
fn tunings(config: &Config) -> Vec<Tuning> {
    let lora = |targets| Lora {
        rank: 3,
        alpha: 4.5,
        targets,
    };
    let some = vec![Target::V, Target::Q, Target::Up, Target::O];
    let last = u32::try_from(config.vocab_size).unwrap() - 1;
    vec![
        Tuning {
            rows: vec![5, last],
            lora: None,
        },
        Tuning {
            rows: Vec::new(),
            lora: Some(lora(None)),
        },
        Tuning {
            rows: vec![0, 5],
            lora: Some(lora(Some(some))),
        },
    ]
}

/// A tuned model whose adapters have learnt something.
fn tuned(config: &Config, tuning: &Tuning, kernels: Kernels) -> Model {
    let model = model(config, kernels).tuned(tuning.clone(), Key::new(4));
    shaken(model)
}

#[expect(clippy::cast_possible_truncation, reason = "small numbers")]
fn shaken(model: Model) -> Model {
    let mut rng = Key::new(6).rng();
    let values = model.trained();
    let shaken = values.into_iter().map(|group| {
        let shake = |x: f32| x + (rng.unit() as f32 - 0.5) * 0.4;
        group.into_iter().map(shake).collect()
    });
    let shaken = shaken.collect();
    model.with_trained(shaken)
}

fn gradients(model: &Model, batch: &crate::batch::Batch) -> (f64, Vec<Vec<f32>>) {
    let (loss, gradients) = model.gradients([batch], &Objective::PLAIN);
    (loss.cross_entropy, gradients.iter().map(to_vec).collect())
}

#[test]
fn fused_equals_plain_and_finite_differences() {
    for config in table() {
        for tuning in tunings(&config) {
            let batch = batch(&config, 3, 33, 8);
            let fused = tuned(&config, &tuning, Kernels::FUSED);
            let plain = tuned(&config, &tuning, Kernels::Plain);
            let (loss, found) = gradients(&fused, &batch);
            let (oracle, expected) = gradients(&plain, &batch);
            let at = format!("{tuning:?} {config:?}");
            assert!((loss - oracle).abs() < 1e-5 * oracle, "{at}");
            let groups = fused.trained_groups();
            assert_eq!(groups.len(), found.len(), "{at}");
            for ((group, found), expected) in groups.iter().zip(&found).zip(&expected) {
                let off = distance(found, expected);
                assert!(off < 2e-5, "{at}: {} {off}", group.name);
            }
            let norm = gradient_norm(&found);
            let loss_at = |t: f64| {
                let values = fused.trained().into_iter().zip(&found);
                let moved = values.map(|(values, gradient)| {
                    let by = t / norm;
                    #[expect(clippy::cast_possible_truncation, reason = "single precision")]
                    let step = |(x, g): (f32, &f32)| (f64::from(x) + by * f64::from(*g)) as f32;
                    values.into_iter().zip(gradient).map(step).collect()
                });
                let moved = fused.clone().with_trained(moved.collect());
                moved.loss(&batch, 0.0).cross_entropy
            };
            let slope = slope(1e-3, loss_at);
            assert!((slope - norm).abs() < 2e-3 * norm, "{at}: {slope} {norm}");
        }
    }
}

/// What is not trained is not computed; what is, is the same to the bit.
#[test]
fn gradients_of_rows_are_those_of_the_whole() {
    for config in table() {
        let batch = batch(&config, 5, 77, 2);
        let tuning = tunings(&config).swap_remove(0);
        let whole = model(&config, Kernels::FUSED);
        let part = whole.clone().tuned(tuning.clone(), Key::new(1));
        let (_, all) = gradients(&whole, &batch);
        let (_, found) = gradients(&part, &batch);
        let d = config.d_model;
        let rows = tuning
            .rows
            .iter()
            .map(|id| &all[0][*id as usize * d..][..d]);
        let expected = rows.collect::<Vec<_>>().concat();
        assert_eq!(found.len(), 1);
        assert!(distance(&found[0], &expected) < 1e-6);
    }
}

#[test]
fn merged_weights_say_what_base_and_adapters_say() {
    for config in table() {
        for tuning in tunings(&config) {
            let fresh = model(&config, Kernels::FUSED);
            let base = fresh.values();
            let begun = fresh.tuned(tuning.clone(), Key::new(4));
            assert!(begun.values() == base, "adapters begin with nothing");
            let model = shaken(begun);
            let batch = batch(&config, 2, 40, 3);
            let logits = to_vec(&model.logits_of(&batch));
            let merged = Model::from_values(&config, model.values(), &Device::flex());
            let off = distance(&logits, &to_vec(&merged.logits_of(&batch)));
            assert!(off < 1e-5, "{tuning:?} {config:?}: {off}");
            assert!(model.values() != base);
        }
    }
}

#[test]
fn adapters_give_the_same_bits_on_any_number_of_threads() {
    let config = table().swap_remove(1);
    let tuning = tunings(&config).swap_remove(2);
    let batch = batch(&config, 37, 77, 5);
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
        pool.build().unwrap().install(|| {
            let model = tuned(&config, &tuning, Kernels::FUSED);
            let (loss, gradients) = model.gradients([&batch], &Objective::PLAIN);
            let norms: Vec<f64> = {
                let norm = |gradient| gradient_norm_squared(model.kernels(), gradient);
                gradients.iter().map(norm).collect()
            };
            (
                loss,
                norms,
                gradients.iter().map(to_vec).collect::<Vec<_>>(),
            )
        })
    };
    let one = run(1);
    for threads in [2, 3, 8] {
        assert!(run(threads) == one, "{threads} threads differ from one");
    }
}

/// Each `A` and `B` by itself, as the matrices of blocks are.
#[test]
fn muon_moves_adapters_as_its_plain_twin() {
    for config in [table().swap_remove(1), wide()] {
        let tuning = tunings(&config).swap_remove(2);
        let model = tuned(&config, &tuning, Kernels::FUSED);
        let (group, tensor) = (&model.trained_groups()[0], &model.trained_tensors()[0]);
        let matrices = model.shape().lora.as_ref().map(adapter_matrices).unwrap();
        let of = (group.parts.as_slice(), matrices.as_slice());
        let state = AdamState::new(group.len, &Device::flex());
        let mut fused = (tensor.clone(), state.clone());
        let mut plain = fused.clone();
        for number in 1..=3 {
            let step = adam_step(number);
            let (_, gradients) =
                model.gradients([&batch(&config, 2, 9, number)], &Objective::PLAIN);
            let gradient = || gradients[0].clone();
            fused = muon_step(
                Kernels::FUSED,
                fused.0,
                gradient(),
                fused.1,
                (&step, None),
                of,
            );
            plain = muon_step(
                Kernels::Plain,
                plain.0,
                gradient(),
                plain.1,
                (&step, None),
                of,
            );
        }
        assert!(distance(&to_vec(&fused.0), &to_vec(&plain.0)) < 1e-5);
        assert!(distance(&to_vec(&fused.1.first), &to_vec(&plain.1.first)) < 1e-6);
        assert!(to_vec(&fused.1.second).iter().all(|x| *x == 0.0));
    }
}

//! The two forms of every operation agree, and both with the mathematics.

#![expect(
    clippy::cast_possible_truncation,
    reason = "doubles are rounded to the precision of the model"
)]

use burn::tensor::Tensor;

use super::{AdamState, AdamStep, Kernels, Objective, adamw, gradient_norm_squared};
use crate::batch::{Batch, BatchIds, StoredTargets};
use crate::model::config::Config;
use crate::model::precision::Precision;
use crate::model::testing::{batch, changed, distance, gpt2, llama, table};
use crate::model::{Device, Model};
use crate::rng::Key;
use crate::token::TokenId;

pub(super) fn to_vec<const D: usize>(tensor: &Tensor<D>) -> Vec<f32> {
    tensor.clone().into_data().iter::<f32>().collect()
}

/// A model whose weights are as uneven as after training.
pub(super) fn model(config: &Config, kernels: Kernels) -> Model {
    let mut rng = Key::new(3).rng();
    let fresh = Model::new(config, Key::new(2), &Device::flex());
    let shaken = |x: f32| x * 4.0 + (rng.unit() as f32 - 0.5) * 0.2;
    let values = changed(config, fresh.values(), shaken);
    Model::from_values(config, values, &Device::flex()).with_kernels(kernels)
}

pub(super) fn gradients(model: &Model, batch: &Batch, scale: f32) -> (f64, Vec<Vec<f32>>) {
    let objective = Objective {
        scale,
        ..Objective::PLAIN
    };
    let (loss, gradients) = model.gradients([batch], &objective);
    (loss.cross_entropy, gradients.iter().map(to_vec).collect())
}

fn ids(batch: &Batch) -> Vec<TokenId> {
    batch.ids.widened().into_iter().map(TokenId).collect()
}

#[test]
fn fused_equals_plain() {
    for (index, config) in table().iter().enumerate() {
        for (rows, length) in [(1, 1), (3, 7), (2, 65), (5, 80)] {
            let batch = batch(config, rows, length, 11 + index as u64);
            let (fused, plain) = (model(config, Kernels::FUSED), model(config, Kernels::Plain));
            let (loss, found) = gradients(&fused, &batch, 0.5);
            let (oracle, expected) = gradients(&plain, &batch, 0.5);
            let at = format!("shape {index}, {rows} x {length}");
            assert!(
                (loss - oracle).abs() <= 1e-5 * oracle.abs(),
                "{at}: {loss} {oracle}"
            );
            let eval = fused.loss(&batch, 0.0).cross_entropy;
            assert_eq!(eval, loss, "{at}: the loss is the same without a gradient");
            for (group, (found, expected)) in fused.groups.iter().zip(found.iter().zip(&expected)) {
                for part in &group.parts {
                    let range = part.range.clone();
                    let (a, b) = (&found[range.clone()], &expected[range]);
                    // A key's bias cannot change a softmax: its gradient is noise.
                    let scale = expected.iter().fold(0.0f32, |m, x| m.max(x.abs()));
                    let worst = a
                        .iter()
                        .zip(b)
                        .fold(0.0f32, |m, (a, b)| m.max((a - b).abs()));
                    assert!(
                        distance(a, b) < 1e-5 || worst < 1e-5 * scale,
                        "{at}: {}.{}: {} {worst} of {scale}",
                        group.name,
                        part.name,
                        distance(a, b)
                    );
                }
            }
            let ids = ids(&batch);
            let (a, b) = (
                fused.logits(&ids, rows, length),
                plain.logits(&ids, rows, length),
            );
            assert!(distance(&to_vec(&a), &to_vec(&b)) < 1e-5, "{at}: logits");
        }
    }
}

#[test]
fn many_spans_equal_plain() {
    let large = Config {
        vocab_size: 30_000,
        ..gpt2()
    };
    // More tokens than one span of activations, then more logits than one span.
    for (config, rows) in [(llama(), 30), (large, 5)] {
        let batch = batch(&config, rows, 80, 21);
        let (loss, found) = gradients(&model(&config, Kernels::FUSED), &batch, 1.0);
        let (oracle, expected) = gradients(&model(&config, Kernels::Plain), &batch, 1.0);
        assert!((loss - oracle).abs() < 1e-5 * oracle, "{loss} {oracle}");
        for (found, expected) in found.iter().zip(&expected) {
            assert!(distance(found, expected) < 1e-5);
        }
    }
}

/// Along the gradient itself the slope is the gradient's own norm, so that every
/// parameter counts and single precision suffices.
pub(super) fn gradient_norm(gradients: &[Vec<f32>]) -> f64 {
    let squares = gradients.iter().flatten().map(|&g| f64::from(g).powi(2));
    squares.sum::<f64>().sqrt()
}

/// The model moved along a gradient.
pub(super) fn moved(model: &Model, gradients: &[Vec<f32>], by: f64) -> Model {
    let values = model.values().into_iter().zip(gradients);
    let moved = values.map(|(values, gradient)| {
        let step = |(x, g): (&f32, &f32)| x + (by * f64::from(*g)) as f32;
        values.iter().zip(gradient).map(step).collect()
    });
    Model::from_values(&model.config, moved.collect(), &Device::flex())
}

/// Fourth-order differences at 0: the error is far below the rounding of the loss.
pub(super) fn slope(h: f64, loss_at: impl Fn(f64) -> f64) -> f64 {
    let wide = loss_at(2.0 * h) - loss_at(-2.0 * h);
    (8.0 * (loss_at(h) - loss_at(-h)) - wide) / (12.0 * h)
}

#[test]
fn gradients_equal_finite_differences() {
    for config in table() {
        let batch = batch(&config, 2, 9, 4);
        for kernels in [Kernels::Plain, Kernels::FUSED] {
            let model = model(&config, kernels);
            let (_, gradients) = gradients(&model, &batch, 1.0);
            let norm = gradient_norm(&gradients);
            let loss_at = |t: f64| {
                let moved = moved(&model, &gradients, t / norm).with_kernels(kernels);
                moved.loss(&batch, 0.0).cross_entropy
            };
            let slope = slope(1e-3, loss_at);
            assert!(
                (slope - norm).abs() < 1e-3 * norm,
                "{kernels:?}: slope {slope}, norm of the gradient {norm}"
            );
        }
    }
}

#[test]
fn each_parts_gradient_equals_finite_differences() {
    let bounded = table().into_iter().filter(|config| config.qk_norm);
    for config in [gpt2(), llama()].into_iter().chain(bounded) {
        let batch = batch(&config, 2, 9, 4);
        let model = model(&config, Kernels::FUSED);
        let (_, gradients) = gradients(&model, &batch, 1.0);
        let values = model.values();
        for (index, group) in model.groups.iter().enumerate() {
            for part in &group.parts {
                let of = &gradients[index][part.range.clone()];
                let norm = of.iter().map(|&g| f64::from(g).powi(2)).sum::<f64>().sqrt();
                let loss_at = |t: f64| {
                    let mut moved = values.clone();
                    for (x, g) in moved[index][part.range.clone()].iter_mut().zip(of) {
                        *x += (t * f64::from(*g) / norm) as f32;
                    }
                    let moved = Model::from_values(&config, moved, &Device::flex());
                    moved.loss(&batch, 0.0).cross_entropy
                };
                let slope = slope(4e-3, loss_at);
                assert!(
                    (slope - norm).abs() < 1e-2 * norm + 2e-2,
                    "{}.{}: slope {slope}, norm {norm}",
                    group.name,
                    part.name
                );
            }
        }
    }
}

/// The loss is the same to the bit, and apart from what the z-loss adds.
#[test]
fn z_loss_equals_plain_and_finite_differences() {
    for config in table() {
        let batch = batch(&config, 3, 33, 17);
        let objective = Objective {
            scale: 0.5,
            z_loss: 0.05,
            recompute: false,
        };
        let (fused, plain) = (
            model(&config, Kernels::FUSED),
            model(&config, Kernels::Plain),
        );
        let (loss, found) = fused.gradients([&batch], &objective);
        let (oracle, expected) = plain.gradients([&batch], &objective);
        assert_eq!(loss.cross_entropy, fused.loss(&batch, 0.0).cross_entropy);
        assert_eq!(loss, fused.loss(&batch, 0.05));
        assert!((loss.z_loss - oracle.z_loss).abs() < 1e-5 * oracle.z_loss);
        assert!(1.0 < loss.z_loss, "{loss:?}");
        for (found, expected) in found.iter().zip(&expected) {
            assert!(distance(&to_vec(found), &to_vec(expected)) < 1e-5);
        }
        let gradient: Vec<Vec<f32>> = found.iter().map(to_vec).collect();
        let norm = gradient_norm(&gradient);
        let loss_at = |t: f64| {
            let loss = moved(&fused, &gradient, t / norm).loss(&batch, 0.05);
            0.5 * (loss.cross_entropy + loss.z_loss)
        };
        let slope = slope(1e-3, loss_at);
        assert!((slope - norm).abs() < 1e-3 * norm, "{slope} {norm}");
    }
}

#[test]
fn activations_computed_again_change_no_bit() {
    for config in table() {
        let batches = [batch(&config, 5, 77, 3), batch(&config, 2, 8, 4)];
        let with = |recompute| {
            let objective = Objective {
                recompute,
                ..Objective::PLAIN
            };
            let model = model(&config, Kernels::FUSED);
            let (loss, gradients) = model.gradients(&batches, &objective);
            (loss, gradients.iter().map(to_vec).collect::<Vec<_>>())
        };
        assert!(with(true) == with(false), "{config:?}");
    }
}

/// 8 bits of each operand are kept: the difference is that of their roundings.
#[test]
fn bfloat16_changes_little() {
    for (index, config) in table().iter().enumerate() {
        let batch = batch(config, 3, 80, 11 + index as u64);
        let fresh = Model::new(config, Key::new(2), &Device::flex());
        let of = |precision| {
            let model = fresh.clone().with_kernels(Kernels::Fused(precision));
            gradients(&model, &batch, 0.5)
        };
        let ((loss, found), (oracle, expected)) = (of(Precision::Bf16), of(Precision::Single));
        let (found, expected) = (found.concat(), expected.concat());
        let far = (distance(&found, &expected), (loss / oracle - 1.0).abs());
        assert!(far.0 < 1e-2 && far.1 < 1e-3, "shape {index}: {far:?}");
        assert!(far.0 > 1e-5, "shape {index}: it is computed in bfloat16");
    }
}

#[test]
fn micro_batches_add_up() {
    for config in table() {
        let whole = batch(&config, 6, 33, 8);
        let model = model(&config, Kernels::FUSED);
        let (loss, expected) = gradients(&model, &whole, 0.25);
        let mut sum = 0.0;
        let mut total: Vec<Vec<f32>> = expected.iter().map(|g| vec![0.0; g.len()]).collect();
        for rows in [0..1, 1..4, 4..6] {
            let n = rows.start * 33..rows.end * 33;
            let micro = Batch {
                rows: rows.len(),
                ids: BatchIds::U32(whole.ids.widened()[n.clone()].to_vec()),
                stored: Some(StoredTargets {
                    targets: whole.targets()[n.clone()].to_vec(),
                    weights: whole.weights()[n].to_vec(),
                }),
                ..whole.clone()
            };
            let (loss, gradients) = gradients(&model, &micro, 0.25);
            sum += loss;
            for (total, gradient) in total.iter_mut().zip(gradients) {
                total.iter_mut().zip(gradient).for_each(|(t, g)| *t += g);
            }
        }
        assert!((sum - loss).abs() < 1e-5 * loss);
        for (total, expected) in total.iter().zip(&expected) {
            assert!(distance(total, expected) < 1e-5);
        }
    }
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    let config = Config {
        vocab_size: 300,
        ..llama()
    };
    // More than one span of tokens, and chunks that end in the middle of a row.
    let batch = batch(&config, 37, 77, 5);
    let run = |threads: usize, precision: Precision| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(|| {
            let model = model(&config, Kernels::Fused(precision));
            let objective = Objective {
                scale: 0.1,
                z_loss: 1e-3,
                ..Objective::PLAIN
            };
            let (loss, gradients) = model.gradients([&batch], &objective);
            let norm = |gradient| gradient_norm_squared(model.kernels(), gradient);
            let norm: f64 = gradients.iter().map(norm).sum();
            let logits = model.logits(&ids(&batch), 37, 77);
            let mut bits = vec![loss.cross_entropy.to_bits(), norm.to_bits()];
            let floats = gradients.iter().flat_map(to_vec).chain(to_vec(&logits));
            bits.extend(floats.map(|x| u64::from(x.to_bits())));
            bits
        })
    };
    for precision in [Precision::Single, Precision::Bf16] {
        let one = run(1, precision);
        for threads in [2, 3, 8] {
            let found = run(threads, precision);
            assert!(
                found == one,
                "{precision:?}: {threads} threads differ from one"
            );
        }
    }
}

#[test]
fn nothing_scored_is_no_loss_and_no_gradient() {
    for config in [gpt2(), llama()] {
        let mut batch = batch(&config, 2, 10, 1);
        batch.stored.as_mut().unwrap().weights.fill(0.0);
        for kernels in [Kernels::Plain, Kernels::FUSED] {
            let (loss, gradients) = gradients(&model(&config, kernels), &batch, 1.0);
            assert_eq!(loss, 0.0);
            assert!(gradients.iter().flatten().all(|g| *g == 0.0));
        }
    }
}

#[test]
fn an_unscored_position_teaches_through_attention_alone() {
    let config = llama();
    let mut batch = batch(&config, 1, 8, 6);
    batch.stored.as_mut().unwrap().weights = vec![0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0];
    batch.ids = BatchIds::U32((0..8).collect());
    let (_, gradients) = gradients(&model(&config, Kernels::FUSED), &batch, 1.0);
    let row = |id: usize| &gradients[0][id * config.d_model..][..config.d_model];
    assert!(
        (0..=5).all(|id| row(id).iter().any(|g| *g != 0.0)),
        "read by position 5"
    );
    assert!(
        (6..8).all(|id| row(id).iter().all(|g| *g == 0.0)),
        "after position 5"
    );
}

#[test]
fn huge_logits_stay_finite() {
    let config = gpt2();
    let batch = batch(&config, 2, 12, 2);
    let values = model(&config, Kernels::FUSED).values().into_iter();
    let huge = values.map(|group| group.into_iter().map(|x| x * 1e4).collect());
    let model = Model::from_values(&config, huge.collect(), &Device::flex());
    let (loss, gradients) = gradients(&model, &batch, 1.0);
    assert!(loss.is_finite() && loss > 1e3, "{loss}");
    assert!(gradients.iter().flatten().all(|g| g.is_finite()));
}

#[test]
fn a_fresh_model_knows_nothing() {
    for config in table() {
        let mut batch = batch(&config, 4, 64, 3);
        batch.stored.as_mut().unwrap().weights.fill(1.0);
        let model = Model::new(&config, Key::new(1), &Device::flex());
        let mean = model.loss(&batch, 0.0).cross_entropy / 256.0;
        let uniform = (config.vocab_size as f64).ln();
        assert!(
            (mean - uniform).abs() < 0.02,
            "{mean} against ln V = {uniform}"
        );
    }
}

#[test]
fn initial_weights_have_the_stated_spread() {
    let config = Config {
        d_model: 64,
        d_ff: 128,
        ..llama()
    };
    let model = Model::new(&config, Key::new(1), &Device::flex());
    let again = Model::new(&config, Key::new(1), &Device::flex());
    let values = model.values();
    assert_eq!(values, again.values());
    assert_ne!(values[1], values[2], "blocks differ");
    for part in &model.groups[1].parts {
        let of = &values[1][part.range.clone()];
        let rms = (of.iter().map(|x| x * x).sum::<f32>() / of.len() as f32).sqrt();
        let expected = match part.name.as_str() {
            "out.weight" | "down.weight" => 0.01,
            name if name.starts_with("norm") => 1.0,
            _ => 0.02,
        };
        assert!((rms / expected - 1.0).abs() < 0.05, "{}: {rms}", part.name);
    }
}

/// AdamW as its paper writes it, one parameter at a time in double precision.
fn adamw_naive(x: &mut [f64; 3], g: f64, step: &AdamStep, decay: f64) {
    let g = g * step.gradient_scale;
    let t = i32::try_from(step.index).unwrap();
    x[1] = step.beta1 * x[1] + (1.0 - step.beta1) * g;
    x[2] = step.beta2 * x[2] + (1.0 - step.beta2) * g * g;
    let m = x[1] / (1.0 - step.beta1.powi(t));
    let v = x[2] / (1.0 - step.beta2.powi(t));
    x[0] = x[0] - step.rate * decay * x[0] - step.rate * m / (v.sqrt() + step.eps);
}

/// Group 0 has the tables, group 1 matrices, gains and biases.
#[test]
fn adamw_equals_its_naive_twin() {
    for (group, decay_tables) in [(0, false), (0, true), (1, false), (1, true)] {
        adamw_equals_its_twin(group, decay_tables);
    }
}

/// The constants of a step that decays matrices and clips.
pub(super) fn adam_step(index: u64) -> AdamStep {
    AdamStep {
        index,
        rate: 1e-2,
        beta1: 0.9,
        beta2: 0.95,
        eps: 1e-8,
        weight_decay: 0.1,
        decay_tables: false,
        gradient_scale: 0.7,
    }
}

fn adamw_equals_its_twin(index: usize, decay_tables: bool) {
    let config = gpt2();
    let model = model(&config, Kernels::FUSED);
    let (group, start) = (&model.groups[index], model.values().swap_remove(index));
    let zero = AdamState::new(group.len, &Device::flex());
    let mut fused = (model.tensors[index].clone(), zero.clone());
    let mut plain = fused.clone();
    let mut naive: Vec<_> = start.iter().map(|&x| [f64::from(x), 0.0, 0.0]).collect();
    for number in 1..=5u64 {
        let step = AdamStep {
            decay_tables,
            ..adam_step(number)
        };
        let (_, gradients) = model.gradients([&batch(&config, 2, 9, number)], &Objective::PLAIN);
        let gradient = &gradients[index];
        let values = to_vec(gradient);
        for part in &group.parts {
            let matrix = part.shape.len() == 2;
            let decay = match index == 0 && !decay_tables {
                true => 0.0,
                false => 0.1 * f64::from(matrix),
            };
            for i in part.range.clone() {
                adamw_naive(&mut naive[i], f64::from(values[i]), &step, decay);
            }
        }
        fused = adamw(
            Kernels::FUSED,
            fused.0,
            gradient.clone(),
            fused.1,
            (&step, None),
            &group.parts,
        );
        plain = super::plain::adamw(plain.0, gradient.clone(), plain.1, &step, &group.parts);
    }
    let expected: Vec<f32> = naive.iter().map(|x| x[0] as f32).collect();
    assert!(distance(&to_vec(&fused.0), &expected) < 1e-6);
    assert!(distance(&to_vec(&plain.0), &expected) < 1e-6);
    assert!(distance(&to_vec(&fused.1.second), &to_vec(&plain.1.second)) < 1e-5);
    assert_eq!(
        model.values()[index],
        start,
        "a tensor that others hold is not changed"
    );
}

/// Of all shapes of blocks, and on any number of threads.
#[test]
fn muon_equals_its_plain_twin() {
    for config in [gpt2(), llama()] {
        let model = model(&config, Kernels::FUSED);
        let matrices = super::muon::matrices(model.shape());
        let group = &model.groups[1];
        let of = (group.parts.as_slice(), matrices.as_slice());
        let zero = AdamState::new(group.len, &Device::flex());
        let mut fused = (model.tensors[1].clone(), zero.clone());
        let mut plain = fused.clone();
        for number in 1..=3u64 {
            let step = adam_step(number);
            let (_, gradients) =
                model.gradients([&batch(&config, 2, 9, number)], &Objective::PLAIN);
            let gradient = &gradients[1];
            let threads = |n: usize| {
                let pool = rayon::ThreadPoolBuilder::new()
                    .num_threads(n)
                    .build()
                    .unwrap();
                let (param, state) = fused.clone();
                pool.install(|| {
                    super::muon_step(
                        Kernels::FUSED,
                        param,
                        gradient.clone(),
                        state,
                        (&step, None),
                        of,
                    )
                })
            };
            let [one, three] = [1, 3].map(threads);
            assert!(to_vec(&one.0) == to_vec(&three.0));
            fused = one;
            plain = super::plain::muon_step(plain.0, gradient.clone(), plain.1, &step, of);
        }
        assert!(distance(&to_vec(&fused.0), &to_vec(&plain.0)) < 1e-5);
        assert!(distance(&to_vec(&fused.1.first), &to_vec(&plain.1.first)) < 1e-6);
        assert!(distance(&to_vec(&fused.1.second), &to_vec(&plain.1.second)) < 1e-5);
    }
}

#[test]
fn norm_of_a_gradient_is_the_sum_of_squares() {
    let values: Vec<f32> = (0..50_001).map(|i| (i as f32 * 0.37).sin()).collect();
    let naive: f64 = values.iter().map(|&x| f64::from(x).powi(2)).sum();
    let tensor = Tensor::<1>::from_floats(values.as_slice(), &Device::flex());
    assert!((gradient_norm_squared(Kernels::FUSED, &tensor) - naive).abs() < 1e-9 * naive);
    assert!((super::plain::gradient_norm_squared(&tensor) - naive).abs() < 1e-5 * naive);
}

//! Every operation of the device, run on a processor, against the CPU's own.

#![expect(
    clippy::cast_possible_truncation,
    reason = "noise is rounded to the precision of the model, and batches are small"
)]

use std::sync::Arc;

use super::arena::Arena;
use super::block::{self, Saved};
use super::embedding::{self, Runs, Segments};
use super::engine::{Engine, Matrix, Pointer, Precision, Product};
use super::host::{Host, address, room};
use super::kernels::{Kernels, Tables, element};
use super::loss::{self, Scored};
use crate::batch::Batch;
use crate::model::config::{Attention, Config};
use crate::model::layout::{Part, layout};
use crate::model::mask::Mask;
use crate::model::ops::numbers::Limits;
use crate::model::ops::tests::adam_step;
use crate::model::ops::{AdamStep, Extent, Objective, Pass, Shape, Targets, cpu};
use crate::model::testing::{batch, distance, gpt2, llama};
use crate::rng::Key;
use crate::token::TokenId;

/// Heads of 16 and 32 dimensions, also together wider or narrower than the stream, with and without biases, shared heads, both norms.
fn shapes() -> Vec<Config> {
    vec![
        Config {
            d_model: 32,
            context: 160,
            ..gpt2()
        },
        Config {
            d_model: 64,
            n_heads: 4,
            n_kv_heads: 2,
            d_ff: 72,
            context: 160,
            ..llama()
        },
        Config {
            d_model: 96,
            n_heads: 3,
            n_kv_heads: 1,
            d_ff: 40,
            context: 160,
            tied: true,
            bias: true,
            ..llama()
        },
        Config {
            d_model: 48,
            n_heads: 4,
            n_kv_heads: 2,
            head_dim: Some(16),
            context: 160,
            d_ff: 40,
            ..llama()
        },
        Config {
            d_model: 64,
            head_dim: Some(16),
            context: 160,
            ..gpt2()
        },
    ]
}

/// How far from the CPU's results: the rounding of activations.
fn allowed(precision: Precision) -> f64 {
    match precision {
        Precision::Single => 2e-5,
        Precision::Bf16 => 1.5e-2,
    }
}

fn noise(len: usize, seed: u64, size: f64) -> Vec<f32> {
    let mut rng = Key::new(seed).rng();
    (0..len)
        .map(|_| (size * (rng.unit() - 0.5)) as f32)
        .collect()
}

/// Sums three rows of an array that has two.
fn sum_too_many_rows(from: Pointer) {
    let mut to = vec![0.0f32; 8];
    let mut host = Host(Precision::Single);
    let to = room(&mut to);
    Kernels::new(&mut host).sum_rows(from, to, (3, 8)).unwrap();
}

#[test]
#[should_panic(expected = "reads 4 bytes where nothing is, 0 after an array")]
fn a_kernel_that_reads_behind_an_array_is_caught() {
    sum_too_many_rows(address(&[1.0f32; 16]));
}

#[test]
#[should_panic(expected = "reads 4 bytes where nothing is, 0 after an array")]
fn a_kernel_that_reads_into_the_next_piece_is_caught() {
    let array = [1.0f32; 200];
    let mut arena = Arena::default();
    let [first, _] = [16, 8].map(|elements| arena.take(elements, 4));
    sum_too_many_rows(first.of(address(&array)));
}

#[test]
#[should_panic(expected = "a product: 96 bytes where nothing is")]
fn a_product_that_reads_behind_an_array_is_caught() {
    let (left, right, mut out) = ([1.0f32; 16], [1.0f32; 64], [0.0f32; 24]);
    let matrix = |pointer| Matrix::new(pointer, 8, Precision::Single);
    let product = Product {
        m: 3,
        n: 8,
        k: 8,
        a: matrix(address(&left)),
        b: matrix(address(&right)),
        out: matrix(room(&mut out)),
        onto: false,
    };
    Host(Precision::Single).multiply(&product).unwrap();
}

/// What the tables of a pass point at.
struct Sent {
    cos: Vec<f32>,
    sin: Vec<f32>,
    places: Vec<i32>,
    reach: Vec<i32>,
}

impl Sent {
    fn new(pass: &Pass) -> Self {
        let rope = pass.shape.rope.clone();
        let n = pass.extent.positions();
        let int = |value: usize| i32::try_from(value).unwrap();
        let seen = |at: usize| pass.mask.reach(at);
        let general = if pass.mask.is_causal() { 0 } else { n };
        Self {
            cos: rope.as_ref().map_or(vec![], |rope| rope.cos().to_vec()),
            sin: rope.as_ref().map_or(vec![], |rope| rope.sin().to_vec()),
            places: (0..general).map(|at| int(seen(at).place())).collect(),
            reach: (0..general)
                .flat_map(|at| [int(seen(at).keys().start), int(seen(at).keys().end)])
                .collect(),
        }
    }

    fn tables(&self) -> Tables {
        let or_none = |array: &[i32]| match array {
            [] => Pointer::NONE,
            array => address(array),
        };
        Tables {
            cosines: address(&self.cos),
            sines: address(&self.sin),
            places: or_none(&self.places),
            reach: or_none(&self.reach),
        }
    }
}

fn passes(config: &Config) -> Vec<Pass> {
    let shape = Arc::new(Shape::new(config));
    let pass = |rows: usize, length: usize, attention: Attention, window: Option<usize>| {
        let of = Config {
            attention,
            window,
            ..config.clone()
        };
        let mut batch = Batch {
            rows,
            length,
            ..batch(config, rows, length, 5)
        };
        batch.prefixes = (0..rows).map(|row| 20 + 30 * row as u32).collect();
        batch.end = Some(TokenId(0));
        Pass {
            shape: shape.clone(),
            extent: Extent { rows, length },
            mask: Mask::new(&of, &batch),
        }
    };
    vec![
        pass(2, 70, Attention::Causal, None),
        pass(1, 1, Attention::Causal, None),
        pass(2, 130, Attention::Document, None),
        pass(2, 99, Attention::PrefixLm, None),
        pass(1, 150, Attention::Causal, Some(17)),
    ]
}

#[test]
fn blocks_equal_those_of_the_cpu() {
    for precision in [Precision::Single, Precision::Bf16] {
        for (index, config) in shapes().iter().enumerate() {
            // The masks of the first shape serve for the others: one of them each.
            let of = passes(config).into_iter().enumerate();
            for (which, pass) in of.filter(|(which, _)| index == 0 || index + 1 == *which) {
                let at = format!("{precision:?}, shape {index}, pass {which}");
                check_block(&pass, precision, &at);
            }
        }
    }
}

fn check_block(pass: &Pass, precision: Precision, at: &str) {
    let (shape, n) = (&pass.shape, pass.extent.positions());
    let params = noise(shape.block.len, 1, 0.5);
    let (x, dy) = (noise(n * shape.d, 2, 2.0), noise(n * shape.d, 3, 2.0));
    let of = cpu::block::Params {
        own: &params,
        adapters: &[],
        precision: Precision::Single,
    };
    let (expected, kept) = cpu::block::forward(&x, of, pass);
    let mut expected_gradient = vec![0.0; params.len()];
    let into = cpu::block::Into {
        own: Some(&mut expected_gradient),
        adapters: &mut [],
    };
    let expected_dx = cpu::block::backward(&x, of, &kept, &dy, pass, into);

    let mut host = Host(precision);
    let mut kernels = Kernels::new(&mut host);
    let held = Sent::new(pass);
    // What was not written is not a number.
    let spoilt = |bytes: usize| vec![f32::NAN; bytes / 4];
    let mut saved = spoilt(Saved::new(shape, pass.extent, precision).bytes);
    let mut forward = spoilt(block::Work::forward(shape, pass.extent, precision).bytes);
    let mut backward = spoilt(block::Work::backward(shape, pass.extent, precision).bytes);
    let (mut y, mut dx) = (spoilt(4 * n * shape.d), spoilt(4 * n * shape.d));
    let mut gradient = spoilt(4 * shape.block.len);
    let arrays = block::Arrays {
        x: address(&x),
        params: address(&params),
        saved: room(&mut saved),
        work: room(&mut forward),
        tables: held.tables(),
    };
    block::forward(&mut kernels, pass, arrays, room(&mut y)).unwrap();
    let near = |name: &str, found: &[f32], expected: &[f32]| {
        let found = distance(found, expected);
        assert!(found <= allowed(precision), "{at}: {name}: {found}");
    };
    near("y", &y, &expected);
    let arrays = block::Arrays {
        work: room(&mut backward),
        ..arrays
    };
    let to = (room(&mut dx), room(&mut gradient));
    block::backward(&mut kernels, pass, arrays, address(&dy), to).unwrap();
    near("dx", &dx, &expected_dx);
    near("gradient", &gradient, &expected_gradient);
    assert!(gradient.iter().all(|value| value.is_finite()), "{at}");
}

#[test]
fn the_loss_equals_that_of_the_cpu() {
    let objective = Objective {
        scale: 0.25,
        z_loss: 0.01,
        recompute: false,
    };
    for precision in [Precision::Single, Precision::Bf16] {
        for (index, config) in shapes().iter().enumerate() {
            for (scored, objective, cap) in [
                (0, Objective::PLAIN, None),
                (1, objective, None),
                (3, Objective::PLAIN, Some(3.0)),
                (300, objective, Some(5.0)),
            ] {
                let config = Config {
                    logit_soft_cap: cap,
                    ..config.clone()
                };
                let at = format!("{precision:?}, shape {index}, {scored} scored");
                check_loss(&config, scored, &objective, precision, &at);
            }
        }
    }
}

/// Of which the head's rows end anywhere in what is multiplied together, and with it.
#[test]
fn vocabularies_of_any_size_have_the_loss_of_the_cpu() {
    let objective = Objective {
        scale: 0.25,
        z_loss: 0.01,
        recompute: false,
    };
    for precision in [Precision::Single, Precision::Bf16] {
        for (vocab_size, tied) in [(97, true), (131, false), (128, true), (5, false)] {
            let config = Config {
                vocab_size,
                tied,
                ..shapes()[0].clone()
            };
            let at = format!("{precision:?}, {vocab_size} ids");
            check_loss(&config, 300, &objective, precision, &at);
        }
    }
}

fn check_loss(
    config: &Config,
    scored: usize,
    objective: &Objective,
    precision: Precision,
    at: &str,
) {
    let shape = Shape::new(config);
    let extent = Extent {
        rows: 3,
        length: 100,
    };
    let n = extent.positions();
    let groups = layout(config);
    let (last, embedding) = (
        noise(groups.last().unwrap().len, 4, 2.0),
        noise(groups[0].len, 5, 2.0),
    );
    let x = noise(n * shape.d, 6, 2.0);
    let counts = |i: usize| i * 7 % n < scored;
    let weight = |i: usize| if counts(i) { 0.5 + (i % 3) as f32 } else { 0.0 };
    let targets = Targets {
        ids: (0..n).map(|i| (i % config.vocab_size) as u32).collect(),
        weights: (0..n).map(weight).collect(),
    };
    let head = cpu::loss::Head {
        last: &last,
        embedding: &embedding,
        precision: Precision::Single,
    };
    let (mut expected_last, mut expected_embedding) =
        (vec![0.0; last.len()], vec![0.0; embedding.len()]);
    let into = cpu::loss::Into {
        last: Some(&mut expected_last),
        embedding: Some(&mut expected_embedding),
        rows: None,
    };
    let (expected, expected_x) =
        cpu::loss::differentiate(&x, head, &targets, objective, &shape, into);

    let given = Given {
        x: &x,
        last: &last,
        embedding: &embedding,
    };
    let factors = loss::Factors {
        scale: objective.scale,
        z_loss: objective.z_loss,
    };
    let found = on_host(given, (&shape, extent), &targets, factors, precision);
    let allowed = allowed(precision);
    let [entropy, z_loss] = [0, 1].map(|at| f64::from(found.sums[at]));
    let close = |found: f64, expected: f64| (found - expected).abs() <= allowed * expected.abs();
    assert!(close(entropy, expected.cross_entropy), "{at}: {entropy}");
    assert!(close(z_loss, expected.z_loss), "{at}: {z_loss}");
    let near = |name: &str, found: &[f32], expected: &[f32]| {
        let found = distance(found, expected);
        assert!(found <= allowed, "{at}: {name}: {found}");
    };
    near("x", &found.x, &expected_x);
    near("last", &found.last, &expected_last);
    if config.tied {
        near("embedding", &found.embedding, &expected_embedding);
    }
    assert_eq!(
        found.alone, found.sums,
        "{at}: the loss is the same without gradients"
    );
}

/// What a loss reads.
struct Given<'a> {
    x: &'a [f32],
    last: &'a [f32],
    embedding: &'a [f32],
}

/// What a loss writes.
struct Found {
    x: Vec<f32>,
    last: Vec<f32>,
    embedding: Vec<f32>,
    sums: Vec<f32>,
    /// Without gradients.
    alone: Vec<f32>,
}

fn on_host(
    given: Given<'_>,
    of_batch: (&Shape, Extent),
    targets: &Targets,
    factors: loss::Factors,
    precision: Precision,
) -> Found {
    let of = Scored::new(targets);
    let mut host = Host(precision);
    let mut kernels = Kernels::new(&mut host);
    let mut work = vec![f32::NAN; loss::Work::new(of_batch.0, of.count, precision).bytes / 4];
    let like = |array: &[f32]| vec![f32::NAN; array.len()];
    let mut found = Found {
        x: like(given.x),
        last: like(given.last),
        embedding: like(given.embedding),
        sums: vec![f32::NAN; 4],
        alone: vec![f32::NAN; 4],
    };
    let arrays = loss::Arrays {
        x: address(given.x),
        last: address(given.last),
        embedding: address(given.embedding),
        rows: address(&of.rows),
        targets: address(&of.targets),
        weights: address(&of.weights),
        work: room(&mut work),
    };
    let to = loss::Gradients {
        x: room(&mut found.x),
        last: room(&mut found.last),
        embedding: room(&mut found.embedding),
    };
    let counted = (of.count, factors);
    let (sums, alone) = (room(&mut found.sums), room(&mut found.alone));
    loss::run(&mut kernels, of_batch, counted, arrays, sums, Some(to)).unwrap();
    loss::run(&mut kernels, of_batch, counted, arrays, alone, None).unwrap();
    found
}

#[test]
fn embeddings_equal_those_of_the_cpu() {
    for config in shapes() {
        for pass in passes(&config) {
            let (shape, n) = (&pass.shape, pass.extent.positions());
            let params = noise(shape.embedding.len, 7, 2.0);
            let dy = noise(n * shape.d, 8, 2.0);
            let ids: Vec<u32> = (0..n as u32).map(|i| i * i % 37).collect();
            let held = Sent::new(&pass);
            let int: Vec<i32> = ids.iter().map(|&id| id.cast_signed()).collect();
            let mut host = Host(Precision::Single);
            let mut kernels = Kernels::new(&mut host);
            let mut y = vec![f32::NAN; n * shape.d];
            let given = (address(&int), held.tables().places);
            embedding::forward(&mut kernels, &pass, address(&params), given, room(&mut y)).unwrap();
            assert_eq!(y, cpu::embedding::forward(&params, &ids, &pass));

            let by_id = Segments::new(int);
            let place = |at| i32::try_from(pass.mask.reach(at).place()).unwrap();
            let by_place = Segments::new((0..n).map(place));
            let runs = [&by_id, &by_place].map(|of| Runs {
                at: [&of.order, &of.start, &of.target].map(|array| address(array)),
                targets: of.target.len(),
            });
            let mut gradient = vec![f32::NAN; shape.embedding.len];
            let to = room(&mut gradient);
            embedding::backward(&mut kernels, &pass, address(&dy), runs, to).unwrap();
            // The same additions in the same order.
            let mut expected = vec![0.0; gradient.len()];
            cpu::embedding::backward(&dy, &ids, &pass, &mut expected);
            assert_eq!(gradient, expected);
        }
    }
}

#[test]
fn adamw_equals_that_of_the_cpu() {
    let config = &shapes()[0];
    let group = &layout(config)[1];
    let gradient = noise(group.len, 9, 2.0);
    let norm = cpu::adamw::norm_squared(&gradient).sqrt();
    let sums = [3.0f32, 0.5];
    for clip in [f64::INFINITY, 2.0 * norm, 0.25 * norm] {
        let limits = Limits { mean: 0.25, clip };
        let (found, found_numbers) = one_step(&group.parts, &gradient, sums, &limits);
        let step = AdamStep {
            gradient_scale: limits.scale(norm),
            ..adam_step(3)
        };
        let (mut param, mut first, mut second) = fresh(group.len);
        let moments = (&mut first[..], &mut second[..]);
        cpu::adamw::step(&mut param, &gradient, moments, &step, &group.parts);
        for (found, expected) in found.iter().zip([&param, &first, &second]) {
            assert!(distance(found, expected) < 1e-6, "clip {clip}");
        }
        let expected = [0.75, 0.125, norm, limits.scale(norm)];
        for (found, expected) in found_numbers.iter().zip(expected) {
            assert!((f64::from(*found) - expected).abs() < 1e-5 * expected);
        }
    }
}

#[test]
fn numbers_that_are_none_change_nothing() {
    let group = &layout(&shapes()[0])[1];
    let gradient = noise(group.len, 9, 2.0);
    let mut spoilt = gradient.clone();
    spoilt[7] = f32::INFINITY;
    let limits = Limits {
        mean: 0.25,
        clip: 1.0,
    };
    let (param, first, second) = fresh(group.len);
    for (gradient, sums) in [
        (&spoilt, [3.0, 0.5]),
        (&gradient, [f32::NAN, 0.5]),
        (&gradient, [3.0, f32::INFINITY]),
    ] {
        let (found, numbers) = one_step(&group.parts, gradient, sums, &limits);
        assert!(numbers[3].is_nan(), "{numbers:?}");
        assert!(numbers[..3].iter().any(|number| !number.is_finite()));
        assert_eq!(found, [param.clone(), first.clone(), second.clone()]);
    }
}

/// Parameters and moments before a step.
fn fresh(len: usize) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let second = noise(len, 12, 1.0).iter().map(|x| x * x).collect();
    (noise(len, 10, 2.0), noise(len, 11, 1.0), second)
}

/// What the device makes of [`fresh`], and the numbers of the step.
fn one_step(
    parts: &[Part],
    gradient: &[f32],
    sums: [f32; 2],
    limits: &Limits,
) -> ([Vec<f32>; 3], [f32; 4]) {
    let mut host = Host(Precision::Single);
    let mut kernels = Kernels::new(&mut host);
    let (mut partial, mut squares, mut numbers) = (vec![f32::NAN; 512], [0.0], [f32::NAN; 4]);
    // In two pieces, as the groups of a model are.
    let (head, tail) = gradient.split_at(gradient.len() / 3);
    for piece in [head, tail] {
        let before = room(&mut squares);
        let to = (room(&mut partial), before);
        kernels
            .squares((address(piece), before), to, piece.len())
            .unwrap();
    }
    let from = (address(&sums), address(&squares));
    kernels.numbers(from, room(&mut numbers), limits).unwrap();
    let (mut param, mut first, mut second) = fresh(gradient.len());
    let step = adam_step(3);
    for part in parts {
        let start = part.range.start;
        let to = [&mut param, &mut first, &mut second].map(|a| element(room(a), start));
        let [p, m, v] = to;
        let from = [p, element(address(gradient), start), m, v];
        let step = (&step, step.keep(part.decay));
        let count = part.range.len();
        kernels
            .adamw(from, to, address(&numbers), step, count)
            .unwrap();
    }
    ([param, first, second], numbers)
}

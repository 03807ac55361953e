//! Attention by documents, prefixes and windows: both forms agree, with the mathematics
//! and with what the mask says may be seen.

#![expect(
    clippy::cast_possible_truncation,
    reason = "doubles are rounded to the precision of the model"
)]

use proptest::prelude::*;

use super::Kernels;
use super::tests::{gradient_norm, gradients, model, moved, slope, to_vec};
use crate::batch::{Batch, BatchIds};
use crate::model::Model;
use crate::model::config::{Attention, Config};
use crate::model::mask::Mask;
use crate::model::testing::{batch, distance, gpt2, llama, table};
use crate::rng::Key;
use crate::token::TokenId;

const END: TokenId = TokenId(3);
const ALL: [Attention; 3] = [Attention::Causal, Attention::Document, Attention::PrefixLm];

/// Every kind of attention, with and without a window.
fn masked(config: &Config) -> impl Iterator<Item = Config> {
    let kinds = ALL
        .into_iter()
        .flat_map(|kind| [(kind, None), (kind, Some(5))]);
    kinds.map(|(attention, window)| Config {
        attention,
        window,
        ..config.clone()
    })
}

/// Rows with documents of uneven lengths, prefixes and padding.
fn rows(config: &Config, rows: usize, length: usize, seed: u64) -> Batch {
    let mut rng = Key::new(seed).rng();
    let mut below = |n: usize| rng.below(n as u64 + 1) as u32;
    let mut batch = batch(config, rows, length, seed);
    batch.end = Some(END);
    batch.prefixes = (0..rows).map(|_| below(length)).collect();
    batch.lengths = (0..rows)
        .map(|_| (length / 2) as u32 + below(length - length / 2))
        .collect();
    let mut ids = batch.ids.widened();
    ids.iter_mut()
        .filter(|_| below(6) == 0)
        .for_each(|id| *id = END.0);
    batch.ids = BatchIds::U32(ids);
    batch
}

/// A row of given ids, all of it scored.
fn row(ids: &[u32]) -> Batch {
    Batch {
        rows: 1,
        length: ids.len(),
        ids: BatchIds::U32(ids.to_vec()),
        end: Some(END),
        ..Batch::default()
    }
}

fn logits(model: &Model, batch: &Batch) -> Vec<Vec<f32>> {
    let all = to_vec(&model.logits_of(batch));
    all.chunks(model.config.vocab_size)
        .map(<[f32]>::to_vec)
        .collect()
}

#[test]
fn fused_equals_plain_under_every_mask() {
    for (index, config) in table().iter().flat_map(masked).enumerate() {
        for (n, length) in [(1, 1), (3, 7), (2, 80)] {
            let batch = rows(&config, n, length, 5 + index as u64);
            let [fused, plain] = [Kernels::FUSED, Kernels::Plain].map(|form| model(&config, form));
            let (loss, found) = gradients(&fused, &batch, 0.5);
            let (oracle, expected) = gradients(&plain, &batch, 0.5);
            let at = format!(
                "{:?}, window {:?}, {n} x {length}",
                config.attention, config.window
            );
            assert!(
                (loss - oracle).abs() <= 1e-5 * oracle.abs(),
                "{at}: {loss} {oracle}"
            );
            for (found, expected) in found.iter().zip(&expected) {
                let off = distance(found, expected);
                assert!(off < 2e-5, "{at}: {off}");
            }
            let [a, b] = [&fused, &plain].map(|model| logits(model, &batch).concat());
            assert!(distance(&a, &b) < 1e-5, "{at}: logits");
        }
    }
}

#[test]
fn masked_gradients_equal_finite_differences() {
    for config in [gpt2(), llama()].iter().flat_map(masked) {
        let batch = rows(&config, 2, 19, 4);
        let model = model(&config, Kernels::FUSED);
        let (_, gradients) = gradients(&model, &batch, 1.0);
        let norm = gradient_norm(&gradients);
        let loss_at = |t: f64| {
            let moved = moved(&model, &gradients, t / norm);
            moved.loss(&batch, 0.0).cross_entropy
        };
        let slope = slope(4e-3, loss_at);
        let at = (config.attention, config.window);
        assert!(
            (slope - norm).abs() < 2e-3 * norm,
            "{at:?}: slope {slope}, norm {norm}"
        );
    }
}

/// A packed row says of each document what it says of the document alone.
#[test]
fn a_packed_row_is_its_documents_alone() {
    let documents: [&[u32]; 4] = [&[9, 8, 7, 3], &[3], &[5; 70], &[20, 21, 1]];
    for config in table() {
        let config = Config {
            attention: Attention::Document,
            ..config
        };
        for form in [Kernels::FUSED, Kernels::Plain] {
            let model = model(&config, form);
            let mut packed = documents.concat();
            // The fourth has no end: its row is over.
            packed.insert(4 + 1 + 70, END.0);
            let found = logits(&model, &row(&packed)).into_iter();
            let alone = documents.iter().zip(0..).flat_map(|(ids, place)| {
                let mut ids = ids.to_vec();
                ids.extend((place == 2).then_some(END.0));
                logits(&model, &row(&ids))
            });
            for (position, (found, alone)) in found.zip(alone).enumerate() {
                assert!(
                    distance(&found, &alone) < 1e-5,
                    "{form:?}, position {position}"
                );
            }
        }
    }
}

/// What each position's outputs depend on is what the mask says, to the last bit.
#[test]
fn nothing_is_heard_that_is_not_seen() {
    for config in [gpt2(), llama()].iter().flat_map(masked) {
        // One block alone: through several, what was seen by others is heard.
        let config = Config {
            n_layers: 1,
            ..config
        };
        let model = model(&config, Kernels::FUSED);
        let batch = Batch {
            lengths: vec![70, 66],
            ..rows(&config, 2, 70, 8)
        };
        let mask = Mask::new(&config, &batch);
        let before = logits(&model, &batch);
        for changed in [0, 7, 33, 63, 64, 65, 100] {
            let mut ids = batch.ids.widened();
            if ids[changed] == END.0 {
                continue;
            }
            ids[changed] = (ids[changed] + 1) % 37;
            if ids[changed] == END.0 {
                ids[changed] += 1;
            }
            let other = Batch {
                ids: BatchIds::U32(ids),
                ..batch.clone()
            };
            for (position, (before, after)) in before.iter().zip(logits(&model, &other)).enumerate()
            {
                let same_row = position / 70 == changed / 70;
                let sees = same_row && mask.reach(position).keys().contains(&(changed % 70));
                let at = (config.attention, config.window);
                assert_eq!(*before != after, sees, "{at:?}: {position} of {changed}");
            }
        }
    }
}

#[test]
fn a_prefix_hears_all_of_itself_and_nothing_of_the_target() {
    for config in [gpt2(), llama()] {
        let config = Config {
            attention: Attention::PrefixLm,
            ..config
        };
        for form in [Kernels::FUSED, Kernels::Plain] {
            let model = model(&config, form);
            let of = |ids: &[u32]| {
                let batch = Batch {
                    prefixes: vec![5],
                    ..row(ids)
                };
                logits(&model, &batch)
            };
            let before = of(&[9, 8, 7, 6, 5, 1, 1, 20, 21, 3]);
            let other_prefix = of(&[9, 8, 7, 6, 10, 1, 1, 20, 21, 3]);
            assert!((0..10).all(|position| before[position] != other_prefix[position]));
            // A pause after the prefix hears it, and is not heard by it.
            let other_pauses = of(&[9, 8, 7, 6, 5, 2, 1, 20, 21, 3]);
            let other_target = of(&[9, 8, 7, 6, 5, 1, 1, 30, 31, 3]);
            assert!(before[..5] == other_pauses[..5] && before[5..] != other_pauses[5..]);
            assert!(before[..7] == other_target[..7] && before[7..] != other_target[7..]);
        }
    }
}

#[test]
fn masks_give_the_same_bits_on_any_number_of_threads() {
    for config in masked(&llama()) {
        let batch = rows(&config, 37, 77, 5);
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
            pool.unwrap().install(|| {
                let (loss, found) = gradients(&model(&config, Kernels::FUSED), &batch, 0.1);
                let found = found.concat().into_iter().map(|x| u64::from(x.to_bits()));
                found.chain([loss.to_bits()]).collect::<Vec<_>>()
            })
        };
        assert!(run(1) == run(3), "{:?}", config.attention);
    }
}

/// Causal rows that are told so position by position give the bits of those that are not.
#[test]
fn a_mask_that_hides_nothing_changes_no_bit() {
    for config in table() {
        let batch = batch(&config, 3, 77, 5);
        let causal = gradients(&model(&config, Kernels::FUSED), &batch, 0.1);
        for (attention, window) in [
            (Attention::Document, None),
            (Attention::PrefixLm, None),
            (Attention::Causal, Some(1000)),
        ] {
            let config = Config {
                attention,
                window,
                ..config.clone()
            };
            let found = gradients(&model(&config, Kernels::FUSED), &batch, 0.1);
            assert!(found == causal, "{attention:?} {window:?}");
        }
    }
}

proptest! {
    /// The obvious twin of a mask: each pair of positions on its own.
    #[test]
    fn a_mask_is_its_twin_of_pairs(
        n in 1usize..4, length in 1usize..30, seed in any::<u64>(), kind in 0usize..3,
        window in prop::option::of(1usize..9),
    ) {
        let config = Config { attention: ALL[kind], window, ..gpt2() };
        let batch = rows(&config, n, length, seed);
        let (mask, ids) = (Mask::new(&config, &batch), batch.ids.widened());
        for row in 0..n {
            let ids = &ids[row * length..(row + 1) * length];
            let (real, prefix) = (batch.lengths[row] as usize, batch.prefixes[row] as usize);
            for query in 0..length {
                let reach = mask.reach(row * length + query);
                let sees = |key: usize| {
                    let together = (key.min(query)..key.max(query)).all(|at| ids[at] != END.0);
                    let padding = real <= key.max(query);
                    match config.attention {
                        _ if key == query => true,
                        _ if window.is_some_and(|window| window <= query.saturating_sub(key)) => false,
                        Attention::Causal => key < query,
                        Attention::Document => key < query && together && !padding,
                        Attention::PrefixLm => key < query || (key < prefix),
                    }
                };
                let keys = reach.keys();
                for key in 0..length {
                    prop_assert_eq!(keys.contains(&key), sees(key), "{} sees {}", query, key);
                }
                let place = match config.attention {
                    Attention::Document if real <= query => 0,
                    Attention::Document => {
                        let last = ids[..query].iter().rposition(|id| *id == END.0);
                        last.map_or(query, |last| query - last - 1)
                    }
                    _ => query,
                };
                prop_assert_eq!(reach.place(), place);
            }
            for start in 0..length {
                for end in start + 1..=length {
                    let span = mask.span(row * length + start..row * length + end);
                    let all = (start..end).map(|query| mask.reach(row * length + query).keys());
                    let first = all.clone().map(|keys| keys.start).min();
                    let last = all.map(|keys| keys.end).max();
                    prop_assert_eq!((Some(span.start), Some(span.end)), (first, last));
                }
            }
        }
    }
}

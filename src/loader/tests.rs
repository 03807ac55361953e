//! Law 6: global batch k is a function of the dataset, the seed and k.

mod bucket;
mod elastic;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use expect_test::expect;
use proptest::prelude::*;

use super::*;
use crate::row::{self, Ids};
use crate::sequence::drawing::RESERVED;
use crate::token::TokenId;

/// A dataset whose row `i` says so, in rows of several lengths, with pauses;
/// it may have one row that cannot be read and one that panics.
#[derive(Default)]
struct Toy {
    n_rows: u64,
    /// What its identity says.
    name: &'static str,
    unreadable: Option<u64>,
    panics: Option<u64>,
    n_reads: AtomicU64,
}

impl Toy {
    fn new(n_rows: u64) -> Self {
        Self {
            n_rows,
            ..Self::default()
        }
    }
}

impl Rows for Toy {
    fn reserved(&self) -> Reserved {
        RESERVED
    }

    fn rows(&self, split: Split) -> u64 {
        match split {
            Split::Train => self.n_rows,
            Split::Validation => 0,
        }
    }

    fn id_width(&self) -> IdWidth {
        IdWidth::U16
    }

    fn length(&self, at: At) -> usize {
        4 + at.index as usize % 5
    }

    fn read(&self, at: At, see: &mut dyn FnMut(RowView<'_>)) -> Result<(), BoxError> {
        let index = at.index;
        self.n_reads.fetch_add(1, Ordering::SeqCst);
        assert_ne!(self.panics, Some(index), "this row panics");
        if self.unreadable == Some(index) {
            return Err("this row is unreadable".into());
        }
        let id = TokenId(10 + index as u32);
        let mut ids = vec![id; 2 + index as usize % 5];
        ids.push(RESERVED.pause);
        ids.push(RESERVED.end);
        let bytes = row::bytes(&ids, IdWidth::U16);
        see(RowView {
            ids: Ids::from_bytes(&bytes, IdWidth::U16),
            prefix: index.is_multiple_of(2).then_some(1),
            stored: None,
        });
        Ok(())
    }

    fn identity(&self) -> Fingerprint {
        let mut identity = Fingerprint::default();
        identity.add("dataset", &json!(self.name));
        identity.add("recipe.pause.fraction", &json!(self.n_rows));
        identity
    }
}

fn config(rows_per_batch: usize, rows_per_micro_batch: usize) -> Config {
    Config {
        seed: 4,
        rows_per_batch,
        rows_per_micro_batch,
        split: Split::Train,
        order: Order::Shuffled,
        bucket: 0,
        share: Share::WHOLE,
        epochs: None,
    }
}

fn loader(toy: Toy, config: Config) -> Arc<Loader> {
    Arc::new(Loader::new(Arc::new(toy), config).unwrap())
}

/// A row without its padding: ids, scored targets, weights.
type Row = (Vec<TokenId>, Vec<Option<TokenId>>, Vec<f32>);

/// The rows of a batch.
fn rows(batch: &GlobalBatch) -> Vec<Row> {
    let mut rows = Vec::new();
    for micro in &batch.micro_batches {
        for row in 0..micro.rows {
            let at = row * micro.length..(row + 1) * micro.length;
            let n = micro.lengths[row] as usize;
            let (ids, targets, weights) = (micro.ids.widened(), micro.targets(), micro.weights());
            let (ids, weights) = (&ids[at.clone()], &weights[at.clone()]);
            assert!(ids[n..].iter().all(|id| *id == RESERVED.pad.0));
            assert!(weights[n..].iter().all(|weight| *weight == 0.0));
            let scored = targets[at].iter().zip(weights);
            let scored = scored.map(|(id, weight)| (0.0 < *weight).then_some(TokenId(*id)));
            rows.push((
                ids[..n].iter().copied().map(TokenId).collect(),
                scored.take(n).collect(),
                weights[..n].to_vec(),
            ));
        }
    }
    rows
}

fn unwrap(batches: Prefetch) -> Vec<GlobalBatch> {
    batches.map(Result::unwrap).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn batches_do_not_depend_on_how_they_are_made(
        n_rows in 1u64..30, rows_per_batch in 1usize..9, micro in 1usize..9,
        depth in 0usize..4, start in 0u64..10, n_ranks in 1usize..5,
    ) {
        let to = start + 5;
        let whole = loader(Toy::new(n_rows), config(rows_per_batch, rows_per_batch));
        let reference: Vec<_> = (0..to).map(|k| rows(&whole.batch(k).unwrap())).collect();

        let other = loader(Toy::new(n_rows), config(rows_per_batch, micro));
        let resumed = unwrap(Arc::clone(&other).prefetch(start, to, depth));
        prop_assert_eq!(resumed.len(), 5);
        for (k, batch) in (start..).zip(&resumed) {
            prop_assert_eq!(batch.index, k);
            prop_assert_eq!(&rows(batch), &reference[k as usize]);
        }

        // Each rank, a process of its own, takes its share; dealt back, they are the batch.
        for k in start..to {
            let world = n_ranks.min(rows_per_batch);
            let mut dealt = vec![None; rows_per_batch];
            for rank in 0..world {
                let share = Share { rank, world };
                let config = Config { share, ..config(rows_per_batch, micro) };
                let batch = loader(Toy::new(n_rows), config).batch(k).unwrap();
                for (place, row) in (rank..).step_by(world).zip(rows(&batch)) {
                    prop_assert_eq!(dealt[place].replace(row), None);
                }
            }
            let dealt: Vec<_> = dealt.into_iter().map(Option::unwrap).collect();
            prop_assert_eq!(&dealt, &reference[k as usize]);
            for (pick, (ids, ..)) in whole.rows_of(k).iter().zip(&dealt) {
                prop_assert_eq!(ids[0], TokenId(10 + pick.index as u32));
            }
        }
    }

    #[test]
    fn an_epoch_visits_every_row_once(
        n_rows in 1u64..40, rows_per_batch in 1usize..9, shuffled in any::<bool>(),
    ) {
        let order = if shuffled { Order::Shuffled } else { Order::Sequential };
        let loader = loader(Toy::new(n_rows), Config { order, ..config(rows_per_batch, 1) });
        let mut epochs: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        let n_batches = (3 * n_rows).div_ceil(rows_per_batch as u64);
        for k in 0..n_batches {
            for pick in loader.rows_of(k) {
                epochs.entry(pick.epoch).or_default().push(pick.index);
            }
        }
        for epoch in 0..3 {
            let mut rows = epochs[&epoch].clone();
            rows.sort_unstable();
            prop_assert_eq!(rows, (0..n_rows).collect::<Vec<_>>());
        }
    }

    #[test]
    fn counts_are_those_of_the_rows(
        n_rows in 1u64..30, rows_per_batch in 1usize..9, micro in 1usize..9, k in 0u64..9,
    ) {
        let toy = Toy::new(n_rows);
        let loader = loader(Toy::new(n_rows), config(rows_per_batch, micro));
        let batch = loader.batch(k).unwrap();
        let mut expected = Counts::default();
        for Pick { index: row, .. } in loader.rows_of(k) {
            let at = At { split: Split::Train, epoch: 0, index: row };
            toy.read(at, &mut |row| {
                expected.pauses += 1;
                expected.real += row.len() as u64 - 1;
                let row = row.to_sequence();
                expected.scored += crate::pause::target::scored(&row, RESERVED.pause);
            }).unwrap();
        }
        let size: usize = batch.micro_batches.iter().map(|b| b.rows * b.length).sum();
        expected.padding = size as u64 - expected.real - expected.pauses;
        prop_assert_eq!(batch.counts, expected);
        let ones: f32 = batch.micro_batches.iter().flat_map(|b| b.weights()).sum();
        prop_assert_eq!(batch.counts.scored, ones as u64);
    }
}

#[test]
fn seeds_and_epochs_give_other_orders() {
    let rows_of = |seed, k| {
        let loader = loader(
            Toy::new(64),
            Config {
                seed,
                ..config(64, 8)
            },
        );
        let rows: Vec<u64> = loader.rows_of(k).iter().map(|pick| pick.index).collect();
        rows
    };
    assert_ne!(rows_of(1, 0), rows_of(2, 0));
    assert_ne!(rows_of(1, 0), rows_of(1, 1));
    assert_eq!(rows_of(1, 1), rows_of(1, 1));
}

#[test]
fn a_loader_of_nothing_is_refused() {
    let refused = |n_rows, config| {
        Loader::new(Arc::new(Toy::new(n_rows)), config)
            .err()
            .map(|error| error.to_string())
            .unwrap_or_default()
    };
    assert_eq!(
        refused(0, config(1, 1)),
        "expected rows in the Train split, found none"
    );
    assert_eq!(
        refused(1, config(0, 1)),
        "expected at least one row in a global batch, found none"
    );
    assert_eq!(
        refused(1, config(1, 0)),
        "expected at least one row in a micro-batch, found none"
    );
}

#[test]
fn an_unreadable_row_is_the_last_item() {
    let toy = Toy {
        unreadable: Some(5),
        ..Toy::new(8)
    };
    let sequential = Config {
        order: Order::Sequential,
        ..config(2, 2)
    };
    let mut batches = loader(toy, sequential).prefetch(0, 100, 2);
    assert_eq!(batches.next().unwrap().unwrap().index, 0);
    assert_eq!(batches.next().unwrap().unwrap().index, 1);
    let error = batches.next().unwrap().unwrap_err();
    assert_eq!(error.to_string(), "cannot read row 5 of the Train split");
    let cause = std::error::Error::source(&error).unwrap();
    assert_eq!(cause.to_string(), "this row is unreadable");
    assert!(batches.next().is_none());
}

#[test]
fn a_panic_of_the_thread_is_an_error() {
    let toy = Toy {
        panics: Some(3),
        ..Toy::new(8)
    };
    let sequential = Config {
        order: Order::Sequential,
        ..config(2, 2)
    };
    let mut batches = loader(toy, sequential).prefetch(0, 100, 2);
    assert_eq!(batches.next().unwrap().unwrap().index, 0);
    let error = batches.next().unwrap().unwrap_err().to_string();
    assert!(
        error.starts_with("the prefetch thread stopped before batch 1: "),
        "{error}"
    );
    assert!(error.contains("this row panics"), "{error}");
    assert!(batches.next().is_none());
}

#[test]
fn dropping_the_batches_stops_the_thread() {
    for depth in [0, 1, 3] {
        let toy = Arc::new(Toy::new(8));
        let rows: Arc<dyn Rows> = Arc::clone(&toy) as Arc<dyn Rows>;
        let loader = Arc::new(Loader::new(rows, config(2, 2)).unwrap());
        let mut batches = Arc::clone(&loader).prefetch(0, u64::MAX, depth);
        batches.next().unwrap().unwrap();
        drop(batches);
        // The thread is gone: nobody else holds the loader, and it was at most
        // `depth` batches and the one in work ahead.
        assert_eq!(Arc::strong_count(&loader), 1);
        let n_batches = toy.n_reads.load(Ordering::SeqCst).div_ceil(2);
        assert!(n_batches <= depth as u64 + 3, "{n_batches} for {depth}");
    }
}

#[test]
fn the_time_spent_waiting_is_known() {
    let mut batches = loader(Toy::new(8), config(2, 2)).prefetch(0, 3, 1);
    assert!(batches.waited().is_zero());
    batches.next().unwrap().unwrap();
    let first = batches.waited();
    assert!(!first.is_zero());
    assert_eq!(batches.by_ref().count(), 2);
    assert!(first < batches.waited());
}

#[test]
fn no_batches_are_no_items() {
    assert_eq!(
        loader(Toy::new(8), config(2, 2)).prefetch(3, 3, 1).count(),
        0
    );
    assert_eq!(
        loader(Toy::new(8), config(2, 2)).prefetch(4, 3, 1).count(),
        0
    );
}

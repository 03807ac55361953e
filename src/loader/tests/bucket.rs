//! Rows of one length together, in an order that is still a function of the batch.

use super::*;
use crate::permutation::Permutation;
use crate::rng::{Key, Stream};

fn bucketed(members: &[u64], config: Config, phases: &[u64]) -> Loader {
    let toys = members
        .iter()
        .map(|n_rows| Arc::new(Toy::new(*n_rows)) as Arc<dyn Rows>);
    let phase = |from| Phase {
        from,
        weights: (1..=members.len())
            .map(|weight| (weight as u64 + from) as f64)
            .collect(),
    };
    let mixture = match members {
        [_] => Vec::new(),
        _ => std::iter::once(0)
            .chain(phases.iter().copied())
            .map(phase)
            .collect(),
    };
    Loader::of_several(toys.collect(), mixture, config).unwrap()
}

fn length(pick: &Pick) -> usize {
    4 + pick.index as usize % 5
}

/// The obvious twin: windows one after the other, from the first on.
fn twin(loader: &Loader, batches: u64, phases: &[u64]) -> Vec<Vec<Pick>> {
    let plain = Config {
        bucket: 0,
        ..loader.config
    };
    let plain = Loader::of_several(loader.members.clone(), loader.mixture.clone(), plain).unwrap();
    let breaks = |k: u64| {
        let rows = [k, k + 1].map(|k| k * plain.rows_per_batch() as u64);
        let n_rows = plain.rows_per_epoch();
        // Some epoch begins in this batch.
        let begins = !plain.is_mixed() && (rows[0]..rows[1]).any(|row| row % n_rows == 0);
        phases.contains(&k) || begins
    };
    let mut all = Vec::new();
    let mut next = 0;
    while next < batches {
        let mut end = next + 1;
        let last = loader.n_batches().unwrap_or(u64::MAX);
        while end < last && end < next + loader.config.bucket && !breaks(end) {
            end += 1;
        }
        let mut rows: Vec<Pick> = (next..end).flat_map(|k| plain.rows_of(k)).collect();
        rows.sort_by_key(length);
        let key = Key::new(loader.config.seed)
            .stream(Stream::Bucket)
            .item(next);
        let order = Permutation::new(end - next, key);
        // Parts as large as they are; the last batch's may be smaller than the others.
        let sizes: Vec<usize> = (next..end).map(|k| plain.rows_of(k).len()).collect();
        let mut parts = vec![Vec::new(); sizes.len()];
        let mut rest = rows.into_iter();
        for part in 0..sizes.len() {
            let place = (0..)
                .position(|place| order.at(place) == part as u64)
                .unwrap();
            parts[place] = rest.by_ref().take(sizes[place]).collect();
        }
        all.extend(parts);
        next = end;
    }
    all.truncate(batches as usize);
    all
}

proptest! {
    #[test]
    fn batches_are_those_of_the_twin_in_any_order(
        members in prop::collection::vec(1u64..50, 1..4), rows_per_batch in 1usize..9,
        bucket in 1u64..8, phase in prop::option::of(1u64..12), epochs in prop::option::of(1u64..4),
        from in 0u64..20,
    ) {
        let phases: Vec<u64> = phase.into_iter().filter(|_| 1 < members.len()).collect();
        let epochs = epochs.filter(|_| members.len() == 1);
        let config = Config { bucket, epochs, ..config(rows_per_batch, rows_per_batch) };
        let loader = bucketed(&members, config, &phases);
        let n = loader.n_batches().unwrap_or(30).min(30);
        let twin = twin(&loader, n, &phases);
        for k in (from.min(n)..n).chain(0..n).rev() {
            prop_assert_eq!(&loader.rows_of(k), &twin[k as usize], "batch {}", k);
        }
        // Every row comes as often as without buckets.
        if let Some(epochs) = epochs.filter(|_| loader.n_batches() == Some(n)) {
            let mut seen: Vec<_> = twin.concat().iter().map(|row| (row.epoch, row.index)).collect();
            seen.sort_unstable();
            let all = (0..epochs).flat_map(|epoch| (0..members[0]).map(move |row| (epoch, row)));
            prop_assert!(seen.into_iter().eq(all));
        }
    }
}

/// Rows of 1 to 40 ids.
struct Uneven(u64);

impl Rows for Uneven {
    fn reserved(&self) -> Reserved {
        RESERVED
    }

    fn rows(&self, _: Split) -> u64 {
        self.0
    }

    fn id_width(&self) -> IdWidth {
        IdWidth::U16
    }

    fn length(&self, at: At) -> usize {
        1 + at.index as usize * 7 % 40
    }

    fn read(&self, at: At, see: &mut dyn FnMut(RowView<'_>)) -> Result<(), BoxError> {
        let ids = vec![TokenId(9); Rows::length(self, at)];
        see(RowView {
            ids: Ids::from_bytes(&row::bytes(&ids, IdWidth::U16), IdWidth::U16),
            prefix: None,
            stored: None,
        });
        Ok(())
    }

    fn identity(&self) -> Fingerprint {
        Fingerprint::default()
    }
}

#[test]
fn buckets_leave_less_padding_and_another_seed_another_order() {
    let of = |bucket, seed| {
        let config = Config {
            bucket,
            seed,
            ..config(16, 8)
        };
        Loader::new(Arc::new(Uneven(1000)), config).unwrap()
    };
    let [unsorted, sorted] = of(20, 1).padding(0..60);
    assert!(0.4 < unsorted && sorted < 0.17, "{unsorted} {sorted}");
    assert_eq!(of(0, 1).padding(0..60), [unsorted; 2]);
    let counted = |loader: &Loader| {
        let mut counts = Counts::default();
        (0..60).for_each(|k| counts += loader.batch(k).unwrap().counts);
        counts.padding as f64 / (counts.padding + counts.real + counts.pauses) as f64
    };
    for (bucket, expected) in [(20, sorted), (0, unsorted)] {
        assert!((counted(&of(bucket, 1)) - expected).abs() < 1e-12);
    }
    let orders = [(20, 1), (20, 2), (19, 1)].map(|(bucket, seed)| of(bucket, seed).rows_of(3));
    assert!(orders[0] != orders[1] && orders[0] != orders[2]);
}

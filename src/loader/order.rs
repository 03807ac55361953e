//! Which row comes when.

use crate::permutation::Permutation;
use crate::rng::Key;

/// In which order an epoch visits its rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// Each epoch in a random order of its own.
    #[default]
    Shuffled,
    /// As they stand in the dataset.
    Sequential,
}

/// The endless sequence of epochs, each of which visits every row once.
#[derive(Clone, Copy, Debug)]
pub struct Walk {
    n_rows: u64,
    key: Key,
    order: Order,
}

impl Walk {
    /// A walk over `n_rows` rows; `None` where there are none.
    pub fn new(n_rows: u64, key: Key, order: Order) -> Option<Self> {
        (0 < n_rows).then_some(Self { n_rows, key, order })
    }

    /// How many rows an epoch has.
    pub fn rows_per_epoch(&self) -> u64 {
        self.n_rows
    }

    /// The walk from `position` on, as (epoch, row).
    pub fn starting_at(self, position: u64) -> impl Iterator<Item = (u64, u64)> {
        let first_epoch = position / self.n_rows;
        let mut skipped = position % self.n_rows;
        (first_epoch..).flat_map(move |epoch| {
            let rows = std::mem::take(&mut skipped)..self.n_rows;
            let permutation = Permutation::new(self.n_rows, self.key.epoch(epoch));
            rows.map(move |index| match self.order {
                Order::Shuffled => (epoch, permutation.at(index)),
                Order::Sequential => (epoch, index),
            })
        })
    }
}

#[cfg(test)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "the numbers of tests are small"
)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::rng::Stream;

    fn walk(n_rows: u64, order: Order) -> Walk {
        Walk::new(n_rows, Key::new(5).stream(Stream::Order), order).unwrap()
    }

    /// The naive twin: whole epochs in memory, one after the other.
    fn naive(walk: Walk, n_epochs: u64) -> Vec<(u64, u64)> {
        let mut steps = Vec::new();
        for epoch in 0..n_epochs {
            let permutation = Permutation::new(walk.n_rows, walk.key.epoch(epoch));
            for index in 0..walk.n_rows {
                steps.push(match walk.order {
                    Order::Shuffled => (epoch, permutation.at(index)),
                    Order::Sequential => (epoch, index),
                });
            }
        }
        steps
    }

    #[test]
    fn epochs_differ_in_order_and_agree_in_rows() {
        let steps: Vec<_> = walk(50, Order::Shuffled).starting_at(0).take(150).collect();
        let epochs: BTreeSet<Vec<(u64, u64)>> = steps
            .chunks(50)
            .map(|epoch| epoch.iter().map(|(_, row)| (0, *row)).collect())
            .collect();
        assert_eq!(epochs.len(), 3);
        for mut epoch in epochs {
            epoch.sort_unstable();
            assert!(epoch.into_iter().eq((0..50).map(|row| (0, row))));
        }
    }

    #[test]
    fn no_rows_make_no_walk() {
        assert!(Walk::new(0, Key::new(1), Order::Shuffled).is_none());
    }

    proptest! {
        #[test]
        fn a_walk_may_start_anywhere(
            n_rows in 1u64..40, position in 0u64..100, n in 0usize..60, shuffled in any::<bool>(),
        ) {
            let order = if shuffled { Order::Shuffled } else { Order::Sequential };
            let walk = walk(n_rows, order);
            let steps: Vec<_> = walk.starting_at(position).take(n).collect();
            let all = naive(walk, (position + n as u64) / n_rows + 1);
            let start = position as usize;
            prop_assert_eq!(&steps[..], &all[start..start + n]);
        }
    }
}

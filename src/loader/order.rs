//! Which row comes when.

use super::mixture::Mixture;
use crate::permutation::Permutation;
use crate::rng::{Key, Stream};

/// In which order an epoch visits its rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// Each epoch in a random order of its own.
    #[default]
    Shuffled,
    /// As they stand in the dataset.
    Sequential,
}

/// A row of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pick {
    /// Which of the loader's datasets it is from.
    pub member: usize,
    /// Which pass over the dataset.
    pub epoch: u64,
    /// Its index in the split.
    pub index: u64,
}

/// The rows of every global batch, as a function of the batch's number.
///
/// The rows of a dataset come as its walk has them. Where there are several datasets,
/// the mixture says whose row each position holds, and the positions of a global batch
/// are shuffled, so that every rank sees the mixture.
#[derive(Clone, Debug)]
pub struct Sampler {
    walks: Vec<Walk>,
    mixture: Mixture,
    rows_per_batch: u64,
    /// The key of the places in a batch, where they are shuffled.
    places: Option<Key>,
}

impl Sampler {
    /// A sampler of the datasets that a mixture was made for, with their numbers of
    /// rows; `None` where one has none.
    pub fn new(
        n_rows: &[u64],
        mixture: Mixture,
        rows_per_batch: u64,
        seed: u64,
        order: Order,
    ) -> Option<Self> {
        let key = Key::new(seed).stream(Stream::Order);
        let walks = n_rows.iter().zip(0..).map(|(&n_rows, place)| {
            // The first has the key that it has without the others.
            let key = if place == 0 { key } else { key.item(place) };
            Walk::new(n_rows, key, order)
        });
        let walks: Vec<Walk> = walks.collect::<Option<_>>()?;
        let shuffled = 1 < walks.len() && order == Order::Shuffled;
        Some(Self {
            walks,
            mixture,
            rows_per_batch,
            places: shuffled.then(|| Key::new(seed).stream(Stream::Mixture)),
        })
    }

    /// The rows of global batch `k` at some of its places.
    pub fn rows(&self, k: u64, places: impl Iterator<Item = u64>) -> Vec<Pick> {
        // No run comes near 2^64 rows.
        let first = k.saturating_mul(self.rows_per_batch);
        let shuffled = (self.places).map(|key| Permutation::new(self.rows_per_batch, key.item(k)));
        let mut epochs = vec![None; self.walks.len()];
        let row = |place: u64| {
            let place = shuffled.map_or(place, |shuffled| shuffled.at(place));
            let (member, n) = self.mixture.at(first.saturating_add(place));
            let (walk, epoch) = (self.walks.get(member)?, epochs.get_mut(member)?);
            let (epoch, index) = walk.at(n, epoch);
            Some(Pick {
                member,
                epoch,
                index,
            })
        };
        places.filter_map(row).collect()
    }

    /// How often each dataset was passed through before global batch `k`.
    pub fn epochs(&self, k: u64) -> Vec<f64> {
        let counts = (self.mixture).counts(k.saturating_mul(self.rows_per_batch));
        let walks = counts.iter().zip(&self.walks);
        walks
            .map(|(n, walk)| *n as f64 / walk.n_rows as f64)
            .collect()
    }
}

/// The endless sequence of a dataset's epochs, each of which visits every row once.
#[derive(Clone, Copy, Debug)]
struct Walk {
    n_rows: u64,
    key: Key,
    order: Order,
}

/// An epoch and its order, which is kept from one row to the next.
type Epoch = (u64, Permutation);

impl Walk {
    /// A walk over `n_rows` rows; `None` where there are none.
    fn new(n_rows: u64, key: Key, order: Order) -> Option<Self> {
        (0 < n_rows).then_some(Self { n_rows, key, order })
    }

    /// The `n`-th row of the walk, from 0, as (epoch, index). `last` speeds up the next.
    fn at(&self, n: u64, last: &mut Option<Epoch>) -> (u64, u64) {
        let (epoch, place) = (n / self.n_rows, n % self.n_rows);
        if self.order == Order::Sequential {
            return (epoch, place);
        }
        last.take_if(|(number, _)| *number != epoch);
        let new = || (epoch, Permutation::new(self.n_rows, self.key.epoch(epoch)));
        let (_, permutation) = last.get_or_insert_with(new);
        (epoch, permutation.at(place))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::super::mixture::Phase;
    use super::*;

    fn sampler(
        n_rows: &[u64],
        weights: &[f64],
        rows_per_batch: u64,
        seed: u64,
        order: Order,
    ) -> Sampler {
        let phase = Phase {
            from: 0,
            weights: weights.to_vec(),
        };
        let mixture = Mixture::new(n_rows.len(), &[phase], rows_per_batch).unwrap();
        Sampler::new(n_rows, mixture, rows_per_batch, seed, order).unwrap()
    }

    /// Rows of one dataset from a position on, in batches of one row.
    fn walked(n_rows: u64, seed: u64, order: Order, from: u64, n: u64) -> Vec<(u64, u64)> {
        let sampler = sampler(&[n_rows], &[1.0], 1, seed, order);
        let picks = (from..from + n).flat_map(|k| sampler.rows(k, 0..1));
        picks.map(|pick| (pick.epoch, pick.index)).collect()
    }

    /// The order of a single dataset may never change: runs would not resume.
    #[test]
    fn the_order_of_one_dataset_is_what_it_was() {
        let expected = [
            (0, 8),
            (0, 2),
            (0, 5),
            (0, 3),
            (1, 4),
            (1, 0),
            (1, 1),
            (1, 2),
        ];
        assert_eq!(walked(10, 4, Order::Shuffled, 6, 8), expected);
        let expected = [
            (0, 992),
            (0, 687),
            (0, 588),
            (0, 569),
            (1, 411),
            (1, 884),
            (1, 606),
            (1, 647),
        ];
        assert_eq!(walked(1000, 7, Order::Shuffled, 996, 8), expected);
        let expected = [(0, 2), (1, 0), (1, 1)];
        assert_eq!(walked(3, 4, Order::Sequential, 2, 3), expected);
    }

    /// A mixture of which another member has no weight leaves the first as it is alone.
    #[test]
    fn the_first_of_several_has_its_own_order() {
        let sampler = sampler(&[10, 10], &[1.0, 1.0], 8, 4, Order::Shuffled);
        let mut rows: Vec<Pick> = (0..5).flat_map(|k| sampler.rows(k, 0..8)).collect();
        rows.retain(|pick| pick.member == 0);
        let alone = walked(10, 4, Order::Shuffled, 0, 20);
        let mut seen: Vec<_> = rows.iter().map(|pick| (pick.epoch, pick.index)).collect();
        assert_ne!(seen, alone);
        // Only the places in a batch differ.
        for (seen, alone) in seen.chunks_mut(4).zip(alone.chunks(4)) {
            let mut alone = alone.to_vec();
            seen.sort_unstable();
            alone.sort_unstable();
            assert_eq!(seen, alone);
        }
    }

    #[test]
    fn an_empty_dataset_has_no_order() {
        let mixture = Mixture::new(1, &[], 4).unwrap();
        assert!(Sampler::new(&[0], mixture, 4, 1, Order::Shuffled).is_none());
    }

    /// Ranks that take every n-th place see the same mixture, about.
    #[test]
    fn ranks_see_the_mixture() {
        let sampler = sampler(&[1000, 1000], &[1.0, 1.0], 8, 4, Order::Shuffled);
        for rank in 0..2 {
            let of_rank = |k| sampler.rows(k, (rank..8).step_by(2));
            let rows: Vec<Pick> = (0..250).flat_map(of_rank).collect();
            let first = rows.iter().filter(|pick| pick.member == 0).count();
            assert!((450..550).contains(&first), "{first} of {}", rows.len());
        }
    }

    proptest! {
        /// The obvious twin of a mixture: the next row of whomever the mixture names, one
        /// after the other, from whole epochs in memory.
        #[test]
        fn batches_are_the_next_rows_of_each_dataset(
            members in prop::collection::vec((1u64..20, 1u32..5), 1..5),
            rows_per_batch in 1u64..9, n_batches in 1u64..12, shuffled in any::<bool>(),
        ) {
            let order = if shuffled { Order::Shuffled } else { Order::Sequential };
            let n_rows: Vec<u64> = members.iter().map(|(rows, _)| *rows).collect();
            let weights: Vec<f64> = members.iter().map(|(_, w)| f64::from(*w)).collect();
            let sampler = sampler(&n_rows, &weights, rows_per_batch, 3, order);
            let mut epochs: BTreeMap<(usize, u64), Vec<u64>> = BTreeMap::new();
            let mut taken = vec![0; members.len()];
            for k in 0..n_batches {
                let mut rows = sampler.rows(k, 0..rows_per_batch);
                for pick in &rows {
                    epochs.entry((pick.member, pick.epoch)).or_default().push(pick.index);
                }
                let mut twin = Vec::new();
                for position in k * rows_per_batch..(k + 1) * rows_per_batch {
                    let member = sampler.mixture.at(position).0;
                    let n = taken[member];
                    taken[member] += 1;
                    let walk = sampler.walks[member];
                    let epoch = n / walk.n_rows;
                    let permutation = Permutation::new(walk.n_rows, walk.key.epoch(epoch));
                    let index = match order {
                        Order::Shuffled => permutation.at(n % walk.n_rows),
                        Order::Sequential => n % walk.n_rows,
                    };
                    twin.push(Pick { member, epoch, index });
                }
                if shuffled && 1 < members.len() {
                    rows.sort_unstable();
                    twin.sort_unstable();
                }
                prop_assert_eq!(rows, twin);
            }
            // Nobody's row comes twice in an epoch, and none is missing before the next one.
            for ((member, epoch), mut rows) in epochs.clone() {
                rows.sort_unstable();
                rows.dedup();
                prop_assert_eq!(rows.len(), epochs[&(member, epoch)].len());
                let complete = rows.len() as u64 == n_rows[member];
                prop_assert!(complete || !epochs.contains_key(&(member, epoch + 1)));
            }
            let passes = sampler.epochs(n_batches);
            for ((n, n_rows), passes) in taken.iter().zip(&n_rows).zip(passes) {
                prop_assert_eq!(passes, *n as f64 / *n_rows as f64);
            }
        }
    }
}

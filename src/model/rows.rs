//! Rows of the embedding, and of an untied head, that a checkpoint lacks: those of tokens
//! that its vocabulary did not have, pauses first of all.

use std::ops::Range;

use super::config::{Config, NewRows};
use super::layout::{EmbeddingLayout, FinalLayout};
use super::parameters::DEVIATION;
use super::precision::single;
use crate::rng::{Key, Stream};
use crate::token::TokenId;

/// What a vocabulary has that a checkpoint's did not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Growth {
    /// Ids of the checkpoint's own tokens are below it.
    pub known: usize,
    /// Ids of the grown vocabulary are below it.
    pub vocab_size: usize,
    /// The ids whose rows are new.
    pub ids: Vec<TokenId>,
}

impl Growth {
    /// The model's values with the new rows: in tables that grow where they must, and in
    /// place of rows that a checkpoint has beyond its own tokens.
    pub fn apply(
        &self,
        (config, mut values): (Config, Vec<Vec<f32>>),
        how: NewRows,
        key: Key,
    ) -> (Config, Vec<Vec<f32>>) {
        let grown = Config {
            vocab_size: config.vocab_size.max(self.vocab_size),
            ..config.clone()
        };
        let key = key.stream(Stream::Weights);
        let tables = [
            (0, Some(EmbeddingLayout::describe(&config).0.token)),
            (config.n_layers + 1, FinalLayout::describe(&config).0.head),
        ];
        for (group, table) in tables {
            if let (Some(values), Some(table)) = (values.get_mut(group), table) {
                let key = key.item(group as u64);
                self.extend(values, table, &grown, |id| row(how, key, id));
            }
        }
        (grown, values)
    }

    /// Extends one table of a group; `start` says where the row of an id begins, or that it
    /// is the mean.
    fn extend(
        &self,
        group: &mut Vec<f32>,
        table: Range<usize>,
        grown: &Config,
        start: impl Fn(TokenId) -> Option<Key>,
    ) {
        let d = grown.d_model;
        let old = group.get(table.clone()).unwrap_or_default();
        let mean = mean(old, d, self.known, &self.ids);
        let missing = (grown.vocab_size * d).saturating_sub(old.len());
        let fill = mean.iter().copied().cycle().take(missing);
        group.splice(table.end..table.end, fill.collect::<Vec<_>>());
        for &id in &self.ids {
            let at = table.start + id.index() * d;
            let row = group.get_mut(at..at + d).unwrap_or_default();
            match start(id) {
                None => row.copy_from_slice(&mean),
                Some(key) => {
                    let mut rng = key.rng();
                    row.fill_with(|| single(rng.normal() * DEVIATION));
                }
            }
        }
    }
}

fn row(how: NewRows, key: Key, id: TokenId) -> Option<Key> {
    match how {
        NewRows::Mean => None,
        NewRows::Random => Some(key.item(id.0.into())),
    }
}

/// The mean of the first `known` rows but for the new ones, in one order.
fn mean(table: &[f32], d: usize, known: usize, new: &[TokenId]) -> Vec<f32> {
    let mut sums = vec![0.0f64; d];
    let mut count = 0u32;
    let rows = (0..).map(TokenId).zip(table.chunks_exact(d)).take(known);
    for (_, row) in rows.filter(|(id, _)| !new.contains(id)) {
        count += 1;
        sums.iter_mut()
            .zip(row)
            .for_each(|(sum, x)| *sum += f64::from(*x));
    }
    let of = |sum: f64| single(sum / f64::from(count.max(1)));
    sums.into_iter().map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::super::layout::layout;
    use super::super::{Device, Model, testing};
    use super::*;

    /// Rows of both tables of a model, by id.
    fn tables(config: &Config, values: &[Vec<f32>]) -> Vec<Vec<Vec<f32>>> {
        let rows = |group: &[f32], range: Range<usize>| {
            group[range]
                .chunks(config.d_model)
                .map(<[f32]>::to_vec)
                .collect()
        };
        let token = EmbeddingLayout::describe(config).0.token;
        let head = FinalLayout::describe(config).0.head;
        let head = head.map(|range| rows(values.last().unwrap(), range));
        [Some(rows(&values[0], token)), head]
            .into_iter()
            .flatten()
            .collect()
    }

    /// Of neither the rows of new tokens, wherever these stand, nor those behind the vocabulary.
    #[test]
    fn the_mean_is_of_known_rows_alone() {
        let new = [7, 35, 37];
        let growth = Growth {
            known: 35,
            vocab_size: 38,
            ids: new.map(TokenId).into(),
        };
        for config in testing::table() {
            let values = Model::new(&config, Key::new(3), &Device::flex()).values();
            let before = tables(&config, &values);
            let whole = (config.clone(), values);
            let (grown, after) = growth.apply(whole, NewRows::Mean, Key::new(1));
            for (before, after) in before.iter().zip(tables(&grown, &after)) {
                let known = || (0..35).filter(|id| *id != 7).map(|id| &before[id]);
                let sum = |i: usize| known().map(|row| f64::from(row[i])).sum::<f64>();
                let mean: Vec<f32> = (0..config.d_model).map(|i| single(sum(i) / 34.0)).collect();
                for (id, row) in (0u32..).zip(&after) {
                    let expected = if new.contains(&id) {
                        &mean
                    } else {
                        &before[id as usize]
                    };
                    assert!(row == expected, "row {id}");
                }
            }
        }
    }

    /// 37 rows for a vocabulary of 35, which grows by 3: one row is there, two are not.
    #[test]
    fn new_rows_begin_at_the_mean_or_at_random_and_others_stay() {
        let growth = Growth {
            known: 35,
            vocab_size: 38,
            ids: [35, 36, 37].map(TokenId).into(),
        };
        for config in testing::table() {
            let values = Model::new(&config, Key::new(3), &Device::flex()).values();
            let before = tables(&config, &values);
            let apply = |how, seed| {
                let whole = (config.clone(), values.clone());
                growth.apply(whole, how, Key::new(seed))
            };
            let (grown, after) = apply(NewRows::Mean, 1);
            assert_eq!(grown.vocab_size, 38);
            let lengths = |values: &[Vec<f32>]| values.iter().map(Vec::len).collect::<Vec<_>>();
            let expected: Vec<_> = layout(&grown).iter().map(|group| group.len).collect();
            assert_eq!(lengths(&after), expected);
            assert!(after[1..grown.n_layers + 1] == values[1..grown.n_layers + 1]);
            for (before, after) in before.iter().zip(tables(&grown, &after)) {
                assert!(before[..35] == after[..35]);
                for i in 0..config.d_model {
                    let sum: f64 = before[..35].iter().map(|row| f64::from(row[i])).sum();
                    for row in &after[35..] {
                        assert!((f64::from(row[i]) - sum / 35.0).abs() < 1e-9);
                    }
                }
            }
            let (grown, random) = apply(NewRows::Random, 1);
            assert!(apply(NewRows::Random, 1).1 == random);
            assert!(apply(NewRows::Random, 2).1 != random);
            for after in tables(&grown, &random) {
                assert!(after[35] != after[36] && after[36] != after[37]);
                let size = after[37].iter().fold(0.0f32, |m, x| m.max(x.abs()));
                assert!(0.005 < size && size < 0.2, "{size}");
            }
            if config.positions == super::super::config::Positions::Learned {
                let place = EmbeddingLayout::describe(&grown).0.position.unwrap();
                let old = EmbeddingLayout::describe(&config).0.position.unwrap();
                assert!(after[0][place] == values[0][old]);
            }
        }
    }
}

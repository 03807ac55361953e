//! What a dataset holds, in numbers: lengths, densities, runs of pauses, drops.

use std::collections::BTreeMap;

use rayon::prelude::*;
use serde::Serialize;

use crate::dataset::{self, Dataset};
use crate::digest::Digest;
use crate::manifest::{ContaminationRecord, Ledger, Split, Stage, Totals};

/// The numbers of one dataset.
#[derive(Clone, Debug, Serialize)]
pub struct Stats {
    /// The dataset's id.
    pub dataset: Digest,
    /// What its rows are for.
    pub stage: Stage,
    /// Ids in the vocabulary, reserved ones included.
    pub vocab_size: u32,
    /// What happened to every document.
    pub ledger: Ledger,
    /// What the documents hold of evaluation sets.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub contamination: Vec<ContaminationRecord>,
    /// The input files, which overlaps name.
    #[serde(skip)]
    pub files: Vec<String>,
    /// The splits.
    pub splits: BTreeMap<Split, SplitStats>,
}

/// The numbers of one split.
#[derive(Clone, Debug, Serialize)]
pub struct SplitStats {
    /// Shards.
    pub shards: usize,
    /// Counts.
    #[serde(flatten)]
    pub totals: Totals,
    /// Pauses over all ids.
    pub pause_density: f64,
    /// UTF-8 bytes of text an id of text.
    pub bytes_per_token: f64,
    /// Scored targets over all ids.
    pub scored_share: f64,
    /// Row lengths in ids, in at most twenty equal bins.
    pub lengths: Vec<Bin>,
}

/// Rows whose length is in `from..=to`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Bin {
    /// The shortest.
    pub from: usize,
    /// The longest.
    pub to: usize,
    /// How many.
    pub rows: u64,
}

/// Reads every row's length; all else stands in the manifest.
pub fn of(dataset: &Dataset) -> Result<Stats, dataset::Error> {
    let manifest = &dataset.manifest;
    let mut splits = BTreeMap::new();
    for (split, record) in &manifest.splits {
        let lengths = (0..dataset.rows(*split))
            .into_par_iter()
            .map(|row| dataset.row(*split, row).map(|row| row.len()))
            .collect::<Result<Vec<_>, _>>()?;
        splits.insert(
            *split,
            split_stats(record.shards.len(), &record.totals, &lengths),
        );
    }
    Ok(Stats {
        dataset: dataset.digest,
        stage: manifest.stage,
        vocab_size: manifest.tokenizer.vocab_size,
        ledger: manifest.ledger.clone(),
        contamination: manifest.contamination.clone(),
        files: manifest
            .corpus
            .iter()
            .map(|file| file.name.clone())
            .collect(),
        splits,
    })
}

fn split_stats(shards: usize, totals: &Totals, lengths: &[usize]) -> SplitStats {
    let share = |part: u64, whole: u64| {
        if whole == 0 {
            0.0
        } else {
            part as f64 / whole as f64
        }
    };
    let ids = totals.real + totals.pauses;
    SplitStats {
        shards,
        pause_density: share(totals.pauses, ids),
        bytes_per_token: share(
            totals.text_bytes,
            totals.real.saturating_sub(totals.documents),
        ),
        scored_share: share(totals.scored, ids),
        lengths: histogram(lengths),
        totals: totals.clone(),
    }
}

fn histogram(lengths: &[usize]) -> Vec<Bin> {
    let longest = lengths.iter().copied().max().unwrap_or(0);
    let width = longest.div_ceil(20).max(1);
    let mut bins = BTreeMap::<usize, u64>::new();
    for length in lengths {
        *bins.entry(length.saturating_sub(1) / width).or_default() += 1;
    }
    let bin = |(index, rows)| Bin {
        from: index * width + 1,
        to: (index + 1) * width,
        rows,
    };
    bins.into_iter().map(bin).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_in_one_bin() {
        let lengths: Vec<usize> = (1..=100).collect();
        let bins = histogram(&lengths);
        assert_eq!(bins.len(), 20);
        assert!(
            bins.iter()
                .all(|bin| bin.rows == 5 && bin.to - bin.from == 4),
            "{bins:?}"
        );
        assert_eq!(histogram(&[]), []);
        assert_eq!(
            histogram(&[7, 7]),
            [Bin {
                from: 7,
                to: 7,
                rows: 2
            }]
        );
    }
}

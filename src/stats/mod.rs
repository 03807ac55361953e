//! What a dataset holds, in numbers: lengths, densities, runs of pauses, drops.
//!
//! One pass over all rows, in parallel and in memory that depends on the length
//! of a row, the number of input files, and the documents of a unit.

pub mod bins;

use std::collections::{BTreeMap, HashSet};

use rayon::prelude::*;
use serde::Serialize;

use crate::batch::LENGTH_STEP;
use crate::dataset::{self, At, Dataset};
use crate::digest::Digest;
use crate::inspect::{self, Kind};
use crate::manifest::{Ledger, Split, SplitRecord, Stage, Totals};
use crate::prepare::rows::observe;
use crate::progress::{Progress, Unit};
use crate::sequence::Sequence;
use crate::tokenize::Tokenizer;
use crate::units::share;
use bins::{Bin, Magnitudes, Sizes};

/// The numbers of one dataset.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Stats {
    /// The dataset's id.
    pub dataset: Digest,
    /// What its rows are for.
    pub stage: Stage,
    /// Ids in the vocabulary, reserved ones included.
    pub vocab_size: u32,
    /// Longest row in ids that the recipe allows.
    pub row_length: usize,
    /// What happened to every document.
    pub ledger: Ledger,
    /// The splits.
    pub splits: BTreeMap<Split, SplitStats>,
    /// The input files, in order.
    pub files: Vec<FileStats>,
}

/// The numbers of one split.
#[derive(Clone, Debug, PartialEq, Serialize)]
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
    /// How many ids are what.
    pub kinds: BTreeMap<Kind, u64>,
    /// Rows by length in ids.
    pub lengths: Vec<Bin>,
    /// What padding makes of batches.
    pub padding: Padding,
    /// Rows by the number of their pauses.
    pub pauses_a_row: Vec<Bin>,
    /// What stands where in the rows, in at most [`STRETCHES`] stretches.
    pub along: Vec<Stretch>,
    /// Documents, copies aside, by length of text in UTF-8 bytes; widths grow with the lengths.
    pub document_bytes: Vec<Bin>,
}

/// The shares of positions of batches that are padding, as their rows are drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Padding {
    /// Rows of a batch.
    pub rows: u32,
    /// Where rows come in a random order.
    pub random: f64,
    /// Where only rows of one length share a batch, which buckets come near to.
    pub sorted: f64,
}

impl Padding {
    /// In batches of as many rows as many trainings have in one forward pass.
    fn of(lengths: &Sizes) -> Self {
        let rows = 16;
        let among = |rows| lengths.padding(rows, LENGTH_STEP as u64);
        Self {
            rows,
            random: among(rows),
            sorted: among(1),
        }
    }
}

/// The positions `from..=to` of all rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Stretch {
    /// The first position, from 0.
    pub from: usize,
    /// The last position.
    pub to: usize,
    /// Ids there.
    pub ids: u64,
    /// Pauses among them.
    pub pauses: u64,
    /// Targets that count in the loss among them.
    pub scored: u64,
}

/// What became of one input file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FileStats {
    /// Its name in the manifest.
    pub name: String,
    /// Its size in bytes; 0 for generated text.
    pub bytes: u64,
    /// Documents read from it.
    pub documents: u64,
    /// Its documents in each split, copies aside.
    pub kept: BTreeMap<Split, u64>,
    /// The text of those documents, in UTF-8 bytes.
    pub text_bytes: u64,
}

impl FileStats {
    /// Documents that are in no split.
    pub fn dropped(&self) -> u64 {
        self.documents.saturating_sub(self.kept.values().sum())
    }
}

/// Why there are no numbers.
pub type Error = inspect::Error;

/// Stretches that a row is cut into at most.
pub const STRETCHES: usize = 64;

/// Rows that a thread reads before it says so.
const BLOCK: u64 = 1024;

/// Reads every row and the record of every document; the rest stands in the manifest.
pub fn of(dataset: &Dataset, progress: &dyn Progress) -> Result<Stats, Error> {
    let manifest = &dataset.manifest;
    let tokenizer = dataset.tokenizer()?;
    let mut files = files(dataset);
    let rows = manifest.splits.keys().map(|split| dataset.rows(*split));
    progress.start("stats", Some(rows.sum()), Unit::Rows);
    let mut counted = BTreeMap::new();
    for split in manifest.splits.keys() {
        let rows = tally_rows(dataset, &tokenizer, *split, progress)?;
        let documents = tally_documents(dataset, *split, &mut files)?;
        counted.insert(*split, (rows, documents));
    }
    progress.finish();
    Ok(Stats {
        dataset: dataset.digest,
        stage: manifest.stage,
        vocab_size: manifest.tokenizer.vocab_size,
        row_length: manifest.row_length,
        ledger: manifest.ledger.clone(),
        splits: splits(dataset, &counted),
        files,
    })
}

/// What some rows hold; sums of whole numbers, so the order of merging is no matter.
#[derive(Clone, Debug, PartialEq)]
struct Tally {
    kinds: BTreeMap<Kind, u64>,
    lengths: Sizes,
    pauses: Sizes,
    along: Vec<Stretch>,
    /// Positions a stretch.
    width: usize,
    /// What rows hold that get their pauses now; otherwise the manifest knows.
    totals: Totals,
}

impl Tally {
    fn new(row_length: usize) -> Self {
        let width = row_length.div_ceil(STRETCHES).max(1);
        let stretch = |from: usize| Stretch {
            from,
            to: row_length.min(from + width) - 1,
            ..Stretch::default()
        };
        Self {
            kinds: BTreeMap::new(),
            lengths: Sizes::default(),
            pauses: Sizes::default(),
            along: (0..row_length).step_by(width).map(stretch).collect(),
            width,
            totals: Totals::default(),
        }
    }

    /// The next row of a dataset.
    fn read(&mut self, dataset: &Dataset, at: At, tokenizer: &Tokenizer) -> Result<(), Error> {
        let Some(online) = dataset.online() else {
            self.row(&dataset.row_at(at)?, tokenizer);
            return Ok(());
        };
        let placed = online.placed(dataset, at)?;
        observe(&mut self.totals, &placed, online.insertion());
        if online.leaves_room() {
            let length = online.insertion().row_length();
            self.totals.padded += length.saturating_sub(placed.sequence.len()) as u64;
        }
        self.row(&placed.sequence, tokenizer);
        Ok(())
    }

    fn row(&mut self, row: &Sequence, tokenizer: &Tokenizer) {
        let kinds = inspect::kinds(row, tokenizer);
        let mut pauses = 0;
        for (stretch, kinds) in self.along.iter_mut().zip(kinds.chunks(self.width)) {
            let count = |wanted: &[Kind]| {
                let found = kinds.iter().filter(|kind| wanted.contains(kind));
                found.count() as u64
            };
            stretch.ids += kinds.len() as u64;
            stretch.scored += count(&[Kind::Scored, Kind::End]);
            let here = count(&[Kind::Pause]);
            stretch.pauses += here;
            pauses += here;
        }
        for run in kinds.chunk_by(|a, b| a == b) {
            if let Some(kind) = run.first() {
                *self.kinds.entry(*kind).or_default() += run.len() as u64;
            }
        }
        self.lengths.add(row.len() as u64, 1);
        self.pauses.add(pauses, 1);
    }

    fn merge(mut self, other: Self) -> Self {
        for (kind, count) in other.kinds {
            *self.kinds.entry(kind).or_default() += count;
        }
        self.totals += &other.totals;
        self.lengths.merge(&other.lengths);
        self.pauses.merge(&other.pauses);
        for (sum, more) in self.along.iter_mut().zip(&other.along) {
            sum.ids += more.ids;
            sum.pauses += more.pauses;
            sum.scored += more.scored;
        }
        self
    }
}

fn tally_rows(
    dataset: &Dataset,
    tokenizer: &Tokenizer,
    split: Split,
    progress: &dyn Progress,
) -> Result<Tally, Error> {
    let rows = dataset.rows(split);
    let new = || Tally::new(dataset.manifest.row_length);
    let block = |block: u64| -> Result<Tally, Error> {
        let rows = block * BLOCK..rows.min((block + 1) * BLOCK);
        let n = rows.end - rows.start;
        let mut tally = new();
        for index in rows {
            let epoch = 0;
            let at = At {
                split,
                epoch,
                index,
            };
            tally.read(dataset, at, tokenizer)?;
        }
        progress.advance(n);
        Ok(tally)
    };
    (0..rows.div_ceil(BLOCK))
        .into_par_iter()
        .map(block)
        .try_reduce(new, |left, right| Ok(left.merge(right)))
}

/// The lengths of a split's documents; counts them for their files too.
///
/// A document has a record for each of its copies and, packed by pieces, for each piece;
/// all of them are in one unit.
fn tally_documents(
    dataset: &Dataset,
    split: Split,
    files: &mut [FileStats],
) -> Result<Magnitudes, Error> {
    let mut lengths = Magnitudes::default();
    let (mut unit, mut seen) = (None, HashSet::new());
    for shard in dataset.shards(split) {
        if unit != Some(shard.header().unit) {
            unit = Some(shard.header().unit);
            seen.clear();
        }
        let mut documents = shard.documents().map_err(dataset::Error::from)?;
        documents.retain(|document| seen.insert(document.id));
        for document in documents {
            lengths.add(document.text_bytes);
            // The shard has checked that there is such a file.
            if let Some(file) = files.get_mut(document.id.file as usize) {
                *file.kept.entry(split).or_default() += 1;
                file.text_bytes += document.text_bytes;
            }
        }
    }
    Ok(lengths)
}

fn files(dataset: &Dataset) -> Vec<FileStats> {
    let files = dataset.manifest.corpus.iter();
    let file = |file: &crate::manifest::FileRecord| FileStats {
        name: file.name.clone(),
        bytes: file.bytes,
        documents: file.documents,
        ..FileStats::default()
    };
    files.map(file).collect()
}

/// The counts of documents as they are on disk, and of rows as they are read.
fn placed_now(on_disk: &Totals, rows: &Totals) -> Totals {
    Totals {
        documents: on_disk.documents,
        text_bytes: on_disk.text_bytes,
        cut: on_disk.cut,
        trimmed: on_disk.trimmed,
        ..rows.clone()
    }
}

/// The splits' numbers; their histograms have the same bins.
fn splits(
    dataset: &Dataset,
    counted: &BTreeMap<Split, (Tally, Magnitudes)>,
) -> BTreeMap<Split, SplitStats> {
    let (mut lengths, mut pauses) = (Sizes::default(), Sizes::default());
    let mut bytes = Magnitudes::default();
    for (rows, documents) in counted.values() {
        lengths.merge(&rows.lengths);
        pauses.merge(&rows.pauses);
        bytes.merge(documents);
    }
    let (lengths, pauses, bytes) = (lengths.ranges(), pauses.ranges(), bytes.ranges());
    let both = dataset.manifest.splits.iter().zip(counted.values());
    let split = |((split, record), (rows, documents)): ((&Split, &SplitRecord), &(Tally, _))| {
        let documents: &Magnitudes = documents;
        let totals = &match dataset.online() {
            None => record.totals.clone(),
            Some(_) => placed_now(&record.totals, &rows.totals),
        };
        let ids = totals.real + totals.pauses;
        // Each document has an id that is no text, its end; and may have lost some.
        let text = (totals.real + totals.overflowed).saturating_sub(totals.documents);
        let stats = SplitStats {
            shards: record.shards.len(),
            pause_density: share(totals.pauses, ids),
            bytes_per_token: share(totals.text_bytes, text),
            scored_share: share(totals.scored, ids),
            kinds: rows.kinds.clone(),
            lengths: rows.lengths.bins(&lengths),
            padding: Padding::of(&rows.lengths),
            pauses_a_row: rows.pauses.bins(&pauses),
            along: rows.along.clone(),
            document_bytes: documents.bins(&bytes),
            totals: totals.clone(),
        };
        (*split, stats)
    };
    both.map(split).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_is_that_of_the_longest_of_a_batch() {
        let padding = |lengths: &[u64], rows| {
            let mut sizes = Sizes::default();
            lengths.iter().for_each(|length| sizes.add(*length, 1));
            sizes.padding(rows, 8)
        };
        assert_eq!(padding(&[], 16), 0.0);
        assert_eq!(padding(&[16; 9], 16), 0.0);
        // Three of eight positions are ids.
        assert_eq!(padding(&[3], 16), 0.625);
        // Of two rows the longer has 16 ids three times out of four.
        assert_eq!(padding(&[8, 16], 2), 1.0 - 12.0 / 14.0);
        assert_eq!(padding(&[8, 16], 1), 0.0);
        // By trying all batches of three rows.
        let lengths = [2, 9, 9, 17, 30];
        let all = (0..125).map(|n| [n % 5, n / 5 % 5, n / 25].map(|at| lengths[at]));
        let (mut ids, mut positions) = (0, 0);
        for rows in all {
            ids += rows.iter().sum::<u64>();
            positions += 3 * rows.into_iter().max().unwrap().next_multiple_of(8);
        }
        let expected = 1.0 - ids as f64 / positions as f64;
        assert!((padding(&lengths, 3) - expected).abs() < 1e-12);
    }

    #[test]
    fn stretches_cover_rows_of_any_length() {
        for row_length in [1, 2, 63, 64, 65, 100, 2048, 2049] {
            let along = Tally::new(row_length).along;
            assert!(along.len() <= STRETCHES, "{row_length}");
            assert_eq!(along.last().map(|at| at.to + 1), Some(row_length));
            let mut next = 0;
            for stretch in along {
                assert_eq!(stretch.from, next);
                next = stretch.to + 1;
            }
        }
    }
}

//! The rows: counts, masks and pauses are what the manifest and the policy say.

use rayon::prelude::*;

use super::{Error, Report, chain};
use crate::dataset::Dataset;
use crate::manifest::{Manifest, ShardRecord, Stage, Totals};
use crate::pause::{self, Insertion, Overflow, Placed, Policy};
use crate::prepare::rows::{observe, row_key};
use crate::progress::{Progress, Stop, Unit};
use crate::rng::Key;
use crate::sequence::Sequence;
use crate::shard::Shard;
use crate::token::TokenId;

/// Rows that one thread checks at a time.
const CHUNK: u64 = 1024;

/// Checks every row of every shard.
pub fn check(
    dataset: &Dataset,
    progress: &dyn Progress,
    stop: &Stop,
    report: &mut Report,
) -> Result<(), Error> {
    let manifest = &dataset.manifest;
    let insertion = match insertion(dataset) {
        Ok(insertion) => insertion,
        Err(reason) => {
            let name = "the policy can be carried out";
            report.check(name, Some("manifest.json"), Err(reason));
            return Ok(());
        }
    };
    let proof = Proof {
        manifest,
        insertion: &insertion,
        progress,
    };
    let rows = manifest
        .splits
        .values()
        .map(|split| split.totals.rows)
        .sum();
    progress.start("verify rows", Some(rows), Unit::Rows);
    for (split, record) in &manifest.splits {
        let mut counted = Totals::default();
        let mut unit = UnitRows::default();
        for (shard, shard_record) in dataset.shards(*split).iter().zip(&record.shards) {
            if stop.requested() {
                return Err(Error::Stopped);
            }
            let first = unit.first_row_of(shard_record);
            let key = row_key(manifest.seed, *split, unit.unit);
            let result = proof.check_shard(shard, (key, first));
            let file = format!("shards/{}.bin", shard_record.name);
            let result = result.map(|totals| {
                let detail = format!("{} rows, {} pauses", totals.rows, totals.pauses);
                counted += &totals;
                detail
            });
            report.check(
                "ids, pauses and masks follow the policy",
                Some(&file),
                result,
            );
        }
        counted.documents = record.totals.documents;
        counted.text_bytes = record.totals.text_bytes;
        if overflow(manifest) == Overflow::Drop {
            counted.overflowed = record.totals.overflowed; // What was cut cannot be counted again.
        }
        report.check(
            &format!("the counts of {split:?} are the manifest's").to_lowercase(),
            Some("manifest.json"),
            compare(&counted, &record.totals),
        );
    }
    progress.finish();
    Ok(())
}

/// Follows which row of its unit a shard starts with.
#[derive(Default)]
struct UnitRows {
    unit: u64,
    rows: u64,
}

impl UnitRows {
    /// The shard's first row inside its unit; its name is `<split>-<unit>-<part>`.
    fn first_row_of(&mut self, record: &ShardRecord) -> u64 {
        let unit = record
            .name
            .split('-')
            .nth(1)
            .and_then(|unit| unit.parse().ok())
            .unwrap_or(0);
        if unit != self.unit {
            *self = Self { unit, rows: 0 };
        }
        let first = self.rows;
        self.rows += record.rows;
        first
    }
}

fn overflow(manifest: &Manifest) -> Overflow {
    match manifest.pause {
        Policy::Random { overflow, .. } => overflow,
        _ => Overflow::Carry,
    }
}

/// Where the pauses of the dataset were put.
fn insertion(dataset: &Dataset) -> Result<Insertion, String> {
    let manifest = &dataset.manifest;
    let policy = manifest.pause.clone();
    let reserved = manifest.tokenizer.reserved;
    let insertion = Insertion::new(policy, reserved, manifest.row_length);
    let insertion = insertion.map_err(|error| chain(&error))?;
    if !insertion.policy().reads_text() {
        return Ok(insertion);
    }
    let tokenizer = dataset.tokenizer().map_err(|error| chain(&error))?;
    let insertion = insertion.with_pieces(|| tokenizer.pieces());
    insertion.map_err(|error| chain(&error))
}

/// What every row is checked against.
struct Proof<'a> {
    manifest: &'a Manifest,
    insertion: &'a Insertion,
    progress: &'a dyn Progress,
}

impl Proof<'_> {
    fn check_shard(&self, shard: &Shard, (key, first): (Key, u64)) -> Result<Totals, String> {
        let chunks = (0..shard.rows().div_ceil(CHUNK)).into_par_iter();
        let totals = chunks.map(|chunk| {
            let mut totals = Totals::default();
            let rows = chunk * CHUNK..((chunk + 1) * CHUNK).min(shard.rows());
            let count = rows.end - rows.start;
            for index in rows {
                let row = shard.row(index).map_err(|error| chain(&error))?;
                let wrong = |reason: String| format!("row {index}: {reason}");
                let placed = self
                    .check_row(row, key.item(first + index))
                    .map_err(wrong)?;
                observe(&mut totals, &placed, self.insertion);
            }
            self.progress.advance(count);
            Ok(totals)
        });
        totals.try_reduce(Totals::default, |mut a, b| {
            a += &b;
            Ok(a)
        })
    }

    /// Checks a row, and returns it as the policy placed it.
    fn check_row(&self, row: Sequence, key: Key) -> Result<Placed, String> {
        let manifest = self.manifest;
        let reserved = manifest.tokenizer.reserved;
        if manifest.row_length < row.len() || row.is_empty() {
            return Err(format!(
                "holds {} ids, expected 1 to {}",
                row.len(),
                manifest.row_length
            ));
        }
        if (manifest.stage == Stage::Finetune) != row.prefix.is_some() {
            return Err("a finetuning row has a prefix, a pretraining row none".into());
        }
        for id in &row.ids {
            if manifest.tokenizer.vocab_size <= id.0 || *id == reserved.pad {
                return Err(format!("holds id {}, which no row may hold", id.0));
            }
        }
        masks_follow_the_paper(&row, reserved.pause)?;
        let text = pause::restore(&row, reserved.pause);
        let placed = pause::apply(self.insertion, &text, key);
        let reproducible =
            overflow(manifest) == Overflow::Carry && !self.insertion.reads_marks(key);
        if reproducible && placed.sequence != row {
            return Err("pauses do not stand where the policy and the seed put them".into());
        }
        Ok(Placed {
            sequence: row,
            overflowed: 0,
            part: placed.part,
        })
    }
}

/// The loss rule of arXiv 2310.02226 (algorithms 1 and 2), written out: position
/// k is skipped iff token k + 1 is a pause or belongs to the prefix.
fn masks_follow_the_paper(row: &Sequence, pause: TokenId) -> Result<(), String> {
    let weights = pause::target::weights(row, pause);
    if weights.len() != row.len() {
        return Err(format!("{} weights for {} ids", weights.len(), row.len()));
    }
    let prefix = row.prefix.map_or(0, |prefix| prefix as usize);
    for (position, weight) in weights.iter().enumerate() {
        let target = row.ids.get(position + 1);
        let scored = target.is_some_and(|id| *id != pause) && prefix <= position + 1;
        if *weight != if scored { 1.0 } else { 0.0 } {
            return Err(format!(
                "position {position} weighs {weight}, expected scored = {scored}"
            ));
        }
    }
    Ok(())
}

fn compare(counted: &Totals, sealed: &Totals) -> Result<String, String> {
    let value = |totals: &Totals| serde_json::to_value(totals).unwrap_or_default();
    match crate::prepare::ledger::difference("", &value(sealed), &value(counted)) {
        None => Ok(format!(
            "{} rows, {} scored targets",
            counted.rows, counted.scored
        )),
        Some((key, sealed, counted)) => Err(format!(
            "{key}: the manifest says {sealed}, the rows hold {counted}"
        )),
    }
}

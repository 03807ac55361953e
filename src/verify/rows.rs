//! The rows: counts, masks and pauses are what the manifest and the policy say.

use rayon::prelude::*;

use super::held::Packing;
use super::{Error, Report, chain};
use crate::content;
use crate::dataset::{Dataset, online};
use crate::manifest::{Manifest, ShardFormat, ShardRecord, Stage, Totals, row_key};
use crate::pause::{self, Insertion, Overflow, Placed, Policy, Rule};
use crate::prepare;
use crate::prepare::rows::observe;
use crate::progress::{Progress, Stop, Unit};
use crate::rng::Key;
use crate::sequence::Sequence;
use crate::shard::Shard;
use crate::token::{PauseIds, Reserved};

/// Rows that one thread checks at a time.
pub(super) const CHUNK: u64 = 1024;

/// Checks every row of every shard.
pub fn check(
    dataset: &Dataset,
    progress: &dyn Progress,
    stop: &Stop,
    report: &mut Report,
) -> Result<(), Error> {
    let manifest = &dataset.manifest;
    let packing = Packing::of(manifest);
    let prepared = packing.and_then(|packing| Ok((packing, insertion(dataset)?)));
    let (packing, insertion) = match prepared {
        Ok(prepared) => prepared,
        Err(reason) => {
            let name = "the policy can be carried out";
            report.check(name, Some("manifest.json"), Err(reason));
            return Ok(());
        }
    };
    let proof = Proof {
        manifest,
        on_disk: &manifest.pause.on_disk(),
        insertion: &insertion,
        pads: packing.method.leaves_room(),
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
            let key = row_key(manifest.seed, 0, *split, unit.unit);
            let result = proof.check_shard(shard, (key, first));
            let ending = manifest.shard_format.ending();
            let file = format!("shards/{}.{ending}", shard_record.name);
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
        // Counted again where documents are put together again.
        counted.cut = record.totals.cut;
        counted.trimmed = record.totals.trimmed;
        if overflow(proof.on_disk) == Overflow::Drop {
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

/// Checks what other readers see: the columns of Parquet shards, and the digest of the rows.
pub fn columns(dataset: &Dataset, report: &mut Report) {
    for split in dataset.manifest.splits.keys() {
        if dataset.manifest.shard_format == ShardFormat::Parquet {
            for shard in dataset.shards(*split) {
                let result = shard.verify_columns();
                let result = result.map_err(|error| chain(&error));
                let file = format!("shards/{}.parquet", shard.record().name);
                report.check(
                    "columns decode to the rows and what follows from them",
                    Some(&file),
                    result.map(|()| format!("{} rows", shard.rows())),
                );
            }
        }
        match content::of(dataset, *split) {
            Ok(content) => drop(report.content.insert(*split, content)),
            Err(error) => report.check("rows can be digested", None, Err(chain(&error))),
        }
    }
}

/// Follows which row of its unit a shard starts with.
#[derive(Default)]
pub(super) struct UnitRows {
    unit: u64,
    rows: u64,
}

impl UnitRows {
    /// The unit of the shard that was asked for last.
    pub fn unit(&self) -> u64 {
        self.unit
    }

    /// The shard's first row inside its unit; its name is `<split>-<unit>-<part>`.
    pub fn first_row_of(&mut self, record: &ShardRecord) -> u64 {
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

fn overflow(config: &pause::Config) -> Overflow {
    match config.policy {
        Policy::Random { overflow, .. } => overflow,
        _ => Overflow::Carry,
    }
}

/// The pauses that the rows of the dataset have on disk.
pub fn insertion(dataset: &Dataset) -> Result<Insertion, String> {
    let insertion = dataset.insertion(&dataset.manifest.pause.on_disk());
    insertion.map_err(|error| chain(&error))
}

/// The pauses that the rows of the dataset have room for.
pub fn cutting(dataset: &Dataset) -> Result<Insertion, String> {
    let manifest = &dataset.manifest;
    let recut = online::recuts(manifest.stage, Packing::of(manifest)?.method);
    let cutting = manifest.pause.cutting(manifest.row_length, recut);
    let insertion = dataset.insertion(&cutting);
    insertion.map_err(|error| chain(&error))
}

/// What every row is checked against.
struct Proof<'a> {
    manifest: &'a Manifest,
    /// What was done to the rows on disk.
    on_disk: &'a pause::Config,
    insertion: &'a Insertion,
    /// Whether rows that end short are counted.
    pads: bool,
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
                if self.pads {
                    let length = placed.sequence.len();
                    totals.padded += self.manifest.row_length.saturating_sub(length) as u64;
                }
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
        masks_follow(&row, self.on_disk.target, reserved)?;
        let text = pause::restore(&row, reserved);
        let placed = pause::apply(self.insertion, &text, key);
        let reproducible =
            overflow(self.on_disk) == Overflow::Carry && !self.insertion.reads_marks(key);
        if reproducible && !same(&placed.sequence, &row, self.on_disk.target) {
            return Err("pauses do not stand where the policy and the seed put them".into());
        }
        Ok(Placed {
            sequence: row,
            overflowed: 0,
            part: placed.part,
        })
    }
}

/// Whether what a row scores follows its target rule.
pub(super) fn masks_follow(row: &Sequence, rule: Rule, reserved: Reserved) -> Result<(), String> {
    match rule {
        Rule::Skip => masks_follow_the_paper(row, reserved.into()),
        rule => targets_follow_the_rule(row, rule, reserved),
    }
}

/// The loss rule of arXiv 2310.02226 (algorithms 1 and 2), written out: position
/// k is skipped iff token k + 1 is a pause or belongs to the prefix.
fn masks_follow_the_paper(row: &Sequence, pauses: PauseIds) -> Result<(), String> {
    let weights = pause::target::weights(row, pauses);
    if weights.len() != row.len() {
        return Err(format!("{} weights for {} ids", weights.len(), row.len()));
    }
    let prefix = row.prefix.map_or(0, |prefix| prefix as usize);
    for (position, weight) in weights.iter().enumerate() {
        let next = position + 1;
        let scored = next < row.len() && !row.is_pause(next, pauses) && prefix <= next;
        if *weight != if scored { 1.0 } else { 0.0 } {
            return Err(format!(
                "position {position} weighs {weight}, expected scored = {scored}"
            ));
        }
    }
    Ok(())
}

/// Whether two rows agree in all that can be made again from their ids: the hints of
/// a source are not among them.
fn same(placed: &Sequence, row: &Sequence, rule: Rule) -> bool {
    match rule {
        Rule::Hint => (&placed.ids, placed.prefix) == (&row.ids, row.prefix),
        _ => placed == row,
    }
}

/// What holds of stored targets under every rule: each position has one, a pause is
/// one under `emit` alone, and without a pause the target is the paper's.
fn targets_follow_the_rule(row: &Sequence, rule: Rule, reserved: Reserved) -> Result<(), String> {
    let pauses = PauseIds::from(reserved);
    let stored = row.stored.as_deref().ok_or("has no stored targets")?;
    if stored.targets.len() != row.len() || stored.weights.len() != row.len() {
        return Err(format!(
            "has {} targets for {} ids",
            stored.targets.len(),
            row.len()
        ));
    }
    let prefix = row.prefix.map_or(0, |prefix| prefix as usize);
    let predictions = stored.targets.iter().zip(&stored.weights).enumerate();
    for (position, (target, weight)) in predictions {
        let next = position + 1;
        let wrong = |what: &str| Err(format!("position {position}: {what}"));
        if !weight.is_finite() || *weight < 0.0 || (*weight == 0.0) != (*target == reserved.pad) {
            return wrong("a target is padding where its weight is 0, and nowhere else");
        }
        if 0.0 < *weight && next < prefix {
            return wrong("a target in the prefix is scored");
        }
        let emitted = rule == Rule::Emit && row.ids.get(next) == Some(target);
        if pauses.contains(*target) && !emitted {
            return wrong("the target is a pause");
        }
        let plain = !row.is_pause(position, pauses) && !row.is_pause(next, pauses);
        if plain && prefix <= next && row.ids.get(next).is_some_and(|id| id != target) {
            return wrong("the target is not the next id, and no pause is near");
        }
    }
    Ok(())
}

fn compare(counted: &Totals, sealed: &Totals) -> Result<String, String> {
    let value = |totals: &Totals| serde_json::to_value(totals).unwrap_or_default();
    match prepare::ledger::difference("", &value(sealed), &value(counted)) {
        None => Ok(format!(
            "{} rows, {} scored targets",
            counted.rows, counted.scored
        )),
        Some((key, sealed, counted)) => Err(format!(
            "{key}: the manifest says {sealed}, the rows hold {counted}"
        )),
    }
}

//! Rows that get their pauses when they are read.
//!
//! On disk they are without. Where rows always take as many real ids
//! ([`pause::Fill::Fixed`]) and those of a unit are one stream, row `r` of a unit has the
//! ids from `r` times that number on: the rows on disk are cut again, so that one set of
//! shards serves every policy. Elsewhere a row on disk is a row; examples that have no
//! room for their pauses are left out, as preparation would have left them out.

use std::cell::Cell;
use std::ops::Range;

use serde_json::Value;

use super::{At, Dataset};
use crate::manifest::{Manifest, Split, Stage, row_key};
use crate::pack::Method;
use crate::pause::{self, Insertion, Placed, Policy, Scratch, Text, lay};
use crate::rng::Key;
use crate::row::{Ids, RowView};
use crate::sequence::Sequence;
use crate::shard::{Shard, append_ids};
use crate::token::{IdWidth, TokenId};

/// Ids that stand behind one another: from which of the first row on, and how many.
pub type Run = (usize, usize);

/// Why rows cannot get their pauses when they are read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its rows were cut for another policy, or have pauses already.
    #[error("it has rows {found}, expected rows {expected}")]
    OtherRows {
        /// How they are.
        found: String,
        /// How the policy needs them.
        expected: String,
    },
    /// Its examples cannot be told apart from copies that would not be there.
    #[error(
        "{examples} of its examples have no room for their pauses, and its sources have weights, \
         which say how often the others are taken"
    )]
    Weighted {
        /// How many.
        examples: usize,
    },
    /// The rows of a unit are no stream.
    #[error(
        "row {row} of the {split} split has {found} ids, expected {expected}: its rows are no stream"
    )]
    NoStream {
        /// The split.
        split: Split,
        /// The row on disk.
        row: u64,
        /// How many ids it should have.
        expected: u64,
        /// How many it has.
        found: u64,
    },
}

impl Error {
    /// What the user can do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::OtherRows { .. } => {
                "prepare another dataset: `when = \"at-load\"` in the recipe's `pause`, and the \
                 policy itself where it reads text or `pack.method` is not `concat-split`"
            }
            Self::Weighted { .. } => "raise `pack.seq_len`, or use `when = \"prepare\"`",
            Self::NoStream { .. } => "run `pausedata verify`, or prepare the dataset again",
        }
    }
}

/// How the rows of a dataset get their pauses.
#[derive(Debug)]
pub struct Online {
    insertion: Insertion,
    seed: u64,
    /// How rows are cut again, where they are.
    recut: Option<Recut>,
    /// Whether rows end short as a matter of course.
    leaves_room: bool,
    train: Vec<UnitRows>,
    validation: Vec<UnitRows>,
}

/// Another cut of a stream.
#[derive(Clone, Copy, Debug)]
struct Recut {
    /// Real ids of a row.
    real: u64,
    /// Ids of a row on disk.
    on_disk: u64,
}

/// The rows of one split of one unit.
#[derive(Clone, Debug, Default)]
struct UnitRows {
    unit: u64,
    /// Its first row among those of the split, and how many there are.
    first: u64,
    rows: u64,
    /// Its first row on disk, and the ids of all of them.
    first_on_disk: u64,
    ids: u64,
    /// Whether they are known to stand behind one another in each shard, in rows of one length.
    is_run: bool,
    /// For each row on disk that is left out, how many rows come before it.
    left_out: Vec<u64>,
}

/// Where a row is, and what draws its pauses.
#[derive(Clone, Copy, Debug)]
struct Found<'a> {
    split: Split,
    unit: &'a UnitRows,
    /// Its number in the unit.
    row: u64,
    key: Key,
}

/// What a reader keeps from row to row.
#[derive(Debug, Default)]
struct Memory {
    scratch: Scratch,
    /// The bytes of real ids that lie in several rows on disk.
    joined: Vec<u8>,
    /// A row, in two forms.
    narrow: Vec<[u8; 2]>,
    wide: Vec<[u8; 4]>,
}

/// Whether rows are cut again when they are read, as far as their policy allows it: they
/// are one stream a unit, or an example each.
pub fn recuts(stage: Stage, method: Method) -> bool {
    stage == Stage::Finetune || method == Method::ConcatSplit
}

impl Online {
    /// How the rows of `dataset` get the pauses of a policy, which are not on disk.
    pub fn new(dataset: &Dataset, config: &pause::Config) -> Result<Self, super::Error> {
        let manifest = &dataset.manifest;
        let wrong = |source| super::Error::Online {
            folder: dataset.folder.clone(),
            source,
        };
        let method = method(manifest);
        let recut = recuts(manifest.stage, method);
        compare(manifest, config, recut).map_err(wrong)?;
        let insertion = dataset.insertion(config)?;
        let room = config.room(manifest.row_length, recut);
        let is_recut = manifest.stage == Stage::Pretrain && insertion.real_per_row() != room;
        let mut online = Self {
            recut: is_recut.then_some(Recut {
                real: insertion.real_per_row().max(1) as u64,
                on_disk: manifest.row_length.max(1) as u64,
            }),
            insertion,
            leaves_room: method.leaves_room(),
            seed: manifest.seed,
            train: Vec::new(),
            validation: Vec::new(),
        };
        online.train = online.units(dataset.shards(Split::Train))?;
        online.validation = online.units(dataset.shards(Split::Validation))?;
        let units = online.train.iter().chain(&online.validation);
        let examples = units.map(|unit| unit.left_out.len()).sum();
        match 0 < examples && is_weighted(manifest) {
            true => Err(wrong(Error::Weighted { examples })),
            false => Ok(online),
        }
    }

    /// Whether rows end short as a matter of course, so that it is counted.
    pub fn leaves_room(&self) -> bool {
        self.leaves_room
    }

    /// How many rows a split has.
    pub fn rows(&self, split: Split) -> u64 {
        let last = self.units_of(split).last();
        last.map_or(0, |unit| unit.first + unit.rows)
    }

    /// Where pauses go.
    pub fn insertion(&self) -> &Insertion {
        &self.insertion
    }

    /// Shows a row to `see`, as its epoch has it.
    ///
    /// Rows held out are those of epoch 0 in every epoch, so that losses can be compared.
    pub fn see(
        &self,
        dataset: &Dataset,
        at: At,
        see: &mut dyn FnMut(RowView<'_>),
    ) -> Result<(), super::Error> {
        if !self.insertion.is_bare() {
            let placed = self.placed(dataset, at)?;
            see_sequence(&placed.sequence, dataset.manifest.id_width, see);
            return Ok(());
        }
        let found = self.find(at)?;
        thread_local! {
            /// Kept from row to row.
            static MEMORY: Cell<Option<Box<Memory>>> = const { Cell::new(None) };
        }
        let mut memory = MEMORY.take().unwrap_or_default();
        let Memory {
            scratch,
            joined,
            narrow,
            wide,
        } = &mut *memory;
        let insertion = &self.insertion;
        let shown = self.text(dataset, found, joined, &mut |ids, prefix| {
            let (ids, prefix) = match ids {
                Ids::U16(ids) => {
                    let marks = &[];
                    let text = Text { ids, prefix, marks };
                    let laid = lay(insertion, text, found.key, scratch, narrow);
                    (Ids::U16(narrow), laid.prefix)
                }
                Ids::U32(ids) => {
                    let marks = &[];
                    let text = Text { ids, prefix, marks };
                    let laid = lay(insertion, text, found.key, scratch, wide);
                    (Ids::U32(wide), laid.prefix)
                }
            };
            let stored = None;
            see(RowView {
                ids,
                prefix,
                stored,
            });
        });
        MEMORY.set(Some(memory));
        shown
    }

    /// The same row by [`pause::apply`], with what is known about it.
    pub fn placed(&self, dataset: &Dataset, at: At) -> Result<Placed, super::Error> {
        let found = self.find(at)?;
        let mut text = Sequence::default();
        self.text(dataset, found, &mut Vec::new(), &mut |ids, prefix| {
            text.ids = ids.to_vec();
            text.prefix = prefix;
        })?;
        Ok(pause::apply(&self.insertion, &text, found.key))
    }

    /// How many ids a row has, by the index alone; where the policy reads text, by that.
    pub fn length(&self, dataset: &Dataset, at: At) -> Result<usize, super::Error> {
        let Found {
            split,
            unit,
            row,
            key,
        } = self.find(at)?;
        if self.insertion.policy().reads_text() {
            return Ok(self.placed(dataset, at)?.sequence.len());
        }
        let (length, prefix) = match self.recut {
            Some(Recut { real, .. }) => (size(unit.ids.saturating_sub(row * real).min(real)), None),
            None => dataset.shape(split, unit.first_on_disk + unit.on_disk(row))?,
        };
        // What the ids are is no matter.
        let text = Sequence {
            prefix,
            ..Sequence::plain(vec![TokenId::default(); length])
        };
        Ok(pause::apply(&self.insertion, &text, key).sequence.len())
    }

    /// The rows on disk that a row is made of.
    pub fn on_disk(&self, at: At) -> Result<Range<u64>, super::Error> {
        let Found { unit, row, .. } = self.find(at)?;
        let rows = match self.recut {
            None => unit.on_disk(row)..unit.on_disk(row) + 1,
            Some(Recut { real, on_disk }) => {
                let end = unit.ids.min((row + 1) * real);
                row * real / on_disk..end.div_ceil(on_disk)
            }
        };
        Ok(unit.first_on_disk + rows.start..unit.first_on_disk + rows.end)
    }

    fn units_of(&self, split: Split) -> &[UnitRows] {
        match split {
            Split::Train => &self.train,
            Split::Validation => &self.validation,
        }
    }

    fn units(&self, shards: &[Shard]) -> Result<Vec<UnitRows>, super::Error> {
        let mut units: Vec<UnitRows> = Vec::new();
        let (mut first, mut first_on_disk) = (0, 0);
        for shards in shards.chunk_by(|a, b| a.header().unit == b.header().unit) {
            let ids = shards.iter().map(|shard| shard.record().ids).sum();
            let on_disk: u64 = shards.iter().map(Shard::rows).sum();
            let left_out = self.left_out(shards)?;
            let rows = match self.recut {
                Some(Recut { real, .. }) => u64::div_ceil(ids, real),
                None => on_disk - left_out.len() as u64,
            };
            units.push(UnitRows {
                unit: shards.first().map_or(0, |shard| shard.header().unit.into()),
                first,
                rows,
                first_on_disk,
                ids,
                is_run: self.is_run(shards),
                left_out,
            });
            first += rows;
            first_on_disk += on_disk;
        }
        Ok(units)
    }

    /// Whether the ids of a unit are one run in each of its shards, all of whose rows are full
    /// but the last.
    fn is_run(&self, shards: &[Shard]) -> bool {
        let (Some(Recut { on_disk, .. }), Some((_, others))) = (self.recut, shards.split_last())
        else {
            return false;
        };
        let is_full = |shard: &Shard| shard.record().ids == shard.rows() * on_disk;
        shards.iter().all(|shard| shard.is_run(size(on_disk))) && others.iter().all(is_full)
    }

    /// The row on disk that a row begins in, and which ids it has from there on: of rows whose
    /// ids stand behind one another.
    pub fn run(&self, at: At) -> Result<Option<(u64, Run)>, super::Error> {
        let Found { unit, row, .. } = self.find(at)?;
        let Some(Recut { real, on_disk }) = self.recut.filter(|_| unit.is_run) else {
            return Ok(None);
        };
        let start = row * real;
        let n = unit.ids.min(start + real) - start;
        let first = unit.first_on_disk + start / on_disk;
        Ok(Some((first, (size(start % on_disk), size(n)))))
    }

    /// The examples of a unit that have no room for the most pauses they could draw.
    fn left_out(&self, shards: &[Shard]) -> Result<Vec<u64>, super::Error> {
        let mut left_out = Vec::new();
        let is_example = |shard: &Shard| shard.header().stage == Stage::Finetune;
        // A policy that reads text left them out when the rows were written.
        if self.insertion.policy().reads_text() || !shards.iter().all(is_example) {
            return Ok(left_out);
        }
        // What the ids are is no matter.
        let ids = vec![TokenId::default(); self.insertion.row_length()];
        let mut first = 0;
        for shard in shards {
            for row in 0..shard.rows() {
                let (length, prefix) = shard.shape(row)?;
                let text = Text {
                    ids: ids.get(..length).unwrap_or(&ids),
                    prefix,
                    marks: &[],
                };
                if self.insertion.row_length() < self.insertion.longest(text) {
                    left_out.push(first + row - left_out.len() as u64);
                }
            }
            first += shard.rows();
        }
        Ok(left_out)
    }

    fn find(&self, at: At) -> Result<Found<'_>, super::Error> {
        let At {
            split,
            epoch,
            index,
        } = at;
        let units = self.units_of(split);
        let after = units.partition_point(|unit| unit.first <= index);
        let unit = after.checked_sub(1).and_then(|at| units.get(at));
        let unit = unit.filter(|unit| index < unit.first + unit.rows);
        let unit = unit.ok_or_else(|| super::Error::NoRow {
            split,
            row: index,
            rows: self.rows(split),
        })?;
        let row = index - unit.first;
        let epoch = match split {
            Split::Train => epoch,
            Split::Validation => 0,
        };
        Ok(Found {
            split,
            unit,
            row,
            key: row_key(self.seed, epoch, split, unit.unit).item(row),
        })
    }

    /// Shows the real ids of a row and how many of them are prefix.
    fn text(
        &self,
        dataset: &Dataset,
        found: Found<'_>,
        joined: &mut Vec<u8>,
        see: &mut dyn FnMut(Ids<'_>, Option<u32>),
    ) -> Result<(), super::Error> {
        let Found { split, unit, .. } = found;
        let Some(Recut { real, on_disk }) = self.recut else {
            let row = unit.first_on_disk + unit.on_disk(found.row);
            return dataset.see(split, row, |row| see(row.ids, row.prefix));
        };
        let start = found.row * real;
        let end = unit.ids.min(start + real);
        let mut at = start;
        let mut width = IdWidth::U16;
        joined.clear();
        while at < end {
            let (row, from) = (at / on_disk, at % on_disk);
            let expected = on_disk.min(unit.ids - row * on_disk);
            let n = (expected - from).min(end - at);
            let row = unit.first_on_disk + row;
            if unit.is_run {
                let run = (size(from), size(end - at));
                let n = dataset.see_run(split, row, run, |ids| {
                    width = ids.width();
                    match ids.len() == size(end - start) {
                        true => see(ids, None),
                        false => joined.extend_from_slice(ids.bytes()),
                    }
                    ids.len() as u64
                })?;
                if n == 0 {
                    let (expected, found) = (end - at, 0);
                    return Err(dataset.no_stream(split, row, [expected, found]));
                }
                at += n;
                continue;
            }
            let part = (size(from), size(n));
            let length = dataset.see_part(split, row, part, |ids, length| {
                match n == end - start {
                    true => see(ids, None),
                    false => joined.extend_from_slice(ids.bytes()),
                }
                width = ids.width();
                length as u64
            })?;
            if length != expected {
                return Err(dataset.no_stream(split, row, [expected, length]));
            }
            at += n;
        }
        if !joined.is_empty() {
            see(Ids::from_bytes(joined, width), None);
        }
        Ok(())
    }
}

impl Dataset {
    /// An error about a row on disk that has not as many ids as it should.
    fn no_stream(&self, split: Split, row: u64, [expected, found]: [u64; 2]) -> super::Error {
        let source = Error::NoStream {
            split,
            row,
            expected,
            found,
        };
        let folder = self.folder.clone();
        super::Error::Online { folder, source }
    }
}

impl UnitRows {
    /// The number on disk of a row.
    fn on_disk(&self, row: u64) -> u64 {
        row + self.left_out.partition_point(|before| *before <= row) as u64
    }
}

/// Shows a row that owns what it holds.
fn see_sequence(row: &Sequence, width: IdWidth, see: &mut dyn FnMut(RowView<'_>)) {
    let mut bytes = Vec::with_capacity(row.len() * width.bytes());
    append_ids(&mut bytes, row, width);
    see(RowView {
        ids: Ids::from_bytes(&bytes, width),
        prefix: row.prefix,
        stored: row.stored.as_deref(),
    });
}

/// Which documents share a row, as the manifest's recipe says.
fn method(manifest: &Manifest) -> Method {
    let method = manifest
        .recipe
        .get("pack")
        .and_then(|pack| pack.get("method"));
    let method = method.and_then(|method| serde_json::from_value(method.clone()).ok());
    method.unwrap_or_default()
}

/// Whether any source is taken more or less often than once.
fn is_weighted(manifest: &Manifest) -> bool {
    let sources = manifest.recipe.get("sources").and_then(Value::as_array);
    let weight = |source: &Value| source.get("weight").and_then(Value::as_f64);
    let mut weights = sources.into_iter().flatten().filter_map(weight);
    weights.any(|weight| weight != 1.0)
}

/// Checks that the rows on disk are those that the policy needs.
fn compare(manifest: &Manifest, config: &pause::Config, recut: bool) -> Result<(), Error> {
    let length = manifest.row_length;
    let rows = |config: &pause::Config| {
        let deciding = config.deciding(length);
        (config.on_disk(), deciding, config.room(length, recut))
    };
    let (then, now) = (rows(&manifest.pause), rows(config));
    if then == now {
        return Ok(());
    }
    let told = |(on_disk, deciding, room): &(pause::Config, pause::Config, usize)| match (
        &on_disk.policy,
        &deciding.policy,
    ) {
        (Policy::None, Policy::None) => format!("of at most {room} real ids"),
        (Policy::None, cut) => format!("without pauses, cut for the policy `{}`", cut.name()),
        (policy, _) => format!("with the pauses of the policy `{}`", policy.name()),
    };
    let (found, expected) = (told(&then), told(&now));
    if found != expected {
        return Err(Error::OtherRows { found, expected });
    }
    // One policy with other numbers.
    let whole = |config| serde_json::to_string(config).unwrap_or_default();
    Err(Error::OtherRows {
        found: format!("with the pauses `{}`", whole(&then.0)),
        expected: format!("with the pauses `{}`", whole(&now.0)),
    })
}

/// A number of ids, of which a row has fewer than 2^32.
fn size(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

//! Rows of one split of one unit: documents are packed, rows are given pauses and
//! written to shards.

use std::collections::VecDeque;

use super::Error;
use super::encode::{Encoded, Ids};
use super::unit::Work;
use crate::manifest::{Split, SplitRecord, Totals};
use crate::pack::ConcatSplit;
use crate::pause::{self, Insertion};
use crate::rng::{Key, Stream};
use crate::sequence::Sequence;
use crate::shard::{DocumentRecord, ShardSpec, ShardWriter};
use crate::token::{IdWidth, TokenId};

/// Whether a row that is not full yet may be written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Flush {
    /// Rows that no document can change any more.
    FullRows,
    /// All rows: no document follows.
    Everything,
}

/// Where the rows of one split of one unit go, and what is done to them.
pub struct Destination<'a> {
    /// The dataset's folder.
    pub folder: &'a std::path::Path,
    /// The split.
    pub split: Split,
    /// The experiment's seed.
    pub seed: u64,
    /// Where pauses go.
    pub insertion: &'a Insertion,
    /// What its shards are; the part is counted here.
    pub shard: ShardSpec,
    /// Ids a shard at most.
    pub shard_tokens: u64,
}

impl<'a> Destination<'a> {
    /// The destination of a split of the unit that `work` makes.
    pub fn new(work: &Work<'a>, split: Split) -> Self {
        let (job, tokenizer) = (work.job, work.job.tokenizer);
        let shard = ShardSpec {
            id_width: IdWidth::for_vocabulary(tokenizer.vocab_size()),
            vocab_size: tokenizer.vocab_size(),
            reserved: tokenizer.reserved(),
            row_length: job.recipe.pack.seq_len,
            stage: job.stage,
            tokenizer: tokenizer.digest(),
            unit: u32::try_from(work.index).unwrap_or(u32::MAX),
            part: 0,
        };
        Self {
            folder: job.folder,
            split,
            seed: job.seed,
            insertion: work.insertion,
            shard,
            shard_tokens: job.recipe.pack.shard_tokens,
        }
    }
}

/// Packs, places and writes; dropped before [`Rows::finish`], its open shard leaves nothing.
pub struct Rows<'a> {
    to: Destination<'a>,
    packer: ConcatSplit,
    /// Rows without their pauses.
    rows: Vec<Sequence>,
    rows_written: u64,
    stream_length: u64,
    /// Documents whose first row is not written yet, with that row.
    waiting: VecDeque<(u64, DocumentRecord)>,
    writer: Option<ShardWriter>,
    record: SplitRecord,
}

impl<'a> Rows<'a> {
    /// No rows yet.
    pub fn new(to: Destination<'a>) -> Self {
        Self {
            packer: ConcatSplit::new(to.insertion.real_per_row()),
            to,
            rows: Vec::new(),
            rows_written: 0,
            stream_length: 0,
            waiting: VecDeque::new(),
            writer: None,
            record: SplitRecord::default(),
        }
    }

    /// Puts a document's ids into rows; `waiting` remembers the row it starts in.
    pub fn add(&mut self, encoded: Encoded) {
        let end = self.to.shard.reserved.end;
        let next_row = self.rows_written + self.rows.len() as u64;
        match encoded.ids {
            Ids::Plain(ids) => {
                let real_per_row = self.to.insertion.real_per_row() as u64;
                self.waiting
                    .push_back((self.stream_length / real_per_row, encoded.record));
                self.stream_length += ids.len() as u64 + 1;
                let rows = &mut self.rows;
                self.packer
                    .push(&ids, end, &mut |ids| rows.push(Sequence::plain(ids)));
            }
            Ids::Example { prefix, mut target } => {
                self.waiting.push_back((next_row, encoded.record));
                target.push(end);
                self.rows.push(Sequence::example(&prefix, &target));
            }
        }
    }

    /// Gives pauses to the rows that are ready, and writes them.
    pub fn write(&mut self, flush: Flush) -> Result<(), Error> {
        if flush == Flush::Everything {
            let packer = std::mem::replace(&mut self.packer, ConcatSplit::new(1));
            self.rows.extend(packer.finish().map(Sequence::plain));
        }
        let first = self.rows_written;
        let key = row_key(self.to.seed, self.to.split, self.to.shard.unit.into());
        let insertion = self.to.insertion;
        for (number, row) in (first..).zip(std::mem::take(&mut self.rows)) {
            self.write_row(&pause::apply(insertion, &row, key.item(number)))?;
        }
        Ok(())
    }

    /// Writes what is left and closes the last shard.
    pub fn finish(mut self) -> Result<SplitRecord, Error> {
        self.write(Flush::Everything)?;
        self.close_shard()?;
        Ok(self.record)
    }

    fn write_row(&mut self, row: &pause::Placed) -> Result<(), Error> {
        let full = self
            .writer
            .as_ref()
            .is_some_and(|writer| self.to.shard_tokens < writer.ids() + row.sequence.len() as u64);
        if full {
            self.close_shard()?;
        }
        let mut writer = match self.writer.take() {
            Some(writer) => writer,
            None => self.open_shard()?,
        };
        while let Some((_, record)) = self
            .waiting
            .pop_front_if(|(at, _)| *at <= self.rows_written)
        {
            self.record.totals.documents += 1;
            self.record.totals.text_bytes += record.text_bytes;
            writer.document(record);
        }
        writer.push(&row.sequence)?;
        self.writer = Some(writer);
        observe(&mut self.record.totals, row, self.to.insertion.pause);
        self.rows_written += 1;
        Ok(())
    }

    fn open_shard(&self) -> Result<ShardWriter, Error> {
        let part = self.record.shards.len();
        let spec = ShardSpec {
            part: u32::try_from(part).unwrap_or(u32::MAX),
            ..self.to.shard.clone()
        };
        let name = format!("{}-{:05}-{part:03}", self.to.split, spec.unit);
        Ok(ShardWriter::create(self.to.folder, &name, &spec)?)
    }

    fn close_shard(&mut self) -> Result<(), Error> {
        if let Some(writer) = self.writer.take() {
            self.record.shards.push(writer.finish()?);
        }
        Ok(())
    }
}

/// The key of a unit's rows: `.item(row)` gives that of one row in epoch 0.
pub fn row_key(seed: u64, split: Split, unit: u64) -> Key {
    Key::new(seed)
        .stream(Stream::Pause)
        .epoch(0)
        .item(split as u64)
        .item(unit)
}

/// Counts what a row holds.
pub fn observe(totals: &mut Totals, row: &pause::Placed, pause: TokenId) {
    let ids = &row.sequence.ids;
    let n_pauses = ids.iter().filter(|id| **id == pause).count() as u64;
    totals.rows += 1;
    totals.pauses += n_pauses;
    totals.real += ids.len() as u64 - n_pauses;
    totals.scored += pause::target::scored(&row.sequence, pause);
    totals.overflowed += row.overflowed as u64;
    for length in pause::runs(ids, pause) {
        if totals.pause_runs.len() < length {
            totals.pause_runs.resize(length, 0);
        }
        if let Some(count) = totals.pause_runs.get_mut(length.saturating_sub(1)) {
            *count += 1;
        }
    }
}

//! Rows of one split of one unit: documents are packed, rows are given pauses and
//! written to shards.

use std::collections::VecDeque;

use super::Error;
use super::encode::{Encoded, Ids};
use super::unit::Work;
use crate::manifest::{Part, Split, SplitRecord, Totals};
use crate::pack::ConcatSplit;
use crate::pause::{self, Insertion, Policy};
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
    packer: Option<ConcatSplit<'a>>,
    /// Rows without their pauses.
    rows: Vec<Sequence>,
    rows_written: u64,
    /// Real ids that came in.
    ids_added: u64,
    /// Real ids in the rows that are written.
    ids_written: u64,
    /// Documents whose first row is not written yet, with the real ids before them.
    waiting: VecDeque<(u64, DocumentRecord)>,
    writer: Option<ShardWriter>,
    record: SplitRecord,
}

impl<'a> Rows<'a> {
    /// No rows yet.
    pub fn new(to: Destination<'a>) -> Self {
        Self {
            packer: Some(ConcatSplit::new(to.insertion)),
            to,
            rows: Vec::new(),
            rows_written: 0,
            ids_added: 0,
            ids_written: 0,
            waiting: VecDeque::new(),
            writer: None,
            record: SplitRecord::default(),
        }
    }

    /// Puts a document's ids into rows; `waiting` remembers where it starts.
    pub fn add(&mut self, encoded: Encoded) {
        let end = self.to.shard.reserved.end;
        self.waiting.push_back((self.ids_added, encoded.record));
        let rows = &mut self.rows;
        match (encoded.ids, &mut self.packer) {
            (Ids::Plain(ids), Some(packer)) => {
                self.ids_added += ids.len() as u64 + 1;
                packer.push((&ids, &encoded.marks), end, &mut |row| rows.push(row));
            }
            (Ids::Plain(_), None) => {}
            (Ids::Example { prefix, target }, _) => {
                let row = example(&prefix, &target, &encoded.marks, end);
                self.ids_added += row.len() as u64;
                rows.push(row);
            }
        }
    }

    /// Gives pauses to the rows that are ready, and writes them.
    pub fn write(&mut self, flush: Flush) -> Result<(), Error> {
        if flush == Flush::Everything
            && let Some(packer) = self.packer.take()
        {
            packer.finish(&mut |row| self.rows.push(row));
        }
        let first = self.rows_written;
        let key = row_key(self.to.seed, self.to.split, self.to.shard.unit.into());
        let insertion = self.to.insertion;
        for (number, row) in (first..).zip(std::mem::take(&mut self.rows)) {
            let placed = pause::apply(insertion, &row, key.item(number));
            self.write_row(row.len(), &placed)?;
        }
        Ok(())
    }

    /// Writes what is left and closes the last shard.
    pub fn finish(mut self) -> Result<SplitRecord, Error> {
        self.write(Flush::Everything)?;
        self.close_shard()?;
        Ok(self.record)
    }

    /// Writes a row that `real` real ids made.
    fn write_row(&mut self, real: usize, row: &pause::Placed) -> Result<(), Error> {
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
        self.ids_written += real as u64;
        while let Some((_, record)) = self
            .waiting
            .pop_front_if(|(before, _)| *before < self.ids_written)
        {
            self.record.totals.documents += 1;
            self.record.totals.text_bytes += record.text_bytes;
            writer.document(record);
        }
        writer.push(&row.sequence)?;
        self.writer = Some(writer);
        observe(&mut self.record.totals, row, self.to.insertion);
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

/// The row of an example, without its pauses; `marks` are those of the target.
pub fn example(prefix: &[TokenId], target: &[TokenId], marks: &[f32], end: TokenId) -> Sequence {
    let mut row = Sequence::example(prefix, target);
    row.ids.push(end);
    if !marks.is_empty() {
        row.marks = vec![f32::NAN; prefix.len()];
        row.marks.extend_from_slice(marks);
        row.marks.resize(row.ids.len(), f32::NAN);
    }
    row
}

/// Counts what a row holds.
pub fn observe(totals: &mut Totals, row: &pause::Placed, insertion: &Insertion) {
    let pause = insertion.pause();
    let ids = &row.sequence.ids;
    let n_pauses = ids.iter().filter(|id| **id == pause).count() as u64;
    totals.rows += 1;
    totals.pauses += n_pauses;
    totals.real += ids.len() as u64 - n_pauses;
    totals.scored += pause::target::scored(&row.sequence, pause);
    totals.overflowed += row.overflowed as u64;
    for length in pause::runs(ids, pause) {
        totals.observe_run(length);
    }
    if let Policy::Mix { of } = insertion.policy() {
        totals.parts.resize(of.len(), Part::default());
        if let Some(part) = totals.parts.get_mut(row.part) {
            part.rows += 1;
            part.pauses += n_pauses;
        }
    }
}

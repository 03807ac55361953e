//! Rows of one split of one unit: documents are packed, rows are given pauses and
//! written to shards.

use super::Error;
use super::encode::{Encoded, Ids};
use super::unit::Target;
use crate::manifest::{Part, Split, SplitRecord, Totals};
use crate::pack::{Method, Overlong, Packer, Repeats, Row};
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
    /// Which documents share a row, and what becomes of one that is too long.
    pub packing: (Method, Overlong),
    /// What its shards are; the part is counted here.
    pub shard: ShardSpec,
    /// Ids a shard at most.
    pub shard_tokens: u64,
}

impl<'a> Destination<'a> {
    /// The destination of a split of a unit.
    pub fn new(target: &Target<'a>, unit: usize, split: Split) -> Self {
        let (job, tokenizer) = (target.job, target.job.tokenizer);
        let shard = ShardSpec {
            format: job.recipe.pack.format,
            id_width: IdWidth::for_vocabulary(tokenizer.vocab_size()),
            vocab_size: tokenizer.vocab_size(),
            reserved: tokenizer.reserved(),
            row_length: job.recipe.pack.seq_len,
            stage: job.stage,
            tokenizer: tokenizer.digest(),
            unit: u32::try_from(unit).unwrap_or(u32::MAX),
            part: 0,
            fields: target.insertion.fields(),
        };
        Self {
            folder: job.folder,
            split,
            seed: job.seed,
            insertion: target.insertion,
            packing: (job.recipe.pack.method, job.recipe.pack.overlong),
            shard,
            shard_tokens: job.recipe.pack.shard_tokens,
        }
    }
}

/// Packs, places and writes; dropped before [`Rows::finish`], its open shard leaves nothing.
pub struct Rows<'a> {
    to: Destination<'a>,
    packer: Packer<'a, DocumentRecord>,
    repeats: Repeats<Ended>,
    /// Rows without their pauses.
    rows: Vec<Row<DocumentRecord>>,
    rows_written: u64,
    writer: Option<ShardWriter>,
    record: SplitRecord,
}

/// A document with its end.
#[derive(Clone)]
struct Ended {
    record: DocumentRecord,
    sequence: Sequence,
}

/// Documents a shard, so that its index takes little memory however short they are.
const SHARD_DOCUMENTS_MAX: usize = 1 << 21;

/// Rows that wait to be written together, at most.
const ROWS_WAITING: usize = 1024;

impl<'a> Rows<'a> {
    /// No rows yet.
    pub fn new(to: Destination<'a>) -> Self {
        let (method, overlong) = to.packing;
        Self {
            packer: Packer::new(method, overlong, to.insertion),
            to,
            repeats: Repeats::new(),
            rows: Vec::new(),
            rows_written: 0,
            writer: None,
            record: SplitRecord::default(),
        }
    }

    /// Puts a document's ids into rows, and into later ones again until there are
    /// `copies`, which is at least 1; writes rows where many wait.
    pub fn add(&mut self, encoded: &Encoded, copies: u64) -> Result<(), Error> {
        let document = ended(encoded, self.to.shard.reserved.end);
        self.pack(&document)?;
        let length = document.sequence.len();
        self.repeats
            .push(document, length, copies.saturating_sub(1));
        while let Some(copy) = self.repeats.next_due() {
            self.pack(&copy)?;
        }
        Ok(())
    }

    fn pack(&mut self, document: &Ended) -> Result<(), Error> {
        let Ended { record, sequence } = document;
        self.record.totals.documents += 1;
        self.record.totals.text_bytes += record.text_bytes;
        let rows = &mut self.rows;
        match sequence.prefix {
            None => self
                .packer
                .push(sequence, *record, &mut |row| rows.push(row)),
            Some(_) => rows.push(Row {
                sequence: sequence.clone(),
                documents: vec![*record],
            }),
        }
        match self.rows.len() < ROWS_WAITING {
            true => Ok(()),
            false => self.write(Flush::FullRows),
        }
    }

    /// Gives pauses to the rows that are ready, and writes them.
    pub fn write(&mut self, flush: Flush) -> Result<(), Error> {
        if flush == Flush::Everything {
            while let Some(copy) = self.repeats.pop() {
                self.pack(&copy)?;
            }
            self.count_cuts();
            let rows = &mut self.rows;
            self.packer.finish(&mut |row| rows.push(row));
        }
        let first = self.rows_written;
        let key = row_key(self.to.seed, self.to.split, self.to.shard.unit.into());
        let insertion = self.to.insertion;
        for (number, row) in (first..).zip(std::mem::take(&mut self.rows)) {
            let placed = pause::apply(insertion, &row.sequence, key.item(number));
            self.write_row(&placed, row.documents)?;
        }
        Ok(())
    }

    fn count_cuts(&mut self) {
        let cuts = self.packer.cuts();
        self.record.totals.cut = cuts.documents;
        self.record.totals.trimmed = cuts.trimmed;
    }

    /// Writes what is left and closes the last shard.
    pub fn finish(mut self) -> Result<SplitRecord, Error> {
        self.write(Flush::Everything)?;
        self.close_shard()?;
        Ok(self.record)
    }

    fn write_row(
        &mut self,
        row: &pause::Placed,
        documents: Vec<DocumentRecord>,
    ) -> Result<(), Error> {
        let full = |writer: &ShardWriter| {
            self.to.shard_tokens < writer.ids() + row.sequence.len() as u64
                || SHARD_DOCUMENTS_MAX < writer.documents() + documents.len()
        };
        if self.writer.as_ref().is_some_and(full) {
            self.close_shard()?;
        }
        let mut writer = match self.writer.take() {
            Some(writer) => writer,
            None => self.open_shard()?,
        };
        for record in documents {
            writer.document(record);
        }
        writer.push(&row.sequence)?;
        self.writer = Some(writer);
        observe(&mut self.record.totals, row, self.to.insertion);
        if self.to.packing.0.leaves_room() {
            let room = self.to.insertion.row_length();
            self.record.totals.padded += room.saturating_sub(row.sequence.len()) as u64;
        }
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

/// The ids of a document as they stand in its rows, its end behind them.
fn ended(encoded: &Encoded, end: TokenId) -> Ended {
    let sequence = match &encoded.ids {
        Ids::Plain(text) => {
            let mut ids = Vec::with_capacity(text.len() + 1);
            ids.extend_from_slice(text);
            ids.push(end);
            Sequence {
                ids,
                marks: encoded.marks.clone(),
                ..Sequence::default()
            }
        }
        Ids::Example { prefix, target } => Sequence {
            hint: encoded.hint.clone(),
            ..example(prefix, target, &encoded.marks, end)
        },
    };
    Ended {
        record: encoded.record,
        sequence,
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
    let pauses = insertion.pauses();
    let sequence = &row.sequence;
    let n_pauses = sequence.n_pauses(pauses) as u64;
    totals.rows += 1;
    totals.pauses += n_pauses;
    totals.real += sequence.len() as u64 - n_pauses;
    totals.scored += pause::target::scored(sequence, pauses);
    totals.overflowed += row.overflowed as u64;
    for length in pause::runs(sequence, pauses) {
        totals.observe_run(length);
    }
    if !insertion.is_shared() {
        let ids = sequence.ids.iter().enumerate();
        for (_, id) in ids.filter(|(position, _)| sequence.is_pause(*position, pauses)) {
            *totals.pause_ids.entry(id.0).or_default() += 1;
        }
    }
    if let Policy::Mix { of } = insertion.policy() {
        totals.parts.resize(of.len(), Part::default());
        if let Some(part) = totals.parts.get_mut(row.part) {
            part.rows += 1;
            part.pauses += n_pauses;
        }
    }
}

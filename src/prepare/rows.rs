//! Rows of one split of one unit: documents are packed, rows are given pauses and
//! written to shards.

use super::Error;
use super::encode::Encoded;
use super::unit::Target;
use crate::manifest::{Part, Split, SplitRecord, Totals, row_key};
use crate::pack::{Method, Overlong, Packer, Repeats, Row};
use crate::pause::{self, Insertion, Policy};
use crate::rng::Key;
use crate::sequence::Sequence;
use crate::shard::{DocumentRecord, ShardSpec, ShardWriter};
use crate::token::IdWidth;

/// Where the rows of one split of one unit go, and what is done to them.
pub struct Destination<'a> {
    /// The dataset's folder.
    pub folder: &'a std::path::Path,
    /// The split.
    pub split: Split,
    /// The experiment's seed.
    pub seed: u64,
    /// The pauses that its rows have on disk.
    pub insertion: &'a Insertion,
    /// The pauses that its rows have room for.
    pub cutting: &'a Insertion,
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
            cutting: target.cutting,
            packing: (job.recipe.pack.method, job.recipe.pack.overlong),
            shard,
            shard_tokens: job.recipe.pack.shard_tokens,
        }
    }
}

/// Packs, places and writes; dropped before [`Rows::finish`], its open shard leaves nothing.
pub struct Rows<'a> {
    packer: Packer<'a, DocumentRecord>,
    repeats: Repeats<(DocumentRecord, Sequence)>,
    shards: Shards<'a>,
}

/// Gives rows their pauses and writes them.
struct Shards<'a> {
    to: Destination<'a>,
    key: Key,
    writer: Option<ShardWriter>,
    record: SplitRecord,
}

/// Documents a shard, so that its index takes little memory however short they are.
const SHARD_DOCUMENTS_MAX: usize = 1 << 21;

impl<'a> Rows<'a> {
    /// No rows yet.
    pub fn new(to: Destination<'a>) -> Self {
        let (method, overlong) = to.packing;
        Self {
            packer: Packer::new(method, overlong, to.cutting),
            repeats: Repeats::new(),
            shards: Shards {
                key: row_key(to.seed, 0, to.split, to.shard.unit.into()),
                to,
                writer: None,
                record: SplitRecord::default(),
            },
        }
    }

    /// Puts a document's ids into rows, and into later ones again until there are
    /// `copies`, which is at least 1; writes the rows that are full.
    pub fn add(&mut self, document: &Encoded, copies: u64) -> Result<(), Error> {
        let Encoded {
            record, sequence, ..
        } = document;
        self.pack(*record, sequence)?;
        if 1 < copies {
            let copy = (*record, sequence.clone());
            self.repeats.push(copy, sequence.len(), copies - 1);
        }
        while let Some((record, sequence)) = self.repeats.next_due() {
            self.pack(record, &sequence)?;
        }
        Ok(())
    }

    fn pack(&mut self, record: DocumentRecord, sequence: &Sequence) -> Result<(), Error> {
        let Self { packer, shards, .. } = self;
        shards.record.totals.documents += 1;
        shards.record.totals.text_bytes += record.text_bytes;
        if sequence.prefix.is_some() {
            return shards.write(Row {
                sequence: sequence.clone(),
                documents: vec![record],
            });
        }
        let mut written = Ok(());
        packer.push(sequence, record, &mut |row| {
            shards.write_after(&mut written, row)
        });
        written
    }

    /// Writes what is left and closes the last shard.
    pub fn finish(mut self) -> Result<SplitRecord, Error> {
        while let Some((record, sequence)) = self.repeats.pop() {
            self.pack(record, &sequence)?;
        }
        let Self {
            mut packer,
            mut shards,
            ..
        } = self;
        let cuts = packer.cuts();
        shards.record.totals.cut = cuts.documents;
        shards.record.totals.trimmed = cuts.trimmed;
        let mut written = Ok(());
        packer.finish(&mut |row| shards.write_after(&mut written, row));
        written?;
        shards.close()?;
        Ok(shards.record)
    }
}

impl Shards<'_> {
    /// Writes a row, unless one before it failed.
    fn write_after(&mut self, written: &mut Result<(), Error>, row: Row<DocumentRecord>) {
        if written.is_ok() {
            *written = self.write(row);
        }
    }

    fn write(&mut self, row: Row<DocumentRecord>) -> Result<(), Error> {
        let Row {
            sequence,
            documents,
        } = row;
        let totals = &mut self.record.totals;
        let insertion = self.to.insertion;
        let row = pause::apply_to(insertion, sequence, self.key.item(totals.rows));
        let full = |writer: &ShardWriter| {
            self.to.shard_tokens < writer.ids() + row.sequence.len() as u64
                || SHARD_DOCUMENTS_MAX < writer.documents() + documents.len()
        };
        observe(totals, &row, insertion);
        if self.to.packing.0.leaves_room() {
            let room = insertion.row_length();
            totals.padded += room.saturating_sub(row.sequence.len()) as u64;
        }
        if self.writer.as_ref().is_some_and(full) {
            self.close()?;
        }
        let mut writer = match self.writer.take() {
            Some(writer) => writer,
            None => self.open()?,
        };
        for record in documents {
            writer.document(record);
        }
        writer.push(&row.sequence)?;
        self.writer = Some(writer);
        Ok(())
    }

    fn open(&self) -> Result<ShardWriter, Error> {
        let part = self.record.shards.len();
        let spec = ShardSpec {
            part: u32::try_from(part).unwrap_or(u32::MAX),
            ..self.to.shard.clone()
        };
        let name = format!("{}-{:05}-{part:03}", self.to.split, spec.unit);
        Ok(ShardWriter::create(self.to.folder, &name, &spec)?)
    }

    fn close(&mut self) -> Result<(), Error> {
        if let Some(writer) = self.writer.take() {
            self.record.shards.push(writer.finish()?);
        }
        Ok(())
    }
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
    if 0 < n_pauses {
        for length in pause::runs(sequence, pauses) {
            totals.observe_run(length);
        }
    }
    if !insertion.is_shared() {
        let positions = sequence.pause_positions(pauses);
        for id in positions.iter().filter_map(|at| sequence.ids.get(*at)) {
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

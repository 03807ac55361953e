//! One unit of work: documents are read on a thread, encoded in parallel, packed
//! in order, given pauses in parallel, and written.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::panic::resume_unwind;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use rayon::prelude::*;

use super::encode::{self, Encoded, Ids};
use super::ledger::UnitRecord;
use super::{Error, Job};
use crate::corpus::{self, Corpus};
use crate::digest::Digest;
use crate::document::Document;
use crate::manifest::{Ledger, Split, SplitRecord, Totals};
use crate::pack::ConcatSplit;
use crate::pause::{self, Insertion};
use crate::progress::{Progress, Stop};
use crate::rng::{Key, Stream};
use crate::sequence::Sequence;
use crate::shard::{DocumentRecord, ShardSpec, ShardWriter};
use crate::token::{IdWidth, TokenId};

/// Text that one thread encodes at a time.
const CHUNK_BYTES: usize = 1 << 20;
/// Documents that one thread encodes at a time, where they are short.
const CHUNK_DOCUMENTS: usize = 4096;

/// What a unit is made from.
pub struct Work<'a> {
    /// The dataset.
    pub job: &'a Job<'a>,
    /// All files.
    pub corpus: &'a Corpus,
    /// Where pauses go.
    pub insertion: &'a Insertion,
    /// Which unit this is.
    pub index: usize,
    /// Its files.
    pub files: Range<usize>,
}

/// Makes the shards of one unit.
pub fn prepare(
    work: &Work,
    plan: Digest,
    progress: &dyn Progress,
    stop: &Stop,
) -> Result<UnitRecord, Error> {
    let mut build = Build::new(work);
    let in_flight = 2 * rayon::current_num_threads();
    std::thread::scope(|scope| {
        let (send, receive) = sync_channel(in_flight);
        let documents = work.corpus.documents(work.files.clone());
        let reader = scope.spawn(move || read(documents, &send));
        loop {
            let chunks = take(&receive, in_flight);
            if chunks.is_empty() {
                // A panic of the reader goes on as it is, with its own message.
                return reader.join().or_else(|panic| resume_unwind(panic));
            }
            if stop.requested() {
                return Err(Error::Stopped);
            }
            for encoded in encode_all(work, chunks)? {
                build.add(encoded)?;
            }
            build.write_rows(Flush::FullRows)?;
            progress.advance(build.take_text_bytes());
        }
    })?;
    build.finish(plan)
}

type Chunk = Result<Vec<Document>, corpus::Error>;

/// Cuts the stream of documents into chunks and sends them until nobody listens.
fn read(
    documents: impl Iterator<Item = Result<Document, corpus::Error>>,
    send: &SyncSender<Chunk>,
) {
    let (mut chunk, mut bytes) = (Vec::new(), 0);
    for document in documents {
        match document {
            Ok(document) => {
                bytes += document.text.bytes();
                chunk.push(document);
            }
            Err(error) => {
                drop(send.send(Err(error)));
                return;
            }
        }
        if CHUNK_BYTES <= bytes || CHUNK_DOCUMENTS <= chunk.len() {
            bytes = 0;
            if send.send(Ok(std::mem::take(&mut chunk))).is_err() {
                return;
            }
        }
    }
    if !chunk.is_empty() {
        drop(send.send(Ok(chunk)));
    }
}

/// Waits for one chunk, then takes what else is there; empty at the end.
fn take(receive: &Receiver<Chunk>, most: usize) -> Vec<Chunk> {
    let first = receive.recv().ok();
    first
        .into_iter()
        .chain(receive.try_iter().take(most.saturating_sub(1)))
        .collect()
}

fn encode_all(work: &Work, chunks: Vec<Chunk>) -> Result<Vec<Encoded>, Error> {
    let job = work.job;
    let one = |document: &Document| {
        encode::encode(document, job.tokenizer, job.recipe.validation, work.corpus)
    };
    let encoded: Vec<Vec<Encoded>> = chunks
        .into_par_iter()
        .map(|chunk| chunk?.iter().map(one).collect::<Result<Vec<_>, Error>>())
        .collect::<Result<_, Error>>()?;
    Ok(encoded.into_iter().flatten().collect())
}

/// Whether a row that is not full yet may be written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flush {
    FullRows,
    Everything,
}

/// A unit while it is made.
struct Build<'a> {
    work: &'a Work<'a>,
    splits: BTreeMap<Split, SplitBuild<'a>>,
    documents: BTreeMap<u32, u64>,
    ledger: Ledger,
    text_bytes: u64,
}

impl<'a> Build<'a> {
    fn new(work: &'a Work) -> Self {
        let splits =
            [Split::Train, Split::Validation].map(|split| (split, SplitBuild::new(work, split)));
        Self {
            work,
            splits: splits.into(),
            documents: BTreeMap::new(),
            ledger: Ledger::default(),
            text_bytes: 0,
        }
    }

    fn add(&mut self, encoded: Encoded) -> Result<(), Error> {
        self.ledger.read += 1;
        *self.documents.entry(encoded.record.id.file).or_default() += 1;
        self.text_bytes += encoded.record.text_bytes;
        match fits(&encoded.ids, self.work.insertion) {
            Fit::Drop(reason) => *self.ledger.dropped.entry(reason.into()).or_default() += 1,
            Fit::Keep => {
                self.ledger.kept += 1;
                let end = self.work.job.tokenizer.reserved().end;
                if let Some(split) = self.splits.get_mut(&encoded.split) {
                    split.add(encoded, end);
                }
            }
        }
        Ok(())
    }

    fn write_rows(&mut self, flush: Flush) -> Result<(), Error> {
        self.splits
            .values_mut()
            .try_for_each(|split| split.write_rows(flush))
    }

    fn take_text_bytes(&mut self) -> u64 {
        std::mem::take(&mut self.text_bytes)
    }

    fn finish(mut self, plan: Digest) -> Result<UnitRecord, Error> {
        self.write_rows(Flush::Everything)?;
        let mut splits = BTreeMap::new();
        for (name, split) in self.splits {
            splits.insert(name, split.finish()?);
        }
        Ok(UnitRecord {
            plan,
            unit: self.work.index,
            documents: self.documents,
            splits,
            ledger: self.ledger,
        })
    }
}

enum Fit {
    Keep,
    Drop(&'static str),
}

/// Whether a document can stand in the dataset. An example must fit with the
/// most pauses it could draw, so that its fate does not depend on the draw.
fn fits(ids: &Ids, insertion: &Insertion) -> Fit {
    match ids {
        Ids::Plain(ids) if ids.is_empty() => Fit::Drop("empty"),
        Ids::Example { target, .. } if target.is_empty() => Fit::Drop("empty"),
        Ids::Plain(_) => Fit::Keep,
        Ids::Example { prefix, target } => {
            let length = prefix.len() + insertion.n_pauses() + target.len() + 1;
            if length <= insertion.row_length {
                Fit::Keep
            } else {
                Fit::Drop("too-long")
            }
        }
    }
}

/// One split of a unit: rows wait here until they are given pauses and written.
struct SplitBuild<'a> {
    work: &'a Work<'a>,
    split: Split,
    packer: ConcatSplit,
    rows: Vec<Sequence>,
    rows_written: u64,
    stream_length: u64,
    waiting: VecDeque<(u64, DocumentRecord)>,
    writer: Option<ShardWriter>,
    record: SplitRecord,
}

impl<'a> SplitBuild<'a> {
    fn new(work: &'a Work, split: Split) -> Self {
        Self {
            work,
            split,
            packer: ConcatSplit::new(work.insertion.real_per_row()),
            rows: Vec::new(),
            rows_written: 0,
            stream_length: 0,
            waiting: VecDeque::new(),
            writer: None,
            record: SplitRecord::default(),
        }
    }

    /// Puts a document's ids into rows; `waiting` remembers the row it starts in.
    fn add(&mut self, encoded: Encoded, end: TokenId) {
        let next_row = self.rows_written + self.rows.len() as u64;
        match encoded.ids {
            Ids::Plain(ids) => {
                let real_per_row = self.work.insertion.real_per_row() as u64;
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

    fn write_rows(&mut self, flush: Flush) -> Result<(), Error> {
        if flush == Flush::Everything {
            let packer = std::mem::replace(&mut self.packer, ConcatSplit::new(1));
            self.rows.extend(packer.finish().map(Sequence::plain));
        }
        let first = self.rows_written;
        let key = row_key(self.work.job.seed, self.split, self.work.index as u64);
        let insertion = self.work.insertion;
        let placed: Vec<pause::Placed> = std::mem::take(&mut self.rows)
            .par_iter()
            .enumerate()
            .map(|(offset, row)| pause::apply(insertion, row, key.item(first + offset as u64)))
            .collect();
        placed.iter().try_for_each(|row| self.write(row))
    }

    fn write(&mut self, row: &pause::Placed) -> Result<(), Error> {
        let full = self.writer.as_ref().is_some_and(|writer| {
            self.work.job.recipe.pack.shard_tokens < writer.ids() + row.sequence.len() as u64
        });
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
        observe(&mut self.record.totals, row, self.work.insertion.pause);
        self.rows_written += 1;
        Ok(())
    }

    fn open_shard(&self) -> Result<ShardWriter, Error> {
        let (job, tokenizer) = (self.work.job, self.work.job.tokenizer);
        let (unit, part) = (self.work.index, self.record.shards.len());
        let split = match self.split {
            Split::Train => "train",
            Split::Validation => "validation",
        };
        let spec = ShardSpec {
            id_width: IdWidth::for_vocabulary(tokenizer.vocab_size()),
            vocab_size: tokenizer.vocab_size(),
            reserved: tokenizer.reserved(),
            row_length: job.recipe.pack.seq_len,
            stage: job.stage,
            tokenizer: tokenizer.digest(),
            unit: u32::try_from(unit).unwrap_or(u32::MAX),
            part: u32::try_from(part).unwrap_or(u32::MAX),
        };
        let name = format!("{split}-{unit:05}-{part:03}");
        Ok(ShardWriter::create(job.folder, &name, &spec)?)
    }

    fn close_shard(&mut self) -> Result<(), Error> {
        if let Some(writer) = self.writer.take() {
            self.record.shards.push(writer.finish()?);
        }
        Ok(())
    }

    fn finish(mut self) -> Result<SplitRecord, Error> {
        self.close_shard()?;
        Ok(self.record)
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

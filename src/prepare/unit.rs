//! One unit of work: documents are read on a thread, encoded in parallel, packed
//! in order, given pauses in parallel, and written.

use std::collections::BTreeMap;
use std::ops::Range;
use std::panic::resume_unwind;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use rayon::prelude::*;

use super::encode::{self, Encoded, Ids};
use super::ledger::UnitRecord;
use super::rows::{self, Destination, Flush, Rows};
use super::{Error, Job};
use crate::corpus::{self, Corpus};
use crate::digest::Digest;
use crate::document::Document;
use crate::manifest::{Ledger, Split};
use crate::pause::Insertion;
use crate::progress::{Progress, Stop};
use crate::token::TokenId;

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
            build.write_rows()?;
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

/// A unit while it is made.
struct Build<'a> {
    work: &'a Work<'a>,
    splits: BTreeMap<Split, Rows<'a>>,
    documents: BTreeMap<u32, u64>,
    ledger: Ledger,
    text_bytes: u64,
}

impl<'a> Build<'a> {
    fn new(work: &'a Work) -> Self {
        let splits = [Split::Train, Split::Validation]
            .map(|split| (split, Rows::new(Destination::new(work, split))));
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
        let end = self.work.job.tokenizer.reserved().end;
        match fits(&encoded, (self.work.insertion, end)) {
            Fit::Drop(reason) => *self.ledger.dropped.entry(reason.into()).or_default() += 1,
            Fit::Keep => {
                self.ledger.kept += 1;
                if let Some(split) = self.splits.get_mut(&encoded.split) {
                    split.add(encoded);
                }
            }
        }
        Ok(())
    }

    fn write_rows(&mut self) -> Result<(), Error> {
        self.splits
            .values_mut()
            .try_for_each(|split| split.write(Flush::FullRows))
    }

    fn take_text_bytes(&mut self) -> u64 {
        std::mem::take(&mut self.text_bytes)
    }

    fn finish(self, plan: Digest) -> Result<UnitRecord, Error> {
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
fn fits(encoded: &Encoded, (insertion, end): (&Insertion, TokenId)) -> Fit {
    match &encoded.ids {
        Ids::Plain(ids) if ids.is_empty() => Fit::Drop("empty"),
        Ids::Example { target, .. } if target.is_empty() => Fit::Drop("empty"),
        Ids::Plain(_) => Fit::Keep,
        Ids::Example { prefix, target } => {
            let row = rows::example(prefix, target, &encoded.marks, end);
            if insertion.longest(&row) <= insertion.row_length() {
                Fit::Keep
            } else {
                Fit::Drop("too-long")
            }
        }
    }
}

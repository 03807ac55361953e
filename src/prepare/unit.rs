//! One unit of work: documents are read on a thread, encoded in parallel, packed
//! in order, given pauses in parallel, and written.

use std::collections::BTreeMap;
use std::ops::Range;
use std::panic::resume_unwind;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use rayon::prelude::*;

use super::judge::{Judge, Judged, Verdict};
use super::ledger::{Contamination, UnitRecord};
use super::rejects::Rejects;
use super::rows::{Destination, Flush, Rows};
use super::{Error, Job};
use crate::corpus::{self, Corpus};
use crate::curate::Curator;
use crate::digest::Digest;
use crate::document::Document;
use crate::manifest::{Ledger, Split};
use crate::pause::Insertion;
use crate::progress::{Progress, Stop};

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
    /// Which documents are kept.
    pub curator: &'a Curator,
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
    let mut build = Build::new(work)?;
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
            for judged in judge_all(work, chunks)? {
                build.add(judged)?;
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

fn judge_all(work: &Work, chunks: Vec<Chunk>) -> Result<Vec<Judged>, Error> {
    let judge = Judge {
        curator: work.curator,
        tokenizer: work.job.tokenizer,
        validation: work.job.recipe.validation,
        corpus: work.corpus,
        insertion: work.insertion,
    };
    let one = |document: Document| judge.judge(document);
    let judged: Vec<Vec<Judged>> = chunks
        .into_par_iter()
        .map(|chunk| chunk?.into_iter().map(one).collect::<Result<Vec<_>, Error>>())
        .collect::<Result<_, Error>>()?;
    Ok(judged.into_iter().flatten().collect())
}

/// A unit while it is made.
struct Build<'a> {
    work: &'a Work<'a>,
    splits: BTreeMap<Split, Rows<'a>>,
    documents: BTreeMap<u32, u64>,
    ledger: Ledger,
    contamination: Contamination,
    rejects: Option<Rejects>,
    text_bytes: u64,
}

impl<'a> Build<'a> {
    fn new(work: &'a Work) -> Result<Self, Error> {
        let splits = [Split::Train, Split::Validation]
            .map(|split| (split, Rows::new(Destination::new(work, split))));
        let job = work.job;
        let rejects = job.recipe.rejects.then(|| Rejects::create(job.folder, work.index));
        Ok(Self {
            work,
            splits: splits.into(),
            documents: BTreeMap::new(),
            ledger: Ledger::default(),
            contamination: Contamination::default(),
            rejects: rejects.transpose()?,
            text_bytes: 0,
        })
    }

    fn add(&mut self, judged: Judged) -> Result<(), Error> {
        *self.documents.entry(judged.id.file).or_default() += 1;
        self.text_bytes += judged.bytes;
        self.contamination.observe(judged.id, &judged.hits);
        match judged.verdict {
            Verdict::Drop { reason, text } => {
                self.ledger.leave_out(&reason);
                if let Some(rejects) = &mut self.rejects {
                    rejects.push(self.work.corpus, judged.id, &reason, &text)?;
                }
            }
            Verdict::Keep(encoded) => {
                self.ledger.keep();
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
            contamination: self.contamination,
            rejects: self.rejects.map(Rejects::finish).transpose()?,
        })
    }
}

//! Units of work: blocks are read in order, parsed and encoded on any thread, and
//! packed, given pauses and written in order.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use super::encode::Encoded;
use super::flow::{Budget, Failure, Flow, Sink, Step, lock};
use super::judge::{Judge, Judged, Verdict};
use super::ledger::{Contamination, UnitRecord};
use super::rejects::Rejects;
use super::rows::{Destination, Rows};
use super::{Error, Job};
use crate::corpus::weight::Mixture;
use crate::corpus::{Block, Blocks, Corpus};
use crate::curate::Curator;
use crate::digest::Digest;
use crate::document::{DocumentId, Text};
use crate::manifest::{Ledger, Split};
use crate::pause::Insertion;
use crate::progress::{Progress, Stop};

/// Text that waits or is worked on, a thread.
const BYTES_A_THREAD: usize = 4 << 20;
/// Threads that one unit keeps busy; with more, several units are made at once.
const THREADS_A_UNIT: usize = 4;

/// What a unit is made from.
#[derive(Clone)]
pub struct Work<'a> {
    /// The datasets that lack it; at least one.
    pub targets: Vec<Target<'a>>,
    /// All files.
    pub corpus: &'a Corpus,
    /// Which documents are kept.
    pub curator: &'a Curator,
    /// Which unit this is.
    pub index: usize,
    /// Its files.
    pub files: Range<usize>,
}

/// A dataset that the unit's documents go to.
#[derive(Clone, Copy)]
pub struct Target<'a> {
    /// Which of the datasets that are made together.
    pub dataset: usize,
    /// What it is.
    pub job: &'a Job<'a>,
    /// The pauses that its rows have on disk.
    pub insertion: &'a Insertion,
    /// The pauses that its rows have room for.
    pub cutting: &'a Insertion,
    /// Digest of the recipe and inputs.
    pub plan: Digest,
}

/// The record of a unit, and which dataset it belongs to.
pub type Made = (usize, UnitRecord);

/// Makes and publishes the shards and the record of every unit.
///
/// # Errors
/// With the first in the order of documents, however many threads met one; the
/// units before it are finished.
pub fn prepare(units: Vec<Work>, progress: &dyn Progress, stop: &Stop) -> Result<Vec<Made>, Error> {
    let threads = rayon::current_num_threads();
    let lanes = Lanes::new(units, threads, progress, stop);
    std::thread::scope(|scope| {
        for thread in 1..threads {
            let lanes = &lanes;
            scope.spawn(move || lanes.work(thread));
        }
        lanes.work(0);
    });
    lanes.finish()
}

type Unit<'a> = Flow<Blocks, Build<'a>, Vec<Judged>, Error, Vec<Made>>;

/// A place for one unit at a time.
type Lane<'a> = Mutex<Option<(Work<'a>, Arc<Unit<'a>>)>>;

/// The units that are being made, each on its lane, and those that wait.
struct Lanes<'a> {
    waiting: Mutex<std::vec::IntoIter<Work<'a>>>,
    lanes: Vec<Lane<'a>>,
    done: Mutex<Vec<Made>>,
    /// The first unit that failed, and how.
    failed: Mutex<Option<(usize, Failure<Error>)>>,
    budget: Budget,
    progress: &'a dyn Progress,
    stop: &'a Stop,
}

impl<'a> Lanes<'a> {
    fn new(
        units: Vec<Work<'a>>,
        threads: usize,
        progress: &'a dyn Progress,
        stop: &'a Stop,
    ) -> Self {
        let lanes = 0..(threads / THREADS_A_UNIT).max(1);
        Self {
            waiting: Mutex::new(units.into_iter()),
            lanes: lanes.map(|_| Mutex::new(None)).collect(),
            done: Mutex::new(Vec::new()),
            failed: Mutex::new(None),
            budget: Budget::new(threads * BYTES_A_THREAD),
            progress,
            stop,
        }
    }

    /// What every thread does until there is nothing left to take.
    fn work(&self, thread: usize) {
        while let Some((work, unit)) = self.unit(thread) {
            loop {
                let step = unit.step(
                    |block| self.judge(&work, block),
                    (&self.budget, Block::bytes),
                    (self.stop, || Error::Stopped),
                );
                if let Some(outcome) = unit.take_outcome() {
                    self.note(work.index, outcome);
                }
                if self.is_behind_a_failure(work.index) {
                    unit.abandon();
                }
                if step == Step::Ended {
                    break;
                }
            }
        }
    }

    /// A unit with blocks to take: of the thread's own lane, or where that has none, of another.
    fn unit(&self, thread: usize) -> Option<(Work<'a>, Arc<Unit<'a>>)> {
        let home = thread % self.lanes.len();
        let (before, after) = self.lanes.split_at(home);
        after.iter().chain(before).find_map(|lane| {
            let mut lane = lock(lane);
            if let Some((work, unit)) = &*lane
                && !unit.has_ended()
            {
                return Some((work.clone(), unit.clone()));
            }
            let next = lock(&self.waiting).next();
            *lane = next
                .filter(|work| !self.is_behind_a_failure(work.index))
                .map(|work| {
                    let blocks = work.corpus.blocks(work.files.clone());
                    let unit = Flow::new(blocks, Build::new(&work));
                    (work, Arc::new(unit))
                });
            lane.clone()
        })
    }

    fn judge(&self, work: &Work, block: Block) -> Result<Vec<Judged>, Error> {
        let read = block.read();
        let Some(job) = work.targets.first().map(|target| target.job) else {
            return Ok(Vec::new());
        };
        let insertions: Vec<_> = work.targets.iter().map(|to| to.cutting).collect();
        let judge = Judge {
            curator: work.curator,
            tokenizer: job.tokenizer,
            stage: job.recipe,
            corpus: work.corpus,
            insertions: &insertions,
        };
        let judged = block.map(|document| judge.judge(document?)).collect();
        self.progress.advance(read);
        judged
    }

    fn note(&self, unit: usize, outcome: Result<Vec<Made>, Failure<Error>>) {
        match outcome {
            Ok(made) => lock(&self.done).extend(made),
            Err(failure) => {
                let mut failed = lock(&self.failed);
                if failed.as_ref().is_none_or(|(first, _)| unit < *first) {
                    *failed = Some((unit, failure));
                }
            }
        }
    }

    fn is_behind_a_failure(&self, unit: usize) -> bool {
        matches!(&*lock(&self.failed), Some((first, _)) if *first < unit)
    }

    fn finish(self) -> Result<Vec<Made>, Error> {
        let failed = self.failed.into_inner().unwrap_or_default();
        match failed {
            Some((_, failure)) => Err(failure.into_error()),
            None => Ok(self.done.into_inner().unwrap_or_default()),
        }
    }
}

/// A unit while it is made.
struct Build<'a> {
    corpus: &'a Corpus,
    parts: Vec<Part<'a>>,
}

impl<'a> Build<'a> {
    fn new(work: &Work<'a>) -> Self {
        let parts = work.targets.iter().enumerate();
        Self {
            corpus: work.corpus,
            parts: parts.map(|(n, to)| Part::new(n, *to, work.index)).collect(),
        }
    }
}

impl Sink<Vec<Judged>, Error> for Build<'_> {
    type Made = Vec<Made>;

    fn add(&mut self, block: Vec<Judged>) -> Result<(), Error> {
        let corpus = self.corpus;
        self.parts
            .iter_mut()
            .try_for_each(|part| part.add(&block, corpus))
    }

    fn finish(self) -> Result<Vec<Made>, Error> {
        self.parts.into_iter().map(Part::finish).collect()
    }
}

/// A unit of one of the datasets while it is made.
struct Part<'a> {
    /// Its place among the targets of the unit.
    place: usize,
    to: Target<'a>,
    unit: usize,
    splits: BTreeMap<Split, Rows<'a>>,
    documents: BTreeMap<u32, u64>,
    ledger: Ledger,
    mixture: Mixture,
    contamination: Contamination,
    /// Open once a document was dropped, where the recipe keeps them.
    rejects: Option<Rejects>,
}

impl<'a> Part<'a> {
    fn new(place: usize, to: Target<'a>, unit: usize) -> Self {
        let splits = [Split::Train, Split::Validation]
            .map(|split| (split, Rows::new(Destination::new(&to, unit, split))));
        let mixture = Mixture::new(&to.job.recipe.sources);
        Self {
            place,
            to,
            unit,
            splits: splits.into(),
            documents: BTreeMap::new(),
            ledger: Ledger::default(),
            mixture,
            contamination: Contamination::default(),
            rejects: None,
        }
    }

    fn add(&mut self, block: &[Judged], corpus: &Corpus) -> Result<(), Error> {
        let mut documents = block.iter();
        documents.try_for_each(|document| self.add_document(document, corpus))
    }

    fn add_document(&mut self, judged: &Judged, corpus: &Corpus) -> Result<(), Error> {
        *self.documents.entry(judged.id.file).or_default() += 1;
        self.contamination.observe(judged.id, &judged.hits);
        match judged.verdict(self.place) {
            Verdict::Keep(encoded) => {
                let copies = self.take(encoded, corpus);
                match (copies, self.splits.get_mut(&encoded.split)) {
                    (1.., Some(split)) => split.add(encoded, copies),
                    _ => Ok(()),
                }
            }
            Verdict::Drop { reason, text } => {
                self.ledger.leave_out(reason);
                self.reject((judged.id, corpus), reason, text)
            }
        }
    }

    fn reject(
        &mut self,
        (id, corpus): (DocumentId, &Corpus),
        reason: &str,
        text: &Text,
    ) -> Result<(), Error> {
        if !self.to.job.recipe.rejects {
            return Ok(());
        }
        let mut rejects = match self.rejects.take() {
            Some(rejects) => rejects,
            None => Rejects::create(self.to.job.folder, self.unit)?,
        };
        rejects.push(corpus, id, reason, text)?;
        self.rejects = Some(rejects);
        Ok(())
    }

    /// How often a document that fits is taken, by its source's weight; counted.
    fn take(&mut self, encoded: &Encoded, corpus: &Corpus) -> u64 {
        let source = corpus.source(encoded.record.id.file);
        let copies = self.mixture.take(source);
        self.ledger.take(copies);
        if self.mixture.is_weighted() {
            let share = self.ledger.sources.entry(source).or_default();
            share.documents += copies;
            share.ids += copies * encoded.sequence.len() as u64;
        }
        copies
    }

    fn finish(self) -> Result<Made, Error> {
        let mut splits = BTreeMap::new();
        for (name, split) in self.splits {
            splits.insert(name, split.finish()?);
        }
        let record = UnitRecord {
            plan: self.to.plan,
            unit: self.unit,
            documents: self.documents,
            splits,
            ledger: self.ledger,
            contamination: self.contamination,
            rejects: self.rejects.map(Rejects::finish).transpose()?,
        };
        record.publish(self.to.job.folder)?;
        Ok((self.to.dataset, record))
    }
}

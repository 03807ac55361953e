//! Units of work: blocks are read in order, parsed and encoded on any thread, and
//! packed, given pauses and written in order.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use super::flow::{Budget, Failure, Flow, Sink, Step, lock};
use super::judge::{Judge, Judged, Verdict};
use super::ledger::{Contamination, UnitRecord};
use super::rejects::Rejects;
use super::rows::{Destination, Flush, Rows};
use super::{Error, Job};
use crate::corpus::{Block, Blocks, Corpus};
use crate::curate::Curator;
use crate::digest::Digest;
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
    /// The dataset.
    pub job: &'a Job<'a>,
    /// All files.
    pub corpus: &'a Corpus,
    /// Where pauses go.
    pub insertion: &'a Insertion,
    /// Which documents are kept.
    pub curator: &'a Curator,
    /// Digest of the recipe and inputs.
    pub plan: Digest,
    /// Which unit this is.
    pub index: usize,
    /// Its files.
    pub files: Range<usize>,
}

/// Makes and publishes the shards and the record of every unit.
///
/// # Errors
/// With the first in the order of documents, however many threads met one; the
/// units before it are finished.
pub fn prepare(
    units: Vec<Work>,
    progress: &dyn Progress,
    stop: &Stop,
) -> Result<Vec<UnitRecord>, Error> {
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

type Unit<'a> = Flow<Blocks, Build<'a>, Vec<Judged>, Error, UnitRecord>;

/// The units that are being made, each on its lane, and those that wait.
struct Lanes<'a> {
    waiting: Mutex<std::vec::IntoIter<Work<'a>>>,
    lanes: Vec<Mutex<Option<(Work<'a>, Arc<Unit<'a>>)>>>,
    done: Mutex<Vec<UnitRecord>>,
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
                    let unit = Flow::new(blocks, Build::new(work.clone()));
                    (work, Arc::new(unit))
                });
            lane.clone()
        })
    }

    fn judge(&self, work: &Work, block: Block) -> Result<Vec<Judged>, Error> {
        let judge = Judge {
            curator: work.curator,
            tokenizer: work.job.tokenizer,
            validation: work.job.recipe.validation,
            corpus: work.corpus,
            insertion: work.insertion,
        };
        let read = block.read();
        let judged = block.map(|document| judge.judge(document?)).collect();
        self.progress.advance(read);
        judged
    }

    fn note(&self, unit: usize, outcome: Result<UnitRecord, Failure<Error>>) {
        match outcome {
            Ok(record) => lock(&self.done).push(record),
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

    fn finish(self) -> Result<Vec<UnitRecord>, Error> {
        let failed = self.failed.into_inner().unwrap_or_default();
        match failed {
            Some((_, failure)) => Err(failure.into_error()),
            None => Ok(self.done.into_inner().unwrap_or_default()),
        }
    }
}

/// A unit while it is made.
struct Build<'a> {
    work: Work<'a>,
    splits: BTreeMap<Split, Rows<'a>>,
    documents: BTreeMap<u32, u64>,
    ledger: Ledger,
    contamination: Contamination,
    /// Open once a document was dropped, where the recipe keeps them.
    rejects: Option<Rejects>,
}

impl<'a> Build<'a> {
    fn new(work: Work<'a>) -> Self {
        let splits = [Split::Train, Split::Validation]
            .map(|split| (split, Rows::new(Destination::new(&work, split))));
        Self {
            work,
            splits: splits.into(),
            documents: BTreeMap::new(),
            ledger: Ledger::default(),
            contamination: Contamination::default(),
            rejects: None,
        }
    }

    fn add_document(&mut self, judged: Judged) -> Result<(), Error> {
        *self.documents.entry(judged.id.file).or_default() += 1;
        self.contamination.observe(judged.id, &judged.hits);
        match judged.verdict {
            Verdict::Keep(encoded) => {
                self.ledger.keep();
                if let Some(split) = self.splits.get_mut(&encoded.split) {
                    split.add(encoded);
                }
            }
            Verdict::Drop { reason, text } => {
                self.ledger.leave_out(&reason);
                if self.work.job.recipe.rejects {
                    let mut rejects = match self.rejects.take() {
                        Some(rejects) => rejects,
                        None => Rejects::create(self.work.job.folder, self.work.index)?,
                    };
                    rejects.push(self.work.corpus, judged.id, &reason, &text)?;
                    self.rejects = Some(rejects);
                }
            }
        }
        Ok(())
    }
}

impl Sink<Vec<Judged>, Error> for Build<'_> {
    type Made = UnitRecord;

    fn add(&mut self, block: Vec<Judged>) -> Result<(), Error> {
        block
            .into_iter()
            .try_for_each(|document| self.add_document(document))?;
        self.splits
            .values_mut()
            .try_for_each(|split| split.write(Flush::FullRows))
    }

    fn finish(self) -> Result<UnitRecord, Error> {
        let mut splits = BTreeMap::new();
        for (name, split) in self.splits {
            splits.insert(name, split.finish()?);
        }
        let record = UnitRecord {
            plan: self.work.plan,
            unit: self.work.index,
            documents: self.documents,
            splits,
            ledger: self.ledger,
            contamination: self.contamination,
            rejects: self.rejects.map(Rejects::finish).transpose()?,
        };
        record.publish(self.work.job.folder)?;
        Ok(record)
    }
}

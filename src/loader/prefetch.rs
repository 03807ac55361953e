//! Batches made ahead of the step that needs them.

use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use super::{Error, GlobalBatch, Loader, Pick};
use crate::fs;
use crate::panics::message;
use crate::shard::Ahead;

/// Global batches in order, made by a thread of their own.
///
/// The first failure is the last item, also where the thread panicked. Dropping
/// it stops the thread after at most the batch that it works on.
#[derive(Debug)]
pub struct Prefetch {
    state: State,
    indices: Range<u64>,
    waited: Duration,
}

#[derive(Debug)]
enum State {
    Running(Receiver<Result<GlobalBatch, Error>>, JoinHandle<()>),
    Failed(Error),
    Over,
}

impl Prefetch {
    pub(super) fn start(loader: Arc<Loader>, indices: Range<u64>, depth: usize) -> Self {
        let (sender, receiver) = sync_channel(depth);
        let work = indices.clone();
        let thread = Builder::new()
            .name("prefetch".into())
            .spawn(move || make(&loader, work, &sender));
        let state = match thread {
            Ok(thread) => State::Running(receiver, thread),
            Err(error) => State::Failed(Error::Spawn(error)),
        };
        Self {
            state,
            indices,
            waited: Duration::ZERO,
        }
    }

    /// How long [`Iterator::next`] has waited for batches so far: the time in
    /// which the data held up the training.
    pub fn waited(&self) -> Duration {
        self.waited
    }
}

impl Iterator for Prefetch {
    type Item = Result<GlobalBatch, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let batch = self.indices.next();
        match std::mem::replace(&mut self.state, State::Over) {
            State::Over => None,
            State::Failed(error) => Some(Err(error)),
            State::Running(receiver, thread) => {
                let Some(batch) = batch else {
                    return stop(receiver, thread, self.indices.end).map(Err);
                };
                let start = Instant::now();
                let received = receiver.recv();
                self.waited += start.elapsed();
                match received {
                    Ok(Ok(made)) => {
                        self.state = State::Running(receiver, thread);
                        Some(Ok(made))
                    }
                    Ok(Err(error)) => {
                        drop(stop(receiver, thread, batch));
                        Some(Err(error))
                    }
                    Err(_) => stop(receiver, thread, batch).map(Err),
                }
            }
        }
    }
}

impl Drop for Prefetch {
    fn drop(&mut self) {
        if let State::Running(receiver, thread) = std::mem::replace(&mut self.state, State::Over) {
            // Nobody waits for what the thread had to say.
            drop(stop(receiver, thread, self.indices.start));
        }
    }
}

/// Global batches in order, made where they are asked for; see [`Loader::batches`].
#[derive(Debug)]
pub struct Batches<'a> {
    loader: &'a Loader,
    indices: Range<u64>,
    /// The rows of the next, once they were asked for.
    next: Option<Vec<Pick>>,
    /// How often this thread had read from a disk when that was last asked.
    reads: u64,
    /// What is asked for ahead.
    ahead: Ahead,
}

/// Whether rows come from a disk is asked once in so many, as the question takes the system
/// as long as some of them take us.
const ROWS_PER_QUESTION: usize = 256;

impl<'a> Batches<'a> {
    pub(super) fn new(loader: &'a Loader, indices: Range<u64>) -> Self {
        Self {
            loader,
            indices,
            next: None,
            reads: fs::disk_reads(),
            ahead: Ahead::Stretches,
        }
    }
}

impl Iterator for Batches<'_> {
    type Item = Result<GlobalBatch, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let k = self.indices.next()?;
        let asked_for = self.next.take();
        // The batch before has fetched the first rows of this one, too.
        let is_fetched = asked_for.is_some();
        let rows = asked_for.unwrap_or_else(|| self.loader.rows_of(k));
        let batches_per_question = ROWS_PER_QUESTION.div_ceil(self.loader.rows_per_batch());
        if k.is_multiple_of(batches_per_question as u64) {
            let reads = fs::disk_reads();
            // Rows that came from a disk just now say that the next ones will, too.
            self.ahead = match reads == self.reads {
                true => Ahead::Stretches,
                false => Ahead::Rows,
            };
            self.reads = reads;
        }
        if !self.indices.is_empty() {
            let next = self.loader.rows_of(self.indices.start);
            self.loader.will_need(&next, self.ahead);
            self.next = Some(next);
        }
        let next = self.next.as_deref().unwrap_or_default();
        Some(self.loader.batch_of(k, &rows, next, is_fetched))
    }
}

fn make(loader: &Loader, indices: Range<u64>, sender: &SyncSender<Result<GlobalBatch, Error>>) {
    for made in loader.batches(indices) {
        let failed = made.is_err();
        if sender.send(made).is_err() || failed {
            return;
        }
    }
}

/// Ends the thread, whose next send fails once there is no receiver.
fn stop<T>(receiver: Receiver<T>, thread: JoinHandle<()>, batch: u64) -> Option<Error> {
    drop(receiver);
    let panic = thread.join().err()?;
    let message = message(panic.as_ref()).into();
    Some(Error::Thread { batch, message })
}

//! Many threads, one order: items are read one after the other, worked on by any
//! thread, and handed on in the order in which they were read.
//!
//! Every thread does the same: it takes the next item, works on it, and puts it
//! in its place; whoever puts the item that all wait for hands on what is ready.
//! No thread waits for another as long as there is anything to read and room to
//! keep it. What is kept is bounded by its bytes.

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::progress::Stop;

/// Where finished work goes, in order.
pub trait Sink<U, E> {
    /// What is left at the end.
    type Made;
    /// Takes the next one.
    fn add(&mut self, item: U) -> Result<(), E>;
    /// No more follow.
    fn finish(self) -> Result<Self::Made, E>;
}

/// Why a flow ended before its end.
pub enum Failure<E> {
    /// What a step returned.
    Error(E),
    /// What a step panicked with.
    Panic(Box<dyn Any + Send>),
}

impl<E> Failure<E> {
    /// The error; a panic goes on here as it is, with its own message.
    pub fn into_error(self) -> E {
        match self {
            Self::Error(error) => error,
            Self::Panic(panic) => resume_unwind(panic),
        }
    }
}

/// One sequence of items on its way from `I` to `K`.
pub struct Flow<I, K, U, E, M> {
    source: Mutex<Source<I>>,
    order: Mutex<Order<K, U, E, M>>,
    /// Nothing more is taken.
    ended: AtomicBool,
}

struct Source<I> {
    items: I,
    next: u64,
}

struct Order<K, U, E, M> {
    /// The item that is handed on next.
    turn: u64,
    /// Finished work that came before its turn, and its bytes in the budget.
    waiting: BTreeMap<u64, (Result<U, Failure<E>>, usize)>,
    /// How many items there are, once that is known.
    total: Option<u64>,
    /// Where work goes; a thread that hands on has it.
    sink: Option<K>,
    outcome: Option<Result<M, Failure<E>>>,
    /// Nothing is handed on any more.
    closed: bool,
}

/// What one step of a flow came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// An item was taken and worked on.
    Worked,
    /// There is nothing left to take.
    Ended,
}

impl<T, U, S, E, I, K> Flow<I, K, U, E, K::Made>
where
    I: Iterator<Item = Result<T, S>>,
    S: Into<E>,
    K: Sink<U, E>,
{
    /// A flow that has not begun.
    pub fn new(items: I, sink: K) -> Self {
        Self {
            source: Mutex::new(Source { items, next: 0 }),
            order: Mutex::new(Order {
                turn: 0,
                waiting: BTreeMap::new(),
                total: None,
                sink: Some(sink),
                outcome: None,
                closed: false,
            }),
            ended: AtomicBool::new(false),
        }
    }

    /// Takes an item, works on it, and hands on what is ready.
    ///
    /// `bytes` tells what an item holds in memory; it is kept below what `budget`
    /// allows. `stopped` is the error of a flow that is asked to stop.
    pub fn step(
        &self,
        work: impl FnOnce(T) -> Result<U, E>,
        (budget, bytes): (&Budget, impl FnOnce(&T) -> usize),
        (stop, stopped): (&Stop, impl FnOnce() -> E),
    ) -> Step {
        let mut source = lock(&self.source);
        if self.has_ended() {
            return Step::Ended;
        }
        let item = match stop.requested() {
            true => Some(Err(Failure::Error(stopped()))),
            false => caught(|| source.items.next().transpose().map_err(Into::into)).transpose(),
        };
        let number = source.next;
        let Some(item) = item else {
            self.abandon();
            drop(source);
            lock(&self.order).total = Some(number);
            self.hand_on(budget);
            return Step::Ended;
        };
        source.next += 1;
        let bytes = item.as_ref().map_or(0, bytes);
        if item.is_err() {
            self.abandon();
        } else {
            budget.take(bytes);
        }
        drop(source);
        let made = item.and_then(|item| caught(|| work(item)));
        if made.is_err() {
            self.abandon();
        }
        let mut order = lock(&self.order);
        match order.closed {
            true => budget.give_back(bytes),
            false => drop(order.waiting.insert(number, (made, bytes))),
        }
        drop(order);
        self.hand_on(budget);
        Step::Worked
    }

    /// Whether there is nothing left to take.
    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
    }

    /// Takes nothing more; what was taken is worked on and handed on.
    pub fn abandon(&self) {
        self.ended.store(true, Ordering::SeqCst);
    }

    /// Gives the sink what is ready, unless another thread is at it, and ends the
    /// flow after the last item or the first failure in order.
    fn hand_on(&self, budget: &Budget) {
        let mut order = lock(&self.order);
        loop {
            let turn = order.turn;
            let (ready, over) = (order.waiting.contains_key(&turn), order.total == Some(turn));
            if !ready && !over {
                return;
            }
            // Another thread has the sink; it looks again before it puts it back.
            let Some(mut sink) = order.sink.take() else {
                return;
            };
            let Some((made, bytes)) = order.waiting.remove(&turn) else {
                drop(order);
                let made = caught(|| sink.finish());
                lock(&self.order).outcome = Some(made);
                return;
            };
            drop(order);
            let handed = made.and_then(|made| caught(|| sink.add(made)));
            budget.give_back(bytes);
            if let Err(failure) = handed {
                self.abandon();
                // What it has open goes before anybody hears of the failure.
                let dropped = caught::<_, E>(|| {
                    drop(sink);
                    Ok(())
                });
                order = lock(&self.order);
                order.closed = true;
                order.outcome = Some(Err(dropped.err().unwrap_or(failure)));
                let left = std::mem::take(&mut order.waiting);
                drop(order);
                left.values()
                    .for_each(|(_, bytes)| budget.give_back(*bytes));
                return;
            }
            order = lock(&self.order);
            order.sink = Some(sink);
            order.turn += 1;
        }
    }

    /// What the flow came to, once it has ended; none before, and none a second time.
    pub fn take_outcome(&self) -> Option<Result<K::Made, Failure<E>>> {
        lock(&self.order).outcome.take()
    }
}

/// Bytes that may be in memory at once, shared by all flows. One item may be
/// larger than the whole: it then has the memory for itself.
#[derive(Debug)]
pub struct Budget {
    bytes: usize,
    taken: Mutex<usize>,
    given_back: Condvar,
}

impl Budget {
    /// Nothing is taken yet.
    pub fn new(bytes: usize) -> Self {
        Self {
            bytes,
            taken: Mutex::new(0),
            given_back: Condvar::new(),
        }
    }

    /// Waits until there is room.
    fn take(&self, bytes: usize) {
        let full = |taken: &mut usize| 0 < *taken && self.bytes < *taken + bytes;
        let mut taken = self
            .given_back
            .wait_while(lock(&self.taken), full)
            .unwrap_or_else(PoisonError::into_inner);
        *taken += bytes;
    }

    fn give_back(&self, bytes: usize) {
        *lock(&self.taken) -= bytes;
        self.given_back.notify_all();
    }
}

/// Panics are caught where they happen, so no lock is left in a wrong state.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn caught<T, E>(work: impl FnOnce() -> Result<T, E>) -> Result<T, Failure<E>> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result.map_err(Failure::Error),
        Err(panic) => Err(Failure::Panic(panic)),
    }
}

//! Where ranks wait for one another, and are let go when one of them is absent.

use std::fmt;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// A rank that will not come to a meeting any more.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("rank {rank} stopped: {reason}")]
pub struct Absent {
    /// Which.
    pub rank: usize,
    /// Why.
    pub reason: String,
}

/// A place to which each rank brings something and from which it takes what became of all.
pub struct Meeting<T, U> {
    ranks: usize,
    state: Mutex<State<T, U>>,
    turned: Condvar,
}

struct State<T, U> {
    /// What ranks brought to the meeting that has not taken place yet.
    brought: Vec<Option<T>>,
    /// What ranks have not yet taken from the last one.
    made: Vec<Option<U>>,
    absent: Option<Absent>,
}

impl<T, U> Meeting<T, U> {
    /// One of so many ranks.
    pub fn new(ranks: usize) -> Self {
        let state = State {
            brought: (0..ranks).map(|_| None).collect(),
            made: (0..ranks).map(|_| None).collect(),
            absent: None,
        };
        Self {
            ranks,
            state: Mutex::new(state),
            turned: Condvar::new(),
        }
    }

    /// How many ranks meet.
    pub fn ranks(&self) -> usize {
        self.ranks
    }

    /// Waits until all ranks are here; the last makes of what they brought, in their order,
    /// what each of them takes.
    pub fn meet(
        &self,
        rank: usize,
        item: T,
        make: impl FnOnce(Vec<T>) -> Vec<U>,
    ) -> Result<U, Absent> {
        let mut state = self.lock();
        if let Some(place) = state.brought.get_mut(rank) {
            *place = Some(item);
        }
        if state.brought.iter().all(Option::is_some) && state.absent.is_none() {
            let items = state.brought.iter_mut().filter_map(Option::take).collect();
            drop(state);
            // Not under the lock: others must be able to hear that this one fails.
            let made = make(items);
            state = self.lock();
            state.made = made.into_iter().map(Some).collect();
            self.turned.notify_all();
        }
        loop {
            if let Some(made) = state.made.get_mut(rank).and_then(Option::take) {
                return Ok(made);
            }
            if let Some(absent) = &state.absent {
                return Err(absent.clone());
            }
            let woken = self.turned.wait(state);
            state = woken.unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Lets go all who wait for a rank, now and later. The first that is absent is told of.
    pub fn lose(&self, absent: &Absent) {
        self.lock().absent.get_or_insert_with(|| absent.clone());
        self.turned.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State<T, U>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T, U> fmt::Debug for Meeting<T, U> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Meeting of {}", self.ranks)
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    /// What each rank took from each of some meetings.
    fn meetings(ranks: usize, count: u64) -> Vec<Vec<Result<u64, Absent>>> {
        let meeting = Meeting::new(ranks);
        let rank = |rank: usize| {
            let takes = (0..count).map(|round| {
                // Digits of the sum tell who brought what to which meeting.
                let item =
                    (rank as u64 + 1) * 10u64.pow(u32::try_from(rank).unwrap()) + 1000 * round;
                let sum = |items: Vec<u64>| vec![items.iter().sum::<u64>(); ranks];
                meeting.meet(rank, item, sum)
            });
            takes.collect()
        };
        thread::scope(|scope| {
            let threads: Vec<_> = (0..ranks)
                .map(|index| scope.spawn(move || rank(index)))
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        })
    }

    #[test]
    fn each_takes_what_was_made_of_all() {
        for ranks in 1..=3 {
            let digits: u64 = [1, 20, 300].iter().take(ranks).sum();
            for takes in meetings(ranks, 200) {
                for (round, take) in (0..).zip(takes) {
                    assert_eq!(take, Ok(digits + 1000 * round * ranks as u64));
                }
            }
        }
    }

    #[test]
    fn who_waits_for_one_that_is_lost_is_let_go() {
        let meeting: Meeting<(), ()> = Meeting::new(3);
        let absent = Absent {
            rank: 2,
            reason: "no memory".into(),
        };
        thread::scope(|scope| {
            let wait = |rank| {
                let meeting = &meeting;
                scope.spawn(move || meeting.meet(rank, (), |items| items))
            };
            let waiting = [wait(0), wait(1)];
            meeting.lose(&absent);
            meeting.lose(&Absent {
                rank: 0,
                reason: "rank 2 stopped".into(),
            });
            for thread in waiting {
                assert_eq!(thread.join().unwrap(), Err(absent.clone()));
            }
        });
        assert_eq!(meeting.meet(2, (), |items| items), Err(absent));
    }
}

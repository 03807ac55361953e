//! The ranks of a run: a device, a thread and a copy of the learner each.
//!
//! The first is the caller's own. All do the same, and by the sums over all of them (see
//! [`collective`]) come to the same weights, which checkpoints compare.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{Builder, JoinHandle};

use rayon::{ThreadPool, ThreadPoolBuilder};

use super::step::Learner;
use crate::model::Device;
use crate::model::collective::{self, Absent, Collective, Seat, on_cpu};
use crate::panics::message;

/// Ranks that cannot go on together.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A thread could not be had.
    #[error("cannot start the threads of rank {rank}")]
    Start {
        /// Of which rank.
        rank: usize,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A rank stopped, and the others with it.
    #[error(transparent)]
    Absent(#[from] Absent),
    /// Ranks that computed the same came to different weights.
    #[error("after step {step} the weights of rank {rank} are not those of rank 0")]
    Apart {
        /// The step.
        step: u64,
        /// The first that differs.
        rank: usize,
    },
}

impl Error {
    /// What the user can do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Start { .. } => "name fewer devices, or allow more threads",
            Self::Absent(_) => {
                "ranks are the devices of `--device`, from 0; what was saved before is whole: run again, or with fewer devices"
            }
            Self::Apart { .. } => {
                "ranks are the devices of `--device`, from 0; a device may be faulty, or of another model than the others: what was saved before is whole, go on without it"
            }
        }
    }
}

/// What a rank is asked to do with its learner.
type Order = Box<dyn FnOnce(&mut Option<Learner>) + Send>;

/// The ranks of a run.
#[derive(Debug)]
pub struct Ranks {
    devices: Vec<Device>,
    collective: Arc<dyn Collective>,
    /// The first rank's threads, where several share the CPU.
    pool: Option<ThreadPool>,
    others: Vec<Rank>,
}

/// One that is not the caller's own.
#[derive(Debug)]
struct Rank {
    orders: Option<Sender<Order>>,
    thread: Option<JoinHandle<()>>,
}

impl Ranks {
    /// One for each device, without a learner.
    pub fn start(devices: &[Device]) -> Result<Self, Error> {
        Self::start_with(devices, collective::of(devices))
    }

    /// The same, with another way to sum.
    pub(super) fn start_with(
        devices: &[Device],
        collective: Arc<dyn Collective>,
    ) -> Result<Self, Error> {
        let ranks = devices.len().max(1);
        let pool = |rank| {
            let on_cpu = devices.get(rank).is_some_and(on_cpu);
            let built = (1 < ranks && on_cpu).then(|| pool(rank, ranks)).transpose();
            built.map_err(|source| Error::Start {
                rank,
                source: source.into(),
            })
        };
        let rank = |rank| Rank::start(rank, pool(rank)?);
        Ok(Self {
            devices: devices.to_vec(),
            collective,
            pool: pool(0)?,
            others: (1..ranks).map(rank).collect::<Result<_, Error>>()?,
        })
    }

    /// How many ranks there are.
    pub fn len(&self) -> usize {
        1 + self.others.len()
    }

    /// Whether there are others than the caller's own.
    pub fn is_empty(&self) -> bool {
        self.others.is_empty()
    }

    /// How many devices compute: ranks of the CPU share one.
    pub fn processors(&self) -> usize {
        let gpus = self.devices.iter().filter(|device| !on_cpu(device));
        gpus.count().max(1)
    }

    /// Gives the first rank its learner, which is returned, and each other one what `make`
    /// makes for its device.
    pub fn seat<E: From<Error> + Send + 'static>(
        &self,
        mut first: Learner,
        make: impl Fn(&Device) -> Result<Learner, E> + Send + Sync + 'static,
    ) -> Result<Learner, E> {
        let make = Arc::new(make);
        let answers = self.others.iter().zip(1..).zip(self.devices.iter().skip(1));
        let answers: Vec<_> = answers
            .map(|((other, rank), device)| {
                let (make, device) = (make.clone(), device.clone());
                let seat = Seat::new(rank, self.collective.clone());
                other.order(rank, &self.collective, move |place| {
                    // Memory of the one before is free before the next takes any.
                    *place = None;
                    let made = make(&device)?;
                    *place = Some(Learner { seat, ..made });
                    Ok::<(), E>(())
                })
            })
            .collect();
        first.seat = Seat::new(0, self.collective.clone());
        for seated in told(answers)? {
            seated?;
        }
        Ok(first)
    }

    /// Lets every rank do something with its learner, and waits for all: what the first made
    /// of it, and then the others.
    pub fn all<R: Send + 'static>(
        &self,
        first: &mut Learner,
        act: impl Fn(&mut Learner) -> R + Send + Sync + 'static,
    ) -> Result<(R, Vec<R>), Error> {
        let act = Arc::new(act);
        let answers: Vec<_> = (1..)
            .zip(&self.others)
            .map(|(rank, other)| {
                let act = act.clone();
                other.order(rank, &self.collective, move |place| {
                    place.as_mut().map(|learner| act(learner))
                })
            })
            .collect();
        let own = match &self.pool {
            Some(pool) => pool.install(|| act(first)),
            None => act(first),
        };
        let others = told(answers)?.into_iter();
        Ok((own, others.flatten().collect()))
    }

    /// Checks that all ranks have come to the same weights.
    pub fn check_alike(&self, first: &mut Learner) -> Result<(), Error> {
        if self.is_empty() {
            return Ok(());
        }
        let (own, others) = self.all(first, |learner| learner.checksum())?;
        let mut ranks = (1..).zip(others);
        match ranks.find(|(_, other)| *other != own) {
            None => Ok(()),
            Some((rank, _)) => Err(Error::Apart {
                step: first.step,
                rank,
            }),
        }
    }
}

impl Drop for Ranks {
    fn drop(&mut self) {
        // Where the caller fails, others may wait for it.
        self.collective.lose(&Absent {
            rank: 0,
            reason: "the run ended".into(),
        });
        for rank in &mut self.others {
            rank.orders = None;
        }
        for rank in &mut self.others {
            // Its panics were caught and told of.
            drop(rank.thread.take().map(JoinHandle::join));
        }
    }
}

impl Rank {
    fn start(rank: usize, pool: Option<ThreadPool>) -> Result<Self, Error> {
        let (orders, received) = channel::<Order>();
        let work = move || {
            let mut learner = None;
            for order in received {
                match &pool {
                    Some(pool) => pool.scope(|_| order(&mut learner)),
                    None => order(&mut learner),
                }
            }
        };
        let thread = Builder::new().name(format!("rank {rank}")).spawn(work);
        let thread = thread.map_err(|source| Error::Start {
            rank,
            source: source.into(),
        })?;
        Ok(Self {
            orders: Some(orders),
            thread: Some(thread),
        })
    }

    /// Begins to do something; the answer comes when it is done, or says why it is not.
    fn order<R: Send + 'static>(
        &self,
        rank: usize,
        collective: &Arc<dyn Collective>,
        act: impl FnOnce(&mut Option<Learner>) -> R + Send + 'static,
    ) -> Receiver<Result<R, Absent>> {
        let (answer, answered) = channel();
        let collective = collective.clone();
        let order = move |learner: &mut Option<Learner>| {
            let done = catch_unwind(AssertUnwindSafe(|| act(learner)));
            let done = done.map_err(|panic| {
                let absent = Absent {
                    rank,
                    reason: message(panic.as_ref()).into(),
                };
                *learner = None;
                collective.lose(&absent);
                absent
            });
            // Nobody listens where the run has ended.
            drop(answer.send(done));
        };
        if let Some(orders) = &self.orders {
            // A thread that is gone leaves an answer that never comes, which is told of.
            drop(orders.send(Box::new(order)));
        }
        answered
    }
}

/// The answers of the ranks from 1 on, or why the first of them that stopped did.
fn told<R>(answers: Vec<Receiver<Result<R, Absent>>>) -> Result<Vec<R>, Error> {
    let gone = |rank| Absent {
        rank,
        reason: "its thread ended".into(),
    };
    let answers = (1..).zip(answers);
    let answers: Vec<_> = answers
        .map(|(rank, answer)| answer.recv().unwrap_or_else(|_| Err(gone(rank))))
        .collect();
    Ok(answers.into_iter().collect::<Result<_, _>>()?)
}

/// The most rows of a micro-batch that give each rank one, where there are rows for all.
pub fn dealt(rows: usize, ranks: usize) -> usize {
    let most = rows.div_ceil(ranks);
    match ranks <= rows.div_ceil(most.max(1)) {
        true => most,
        false => (rows / ranks).max(1),
    }
}

/// A rank's share of the threads that there are.
fn pool(rank: usize, ranks: usize) -> Result<ThreadPool, rayon::ThreadPoolBuildError> {
    let threads = (rayon::current_num_threads() + ranks - 1 - rank) / ranks;
    ThreadPoolBuilder::new()
        .num_threads(threads.max(1))
        .thread_name(move |thread| format!("rank {rank}, {thread}"))
        .build()
}

//! Training: global batches from the loader, one optimizer step each.
//!
//! A run resumes by itself from its newest checkpoint, and continues as if it
//! had never stopped: the same losses and the same weights, bit for bit.

mod anomaly;
mod average;
mod begin;
pub mod checkpoint;
mod data;
mod error;
pub mod freeze;
pub mod kernels;
pub mod optimizer;
#[cfg(feature = "cuda")]
mod products;
pub mod ranks;
mod rate;
pub mod record;
pub mod schedule;
mod start;
pub mod step;
mod tensorboard;
pub mod validation;
pub mod watch;
mod writer;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

pub use begin::forget;
pub use error::Error;

use crate::dataset::Dataset;
use crate::fingerprint::Fingerprint;
use crate::loader::{GlobalBatch, Loader};
use crate::manifest::Stage;
use crate::model::Device;
use crate::model::collective::Absent;
use crate::model::config::{Config, NewRows};
use crate::model::ops::Kernels;
use crate::pause::Habit;
use crate::progress::{Progress, Silent, Stop, Unit};
use crate::recipe::{SpikePolicy, Train};
use crate::train::checkpoint::{State, Store};
use crate::train::kernels::Wish;
use crate::train::ranks::Ranks;
use crate::train::rate::Rate;
use crate::train::record::{Line, Log};
use crate::train::step::{Begun, Counted, Learner, Report, Trouble};
use crate::train::tensorboard::Events;
use crate::train::writer::{Snapshot, Writer};

/// Global batches that are made ready while a step computes.
const PREFETCHED: usize = 4;

/// What to train, on what, and where.
#[derive(Clone)]
pub struct Job {
    /// The training folder; a run that was started in it is continued.
    pub folder: PathBuf,
    /// The rows, and their tokenizer.
    pub dataset: Arc<Dataset>,
    /// The datasets of `train.mixture`, `dataset` among them; none where it is alone.
    pub mixture: Vec<Arc<Dataset>>,
    /// The model's shape.
    pub config: Config,
    /// The weights to start from.
    pub start: Start,
    /// Where rows begin that a checkpoint lacks.
    pub new_rows: NewRows,
    /// How.
    pub train: Train,
    /// Decides the order of rows, and the weights of a fresh start.
    pub seed: u64,
    /// Where to compute: the device of a rank, of the first where there are several.
    pub device: Device,
    /// Where further ranks compute, with which the first shares each global batch.
    pub others: Vec<Device>,
    /// With which form of the operations.
    pub kernels: Wish,
}

impl Job {
    /// The device of each rank.
    pub fn devices(&self) -> Vec<Device> {
        let first = std::iter::once(&self.device);
        first.chain(&self.others).cloned().collect()
    }
}

/// The weights to start from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// Random weights.
    Fresh,
    /// Those of a checkpoint, or of a training folder's newest.
    From(PathBuf),
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All steps are done.
    Finished,
    /// Somebody asked to stop; the run is saved and can be continued.
    Stopped {
        /// Steps done.
        step: u64,
    },
}

/// Trains, or goes on training, until all steps are done or `stop` is requested.
///
/// One process at a time: another that trains in the folder is an error.
pub fn run(job: &Job, progress: &dyn Progress, stop: &Stop) -> Result<Outcome, Error> {
    begin::check_room(job)?;
    let _lock = begin::lock(&job.folder)?;
    let store = Store::open(&job.folder)?;
    let fingerprint = begin::fingerprint(job)?;
    let latest = store.latest()?;
    let loader = Arc::new(data::loader(job)?);
    data::check_held_out(job)?;
    let kernels = begin::kernels(job, progress)?;
    let ranks = Ranks::start(&job.devices())?;
    let way = (latest.clone(), fingerprint.clone(), loader.clone());
    let learner = begin::learner(&ranks, (job, kernels), way, progress)?;
    let log = Log::open(&job.folder, learner.step)?;
    let saved = latest.map(|checkpoint| checkpoint.folder);
    let writer = Writer::new(store.clone(), log.clone(), saved);
    if let Some(note) = loader.bucket_note(learner.next..learner.next + left(job, &learner)) {
        progress.note(&note);
    }
    let events = job.train.tensorboard;
    let mut run = Run {
        events: events.then(|| Events::open(&job.folder)).transpose()?,
        rate: Rate::new(job.train.peak_gflops, &learner.model, ranks.processors()),
        train: Arc::new(job.train.clone()),
        ranks,
        job,
        progress,
        store,
        fingerprint,
        loader,
        kernels,
        learner,
        log,
        writer,
        begun: None,
        clock: Clock::start(),
    };
    let outcome = loop {
        progress.start(stage(job), Some(job.train.steps), Unit::Steps);
        progress.advance(run.learner.step);
        // A run that rolled back takes other batches from there on.
        if let Some(outcome) = run.pass(stop)? {
            break outcome;
        }
    };
    run.writer.wait()?;
    progress.finish();
    Ok(outcome)
}

/// A run in progress.
struct Run<'a> {
    job: &'a Job,
    train: Arc<Train>,
    ranks: Ranks,
    progress: &'a dyn Progress,
    store: Store,
    fingerprint: Fingerprint,
    loader: Arc<Loader>,
    kernels: Kernels,
    learner: Learner,
    log: Log,
    events: Option<Events>,
    rate: Rate,
    writer: Writer,
    /// The last step and its batch, where a device may still be computing it.
    begun: Option<(Begun, Arc<GlobalBatch>)>,
    clock: Clock,
}

impl Run<'_> {
    /// Takes one batch after the other; `None` where others than the next must come.
    fn pass(&mut self, stop: &Stop) -> Result<Option<Outcome>, Error> {
        let next = self.learner.next;
        let end = match self.is_over() {
            true => next,
            false => next + left(self.job, &self.learner),
        };
        self.clock = Clock::start();
        for batch in self.loader.clone().prefetch(next, end, PREFETCHED) {
            let batch = match batch {
                Ok(batch) => Arc::new(batch),
                Err(error) => {
                    self.settle()?;
                    return Err(error.into());
                }
            };
            self.clock.waited();
            match self.step(&batch)? {
                Ok(begun) => self.begun(begun, batch)?,
                Err(trouble) => {
                    let at = (self.learner.step + 1, self.learner.next);
                    if let Went::Back = self.meet(trouble, at)? {
                        return Ok(None);
                    }
                }
            }
            self.progress.advance(1);
            if let Some(outcome) = self.after_step(stop)? {
                return Ok(Some(outcome));
            }
            if self.begun.is_none() {
                self.clock = Clock::start();
            }
        }
        Ok(Some(Outcome::Finished))
    }

    /// Lets all ranks begin a step, and says what the first did.
    fn step(&mut self, batch: &Arc<GlobalBatch>) -> Result<Result<Begun, Trouble>, Error> {
        let (batch, train) = (batch.clone(), self.train.clone());
        let step = move |learner: &mut Learner| learner.begin(&batch, &train);
        let (first, others) = self.ranks.all(&mut self.learner, step)?;
        let mut others = (1..).zip(others);
        match others.find_map(|(rank, other)| Some((rank, other.err()?))) {
            // What all find, all find alike.
            Some((rank, trouble)) if first.is_ok() => {
                let reason = trouble.to_string();
                Err(ranks::Error::Absent(Absent { rank, reason }).into())
            }
            _ => Ok(first),
        }
    }

    /// Writes down what is known: of a step that was just begun on a device, nothing, but
    /// all of the one before it, which the device has computed while this one was queued.
    fn begun(&mut self, begun: Begun, batch: Arc<GlobalBatch>) -> Result<(), Error> {
        let known = begun.is_known();
        if let Some((before, batch)) = self.begun.replace((begun, batch)) {
            self.tell(before, &batch)?;
        }
        if known { self.settle() } else { Ok(()) }
    }

    /// Waits for the last step, and writes it down.
    fn settle(&mut self) -> Result<(), Error> {
        match self.begun.take() {
            Some((begun, batch)) => self.tell(begun, &batch),
            None => Ok(()),
        }
    }

    /// Writes down a step that was taken.
    fn tell(&mut self, begun: Begun, batch: &GlobalBatch) -> Result<(), Error> {
        let after = begun.after;
        let report = match begun.finish() {
            Ok(report) => report,
            // Numbers come late only where such a step ends the run.
            Err(trouble) => {
                let at = (after.step, after.next.saturating_sub(1));
                return self.meet(trouble, at).map(|_| ());
            }
        };
        let laps = self.clock.take();
        let seconds = laps.iter().sum::<f64>() / 1e3;
        let model = &self.learner.model;
        let used = self.rate.utilization(model, batch, report.flops, seconds);
        let mut line = line(&self.loader, &after, batch, report, laps);
        line.used = used;
        let remark = self.rate.remark(report.loss, line.tokens_per_s, used);
        self.progress.remark(&remark);
        self.write(&Line::Train(line))
    }

    /// Appends a line to the metrics, and to what shows them.
    fn write(&mut self, line: &Line) -> Result<(), Error> {
        self.log.append(line)?;
        match &mut self.events {
            Some(events) => events.append(line),
            None => Ok(()),
        }
    }

    /// Validates and saves where it is time; says how the run ends, if it does.
    fn after_step(&mut self, stop: &Stop) -> Result<Option<Outcome>, Error> {
        self.writer.look()?;
        let Train {
            steps,
            checkpoint_every,
            validate_every,
            ..
        } = self.job.train;
        let (step, last) = (self.learner.step, self.learner.step == steps);
        let validates = due(step, validate_every) || (last && 0 < validate_every);
        let best = validates && self.validate()?;
        let (over, stopping) = (last || self.is_over(), stop.requested());
        if due(step, checkpoint_every) || best || over || stopping {
            self.settle()?;
            self.save()?;
        }
        if self.is_over() && !last {
            self.progress.note(&self.stopped_early());
        }
        Ok(match (over, stopping) {
            (true, _) => Some(Outcome::Finished),
            (false, true) => Some(Outcome::Stopped { step }),
            (false, false) => None,
        })
    }

    fn is_over(&self) -> bool {
        let early = self.job.train.early_stopping.as_ref();
        self.learner.watch.is_over(early)
    }

    fn stopped_early(&self) -> String {
        let mut text = format!("stopped early after step {}", self.learner.step);
        if let Some(best) = self.learner.watch.best {
            text += &format!(
                ": {} validation losses were not better than {:.4} after step {}; `{}` names \
                 that checkpoint",
                best.since,
                best.loss,
                best.step,
                self.job.folder.join(checkpoint::BEST_FILE).display()
            );
        }
        text
    }

    /// Does what the recipe says about a step on a batch that must not be taken; what no
    /// recipe knows ends the run.
    fn meet(&mut self, trouble: Trouble, at: (u64, u64)) -> Result<Went, Error> {
        let anomaly = match trouble {
            Trouble::Anomaly(anomaly) => anomaly,
            Trouble::Lost(lost) => return Err(lost.into()),
            Trouble::Absent(absent) => return Err(ranks::Error::from(absent).into()),
        };
        let saved = self.writer.wait()?;
        let before = self.learner.watch.anomalies;
        let spike = self.job.train.spike.as_ref();
        let policy = match spike.filter(|spike| before < spike.most) {
            Some(spike) => spike.policy,
            None => SpikePolicy::Stop,
        };
        let mut record = anomaly::record(&self.loader, at, &anomaly, policy);
        let file = anomaly::write(self.job, &record)?;
        let step = record.step;
        let told = |done: &str| format!("step {step}: {anomaly}; {done} ({})", file.display());
        match policy {
            SpikePolicy::Stop => {
                self.write(&Line::Anomaly(record))?;
                Err(Error::Anomaly {
                    step,
                    batch: at.1,
                    stage: stage(self.job),
                    before,
                    file,
                    checkpoint: saved,
                    source: Box::new(anomaly),
                })
            }
            SpikePolicy::Skip => {
                self.ranks.all(&mut self.learner, Learner::skip)?;
                self.learner.watch.anomalies = before + 1;
                self.progress.note(&told("its batch is skipped"));
                self.write(&Line::Anomaly(record))?;
                Ok(Went::On)
            }
            SpikePolicy::RollBack => {
                let next = self.learner.next + 1;
                self.learner = self.way_back()?;
                self.learner.next = next;
                self.learner.watch.anomalies = before + 1;
                let back = self.learner.step;
                let done = format!("the run goes back to step {back}, and on with other batches");
                self.progress.note(&told(&done));
                self.log.back_to(back)?;
                if self.events.is_some() {
                    self.events = Some(Events::open(&self.job.folder)?);
                }
                record.back_to = Some(back);
                self.write(&Line::Anomaly(record))?;
                Ok(Went::Back)
            }
        }
    }

    /// The learner of the newest checkpoint that the recipe asked for, or of the start; what
    /// was saved since because somebody stopped the run is no longer the newest.
    fn way_back(&mut self) -> Result<Learner, Error> {
        let checkpoint = match asked_for(&self.train, &self.learner) {
            0 => None,
            step => match self.store.of(step)? {
                // It may have asked for others when the run began.
                None => self.store.latest()?,
                asked_for => asked_for,
            },
        };
        let state = checkpoint.as_ref().map(|checkpoint| &checkpoint.state);
        self.store.back_to(state.map(|state| state.step))?;
        let folder = checkpoint.as_ref().map(|checkpoint| &checkpoint.folder);
        self.writer.back_to(folder.cloned());
        let way = (checkpoint, self.fingerprint.clone(), self.loader.clone());
        begin::learner(&self.ranks, (self.job, self.kernels), way, &Silent)
    }

    /// Begins to write a checkpoint of the learner.
    fn save(&mut self) -> Result<(), Error> {
        self.ranks.check_alike(&mut self.learner)?;
        let (job, learner) = (self.job, &self.learner);
        let manifest = &job.dataset.manifest;
        let (reserved, habit) = (manifest.tokenizer.reserved, manifest.pause.habit());
        let told = habit != Habit::default() || !reserved.extra.is_none();
        let state = State {
            format: checkpoint::FORMAT,
            step: learner.step,
            totals: learner.totals,
            reserved,
            begin: manifest.tokenizer.begin,
            pauses: told.then_some(habit),
            loader: Some(self.loader.state(learner.next)),
            watch: learner.watch.clone(),
            fingerprint: self.fingerprint.clone(),
        };
        #[cfg(feature = "cuda")]
        products::keep(&job.folder, &learner.model)?;
        let spike = self.train.spike.as_ref();
        let rolls_back = spike.is_some_and(|spike| spike.policy == SpikePolicy::RollBack);
        let needed = rolls_back.then(|| asked_for(&self.train, learner));
        self.writer
            .begin(Snapshot::new(job, learner, state, needed)?)
    }

    /// Measures the loss on rows held out, where there are any; whether it is the best so
    /// far of a run that looks for it.
    fn validate(&mut self) -> Result<bool, Error> {
        self.settle()?;
        let job = self.job;
        let sample = validation::Sample {
            rows: job.train.validation_rows,
            rows_per_batch: data::loading(job).rows_per_micro_batch,
        };
        let dataset = job.dataset.clone();
        let part = move |learner: &mut Learner| {
            let share = (learner.seat.rank(), learner.seat.ranks());
            validation::part(&learner.result(), &*dataset, sample, share)
        };
        let (first, others) = self.ranks.all(&mut self.learner, part)?;
        let parts = std::iter::once(first).chain(others);
        let parts = parts.collect::<Result<Vec<_>, _>>()?;
        let Some(loss) = validation::mean(&parts, sample.rows(&*job.dataset)) else {
            return Ok(false);
        };
        let learner = &mut self.learner;
        let step = learner.step;
        self.progress
            .note(&format!("step {step}: validation loss {:.4}", loss.mean));
        let early = job.train.early_stopping.as_ref();
        let best = early.is_some_and(|early| learner.watch.validated(early, step, loss.mean));
        self.write(&Line::Validation(record::Validation {
            step,
            loss: loss.mean,
            rows: loss.rows,
            scored: loss.scored,
        }))?;
        Ok(best)
    }
}

/// Which way a run went after a step that could not be taken.
enum Went {
    /// To the next batch.
    On,
    /// Back to a checkpoint.
    Back,
}

/// The step of the newest checkpoint that the recipe asked for, or 0: a run that goes back
/// goes back there, and so as far as one that nobody ever stopped.
fn asked_for(train: &Train, learner: &Learner) -> u64 {
    let every = train.checkpoint_every;
    let due = learner.step - learner.step.checked_rem(every).unwrap_or(learner.step);
    due.max(learner.watch.best.map_or(0, |best| best.step))
}

/// Steps that are left.
fn left(job: &Job, learner: &Learner) -> u64 {
    job.train.steps.saturating_sub(learner.step)
}

fn stage(job: &Job) -> &'static str {
    match job.dataset.manifest.stage {
        Stage::Pretrain => "pretrain",
        Stage::Finetune => "finetune",
    }
}

/// The metrics of a step.
fn line(
    loader: &Loader,
    after: &Counted,
    batch: &GlobalBatch,
    report: Report,
    [data_wait_ms, step_ms]: [f64; 2],
) -> record::Step {
    let rows_seen = after.step as f64 * loader.rows_per_batch() as f64;
    let several = || loader.epochs_before(after.next);
    let tokens = batch.counts.real + batch.counts.pauses;
    record::Step {
        step: after.step,
        epochs: rows_seen / loader.rows_per_epoch() as f64,
        epochs_of: if loader.is_mixed() {
            several()
        } else {
            Vec::new()
        },
        loss: report.loss,
        z_loss: report.z_loss,
        lr: report.lr,
        grad_norm: report.grad_norm,
        tokens,
        real: batch.counts.real,
        pauses: batch.counts.pauses,
        padding: batch.counts.padding,
        scored: batch.counts.scored,
        flops: report.flops,
        totals: after.totals,
        tokens_per_s: tokens as f64 / (data_wait_ms + step_ms).max(1e-3) * 1e3,
        data_wait_ms,
        step_ms,
        used: None,
    }
}

/// Whether something that happens `every` so many steps happens after this one.
fn due(step: u64, every: u64) -> bool {
    0 < every && step.is_multiple_of(every)
}

/// Measures what steps take, and how much of that is waiting for data.
struct Clock {
    lap: Instant,
    waited_ms: f64,
}

impl Clock {
    fn start() -> Self {
        Self {
            lap: Instant::now(),
            waited_ms: 0.0,
        }
    }

    /// All since the last lap was waiting for data.
    fn waited(&mut self) {
        self.waited_ms += self.lap_ms();
    }

    /// Milliseconds of waiting for data, and of everything else.
    fn take(&mut self) -> [f64; 2] {
        [std::mem::take(&mut self.waited_ms), self.lap_ms()]
    }

    fn lap_ms(&mut self) -> f64 {
        let now = Instant::now();
        let lap = now.duration_since(self.lap);
        self.lap = now;
        (lap.as_secs_f64() * 1e6).round() / 1e3
    }
}

#[cfg(test)]
mod tests;

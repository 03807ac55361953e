//! How fast a model is trained, and whether it is trained as another program does it.

mod ceiling;
pub mod exchange;
#[cfg(feature = "cuda")]
pub mod gpu;
pub mod parity;
pub mod setup;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use self::exchange::Folder;
use self::setup::Setup;
use super::clock::{self, Took};
use crate::loader::{self, GlobalBatch};
use crate::model::collective::Seat;
use crate::model::flops::{Flops, PerToken};
#[cfg(feature = "cuda")]
use crate::model::ops::cuda::examine;
use crate::model::precision::Precision;
use crate::model::{self, Device, Kernels, config};
use crate::recipe::Recipe;
use crate::rng::Key;
use crate::train::kernels::{self, Choice, Refused, Wish};
use crate::train::ranks::Ranks;
use crate::train::step::{self, Begun, Learner, Trouble};
use crate::train::{freeze, ranks};
use crate::{dataset, fs, npy, pause, tokenize};

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// The recipe, whose pretraining is measured.
    pub recipe: Recipe,
    /// The dataset that rows come from; a random walk makes them where absent.
    pub dataset: Option<PathBuf>,
    /// A folder that weights come from, and batches where it has any.
    pub load: Option<PathBuf>,
    /// A folder that weights, batches, first gradients and losses go to.
    pub dump: Option<PathBuf>,
    /// Steps before the time is taken.
    pub warm: u64,
    /// Whether to measure what the machine's matrix product could do.
    pub ceiling: bool,
    /// Where to train: the device of each rank.
    pub devices: Vec<Device>,
    /// Which form of the operations runs, as [`model::kernels`] names them.
    pub kernels: String,
    /// Train adapters of this rank instead: what the weights are changes no time.
    pub lora: Option<usize>,
}

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Threads that compute.
    pub threads: usize,
    /// Devices, or parts of the CPU, that share each global batch.
    pub ranks: usize,
    /// Parameters of the model.
    pub parameters: usize,
    /// Positions a step, padding included.
    pub tokens_per_step: u64,
    /// Of which are text.
    pub real_per_step: f64,
    /// Of which are scored.
    pub scored_per_step: f64,
    /// Steps whose time was taken.
    pub steps: u64,
    /// The first step, which allocates.
    pub first_step_ms: f64,
    /// The middle one of the others.
    pub step_ms_median: f64,
    /// The shortest.
    pub step_ms_min: f64,
    /// The longest.
    pub step_ms_max: f64,
    /// Positions a second, by the median.
    pub tokens_per_s: f64,
    /// Seconds of all threads together that a step took, on average; absent where the
    /// system does not tell.
    pub cpu_s_per_step: Option<f64>,
    /// Positions a second of one busy processor.
    pub tokens_per_cpu_s: Option<f64>,
    /// Operations of a position, by the conventions in use.
    pub flops_per_token: PerToken,
    /// Operations that were done in a step, on average, by stage of the model.
    pub flops_per_step: Flops,
    /// Rates in billions of operations, and their share of the ceiling.
    pub rates: Rates,
    /// The most memory that the process has had.
    pub memory_bytes: Option<u64>,
    /// What it had before the model was made.
    pub memory_before_bytes: Option<u64>,
    /// Whose operations ran, as `Debug` names them.
    pub kernels: String,
    /// How that was decided, where there was something to decide.
    pub kernels_note: Option<String>,
    /// Milliseconds in which the host queues a step, or computes it, on average.
    pub host_ms_per_step: f64,
    /// The GPU, where there is one.
    #[cfg(feature = "cuda")]
    pub gpu: Option<gpu::Gpu>,
    /// The mean loss of the first step.
    pub loss_first: f64,
    /// That of the last.
    pub loss_last: f64,
}

/// Operations a second of one busy processor, in billions.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Rates {
    /// By [`PerToken::six_n`].
    pub six_n: Option<f64>,
    /// By [`PerToken::palm`].
    pub palm: Option<f64>,
    /// By [`PerToken::causal`].
    pub causal: Option<f64>,
    /// Those of a large matrix product on one thread, where it was measured.
    pub ceiling: Option<f64>,
    /// [`Rates::six_n`] over the ceiling.
    pub mfu_six_n: Option<f64>,
    /// [`Rates::palm`] over the ceiling.
    pub mfu_palm: Option<f64>,
    /// [`Rates::causal`] over the ceiling.
    pub mfu_causal: Option<f64>,
}

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The recipe trains nothing.
    #[error("the recipe has no `pretrain.train`, which is what is measured")]
    NoStage,
    /// The recipe's model or tokenizer lies in a checkpoint.
    #[error("the recipe takes its model from a checkpoint: expected a shape and a tokenizer")]
    From,
    /// An exchange holds the gradients of all weights.
    #[error("`--dump` holds all gradients, and a part of the model is trained")]
    Part,
    /// There are fewer batches than steps.
    #[error("the exchange has batches of {found} steps, the recipe says more")]
    Steps {
        /// How many there are.
        found: u64,
    },
    /// There is nothing to time.
    #[error("{steps} steps leave none after {warm} to warm up")]
    Short {
        /// All steps.
        steps: u64,
        /// Those before the time is taken.
        warm: u64,
    },
    /// Training failed.
    #[error("step {step} failed")]
    NonFinite {
        /// The step, from 1.
        step: u64,
        /// What is not finite.
        #[source]
        source: Trouble,
    },
    /// Ranks could not go on together.
    #[error(transparent)]
    Ranks(#[from] ranks::Error),
    /// The recipe cannot be written.
    #[error("cannot write the recipe")]
    Toml(#[source] toml::ser::Error),
    /// The operations cannot be had.
    #[error(transparent)]
    Model(#[from] model::Error),
    /// The precision cannot be had.
    #[error(transparent)]
    Kernels(#[from] Refused),
    /// The model cannot have this shape.
    #[error("the model's shape is wrong")]
    Shape(#[from] config::Error),
    /// The recipe trains what the model does not have.
    #[error(transparent)]
    NoTarget(#[from] freeze::NoTarget),
    /// The pauses of the recipe do not fit.
    #[error(transparent)]
    Pause(#[from] pause::Error),
    /// The tokenizer is wrong.
    #[error(transparent)]
    Tokenize(#[from] tokenize::Error),
    /// The dataset cannot be read.
    #[error(transparent)]
    Dataset(#[from] dataset::Error),
    /// The rows cannot be read.
    #[error(transparent)]
    Loader(#[from] loader::Error),
    /// The exchange cannot be read or written.
    #[error(transparent)]
    Exchange(#[from] exchange::Error),
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] fs::Error),
}

/// Trains for the recipe's steps and measures each; making batches is not measured.
pub fn run(options: &Options) -> Result<Report, Error> {
    let memory_before_bytes = clock::memory_now();
    let mut setup = Setup::new(options.recipe.clone(), options.dataset.as_deref())?;
    setup.adapt(options.lora);
    if options.dump.is_some() && (setup.train.lora.is_some() || setup.train.freeze.is_some()) {
        return Err(Error::Part);
    }
    let (steps, warm) = (setup.train.steps, options.warm);
    if steps <= warm {
        return Err(Error::Short { steps, warm });
    }
    let ranks = Ranks::start(&options.devices)?;
    let exchange = options.load.as_deref().map(Folder::open).transpose()?;
    let batches = setup.batches(exchange.as_ref(), ranks.len())?.into_iter();
    let batches: Vec<_> = batches.map(Arc::new).collect();
    let setup = Arc::new(setup);
    let first = options
        .devices
        .first()
        .cloned()
        .unwrap_or_else(Device::flex);
    let choice = chosen(&setup, &options.devices, &options.kernels)?;
    let (mine, kernels) = (setup.clone(), choice.kernels);
    let make = move |device: &Device| learner(&mine, exchange.as_ref(), device, kernels);
    let mut learner = ranks.seat(make(&first)?, make)?;
    let precision = match learner.model.kernels() {
        Kernels::Fused(precision) => precision,
        _ => Precision::Single,
    };
    let ceiling = options.ceiling.then(|| ceiling::gflops(precision));
    if let (Some(folder), Some(first)) = (&options.dump, batches.first()) {
        dump_before(folder, &setup, &learner, first)?;
    }
    let mut laps = Laps::default();
    #[cfg(feature = "cuda")]
    let before = learner
        .model
        .tensors
        .first()
        .and_then(|on| examine(on, false)?.ok());
    for batch in &batches {
        if let Some(folder) = &options.dump {
            exchange::write_batch(folder, batch)?;
        }
        laps.step((&ranks, &mut learner), batch, &setup, warm)?;
    }
    laps.finish()?;
    if let Some(folder) = &options.dump {
        dump_after(folder, &setup, &learner, &laps)?;
    }
    let report = laps.report(&setup, &learner, &batches, ceiling);
    Ok(Report {
        memory_before_bytes,
        ranks: ranks.len(),
        kernels: format!("{:?}", learner.model.kernels()),
        kernels_note: choice.note,
        #[cfg(feature = "cuda")]
        gpu: {
            let peak = setup.train.peak_gflops;
            let rates = (report.tokens_per_s, report.flops_per_token, peak);
            gpu::Gpu::of(&learner.model, &laps, before.as_ref(), rates)
        },
        ..report
    })
}

/// Whose operations run.
fn chosen(setup: &Setup, devices: &[Device], kernels: &str) -> Result<Choice, Error> {
    let first = devices.first();
    let named = first.map(|first| model::kernels(kernels, first, &setup.config));
    Ok(match named.transpose()?.flatten() {
        Some(kernels) => Choice {
            kernels,
            note: None,
        },
        None => kernels::choose(Wish::Auto, devices, &setup.config, &setup.train)?,
    })
}

/// A learner before its first step.
fn learner(
    setup: &Setup,
    exchange: Option<&Folder>,
    device: &Device,
    kernels: Kernels,
) -> Result<Learner, Error> {
    let model = setup.model(exchange, device)?.with_kernels(kernels);
    let model = match freeze::tuning(&setup.train, &setup.config, setup.reserved())? {
        Some(tuning) => model.tuned(tuning, Key::new(setup.recipe.seed)),
        None => model,
    };
    Ok(Learner::new(model, device))
}

fn dump_before(
    folder: &Path,
    setup: &Setup,
    learner: &Learner,
    first: &GlobalBatch,
) -> Result<(), Error> {
    setup::write_recipe(folder, &setup.recipe)?;
    exchange::write_parameters(folder, "init", &learner.model.values(), &setup.config)?;
    let alone = Seat::alone(&learner.model.device());
    let gradients = step::gradients(&learner.model, first, &setup.train, &alone);
    let (_, gradients) = gradients.map_err(ranks::Error::from)?;
    let values: Vec<_> = gradients.iter().map(model::to_vec).collect();
    Ok(exchange::write_parameters(
        folder,
        "grad",
        &values,
        &setup.config,
    )?)
}

fn dump_after(folder: &Path, setup: &Setup, learner: &Learner, laps: &Laps) -> Result<(), Error> {
    exchange::write_parameters(folder, "final", &learner.model.values(), &setup.config)?;
    for (name, values) in [("losses", &laps.losses), ("norms", &laps.norms)] {
        fs::write(
            &folder.join(name).with_extension("npy"),
            &npy::doubles(values),
        )?;
    }
    Ok(())
}

/// What steps took and gave.
#[derive(Default)]
struct Laps {
    losses: Vec<f64>,
    norms: Vec<f64>,
    first_ms: f64,
    took: Vec<Took>,
    /// The last step, where a device may still be computing it.
    begun: Option<Begun>,
    /// Milliseconds in which the host queued each timed step, or computed it.
    host_ms: Vec<f64>,
}

impl Laps {
    fn step(
        &mut self,
        (ranks, learner): (&Ranks, &mut Learner),
        batch: &Arc<GlobalBatch>,
        setup: &Arc<Setup>,
        warm: u64,
    ) -> Result<(), Error> {
        let (batch, setup) = (batch.clone(), setup.clone());
        let first = learner.step == 0;
        let begin = move |learner: &mut Learner| learner.begin(&batch, &setup.train);
        let (done, took) = clock::measure_all(|| {
            let (begun, queued) = clock::measure(|| ranks.all(learner, begin));
            let (begun, others) = begun?;
            let failed = |source| Error::NonFinite {
                step: learner.step + 1,
                source,
            };
            let begun = begun.map_err(failed)?;
            // What the others' numbers say is what the first's do.
            drop(others);
            if warm < learner.step {
                self.host_ms.push(queued.wall_seconds * 1e3);
            }
            // As in a run, a device computes a step while the next is queued.
            let waits = first || begun.is_known();
            if let Some(before) = self.begun.replace(begun) {
                self.tell(before)?;
            }
            if waits { self.finish() } else { Ok(()) }
        });
        done?;
        if first {
            self.first_ms = took.wall_seconds * 1e3;
        }
        if warm < learner.step {
            self.took.push(took);
        }
        Ok(())
    }

    /// Waits for the last step.
    fn finish(&mut self) -> Result<(), Error> {
        match self.begun.take() {
            Some(begun) => self.tell(begun),
            None => Ok(()),
        }
    }

    fn tell(&mut self, begun: Begun) -> Result<(), Error> {
        let step = begun.after.step;
        let report = begun.finish();
        let report = report.map_err(|source| Error::NonFinite { step, source })?;
        self.losses.push(report.loss);
        self.norms.push(report.grad_norm);
        Ok(())
    }

    /// Milliseconds in which the host queued a timed step, or computed it, on average.
    fn host_ms_per_step(&self) -> f64 {
        self.host_ms.iter().sum::<f64>() / self.host_ms.len().max(1) as f64
    }

    fn report(
        &self,
        setup: &Setup,
        learner: &Learner,
        batches: &[Arc<GlobalBatch>],
        ceiling: Option<f64>,
    ) -> Report {
        let n = self.took.len() as f64;
        let mut walls: Vec<f64> = self
            .took
            .iter()
            .map(|took| took.wall_seconds * 1e3)
            .collect();
        walls.sort_by(f64::total_cmp);
        let at = |index: usize| walls.get(index).copied().unwrap_or_default();
        let last = walls.len().saturating_sub(1);
        let median = (at(last / 2) + at(walls.len() / 2)) / 2.0;
        let cpu: f64 = self.took.iter().map(|took| took.cpu_seconds).sum();
        let cpu = clock::counts_all().then_some(cpu / n);
        let (tokens, length) = size(batches);
        let flops_per_token = PerToken::of(&setup.config, length);
        let per_cpu = cpu.map(|cpu| tokens as f64 / cpu);
        let mean = |sum: u64| sum as f64 / learner.step as f64;
        Report {
            threads: rayon::current_num_threads(),
            ranks: 1,
            parameters: learner.model.n_parameters(),
            tokens_per_step: tokens,
            real_per_step: mean(learner.totals.real),
            scored_per_step: mean(learner.totals.scored),
            steps: self.took.len() as u64,
            first_step_ms: self.first_ms,
            step_ms_median: median,
            step_ms_min: at(0),
            step_ms_max: at(last),
            tokens_per_s: tokens as f64 / median * 1e3,
            cpu_s_per_step: cpu,
            tokens_per_cpu_s: per_cpu,
            rates: Rates::new(flops_per_token, per_cpu, ceiling),
            flops_per_token,
            flops_per_step: batches
                .first()
                .map(|batch| step::flops(&setup.config, batch, &setup.train))
                .unwrap_or_default(),
            memory_bytes: clock::memory_peak(),
            memory_before_bytes: None,
            host_ms_per_step: self.host_ms_per_step(),
            kernels: String::new(),
            kernels_note: None,
            #[cfg(feature = "cuda")]
            gpu: None,
            loss_first: self.losses.first().copied().unwrap_or(f64::NAN),
            loss_last: self.losses.last().copied().unwrap_or(f64::NAN),
        }
    }
}

/// Positions of a step and of a row, of the first batch.
fn size(batches: &[Arc<GlobalBatch>]) -> (u64, usize) {
    let micro = batches
        .iter()
        .take(1)
        .flat_map(|batch| &batch.micro_batches);
    let tokens = micro
        .clone()
        .map(|micro| (micro.rows * micro.length) as u64)
        .sum();
    (tokens, micro.map(|micro| micro.length).max().unwrap_or(0))
}

impl Rates {
    fn new(per_token: PerToken, per_cpu: Option<f64>, ceiling: Option<f64>) -> Self {
        let rate = |flops: u64| per_cpu.map(|tokens| tokens * flops as f64 / 1e9);
        let share = |flops: u64| Some(rate(flops)? / ceiling?);
        Self {
            six_n: rate(per_token.six_n),
            palm: rate(per_token.palm),
            causal: rate(per_token.causal),
            ceiling,
            mfu_six_n: share(per_token.six_n),
            mfu_palm: share(per_token.palm),
            mfu_causal: share(per_token.causal),
        }
    }
}

//! Training, evaluation and a sample, from the datasets of a recipe.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use super::datasets;
use crate::corpus::{self, Corpus};
use crate::dataset::{self, Dataset};
use crate::eval::{self, tasks};
use crate::generate::{self, Generator, Request, Sampling};
use crate::manifest::Stage;
use crate::model::{self, Device};
use crate::progress::{Progress, Stop};
use crate::recipe::Plan;
use crate::rng::{Key, Stream};
use crate::train::kernels::Wish;
use crate::train::{self, Outcome, Start, checkpoint, record};
use crate::units::share;

/// Why training or measuring failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The datasets could not be made.
    #[error(transparent)]
    Datasets(#[from] datasets::Error),
    /// A dataset cannot be read.
    #[error(transparent)]
    Dataset(#[from] dataset::Error),
    /// The model's shape is wrong.
    #[error(transparent)]
    Shape(#[from] model::config::Error),
    /// The checkpoint of `model.from` cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] checkpoint::Error),
    /// A stage could not be trained.
    #[error("cannot train [{stage}]")]
    Train {
        /// Which.
        stage: &'static str,
        /// Why.
        #[source]
        source: train::Error,
    },
    /// The metrics cannot be read.
    #[error(transparent)]
    Record(#[from] record::Error),
    /// The sources of a task are wrong.
    #[error(transparent)]
    Corpus(#[from] corpus::Error),
    /// A task is wrong.
    #[error(transparent)]
    Task(#[from] tasks::Error),
    /// The evaluation failed.
    #[error(transparent)]
    Eval(#[from] eval::Error),
    /// The sample could not be generated.
    #[error(transparent)]
    Generate(#[from] generate::Error),
    /// Nothing was trained, and no model was named.
    #[error("the recipe trains no model: give a stage a `train` table")]
    Untrained,
    /// A signal asked to stop; everything is saved.
    #[error("stopped after step {step} of [{stage}], which is saved")]
    Stopped {
        /// The stage that was trained.
        stage: &'static str,
        /// Its last step.
        step: u64,
    },
}

/// What a whole recipe gave.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// The run's folder.
    pub out: PathBuf,
    /// Checks that the datasets passed.
    pub checks: usize,
    /// The training of each stage.
    pub stages: Vec<StageSummary>,
    /// The prompt of the recipe and how the last model continues it.
    pub sample: Option<Sample>,
    /// The evaluation.
    pub results: Option<eval::Results>,
}

/// The training of one stage.
#[derive(Clone, Debug, Serialize)]
pub struct StageSummary {
    /// `pretrain` or `finetune`.
    pub stage: &'static str,
    /// Its folder.
    pub folder: PathBuf,
    /// The loss of every step.
    pub losses: Vec<f64>,
    /// Validation losses, by step.
    pub validation: Vec<(u64, f64)>,
    /// Steps that were skipped or rolled back.
    #[serde(skip_serializing_if = "is_zero")]
    pub anomalies: u64,
    /// Passes over each dataset of `train.mixture`, where there are several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub epochs_of: Vec<Epochs>,
    /// Positions trained on.
    pub tokens: u64,
    /// The share of all positions that was padding.
    pub padding: f64,
    /// Time spent in steps and waiting for data, in seconds.
    pub seconds: f64,
    /// The share of that time spent waiting for data.
    pub data_wait: f64,
}

/// How often one of several datasets was passed through.
#[derive(Clone, Debug, Serialize)]
pub struct Epochs {
    /// Its folder.
    pub dataset: PathBuf,
    /// How often.
    pub epochs: f64,
}

/// A prompt and its continuation.
#[derive(Clone, Debug, Serialize)]
pub struct Sample {
    /// The prompt.
    pub prompt: String,
    /// The greedy continuation.
    pub text: String,
}

/// Longest sample in tokens.
const SAMPLE_TOKENS: usize = 60;

/// Where to train, and with which form of the operations.
#[derive(Clone, Debug)]
pub struct On {
    /// The devices, which share each global batch.
    pub devices: Vec<Device>,
    /// The form.
    pub kernels: Wish,
}

/// Does the whole recipe; what stands already is found.
pub fn run(plan: &Plan, on: &On, progress: &dyn Progress, stop: &Stop) -> Result<Summary, Error> {
    datasets::prepare(plan, datasets::Scope::WHOLE, progress, stop)?;
    let checks = datasets::prove(plan, progress, stop)?;
    progress.note(&format!("the datasets pass {checks} checks"));
    let stages = train(plan, on, None, progress, stop)?;
    let sample = match last_model(plan) {
        Ok(model) => sample(plan, &model)?,
        Err(_) => None,
    };
    let results = match &plan.recipe.eval {
        Some(eval) if !eval.tasks.is_empty() => {
            let pauses = plan.eval_pauses();
            Some(evaluate(plan, &last_model(plan)?, &pauses, progress, stop)?)
        }
        _ => None,
    };
    Ok(Summary {
        out: plan.out.clone(),
        checks,
        stages,
        sample,
        results,
    })
}

/// Trains the stages of a recipe, each from the one before, on devices that share each
/// global batch.
pub fn train(
    plan: &Plan,
    on: &On,
    only: Option<Stage>,
    progress: &dyn Progress,
    stop: &Stop,
) -> Result<Vec<StageSummary>, Error> {
    let mut summaries = Vec::new();
    for stage in trained(plan).filter(|stage| only.is_none_or(|only| only == *stage)) {
        let job = job(plan, stage, on)?;
        let name = crate::prepare::stage_name(stage);
        let outcome = train::run(&job, progress, stop);
        match outcome.map_err(|source| Error::Train {
            stage: name,
            source,
        })? {
            Outcome::Finished => progress.note(&format!("[{name}] is trained")),
            Outcome::Stopped { step } => return Err(Error::Stopped { stage: name, step }),
        }
        summaries.push(summary(plan, stage)?);
    }
    Ok(summaries)
}

/// The stages that are trained, in order.
fn trained(plan: &Plan) -> impl Iterator<Item = Stage> + '_ {
    plan.stages()
        .filter(|(_, stage)| stage.train.is_some())
        .map(|(stage, _)| stage)
}

fn job(plan: &Plan, stage: Stage, on: &On) -> Result<train::Job, Error> {
    let found = plan.stage(stage).ok_or(Error::Untrained)?;
    let recipe = found.train.clone().ok_or(Error::Untrained)?;
    let open = |folder: &Path| Dataset::open_by(recipe.read, folder);
    let dataset = open(&plan.data_dir(stage))?;
    let dataset = Arc::new(dataset.with_pause(found.pause.clone())?);
    let before = trained(plan).take_while(|before| *before != stage).last();
    let start = match (before, plan.model_from()) {
        (Some(before), _) => Start::From(trained_model(plan, before)),
        (None, Some(from)) => Start::From(from),
        (None, None) => Start::Fresh,
    };
    let vocab_size = dataset.manifest.tokenizer.vocab_size as usize;
    let mut config = match plan.model_from() {
        Some(from) => checkpoint::read_model(&checkpoint::resolve(&from)?)?.0,
        None => plan.model(vocab_size)?,
    };
    // A checkpoint gets rows for what its vocabulary lacks.
    config.vocab_size = config.vocab_size.max(vocab_size);
    config.attention = recipe.attention;
    let members = plan.mixture_dirs(stage).into_iter().zip(&recipe.mixture);
    let members = members.map(|(folder, member)| match &member.pause {
        None if folder == dataset.folder => Ok(dataset.clone()),
        None => Ok(Arc::new(open(&folder)?)),
        Some(pause) => {
            let pause = pause.clone().at_load();
            Ok(Arc::new(open(&folder)?.with_pause(pause)?))
        }
    });
    let mixture = members.collect::<Result<_, Error>>()?;
    Ok(train::Job {
        folder: plan.train_dir(stage),
        dataset,
        mixture,
        config,
        start,
        new_rows: plan.recipe.model.new_rows.unwrap_or_default(),
        train: recipe,
        seed: plan.recipe.seed,
        device: on.devices.first().cloned().unwrap_or_else(Device::flex),
        others: on.devices.iter().skip(1).cloned().collect(),
        kernels: on.kernels,
    })
}

/// The model of the recipe's last stage.
pub fn last_model(plan: &Plan) -> Result<PathBuf, Error> {
    let last = trained(plan).last().ok_or(Error::Untrained)?;
    Ok(trained_model(plan, last))
}

/// The model that a stage has trained: its training folder, or the best checkpoint where
/// early stopping looks for it.
fn trained_model(plan: &Plan, stage: Stage) -> PathBuf {
    let folder = plan.train_dir(stage);
    let train = plan.stage(stage).and_then(|stage| stage.train.as_ref());
    let best = folder.join(checkpoint::BEST_FILE);
    match train.is_some_and(|train| train.early_stopping.is_some()) && best.is_file() {
        true => best,
        false => folder,
    }
}

/// Measures a model on the recipe's tasks, at each number of pauses.
pub fn evaluate(
    plan: &Plan,
    model: &Path,
    pauses: &[u32],
    progress: &dyn Progress,
    stop: &Stop,
) -> Result<eval::Results, Error> {
    let generator = Generator::open(model)?;
    let tasks = plan.recipe.eval.iter().flat_map(|eval| &eval.tasks);
    let tasks = tasks
        .map(|task| {
            let corpus = Corpus::resolve(&task.sources, plan.reach(), corpus::Purpose::Finetune)?;
            let documents = corpus.documents(0..corpus.files.len());
            Ok(tasks::Task::new(task.clone(), documents)?)
        })
        .collect::<Result<Vec<_>, Error>>()?;
    let job = eval::Job {
        generator: &generator,
        checkpoint: model.display().to_string(),
        tasks,
        pauses: pauses.to_vec(),
        folder: plan.eval_dir(),
    };
    Ok(eval::run(&job, progress, stop)?)
}

/// The recipe's prompt, continued by the pretrained model where there is one.
fn sample(plan: &Plan, model: &Path) -> Result<Option<Sample>, Error> {
    let Some(prompt) = plan
        .recipe
        .eval
        .as_ref()
        .and_then(|eval| eval.sample.clone())
    else {
        return Ok(None);
    };
    let pretrained = trained(plan).find(|stage| *stage == Stage::Pretrain);
    let folder = pretrained.map_or(model.to_path_buf(), |stage| trained_model(plan, stage));
    let request = Request {
        pauses: 0,
        max_tokens: SAMPLE_TOKENS,
        sampling: Sampling::Greedy,
        key: Key::new(plan.recipe.seed).stream(Stream::Sampling),
    };
    let answer = Generator::open(&folder)?.answer(&prompt, &request)?;
    Ok(Some(Sample {
        prompt,
        text: answer.text,
    }))
}

fn summary(plan: &Plan, stage: Stage) -> Result<StageSummary, Error> {
    let folder = plan.train_dir(stage);
    let mut summary = StageSummary {
        stage: crate::prepare::stage_name(stage),
        folder: folder.clone(),
        losses: Vec::new(),
        validation: Vec::new(),
        anomalies: 0,
        epochs_of: Vec::new(),
        tokens: 0,
        padding: 0.0,
        seconds: 0.0,
        data_wait: 0.0,
    };
    let mut padding = 0;
    for line in record::read(&folder)? {
        match line {
            record::Line::Train(step) => {
                summary.losses.push(step.loss);
                summary.tokens += step.tokens;
                padding += step.padding;
                summary.seconds += (step.step_ms + step.data_wait_ms) / 1e3;
                summary.data_wait += step.data_wait_ms / 1e3;
                summary.epochs_of = epochs_of(plan, stage, &step.epochs_of);
            }
            record::Line::Validation(line) => summary.validation.push((line.step, line.loss)),
            record::Line::Anomaly(_) => summary.anomalies += 1,
        }
    }
    summary.padding = share(padding, padding + summary.tokens);
    if 0.0 < summary.seconds {
        summary.data_wait /= summary.seconds;
    }
    Ok(summary)
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

fn epochs_of(plan: &Plan, stage: Stage, epochs: &[f64]) -> Vec<Epochs> {
    let members = plan.mixture_dirs(stage).into_iter().zip(epochs);
    let epochs = |(dataset, &epochs)| Epochs { dataset, epochs };
    members.map(epochs).collect()
}

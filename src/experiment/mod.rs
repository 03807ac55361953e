//! The experiment: arms times seeds, and what their difference says of pauses.
//!
//! An arm is a recipe ([`crate::recipe::Arm`]): a stage with or without its pauses, or a control. All arms
//! see the same text in the same order with the same seeds, are asked the same questions,
//! and are compared seed by seed and question by question.

pub mod findings;
mod layout;
pub mod statistics;

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use findings::{Answers, ArmSummary, At, Cost};
pub use findings::{Findings, Verdict};
use layout::{Layout, Placed};

use crate::digest::Digest;
use crate::fs;
use crate::manifest::Stage;
use crate::progress::{Progress, Stop};
use crate::recipe::{self, Plan};
use crate::run::datasets::{self, Variant};
use crate::run::training::{self, On};
use crate::train::checkpoint;
use crate::train::record::{self, Line};

/// The file with what was found, in the run's folder.
pub const FILE: &str = "experiment.json";

/// The file that says what an evaluation measured, beside its results.
const MEASURED_FILE: &str = "measured.json";

/// An experiment that cannot be done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] fs::Error),
    /// The recipe is wrong.
    #[error(transparent)]
    Recipe(#[from] recipe::Error),
    /// The recipe has no arms.
    #[error("the recipe has no `[experiment]`: expected one with the seeds to train with")]
    NoArms,
    /// A dataset could not be made or does not pass its proof.
    #[error(transparent)]
    Datasets(#[from] datasets::Error),
    /// An arm could not be trained or measured.
    #[error("cannot do `{arm}` with seed {seed}")]
    Arm {
        /// The arm, or the pretraining of several.
        arm: String,
        /// The seed.
        seed: u64,
        /// Why.
        #[source]
        source: Box<training::Error>,
    },
    /// A checkpoint cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] checkpoint::Error),
    /// Metrics cannot be read.
    #[error(transparent)]
    Record(#[from] record::Error),
    /// A line of an evaluation is no answer.
    #[error("cannot read line {line} of `{}`", path.display())]
    Answers {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// A file is not what this program writes.
    #[error("cannot read `{}`", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// Two arms were not asked the same questions.
    #[error("`{}` has {found} answers to task `{task}` at {pauses} pauses, expected {expected} as in the other arms", folder.display())]
    Uneven {
        /// The evaluation.
        folder: PathBuf,
        /// The task.
        task: String,
        /// The number of pauses.
        pauses: u32,
        /// Answers that are there.
        found: usize,
        /// Answers of the first arm.
        expected: usize,
    },
}

/// What would be done, without doing it.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Survey {
    /// The arms, and the pauses at inference by which they are compared.
    pub arms: Vec<At>,
    /// The seeds.
    pub seeds: Vec<u64>,
    /// Trainings, all seeds together.
    pub trainings: usize,
    /// The folders of the datasets.
    pub datasets: Vec<PathBuf>,
}

/// What [`run`] would do.
pub fn survey(plan: &Plan) -> Result<Survey, Error> {
    let layout = Layout::new(plan)?;
    let seeds = seeds(plan).to_vec();
    let at = |placed: &Placed| At {
        arm: placed.arm.name.clone(),
        pauses: placed.arm.pauses,
    };
    Ok(Survey {
        arms: layout.arms.iter().map(at).collect(),
        trainings: seeds.len() * (layout.arms.len() + pretrainings(&layout).len()),
        datasets: layout
            .datasets
            .iter()
            .map(|dataset| dataset.folder.clone())
            .collect(),
        seeds,
    })
}

/// Trains every arm with every seed, asks all of them the recipe's tasks, and says what the
/// answers say; what is done already is found.
pub fn run(plan: &Plan, on: &On, progress: &dyn Progress, stop: &Stop) -> Result<Findings, Error> {
    let layout = Layout::new(plan)?;
    fs::write(&plan.recipe_file(), plan.recipe_toml()?.as_bytes())?;
    prepare(&layout, progress, stop)?;
    let all = seeds(plan).len() * (layout.arms.len() + pretrainings(&layout).len());
    let mut done = 0;
    let mut begin = |seed: u64, what: &str| {
        done += 1;
        progress.note(&format!("{done} of {all}: {what}, seed {seed}"));
    };
    for seed in seeds(plan) {
        for placed in pretrainings(&layout) {
            let plan = layout.pretraining(placed, *seed)?;
            begin(*seed, &plan.name);
            train(&plan, *seed, on, progress, stop)?;
        }
        for placed in &layout.arms {
            let plan = last(&layout, placed, *seed)?;
            begin(*seed, &plan.name);
            train(&plan, *seed, on, progress, stop)?;
            measure(&plan, placed, *seed, progress, stop)?;
        }
    }
    let findings = gather(&layout)?;
    let text = serde_json::to_string_pretty(&findings).map_err(|source| Error::Unreadable {
        path: plan.out.join(FILE),
        source,
    })?;
    fs::write(&plan.out.join(FILE), format!("{text}\n").as_bytes())?;
    Ok(findings)
}

/// What an experiment in a folder has found; nothing where none was finished there.
pub fn read(folder: &Path) -> Result<Option<Findings>, Error> {
    let path = folder.join(FILE);
    match path.is_file() {
        true => findings::read_json(&path).map(Some),
        false => Ok(None),
    }
}

fn seeds(plan: &Plan) -> &[u64] {
    let experiment = plan.recipe.experiment.as_ref();
    experiment.map_or(&[], |experiment| experiment.seeds.as_slice())
}

/// The first arm of each pretraining.
fn pretrainings(layout: &Layout) -> Vec<&Placed> {
    let mut first: Vec<&Placed> = Vec::new();
    for placed in layout
        .arms
        .iter()
        .filter(|placed| placed.pretraining.is_some())
    {
        if first
            .iter()
            .all(|other| other.pretraining != placed.pretraining)
        {
            first.push(placed);
        }
    }
    first
}

/// Makes and proves the datasets of all arms.
fn prepare(layout: &Layout, progress: &dyn Progress, stop: &Stop) -> Result<(), Error> {
    let mut checks = 0;
    for stage in [Stage::Pretrain, Stage::Finetune] {
        let datasets = layout
            .datasets
            .iter()
            .filter(|dataset| dataset.stage == stage);
        let variants = datasets.clone().map(|dataset| Variant {
            folder: dataset.folder.clone(),
            plan: &dataset.plan,
        });
        datasets::prepare_variants(&layout.plan, stage, variants.collect(), progress, stop)?;
        for dataset in datasets {
            checks += datasets::prove_one(&dataset.plan, stage, &dataset.folder, progress, stop)?;
        }
    }
    progress.note(&format!(
        "{} datasets pass {checks} checks",
        layout.datasets.len()
    ));
    Ok(())
}

/// The plan of an arm's last stage.
fn last(layout: &Layout, placed: &Placed, seed: u64) -> Result<Plan, Error> {
    let from = match placed.pretraining {
        None => None,
        Some(_) => {
            let plan = layout.pretraining(placed, seed)?;
            Some(training::last_model(&plan).map_err(in_arm(&plan.name, seed))?)
        }
    };
    layout.last(placed, seed, from.as_deref())
}

fn in_arm(arm: &str, seed: u64) -> impl FnOnce(training::Error) -> Error {
    let arm = arm.to_owned();
    move |source| Error::Arm {
        arm,
        seed,
        source: Box::new(source),
    }
}

fn train(
    plan: &Plan,
    seed: u64,
    on: &On,
    progress: &dyn Progress,
    stop: &Stop,
) -> Result<(), Error> {
    fs::write(&plan.recipe_file(), plan.recipe_toml()?.as_bytes())?;
    let trained = training::train(plan, on, None, progress, stop);
    trained.map(drop).map_err(in_arm(&plan.name, seed))
}

/// Asks an arm the tasks, unless just that was done before.
fn measure(
    plan: &Plan,
    placed: &Placed,
    seed: u64,
    progress: &dyn Progress,
    stop: &Stop,
) -> Result<(), Error> {
    let model = training::last_model(plan).map_err(in_arm(&plan.name, seed))?;
    let pauses = asked(plan, placed);
    let measured = measured(plan, &model, &pauses)?;
    let path = plan.eval_dir().join(MEASURED_FILE);
    if path.is_file() && findings::read_json::<Value>(&path)? == measured {
        return Ok(());
    }
    fs::remove_file(&path)?;
    training::evaluate(plan, &model, &pauses, progress, stop).map_err(in_arm(&plan.name, seed))?;
    Ok(fs::write(&path, format!("{measured:#}\n").as_bytes())?)
}

/// The numbers of pauses that an arm is asked with.
fn asked(plan: &Plan, placed: &Placed) -> Vec<u32> {
    let mut pauses = plan.eval_pauses();
    pauses.push(placed.arm.pauses);
    pauses.sort_unstable();
    pauses.dedup();
    pauses
}

/// Everything that decides the answers of an arm, but for the files of the tasks.
fn measured(plan: &Plan, model: &Path, pauses: &[u32]) -> Result<Value, Error> {
    let weights = checkpoint::resolve(model)?.join(checkpoint::WEIGHTS_FILE);
    let tasks = plan.recipe.eval.as_ref().map(|eval| &eval.tasks);
    let weights = Digest::of_file(&weights)?;
    Ok(json!({ "weights": weights, "tasks": tasks, "pauses": pauses }))
}

/// What the answers of all arms say.
fn gather(layout: &Layout) -> Result<Findings, Error> {
    let seeds = seeds(&layout.plan).to_vec();
    let usual = layout
        .arms
        .iter()
        .filter(|placed| !placed.arm.is_control)
        .count();
    // Without pauses of its own, a recipe is its first control's opponent.
    let main = usual.saturating_sub(1).max(1);
    let mut arms = Vec::new();
    for placed in &layout.arms {
        arms.push(ArmSummary {
            name: placed.arm.name.clone(),
            pauses: placed.arm.pauses,
            is_control: placed.arm.is_control,
            cost: cost(layout, placed, seeds.first().copied().unwrap_or_default())?,
        });
    }
    let mut tasks = Vec::new();
    for task in layout.plan.recipe.eval.iter().flat_map(|eval| &eval.tasks) {
        let answers = answers(layout, &task.name, &seeds)?;
        let first = layout.arms.first().zip(seeds.first());
        let constant = match first {
            None => None,
            Some((placed, seed)) => {
                let folder = last(layout, placed, *seed)?.eval_dir();
                let mut results = findings::read_results(&folder)?.tasks.into_iter();
                results
                    .find(|result| result.task == task.name)
                    .map(|result| result.constant)
            }
        };
        let constant = constant.unwrap_or(crate::eval::Share {
            text: String::new(),
            share: 0.0,
        });
        tasks.push(findings::task(&task.name, constant, &answers, main));
    }
    Ok(Findings { seeds, arms, tasks })
}

/// The answers of all arms to a task; each has as many as the first.
fn answers(layout: &Layout, task: &str, seeds: &[u64]) -> Result<Vec<Answers>, Error> {
    let mut all = Vec::new();
    let mut expected = None;
    for placed in &layout.arms {
        let mut answers = Answers {
            arm: placed.arm.name.clone(),
            own: placed.arm.pauses,
            pauses: Vec::new(),
            right: Vec::new(),
        };
        for seed in seeds {
            let plan = last(layout, placed, *seed)?;
            answers.pauses = asked(&plan, placed);
            answers.right.resize(answers.pauses.len(), Vec::new());
            let right = findings::read_answers(&plan.eval_dir(), task, &answers.pauses)?;
            for ((rows, row), pauses) in answers.right.iter_mut().zip(right).zip(&answers.pauses) {
                let expected = *expected.get_or_insert(row.len());
                if row.len() != expected {
                    return Err(Error::Uneven {
                        folder: plan.eval_dir(),
                        task: task.into(),
                        pauses: *pauses,
                        found: row.len(),
                        expected,
                    });
                }
                rows.push(row);
            }
        }
        all.push(answers);
    }
    Ok(all)
}

/// What the training of an arm with a seed took.
fn cost(layout: &Layout, placed: &Placed, seed: u64) -> Result<Cost, Error> {
    let mut plans = vec![last(layout, placed, seed)?];
    if placed.pretraining.is_some() {
        plans.push(layout.pretraining(placed, seed)?);
    }
    let mut cost = Cost::default();
    for plan in plans {
        for (stage, _) in plan.stages() {
            let lines = record::read(&plan.train_dir(stage))?;
            let last = lines.iter().rev().find_map(|line| match line {
                Line::Train(step) => Some(&step.totals),
                _ => None,
            });
            cost = last.map_or(cost, |totals| cost.and(totals));
        }
    }
    Ok(cost)
}

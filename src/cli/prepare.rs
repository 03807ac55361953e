//! `pausedata prepare`: corpora to sealed datasets.

use std::path::PathBuf;

use pausedata::digest::Digest;
use pausedata::fs;
use pausedata::manifest::{Stage, Totals};
use pausedata::prepare::{self, Freshness, Partition, Survey};
use pausedata::recipe::Plan;
use pausedata::run::datasets::{self, Scope};
use serde::Serialize;

use super::Outcome;
use super::failure::Failure;
use super::recipe::Recipe;
use super::ui::{Format, NAME, Ui, grouped};
use super::values;

/// Turn corpora into sealed datasets of token rows with pauses
///
/// A dataset that is done is left as it is; one that was interrupted goes on. Its
/// bytes depend on the input and the recipe alone.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pausedata prepare pipelines/quickstart.toml
  pausedata prepare pipelines/novels.toml --data-root ~/corpora --only pretrain
  pausedata prepare pipelines/novels.toml --partition 2/4    (on four machines with one disk;
  pausedata prepare pipelines/novels.toml                     then once without, to seal)
  pausedata prepare pipelines/novels.toml --verify-sample 1%
  pausedata prepare pipelines/quickstart.toml --dry-run")]
pub struct Args {
    #[command(flatten)]
    pub recipe: Recipe,
    /// Do one part of the work, as in 2/4: the second of four
    #[arg(long, value_name = "I/N")]
    pub partition: Option<values::Partition>,
    /// Prepare the data of one stage only
    #[arg(long, value_name = "STAGE")]
    pub only: Option<values::Stage>,
    /// Encode this share of the documents a second time, by the `tokenizers` library,
    /// and stop where the ids differ
    #[arg(long, value_name = "PERCENT")]
    pub verify_sample: Option<values::Share>,
    /// List the input files and what would be made of them, and make nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Prepare again what is already done
    #[arg(long, conflicts_with = "dry_run")]
    pub force: bool,
}

/// Runs the command.
pub fn execute(args: &Args, ui: &Ui) -> Result<Outcome, Failure> {
    let (plan, stop) = (args.recipe.plan()?, ui.stop_on_signal()?);
    let only = args.only.map(Into::into);
    let partition = args.partition.map_or(Partition::WHOLE, |part| Partition {
        index: part.index,
        of: part.count,
    });
    let scope = Scope {
        only,
        partition,
        verify_sample: args.verify_sample.map_or(0.0, |share| share.0),
    };
    if args.dry_run {
        return show(&datasets::survey(&plan, scope)?, ui);
    }
    if args.force {
        for (stage, _) in plan
            .stages()
            .filter(|(stage, _)| only.is_none_or(|only| only == *stage))
        {
            fs::remove_dir(&plan.data_dir(stage))?;
        }
    }
    let outcomes = datasets::prepare(&plan, scope, ui, &stop)?;
    let prepared: Vec<Prepared> = outcomes
        .iter()
        .map(|(stage, outcome)| Prepared::of(&plan, *stage, outcome))
        .collect();
    match ui.format() {
        Format::Json => ui.print_json(&prepared)?,
        Format::Text => ui.print(&prepared.iter().map(Prepared::text).collect::<String>())?,
    }
    Ok(Outcome::Done)
}

/// What came of one stage.
#[derive(Serialize)]
struct Prepared {
    stage: &'static str,
    folder: PathBuf,
    #[serde(flatten)]
    state: State,
}

#[derive(Serialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
enum State {
    Sealed {
        digest: Digest,
        made_now: bool,
        rows: u64,
        ids: u64,
        pauses: u64,
        dropped: u64,
    },
    Partial {
        missing_units: Vec<usize>,
    },
}

impl Prepared {
    fn of(plan: &Plan, stage: Stage, outcome: &prepare::Outcome) -> Self {
        let state = match outcome {
            prepare::Outcome::Partial { missing } => State::Partial {
                missing_units: missing.clone(),
            },
            prepare::Outcome::Sealed { dataset, freshness } => {
                let mut totals = Totals::default();
                dataset
                    .manifest
                    .splits
                    .values()
                    .for_each(|split| totals += &split.totals);
                State::Sealed {
                    digest: dataset.digest,
                    made_now: *freshness == Freshness::Made,
                    rows: totals.rows,
                    ids: totals.real + totals.pauses,
                    pauses: totals.pauses,
                    dropped: dataset.manifest.ledger.dropped.values().sum(),
                }
            }
        };
        Self {
            stage: prepare::stage_name(stage),
            folder: plan.data_dir(stage),
            state,
        }
    }

    fn text(&self) -> String {
        let folder = self.folder.display();
        match &self.state {
            State::Partial { missing_units } => format!(
                "{NAME}{}{NAME:#}  {folder}: {} units are left to other partitions; run without --partition to seal\n",
                self.stage,
                missing_units.len(),
            ),
            State::Sealed {
                digest,
                made_now,
                rows,
                ids,
                pauses,
                dropped,
            } => format!(
                "{NAME}{}{NAME:#}  {folder}: {} rows, {} ids, {} pauses, {} documents dropped, dataset {}{}\n",
                self.stage,
                grouped(*rows),
                grouped(*ids),
                grouped(*pauses),
                grouped(*dropped),
                digest.short(),
                if *made_now { "" } else { " (found)" },
            ),
        }
    }
}

/// Lists the inputs.
pub fn show(surveys: &[(Stage, Survey)], ui: &Ui) -> Result<Outcome, Failure> {
    for (stage, survey) in surveys {
        let stage = prepare::stage_name(*stage);
        match ui.format() {
            Format::Json => {
                ui.print_json(&serde_json::json!({ "stage": stage, "survey": survey }))?
            }
            Format::Text => {
                ui.print(&format!(
                    "{NAME}{stage}{NAME:#}  {} files in {} units\n",
                    survey.files.len(),
                    survey.units
                ))?;
                for (name, bytes) in &survey.files {
                    ui.print(&format!("  {:>14} bytes  {name}\n", grouped(*bytes)))?;
                }
            }
        }
    }
    Ok(Outcome::Done)
}

//! `pausedata prepare`: corpora to sealed datasets.

use std::collections::BTreeSet;
use std::path::PathBuf;

use pausedata::digest::Digest;
use pausedata::fs;
use pausedata::manifest::{Stage, Totals};
use pausedata::prepare::{self, Freshness, Partition, Survey};
use pausedata::progress::Progress;
use pausedata::run::datasets::{self, Scope, Twins};
use serde::Serialize;

use super::Outcome;
use super::failure::{Failure, Kind};
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
  pausedata prepare pipelines/novels.toml --twin             (and the same text without pauses)
  pausedata prepare pipelines/novels.toml --partition 2/4    (on four machines with one disk;
  pausedata finalize pipelines/novels.toml                    then once this, to seal)
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
    /// Write the standard twin of each dataset as well: data/<stage>-standard holds the same
    /// text without pauses, as `pause = { policy = "none" }` would make it, from one pass
    #[arg(long)]
    pub twin: bool,
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
        twins: twins(args.twin),
        verify_sample: args.verify_sample.map_or(0.0, |share| share.0),
    };
    if args.dry_run {
        return show(&datasets::survey(&plan, scope)?, ui);
    }
    if args.force {
        for (stage, recipe) in plan
            .stages()
            .filter(|(stage, _)| only.is_none_or(|only| only == *stage))
        {
            if recipe.is_shared() {
                let folder = plan.data_dir(stage);
                let message = format!("`{}` may be that of other recipes too", folder.display());
                let failure = Failure::new(Kind::BadInput, message);
                return Err(failure.hint("remove the folder, if nothing else needs it"));
            }
            fs::remove_dir(&plan.data_dir(stage))?;
            if args.twin {
                fs::remove_dir(&plan.twin_dir(stage))?;
            }
        }
    }
    let prepared = datasets::prepare(&plan, scope, ui, &stop)?;
    if args.verify_sample.is_some() && prepared.iter().any(is_found) {
        ui.note("--verify-sample saw nothing of datasets that are found: --force makes them again");
    }
    report(&prepared, ui)
}

/// Which datasets `--twin` asks for.
pub fn twins(twin: bool) -> Twins {
    match twin {
        true => Twins::Both,
        false => Twins::One,
    }
}

/// Tells what came of each dataset.
pub fn report(prepared: &[datasets::Prepared], ui: &Ui) -> Result<Outcome, Failure> {
    let prepared: Vec<Prepared> = prepared.iter().map(Prepared::of).collect();
    match ui.format() {
        Format::Json => ui.print_json(&prepared)?,
        Format::Text => ui.print(&prepared.iter().map(Prepared::text).collect::<String>())?,
    }
    Ok(Outcome::Done)
}

/// Whether a dataset was there before.
fn is_found(prepared: &datasets::Prepared) -> bool {
    matches!(
        prepared.outcome,
        prepare::Outcome::Sealed {
            freshness: Freshness::Found,
            ..
        }
    )
}

/// What came of one dataset.
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
    fn of(prepared: &datasets::Prepared) -> Self {
        let state = match &prepared.outcome {
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
            stage: prepare::stage_name(prepared.stage),
            folder: prepared.folder.clone(),
            state,
        }
    }

    fn text(&self) -> String {
        let folder = self.folder.display();
        match &self.state {
            State::Partial { missing_units } => format!(
                "{NAME}{}{NAME:#}  {folder}: {} units are left to other partitions; `pausedata finalize` seals when all are done\n",
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
            Format::Text => ui.print(&table(stage, survey))?,
        }
    }
    Ok(Outcome::Done)
}

fn table(stage: &str, survey: &Survey) -> String {
    let files: Vec<_> = survey.units.iter().flat_map(|unit| &unit.files).collect();
    let names: BTreeSet<&str> = files.iter().map(|file| file.name.as_str()).collect();
    let mut text = format!(
        "{NAME}{stage}{NAME:#}  {} files in {} units",
        names.len(),
        survey.units.len()
    );
    // Four bytes an id is what byte-level BPE comes to on English text.
    if let Some(bytes) = survey.text_bytes {
        text += &format!(", about {} ids", grouped(bytes / 4));
    }
    text.push('\n');
    for unit in &survey.units {
        for file in &unit.files {
            let span = file.span.map(|span| format!(", {span}"));
            text += &format!(
                "  unit {:<5} {:>14} bytes  {}{}\n",
                unit.unit,
                grouped(file.bytes),
                file.name,
                span.unwrap_or_default()
            );
        }
    }
    text
}

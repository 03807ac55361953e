//! `pausedata run`: a whole recipe.

use super::Outcome;
use super::failure::Failure;
use super::recipe::Recipe;
use super::ui::Ui;
use super::values::On;

/// Prepare, verify, pretrain, finetune and evaluate: the whole recipe, resumable
///
/// Skips what is done and goes on where an earlier run stopped. Everything lies
/// in the run's folder, runs/<recipe name> unless --out says otherwise.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pausedata run pipelines/quickstart.toml
  pausedata run pipelines/novels.toml --data-root ~/corpora --set pretrain.train.steps=200
  pausedata run pipelines/quickstart.toml --out /tmp/m50 --set finetune.pause.count=50
  pausedata run pipelines/quickstart.toml --dry-run")]
pub struct Args {
    #[command(flatten)]
    pub recipe: Recipe,
    #[command(flatten)]
    pub on: On,
    /// Show what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Start afresh: remove what earlier runs left in the run's folder
    #[arg(long, conflicts_with = "dry_run")]
    pub force: bool,
}

/// Runs the command.
#[cfg(feature = "train")]
pub fn execute(args: &Args, ui: &Ui) -> Result<Outcome, Failure> {
    use pausedata::{fs, run, train};

    let plan = args.recipe.plan()?;
    if args.dry_run {
        return super::prepare::show(
            &run::datasets::survey(&plan, run::datasets::Scope::WHOLE)?,
            ui,
        );
    }
    let stop = ui.stop_on_signal()?;
    let on = args.on.open()?;
    if args.force {
        for (stage, _) in plan.stages() {
            train::forget(&plan.train_dir(stage))?;
        }
        for part in ["data", "train", "eval"] {
            fs::remove_dir(&plan.out.join(part))?;
        }
    }
    let summary = run::training::run(&plan, &on, ui, &stop)?;
    match ui.format() {
        super::ui::Format::Json => ui.print_json(&summary)?,
        super::ui::Format::Text => ui.print(&super::summary::text(&plan, &summary))?,
    }
    Ok(Outcome::Done)
}

/// Runs the command.
#[cfg(not(feature = "train"))]
pub fn execute(_: &Args, _: &Ui) -> Result<Outcome, Failure> {
    Err(Failure::without_training("run"))
}

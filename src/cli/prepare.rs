//! `pausedata prepare`: corpora to sealed datasets.

use super::Outcome;
use super::failure::{Failure, Kind};
use super::recipe::Recipe;
use super::ui::Ui;
use super::values::{Partition, Stage};

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
  pausedata prepare pipelines/quickstart.toml --dry-run")]
pub struct Args {
    #[command(flatten)]
    pub recipe: Recipe,
    /// Do one part of the work, as in 2/4: the second of four
    #[arg(long, value_name = "I/N")]
    pub partition: Option<Partition>,
    /// Prepare the data of one stage only
    #[arg(long, value_name = "STAGE")]
    pub only: Option<Stage>,
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
    // CALL SITE: `pausedata::prepare::run(&plan, .., ui, &stop)`.
    drop((plan, stop));
    Err(Failure::new(
        Kind::Failed,
        "`pausedata prepare` is not connected yet",
    ))
}

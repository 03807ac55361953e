//! `pausedata finalize`: seals what several partitions made.

use pausedata::run::datasets::{self, Scope};

use super::failure::Failure;
use super::recipe::Recipe;
use super::ui::Ui;
use super::{Outcome, prepare, values};

/// Seal datasets whose units were made by `prepare --partition`
///
/// Names the units that are missing, and seals nothing, where not all are done.
/// `prepare` without --partition does this itself.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pausedata finalize pipelines/novels.toml
  pausedata finalize pipelines/quickstart.toml --only pretrain --twin")]
pub struct Args {
    #[command(flatten)]
    pub recipe: Recipe,
    /// Seal the data of one stage only
    #[arg(long, value_name = "STAGE")]
    pub only: Option<values::Stage>,
    /// Seal the standard twins as well, as `prepare --twin` made them
    #[arg(long)]
    pub twin: bool,
}

/// Runs the command.
pub fn execute(args: &Args, ui: &Ui) -> Result<Outcome, Failure> {
    let scope = Scope {
        only: args.only.map(Into::into),
        twins: prepare::twins(args.twin),
        ..Scope::WHOLE
    };
    let prepared = datasets::finalize(&args.recipe.plan()?, scope, ui)?;
    prepare::report(&prepared, ui)
}

//! `pausedata plan`: the units that a recipe's input is cut into.

use pausedata::run::datasets::{self, Scope};

use super::failure::Failure;
use super::recipe::Recipe;
use super::ui::Ui;
use super::{Outcome, prepare, values};

/// List the units of work that the input is cut into, and make nothing
///
/// Units depend on the input and the recipe alone. `prepare --partition I/N` makes those
/// whose number leaves the remainder I - 1 when divided by N.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pausedata plan pipelines/novels.toml --data-root ~/corpora
  pausedata plan pipelines/quickstart.toml --only pretrain --json")]
pub struct Args {
    #[command(flatten)]
    pub recipe: Recipe,
    /// List the units of one stage only
    #[arg(long, value_name = "STAGE")]
    pub only: Option<values::Stage>,
}

/// Runs the command.
pub fn execute(args: &Args, ui: &Ui) -> Result<Outcome, Failure> {
    let scope = Scope {
        only: args.only.map(Into::into),
        ..Scope::WHOLE
    };
    prepare::show(&datasets::survey(&args.recipe.plan()?, scope)?, ui)
}

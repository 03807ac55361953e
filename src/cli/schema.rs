//! `pausedata schema`: the recipe's JSON Schema.

use pausedata::recipe::schema;

use super::Outcome;
use super::failure::Failure;
use super::ui::Ui;

/// Print the JSON Schema of recipes, for editors
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pausedata schema > schemas/recipe.schema.json

An editor that reads JSON Schemas completes and checks a recipe whose first line is
  #:schema ../schemas/recipe.schema.json")]
pub struct Args {}

/// Runs the command.
pub fn execute(_: &Args, ui: &Ui) -> Result<Outcome, Failure> {
    ui.print(&schema::text()?)?;
    Ok(Outcome::Done)
}

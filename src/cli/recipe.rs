//! The arguments of every command that takes a recipe.

use std::path::PathBuf;

use pausedata::recipe::Plan;

use super::failure::Failure;

/// Which recipe, and where it runs.
#[derive(Clone, Debug, clap::Args)]
pub struct Recipe {
    /// The recipe: a TOML file such as those in pipelines/
    #[arg(value_name = "RECIPE")]
    pub recipe: PathBuf,
    /// Folder for everything the run makes; runs/<recipe name> where absent
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Folder where relative source paths start; the current one where absent
    #[arg(long, value_name = "DIR")]
    pub data_root: Option<PathBuf>,
    /// Change one key of the recipe, as in finetune.pause.count=50; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub overrides: Vec<String>,
}

impl Recipe {
    /// Reads the recipe and settles where it runs.
    pub fn plan(&self) -> Result<Plan, Failure> {
        let (out, data_root) = (self.out.clone(), self.data_root.clone());
        Ok(Plan::read(&self.recipe, &self.overrides, out, data_root)?)
    }
}

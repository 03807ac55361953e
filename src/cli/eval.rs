//! `pausedata eval`: tasks times numbers of pauses.

use std::path::PathBuf;

use super::Outcome;
use super::failure::Failure;
use super::recipe::Recipe;
use super::ui::Ui;

/// Measure a trained model on the recipe's tasks, with several numbers of pauses
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pausedata eval pipelines/quickstart.toml
  pausedata eval pipelines/quickstart.toml --pauses 0,5,10,20,50 --json
  pausedata eval pipelines/quickstart.toml --model runs/quickstart/train/pretrain")]
pub struct Args {
    #[command(flatten)]
    pub recipe: Recipe,
    /// Numbers of pauses (M_inf) in place of the recipe's; 0 is always added
    #[arg(long, value_delimiter = ',', value_name = "M,M,..")]
    pub pauses: Option<Vec<u32>>,
    /// A train/* folder or a checkpoint in place of the run's last
    #[arg(long, value_name = "MODEL")]
    pub model: Option<PathBuf>,
}

/// Runs the command.
#[cfg(feature = "train")]
pub fn execute(args: &Args, ui: &Ui) -> Result<Outcome, Failure> {
    use pausedata::run::training;

    let (plan, stop) = (args.recipe.plan()?, ui.stop_on_signal()?);
    let model = match &args.model {
        Some(model) => model.clone(),
        None => training::last_model(&plan)?,
    };
    let pauses = args.pauses.clone().unwrap_or_else(|| plan.eval_pauses());
    let results = training::evaluate(&plan, &model, &pauses, ui, &stop)?;
    match ui.format() {
        super::ui::Format::Json => ui.print_json(&results)?,
        super::ui::Format::Text => ui.print(&super::summary::results(&results))?,
    }
    Ok(Outcome::Done)
}

/// Runs the command.
#[cfg(not(feature = "train"))]
pub fn execute(_: &Args, _: &Ui) -> Result<Outcome, Failure> {
    Err(Failure::without_training("evaluate"))
}

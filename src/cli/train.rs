//! `pausedata train`: pretraining and finetuning.

use super::Outcome;
use super::failure::Failure;
use super::recipe::Recipe;
use super::ui::Ui;
use super::values::{On, Stage};

/// Pretrain and finetune on the prepared datasets of a recipe
///
/// Goes on from the newest checkpoint by itself. Ctrl-C saves one first.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pausedata train pipelines/quickstart.toml
  pausedata train pipelines/quickstart.toml --only finetune --device cpu
  pausedata train pipelines/novels.toml --set pretrain.train.steps=100")]
pub struct Args {
    #[command(flatten)]
    pub recipe: Recipe,
    #[command(flatten)]
    pub on: On,
    /// Train one stage only
    #[arg(long, value_name = "STAGE")]
    pub only: Option<Stage>,
    /// Start afresh: remove the checkpoints of the stages that are trained
    #[arg(long)]
    pub force: bool,
}

/// Runs the command.
#[cfg(feature = "train")]
pub fn execute(args: &Args, ui: &Ui) -> Result<Outcome, Failure> {
    use pausedata::{run, train};

    let (plan, stop) = (args.recipe.plan()?, ui.stop_on_signal()?);
    let on = args.on.open()?;
    let only = args.only.map(Into::into);
    if args.force {
        for (stage, _) in plan
            .stages()
            .filter(|(stage, _)| only.is_none_or(|only| only == *stage))
        {
            train::forget(&plan.train_dir(stage))?;
        }
    }
    let stages = run::training::train(&plan, &on, only, ui, &stop)?;
    match ui.format() {
        super::ui::Format::Json => ui.print_json(&stages)?,
        super::ui::Format::Text => ui.print(&super::summary::stages(&stages))?,
    }
    Ok(Outcome::Done)
}

/// Runs the command.
#[cfg(not(feature = "train"))]
pub fn execute(_: &Args, _: &Ui) -> Result<Outcome, Failure> {
    Err(Failure::without_training("train"))
}

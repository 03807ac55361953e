//! `pausedata experiment`: arms times seeds, and a verdict.

use super::Outcome;
use super::failure::Failure;
use super::recipe::Recipe;
use super::ui::Ui;
use super::values::On;

/// Train every arm with every seed, compare their answers, and say whether pauses helped
///
/// The arms are each trained stage without its pauses and with them, and the controls that
/// the recipe's `[experiment]` names. Skips what is done and goes on where an earlier run
/// stopped. Writes experiment.json and a page, report.html, to the run's folder.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pausedata experiment pipelines/verdict.toml --dry-run
  pausedata experiment pipelines/verdict.toml
  pausedata experiment pipelines/verdict.toml --set experiment.seeds=[1,2,3] --out /tmp/three
  pausedata report runs/verdict")]
pub struct Args {
    #[command(flatten)]
    pub recipe: Recipe,
    #[command(flatten)]
    pub on: On,
    /// Show the arms, datasets and trainings, and do nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// Runs the command.
#[cfg(feature = "train")]
pub fn execute(args: &Args, ui: &Ui) -> Result<Outcome, Failure> {
    use super::ui::Format;
    use pausedata::progress::Progress;
    use pausedata::{experiment, fs, report};

    let plan = args.recipe.plan()?;
    if args.dry_run {
        let survey = experiment::survey(&plan)?;
        match ui.format() {
            Format::Json => ui.print_json(&survey)?,
            Format::Text => ui.print(&super::verdict::survey(&survey))?,
        }
        return Ok(Outcome::Done);
    }
    let (stop, on) = (ui.stop_on_signal()?, args.on.open()?);
    let findings = experiment::run(&plan, &on, ui, &stop)?;
    let page = plan.out.join("report.html");
    fs::write(
        &page,
        report::experiment::page(&plan.name, &findings).as_bytes(),
    )?;
    ui.note(&format!("wrote {}", page.display()));
    match ui.format() {
        Format::Json => ui.print_json(&findings)?,
        Format::Text => ui.print(&super::verdict::text(&findings))?,
    }
    Ok(Outcome::Done)
}

/// Runs the command.
#[cfg(not(feature = "train"))]
pub fn execute(_: &Args, _: &Ui) -> Result<Outcome, Failure> {
    Err(Failure::without_training("experiment"))
}

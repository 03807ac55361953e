//! `pausedata stats`: what a dataset holds, in numbers.

use std::path::PathBuf;

use super::Outcome;
use super::failure::{Failure, Kind};
use super::ui::Ui;

/// Show a dataset's lengths, pause densities, run lengths, and drops by reason
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pausedata stats runs/quickstart/data/pretrain
  pausedata stats runs/quickstart/data/pretrain --json")]
pub struct Args {
    /// The dataset: a folder with a manifest.json
    #[arg(value_name = "DATASET")]
    pub dataset: PathBuf,
}

/// Runs the command.
pub fn execute(args: &Args, ui: &Ui) -> Result<Outcome, Failure> {
    // CALL SITE: `pausedata::stats`.
    let _ = (args, ui);
    Err(Failure::new(
        Kind::Failed,
        "`pausedata stats` is not connected yet",
    ))
}

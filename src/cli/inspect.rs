//! `pausedata inspect`: rows as a person reads them.

use std::path::PathBuf;

use super::Outcome;
use super::failure::{Failure, Kind};
use super::ui::Ui;
use super::values::Split;

/// Show rows of a dataset decoded, with pauses and trained targets coloured
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pausedata inspect runs/quickstart/data/pretrain
  pausedata inspect runs/quickstart/data/finetune --from 100 --rows 3 --ids
  pausedata inspect runs/quickstart/data/finetune --json | head -1")]
pub struct Args {
    /// The dataset: a folder with a manifest.json
    #[arg(value_name = "DATASET")]
    pub dataset: PathBuf,
    /// The first row to show, from 0
    #[arg(long, default_value_t = 0, value_name = "ROW")]
    pub from: u64,
    /// How many rows to show
    #[arg(long, short = 'n', default_value_t = 5, value_name = "N")]
    pub rows: u64,
    /// Which part of the dataset
    #[arg(long, default_value = "train", value_name = "SPLIT")]
    pub split: Split,
    /// Show each token with its id, one a line
    #[arg(long)]
    pub ids: bool,
}

/// Runs the command.
pub fn execute(args: &Args, ui: &Ui) -> Result<Outcome, Failure> {
    // CALL SITE: `pausedata::inspect`.
    let _ = (args, ui);
    Err(Failure::new(
        Kind::Failed,
        "`pausedata inspect` is not connected yet",
    ))
}

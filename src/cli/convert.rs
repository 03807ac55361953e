//! `pausedata convert`: the same rows in other files.

use std::path::PathBuf;

use clap::ValueEnum;
use pausedata::convert::{self, Converted, Form};

use super::Outcome;
use super::failure::Failure;
use super::ui::{Format, NAME, PASSED, Ui, grouped};

/// Convert a dataset to other files, or back; nothing is lost
///
/// `binary` and `parquet` are datasets, which every command takes; the others are for other
/// programs. What they cannot hold stands beside them in `pausedata/`, so that all of them
/// convert back to the dataset with the digest it had. The result is read back and compared
/// before it gets its name.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pausedata convert runs/quickstart/data/pretrain --to parquet --out converted
  pausedata convert runs/quickstart/data/pretrain --to megatron --out megatron
  pausedata convert megatron --to binary --out again    (the dataset that it was)")]
pub struct Args {
    /// A dataset, or what `convert` made of one
    #[arg(value_name = "FROM")]
    pub from: PathBuf,
    /// What to make
    #[arg(long, value_name = "FORM")]
    pub to: To,
    /// Where to put it; must not exist
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
}

/// The forms as they are typed.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum To {
    /// A dataset with shards that llm.c and Megatron read
    Binary,
    /// A dataset with shards for pyarrow, polars and `datasets`, memory-mapped
    Parquet,
    /// Parquet files as small as they get
    ParquetCompact,
    /// train.bin and train.idx for Megatron's IndexedDataset
    Megatron,
    /// train.bin and val.bin: ids of two bytes
    Nanogpt,
}

impl From<To> for Form {
    fn from(to: To) -> Self {
        match to {
            To::Binary => Self::Binary,
            To::Parquet => Self::Parquet,
            To::ParquetCompact => Self::ParquetCompact,
            To::Megatron => Self::Megatron,
            To::Nanogpt => Self::Nanogpt,
        }
    }
}

/// Runs the command.
pub fn execute(args: &Args, ui: &Ui) -> Result<Outcome, Failure> {
    let stop = ui.stop_on_signal()?;
    let converted = convert::run(&args.from, args.to.into(), &args.out, ui, &stop)?;
    match ui.format() {
        Format::Json => ui.print_json(&converted)?,
        Format::Text => ui.print(&text(&converted))?,
    }
    Ok(Outcome::Done)
}

fn text(converted: &Converted) -> String {
    let mut text = format!(
        "{NAME}{}{NAME:#}  dataset {}\n",
        converted.folder.display(),
        converted.dataset
    );
    for (split, content) in &converted.content {
        let rows = converted.rows.get(split).copied().unwrap_or(0);
        let (split, rows) = (split.to_string(), grouped(rows));
        text += &format!("  {split:<10} {rows} rows, SHA-256 {content}\n");
    }
    text + &format!(
        "  {PASSED}proved{PASSED:#}     read back, every row and document is the same\n"
    )
}

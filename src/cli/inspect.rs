//! `pausedata inspect`: rows as a person reads them.

use std::path::PathBuf;

use pausedata::dataset::At;
use pausedata::inspect::{self, Kind, Piece};
use pausedata::pause;
use pausedata::sequence::Sequence;
use pausedata::tokenize::Tokenizer;
use serde::Serialize;

use super::Outcome;
use super::failure::Failure;
use super::ui::{Format, NAME, PAUSE, READ, SCORED, Ui};
use super::values::{Pause, Split};

/// Show rows of a dataset decoded, with pauses and trained targets coloured
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pausedata inspect runs/quickstart/data/pretrain
  pausedata inspect runs/quickstart/data/finetune --from 100 --rows 3 --ids
  pausedata inspect runs/quickstart/data/finetune --json | head -1
  pausedata inspect runs/shared/pretrain --pause '{ policy = \"random\", fraction = 0.2 }' --epoch 3")]
pub struct Args {
    /// The dataset: a folder with a manifest.json
    #[arg(value_name = "DATASET")]
    pub dataset: PathBuf,
    #[command(flatten)]
    pub pause: Pause,
    /// Which pass over the rows, from 0: where they get their pauses when they are read,
    /// each has others
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub epoch: u64,
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
    let dataset = args.pause.open(&args.dataset)?;
    let tokenizer = dataset.tokenizer()?;
    let split = args.split.into();
    let at = |index| At {
        split,
        epoch: args.epoch,
        index,
    };
    let rows = args.from
        ..args
            .from
            .saturating_add(args.rows.max(1))
            .min(dataset.rows(split));
    if rows.is_empty() {
        inspect::row(&dataset, &tokenizer, at(args.from))?; // Says which rows there are.
    }
    if ui.format() == Format::Text {
        ui.print(&legend())?;
    }
    for index in rows {
        let pieces = inspect::row(&dataset, &tokenizer, at(index))?;
        match ui.format() {
            Format::Json => ui.print_json(&Row {
                row: index,
                pieces: &pieces,
            })?,
            Format::Text if args.ids => {
                let sequence = dataset.row_at(at(index))?;
                ui.print(&id_lines(index, &sequence, &tokenizer))?;
            }
            Format::Text => ui.print(&text(index, &pieces))?,
        }
    }
    Ok(Outcome::Done)
}

#[derive(Serialize)]
struct Row<'a> {
    row: u64,
    pieces: &'a [Piece],
}

fn legend() -> String {
    format!(
        "{PAUSE}⏸{PAUSE:#} pause   {SCORED}scored{SCORED:#}   {READ}read only{READ:#}   {PAUSE}|{PAUSE:#} end of document\n"
    )
}

fn text(index: u64, pieces: &[Piece]) -> String {
    let ids: usize = pieces.iter().map(|piece| piece.ids).sum();
    let pauses = pieces
        .iter()
        .filter(|piece| piece.kind == Kind::Pause)
        .map(|piece| piece.ids);
    let mut text = format!(
        "\n{NAME}row {index}{NAME:#}  {ids} ids, {} pauses\n",
        pauses.sum::<usize>()
    );
    for piece in pieces {
        text += &match piece.kind {
            Kind::Pause => format!("{PAUSE}{}{PAUSE:#}", "⏸".repeat(piece.ids)),
            Kind::End => format!("{PAUSE}{}{PAUSE:#}", "|".repeat(piece.ids)),
            Kind::Scored => format!("{SCORED}{}{SCORED:#}", piece.text),
            Kind::Prefix | Kind::Unscored => format!("{READ}{}{READ:#}", piece.text),
        };
    }
    text + "\n"
}

/// One id a line: position, id, weight of the prediction made there, token.
fn id_lines(index: u64, row: &Sequence, tokenizer: &Tokenizer) -> String {
    let reserved = tokenizer.reserved();
    let weights = pause::target::weights(row, reserved);
    let targets = pause::target::targets(row, reserved);
    // Targets that follow from the ids would only repeat the next line.
    let stored = (row.stored.as_deref()).is_some_and(|stored| !stored.targets.is_empty());
    let mut text = format!("\n{NAME}row {index}{NAME:#}\nposition     id  weight  token\n");
    let ids = row.ids.iter().zip(weights).zip(targets);
    for (position, ((id, weight), target)) in ids.enumerate() {
        let decode = |id| tokenizer.decode(&[id]).unwrap_or_default();
        let token = decode(*id);
        let target = match target.filter(|_| stored) {
            Some(target) => format!("  -> {:?}", decode(target)),
            None => String::new(),
        };
        text += &format!("{position:>8} {:>6} {weight:>7}  {token:?}{target}\n", id.0);
    }
    text
}

//! `pausedata bench`: measurements of the program's own parts.

mod train;

use std::path::PathBuf;

use clap::Subcommand;
use pausedata::bench::tokenize::{self, Encoder, Options, Report};

use super::Outcome;
use super::failure::{Failure, Kind};
use super::ui::{Format, NAME, Ui, grouped};

/// Measure a part of this program on this machine
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pausedata bench tokenize tokenizer.json corpus.jsonl
  pausedata bench tokenize tokenizer.json corpus.jsonl --megabytes 16 --reference --json
  pausedata --threads 1 bench train --ceiling
  pausedata bench parity data/parity/gpt2")]
pub struct Args {
    #[command(subcommand)]
    pub part: Part,
}

/// What can be measured.
#[derive(Clone, Debug, Subcommand)]
pub enum Part {
    /// Encode a corpus on one thread, cold and warm, and digest the ids
    Tokenize(Tokenize),
    /// Train a model for some steps, and tell how fast that went
    Train(train::Train),
    /// Do the run that another program has left as arrays, and tell what differs
    Parity(train::Parity),
}

/// Arguments of `bench tokenize`.
#[derive(Clone, Debug, clap::Args)]
pub struct Tokenize {
    /// A Hugging Face tokenizer.json
    #[arg(value_name = "TOKENIZER_JSON")]
    pub tokenizer: PathBuf,
    /// JSON Lines, each an object with a string `text`
    #[arg(value_name = "CORPUS.jsonl")]
    pub corpus: PathBuf,
    /// Times to encode everything; the first finds caches empty
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub passes: u16,
    /// Read no more than this many million bytes of text
    #[arg(long, value_name = "N")]
    pub megabytes: Option<u32>,
    /// Encode by the `tokenizers` library instead, for comparison
    #[arg(long)]
    pub reference: bool,
}

/// Runs the command.
pub fn execute(args: &Args, ui: &Ui) -> Result<Outcome, Failure> {
    match &args.part {
        Part::Tokenize(args) => tokenize(args, ui),
        Part::Train(args) => train::execute(args, ui),
        Part::Parity(args) => train::compare(args, ui),
    }
}

fn tokenize(args: &Tokenize, ui: &Ui) -> Result<Outcome, Failure> {
    let report = tokenize::run(&Options {
        tokenizer: args.tokenizer.clone(),
        corpus: args.corpus.clone(),
        text_bytes: args
            .megabytes
            .map_or(u64::MAX, |n| 1_000_000 * u64::from(n)),
        passes: args.passes.into(),
        encoder: match args.reference {
            true => Encoder::Library,
            false => Encoder::Own,
        },
    })?;
    match ui.format() {
        Format::Json => ui.print_json(&report)?,
        Format::Text => ui.print(&text(&report))?,
    }
    Ok(Outcome::Done)
}

fn text(report: &Report) -> String {
    let mut text = format!(
        "{NAME}path{NAME:#}    {}\ncorpus  {} documents, {} bytes, {} tokens, ids {}\nload    {:.3} s\n",
        report.path,
        grouped(report.documents),
        grouped(report.bytes),
        grouped(report.tokens),
        report.digest.short(),
        report.load.cpu_seconds,
    );
    for (index, pass) in report.passes.iter().enumerate() {
        text += &format!(
            "pass {}  {:.3} s of CPU, {:.3} s in all: {:.1} MB a second of CPU\n",
            index + 1,
            pass.took.cpu_seconds,
            pass.took.wall_seconds,
            pass.megabytes_per_cpu_second,
        );
    }
    text
}

impl From<tokenize::Error> for Failure {
    fn from(error: tokenize::Error) -> Self {
        match error {
            tokenize::Error::File(error) => error.into(),
            error @ tokenize::Error::Line { .. } => Self::of(Kind::BadInput, &error)
                .hint("a line is a document, as in {\"text\": \"Once upon a time\"}"),
            error => Self::of(Kind::Failed, &error),
        }
    }
}

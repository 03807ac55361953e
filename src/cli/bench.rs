//! `pausedata bench`: measurements of the program's own parts.

mod train;

use std::path::PathBuf;

use clap::Subcommand;
use pausedata::bench::loader::{self, Checks};
use pausedata::bench::tokenize::{self, Encoder, Options, Report};
use pausedata::{shard, units};
use serde_json::json;

use super::Outcome;
use super::failure::{Failure, Kind};
use super::ui::{Format, NAME, Ui, grouped};
use super::values::{Pause, Reads, Split};

/// Measure a part of this program on this machine
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pausedata bench tokenize tokenizer.json corpus.jsonl
  pausedata bench tokenize tokenizer.json corpus.jsonl --megabytes 16 --reference --json
  pausedata bench loader runs/quickstart/data/pretrain
  pausedata bench loader runs/quickstart/data/pretrain --batch-rows 64 --rate 800000 --read pread
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
    /// Make the batches of whole epochs on one thread, and the first one after a stop
    Loader(Load),
    /// Train a model for some steps, and tell how fast that went
    Train(train::Train),
    /// Do the run that another program has left as arrays, and tell what differs
    Parity(train::Parity),
}

/// Arguments of `bench loader`.
#[derive(Clone, Debug, clap::Args)]
pub struct Load {
    /// A dataset: a folder with a manifest.json
    #[arg(value_name = "DATASET")]
    pub dataset: PathBuf,
    /// Rows of a batch
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..))]
    pub batch_rows: u32,
    /// Decides the order of rows
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub seed: u64,
    /// Passes over all rows; the first finds every block unchecked
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub epochs: u16,
    /// Tokens a second of a training, to say what the loader takes beside it
    #[arg(long, value_name = "TOKENS_PER_SECOND", default_value_t = 1_000_000)]
    pub rate: u64,
    /// Which part of the dataset
    #[arg(long, default_value = "train", value_name = "SPLIT")]
    pub split: Split,
    #[command(flatten)]
    pub reads: Reads,
    #[command(flatten)]
    pub pause: Pause,
    /// Take the dataset's files out of the system's memory first, as far as it does so
    #[arg(long)]
    pub cold: bool,
    /// Do not ask the system for the rows of the next batch while one is made
    #[arg(long)]
    pub no_read_ahead: bool,
    /// Also write the rows as new shards into this folder, three times; it is removed again
    #[arg(long, value_name = "NEW_FOLDER")]
    pub write: Option<PathBuf>,
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
        Part::Loader(args) => load(args, ui),
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

fn load(args: &Load, ui: &Ui) -> Result<Outcome, Failure> {
    let report = loader::run(&loader::Options {
        dataset: args.dataset.clone(),
        split: args.split.into(),
        rows_per_batch: args.batch_rows as usize,
        seed: args.seed,
        epochs: args.epochs.into(),
        reading: args.reads.how.into(),
        checks: match args.reads.no_verify {
            true => Checks::None,
            false => Checks::FirstTouch,
        },
        read_ahead: !args.no_read_ahead,
        cold: args.cold,
        pause: args.pause.config().cloned(),
        write: args.write.clone(),
    })?;
    let share = report.share_at(args.rate as f64);
    match ui.format() {
        Format::Json => {
            let mut value = serde_json::to_value(&report)?;
            if let Some(fields) = value.as_object_mut() {
                fields.insert("rate".into(), json!(args.rate));
                fields.insert("share_of_a_core".into(), json!(share));
            }
            ui.print_json(&value)?;
        }
        Format::Text => ui.print(&loaded(&report, args.rate, share))?,
    }
    Ok(Outcome::Done)
}

fn loaded(report: &loader::Report, rate: u64, share: f64) -> String {
    let mut trials = report.first_batch_ms.clone();
    trials.sort_by(f64::total_cmp);
    let trial = |at: usize| trials.get(at).copied().unwrap_or_default();
    let read = match (report.reading, report.checks) {
        (shard::Reading::Mmap, Checks::FirstTouch) => "mapped, checksums compared at first touch",
        (shard::Reading::Mmap, Checks::None) => "mapped, checksums not compared",
        (shard::Reading::Pread, Checks::FirstTouch) => {
            "by pread, checksums compared at first touch"
        }
        (shard::Reading::Pread, Checks::None) => "by pread, checksums not compared",
    };
    let private = match (report.private_bytes, report.private_bytes_before) {
        (Some(most), Some(before)) => format!(
            "{}, {} of them before the dataset was opened",
            units::bytes(most),
            units::bytes(before)
        ),
        _ => "this system does not tell".into(),
    };
    let mut text = format!(
        "{NAME}dataset{NAME:#}      {}, {} rows\n\
         read         {read}\n\
         opened in    {:.1} ms\n\
         first batch  {:.2} ms after that, from the middle of an epoch ({:.2} at most)\n\n\
         epoch  tokens/CPU-s     rows/s  batch ms p50    p99    max\n",
        report.dataset.short(),
        grouped(report.rows),
        1e3 * report.open.wall_seconds,
        trial(trials.len() / 2),
        trial(trials.len().saturating_sub(1)),
    );
    for (number, epoch) in (1..).zip(&report.epochs) {
        text += &format!(
            "{number:5}  {:>12} {:>10} {:>13.3} {:>6.3} {:>6.3}\n",
            units::short(whole(epoch.tokens_per_cpu_second)),
            grouped(whole(epoch.rows_per_second)),
            epoch.batch_ms.p50,
            epoch.batch_ms.p99,
            epoch.batch_ms.max,
        );
    }
    if let Some(written) = &report.written {
        let speed = whole(written.tokens_per_cpu_second);
        text += &format!("\nwritten again at {} tokens/CPU-s\n", units::short(speed));
    }
    text + &format!(
        "\nprivate memory {private}\n\
         beside a training of {} tokens a second it takes {} of a core\n",
        grouped(rate),
        units::percent(share),
    )
}

/// A number of things a second.
fn whole(speed: f64) -> u64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "far below 2^64, and not below 0"
    )]
    let whole = speed.round() as u64;
    whole
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

impl From<loader::Error> for Failure {
    fn from(error: loader::Error) -> Self {
        match error {
            loader::Error::Dataset(error) => error.into(),
            loader::Error::Loader(error) => error.into(),
            loader::Error::Shard(error) => error.into(),
            error @ loader::Error::Exists { .. } => Self::of(Kind::BadInput, &error),
        }
    }
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

//! `pausedata stats`: what a dataset holds, in numbers.

use std::path::PathBuf;

use pausedata::dataset::Dataset;
use pausedata::progress::Progress;
use pausedata::stats::{self, SplitStats, Stats};
use pausedata::{fs, prepare, report};

use super::Outcome;
use super::failure::Failure;
use super::ui::{Format, NAME, Ui, grouped};

/// Show a dataset's lengths, pause densities, run lengths, and drops by reason
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pausedata stats runs/quickstart/data/pretrain
  pausedata stats runs/quickstart/data/pretrain --json
  pausedata stats runs/quickstart/data/pretrain --html pretrain.html")]
pub struct Args {
    /// The dataset: a folder with a manifest.json
    #[arg(value_name = "DATASET")]
    pub dataset: PathBuf,
    /// Write a page for browsers too: charts, tables, sample rows; one file, no network
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// How many rows the page shows
    #[arg(long, default_value_t = 6, value_name = "N", requires = "html")]
    pub sample: u64,
}

/// Runs the command.
pub fn execute(args: &Args, ui: &Ui) -> Result<Outcome, Failure> {
    let dataset = Dataset::open(&args.dataset)?;
    let stats = stats::of(&dataset, ui)?;
    if let Some(path) = &args.html {
        let page = report::dataset(&dataset, &stats, args.sample)?;
        fs::write(path, page.as_bytes())?;
        ui.note(&format!("wrote {}", path.display()));
    }
    match ui.format() {
        Format::Json => ui.print_json(&stats)?,
        Format::Text => ui.print(&text(&stats))?,
    }
    Ok(Outcome::Done)
}

fn text(stats: &Stats) -> String {
    let ledger = &stats.ledger;
    let mut text = format!(
        "{NAME}dataset{NAME:#} {}  {}, vocabulary {}\n",
        stats.dataset.short(),
        prepare::stage_name(stats.stage),
        grouped(stats.vocab_size.into()),
    );
    let reasons = ledger
        .dropped
        .iter()
        .map(|(reason, n)| format!(", {} {reason}", grouped(*n)));
    let dropped: u64 = ledger.dropped.values().sum();
    text += &format!(
        "documents  {} read = {} kept + {} dropped{}\n",
        grouped(ledger.read),
        grouped(ledger.kept),
        grouped(dropped),
        reasons.collect::<String>(),
    );
    for (split, stats) in stats
        .splits
        .iter()
        .filter(|(_, stats)| 0 < stats.totals.rows)
    {
        text += &format!("\n{NAME}{}{NAME:#}\n", format!("{split:?}").to_lowercase());
        text += &split_text(stats);
    }
    text
}

fn split_text(stats: &SplitStats) -> String {
    let totals = &stats.totals;
    let mut text = format!(
        "  rows       {} in {} shards\n  ids        {}: {} text, {} pauses ({:.2} %), {} scored ({:.1} %)\n  text       {} bytes, {:.2} an id\n",
        grouped(totals.rows),
        stats.shards,
        grouped(totals.real + totals.pauses),
        grouped(totals.real),
        grouped(totals.pauses),
        100.0 * stats.pause_density,
        grouped(totals.scored),
        100.0 * stats.scored_share,
        grouped(totals.text_bytes),
        stats.bytes_per_token,
    );
    if 0 < totals.overflowed {
        text += &format!(
            "  overflow   {} ids of text were pushed out by pauses\n",
            grouped(totals.overflowed)
        );
    }
    let runs = totals.pause_runs.iter().enumerate();
    let runs = runs
        .filter(|(_, n)| 0 < **n)
        .map(|(i, n)| (format!("{}", i + 1), *n));
    text += &bars("runs of pauses, by length", runs.collect());
    let lengths = stats.lengths.iter();
    text + &bars(
        "rows, by length in ids",
        lengths
            .map(|bin| (format!("{}-{}", bin.from, bin.to), bin.count))
            .collect(),
    )
}

/// A histogram drawn with blocks.
fn bars(title: &str, bars: Vec<(String, u64)>) -> String {
    let most = bars.iter().map(|(_, n)| *n).max().unwrap_or(0);
    if most == 0 {
        return String::new();
    }
    let mut text = format!("  {title}\n");
    for (label, n) in bars.into_iter().filter(|(_, n)| 0 < *n) {
        let width = usize::try_from((n * 40).div_ceil(most)).unwrap_or(40);
        text += &format!("    {label:>9} {} {}\n", "█".repeat(width), grouped(n));
    }
    text
}

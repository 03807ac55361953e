//! `pausedata stats`: what a dataset holds, in numbers.

use std::path::PathBuf;

use pausedata::manifest::Manifest;
use pausedata::progress::Progress;
use pausedata::stats::{self, Padding, SplitStats, Stats};
use pausedata::units::percent;
use pausedata::{fs, prepare, report};

use super::Outcome;
use super::failure::Failure;
use super::ui::{Format, NAME, Ui, grouped};
use super::values::Pause;

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
    #[command(flatten)]
    pub pause: Pause,
    /// Write a page for browsers too: charts, tables, sample rows; one file, no network
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// How many rows the page shows
    #[arg(long, default_value_t = 6, value_name = "N", requires = "html")]
    pub sample: u64,
}

/// Runs the command.
pub fn execute(args: &Args, ui: &Ui) -> Result<Outcome, Failure> {
    let dataset = args.pause.open(&args.dataset)?;
    let stats = stats::of(&dataset, ui)?;
    if let Some(path) = &args.html {
        let page = report::dataset(&dataset, &stats, args.sample)?;
        fs::write(path, page.as_bytes())?;
        ui.note(&format!("wrote {}", path.display()));
    }
    match ui.format() {
        Format::Json => ui.print_json(&stats)?,
        Format::Text => ui.print(&text(&stats, &dataset.manifest))?,
    }
    Ok(Outcome::Done)
}

fn text(stats: &Stats, manifest: &Manifest) -> String {
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
    text += &overlaps(manifest);
    text += &mixture(manifest);
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

/// What each source gave, where any has a weight.
fn mixture(manifest: &Manifest) -> String {
    let ledger = &manifest.ledger;
    let ids: u64 = ledger.sources.values().map(|share| share.ids).sum();
    let mut text = String::new();
    if 0 < ledger.copies {
        text += &format!(
            "copies     {} beside the first of a document\n",
            grouped(ledger.copies)
        );
    }
    for (source, share) in &ledger.sources {
        let recipe = manifest
            .recipe
            .get("sources")
            .and_then(|sources| sources.get(source));
        let key = |key: &str| recipe.and_then(|recipe| recipe.get(key));
        let name = match (
            key("path"),
            key("synthetic").and_then(|spec| spec.get("corpus")),
        ) {
            (Some(name), _) | (None, Some(name)) => name.as_str().unwrap_or("?"),
            (None, None) => "?",
        };
        text += &format!(
            "source     {} documents, {} ids ({:.1} %): {name} times {}\n",
            grouped(share.documents),
            grouped(share.ids),
            100.0 * share.ids as f64 / ids.max(1) as f64,
            key("weight").map_or_else(|| "1".into(), ToString::to_string),
        );
    }
    text
}

/// Where the documents met evaluation sets.
fn overlaps(manifest: &Manifest) -> String {
    let mut text = String::new();
    for set in &manifest.contamination {
        text += &format!(
            "overlap    {} documents hold pieces of {}\n",
            grouped(set.documents),
            set.name
        );
        for overlap in &set.shown {
            let file = manifest.corpus.get(overlap.file as usize);
            text += &format!(
                "  document {} of `{}`: {}\n",
                overlap.row + 1,
                file.map_or("?", |file| &file.name),
                overlap.words
            );
        }
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
    if 0 < totals.padded + totals.cut {
        let positions = totals.padded + totals.real + totals.pauses;
        text += &format!(
            "  packing    {} positions left empty ({:.2} %), {} documents cut, {} ids of them dropped\n",
            grouped(totals.padded),
            100.0 * totals.padded as f64 / positions.max(1) as f64,
            grouped(totals.cut),
            grouped(totals.trimmed)
        );
    }
    let Padding {
        rows,
        random,
        sorted,
    } = stats.padding;
    // Rows of a stream are all of one length but for the last of a unit.
    if sorted + 0.005 < random {
        text += &format!(
            "  padding    {} of positions in batches of {rows} random rows, {} where they are of one length (`train.bucket`)\n",
            percent(random),
            percent(sorted)
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

//! `pausedata verify`: the proof that a dataset is what it says.

use std::path::PathBuf;

use pausedata::verify::{self, Check, Report};
use serde::Serialize;

use super::Outcome;
use super::failure::Failure;
use super::recipe::Remote;
use super::ui::{FAILED, Format, NAME, PASSED, Ui};
use super::values::Pause;

/// Prove a dataset: checksums, round trip to the original text, masks, counts
///
/// Says `N passed, M failed`; exits with 1 where anything failed and with 3 where
/// the folder is no complete dataset.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pausedata verify runs/quickstart/data/pretrain
  pausedata verify runs/novels/data/pretrain --data-root ~/corpora    (compare with the files too)
  pausedata verify runs/quickstart/data/finetune --json")]
pub struct Args {
    /// The dataset: a folder with a manifest.json
    #[arg(value_name = "DATASET")]
    pub dataset: PathBuf,
    #[command(flatten)]
    pub pause: Pause,
    /// Read the source files under this folder again and compare them byte for byte
    #[arg(long, value_name = "DIR")]
    pub data_root: Option<PathBuf>,
    /// Where temporary files go, of at most 56 bytes a document, while duplicates are
    /// looked for [default: the dataset's folder]
    #[arg(long, value_name = "DIR")]
    pub temp_dir: Option<PathBuf>,
    #[command(flatten)]
    pub remote: Remote,
    /// Do not look for the source files; each document is proved by its checksum
    #[arg(long, conflicts_with = "data_root")]
    pub no_sources: bool,
}

/// Runs the command.
pub fn execute(args: &Args, ui: &Ui) -> Result<Outcome, Failure> {
    let stop = ui.stop_on_signal()?;
    let sources = match args.no_sources {
        true => verify::Sources::Ignored,
        false => verify::Sources::At {
            data_root: args.data_root.clone(),
            access: args.remote.access(),
            temp_dir: args.temp_dir.clone(),
        },
    };
    let report = verify::run(&args.dataset, args.pause.config(), &sources, ui, &stop)?;
    match ui.format() {
        Format::Json => ui.print_json(&Printed::of(&report))?,
        Format::Text => ui.print(&text(&report))?,
    }
    Ok(if report.failed() == 0 {
        Outcome::Done
    } else {
        Outcome::Refuted
    })
}

/// The report with its sums.
#[derive(Serialize)]
struct Printed<'a> {
    #[serde(flatten)]
    report: &'a Report,
    passed: usize,
    failed: usize,
}

impl<'a> Printed<'a> {
    fn of(report: &'a Report) -> Self {
        Self {
            report,
            passed: report.passed(),
            failed: report.failed(),
        }
    }
}

/// Failures one by one; what passed, a line for each kind of check.
fn text(report: &Report) -> String {
    let mut text = String::new();
    for same in report.checks.chunk_by(|a, b| a.name == b.name) {
        let passed: Vec<_> = same.iter().filter_map(passed_detail).collect();
        if let Some(last) = passed.last() {
            let files = if 1 < passed.len() {
                format!("{} files", passed.len())
            } else {
                last.to_string()
            };
            let name = same.first().map_or("", |check| &check.name);
            text += &format!("{PASSED}ok{PASSED:#}      {name}: {files}\n");
        }
        for check in same {
            if let verify::Outcome::Failed(detail) = &check.outcome {
                let file = check.file.as_deref().unwrap_or("the dataset");
                text += &format!(
                    "{FAILED}FAILED{FAILED:#}  {}: {NAME}{file}{NAME:#}: {detail}\n",
                    check.name
                );
            }
        }
    }
    let digest = report.digest.map_or_else(String::new, |digest| {
        format!(", dataset {}", digest.short())
    });
    text + &format!(
        "{} passed, {} failed{digest}\n",
        report.passed(),
        report.failed()
    )
}

fn passed_detail(check: &Check) -> Option<&str> {
    match &check.outcome {
        verify::Outcome::Passed(detail) => Some(detail),
        verify::Outcome::Failed(_) => None,
    }
}

//! `pausedata report`: what a run's training gave, as a page.

use std::path::PathBuf;

use super::Outcome;
use super::failure::Failure;
use super::ui::Ui;

/// Show a run's curves of loss, learning rate, gradient norm and speed, and its evaluation;
/// or what an experiment found
///
/// Writes one page for browsers, without scripts or network, and the same numbers as JSON.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pausedata report runs/quickstart
  pausedata report runs/quickstart/train/pretrain --html pretrain.html
  pausedata report runs/quickstart --json | head -c 300")]
pub struct Args {
    /// The run's folder, or a training folder of it
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
    /// Where the page goes, instead of `report.html` with `report.json` beside it in DIR
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

/// Runs the command.
#[cfg(feature = "train")]
pub fn execute(args: &Args, ui: &Ui) -> Result<Outcome, Failure> {
    use pausedata::progress::Progress;
    use pausedata::{experiment, fs, report};

    if let Some(findings) = experiment::read(&args.folder)? {
        let html = args.html.clone().unwrap_or(args.folder.join("report.html"));
        let page = report::experiment::page(&name(&args.folder), &findings);
        fs::write(&html, page.as_bytes())?;
        ui.note(&format!("wrote {}", html.display()));
        match ui.format() {
            super::ui::Format::Json => ui.print_json(&findings)?,
            super::ui::Format::Text => ui.print(&super::verdict::text(&findings))?,
        }
        return Ok(Outcome::Done);
    }
    let curves = report::training::read(&args.folder)?;
    let page = report::training::page(&name(&args.folder), &curves);
    let html = match &args.html {
        Some(html) => html.clone(),
        None => {
            let json = format!("{}\n", serde_json::to_string(&curves)?);
            fs::write(&args.folder.join("report.json"), json.as_bytes())?;
            args.folder.join("report.html")
        }
    };
    fs::write(&html, page.as_bytes())?;
    ui.note(&format!("wrote {}", html.display()));
    match ui.format() {
        super::ui::Format::Json => ui.print_json(&curves)?,
        super::ui::Format::Text => ui.print(&super::summary::curves(&curves))?,
    }
    Ok(Outcome::Done)
}

/// What a page of a folder is called.
#[cfg(feature = "train")]
fn name(folder: &std::path::Path) -> String {
    let folder = folder.canonicalize().unwrap_or(folder.to_path_buf());
    folder
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// Runs the command.
#[cfg(not(feature = "train"))]
pub fn execute(_: &Args, _: &Ui) -> Result<Outcome, Failure> {
    Err(Failure::without_training("report"))
}

//! The terminal: progress on stderr, results on stdout.

use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use anstyle::{AnsiColor, Style};
use indicatif::{ProgressBar, ProgressStyle};
use pausedata::progress::{Progress, Stop, Unit};
pub use pausedata::units::grouped;
use serde::Serialize;

use super::Global;
use super::failure::{Failure, Kind};

/// How results are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text,
    /// For machines.
    Json,
}

/// How much is said on stderr.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Noise {
    /// Failures alone.
    Quiet,
    /// Notes too.
    Notes,
    /// Notes and a bar that moves: stderr is a terminal.
    Bars,
}

/// How a pause token is shown.
pub const PAUSE: Style = AnsiColor::Yellow.on_default();
/// How a target that counts in the loss is shown.
pub const SCORED: Style = AnsiColor::Green.on_default();
/// How what is read but never scored is shown.
pub const READ: Style = Style::new().dimmed();
/// How the name of something is shown.
pub const NAME: Style = Style::new().bold();
/// How what passed is shown.
pub const PASSED: Style = AnsiColor::Green.on_default().bold();
/// How what failed is shown.
pub const FAILED: Style = AnsiColor::Red.on_default().bold();

/// Everything that a command says.
#[derive(Debug)]
pub struct Ui {
    format: Format,
    noise: Noise,
    bar: Mutex<Option<ProgressBar>>,
    stop: OnceLock<Stop>,
}

impl Ui {
    /// As the arguments want it and the terminal allows it.
    pub fn new(global: &Global) -> Self {
        let noise = match (global.quiet, io::stderr().is_terminal()) {
            (true, _) => Noise::Quiet,
            (false, true) => Noise::Bars,
            (false, false) => Noise::Notes,
        };
        Self {
            format: if global.json {
                Format::Json
            } else {
                Format::Text
            },
            noise,
            bar: Mutex::new(None),
            stop: OnceLock::new(),
        }
    }

    /// How results are to be written.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Writes a result to stdout. Styles in it vanish where nobody can see them.
    pub fn print(&self, text: &str) -> Result<(), Failure> {
        let write = || {
            let mut stdout = anstream::stdout().lock();
            stdout.write_all(text.as_bytes())?;
            stdout.flush()
        };
        let bar = self.bar();
        let result = match &*bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        };
        Ok(result?)
    }

    /// Writes bytes that are no text to stdout.
    pub fn write(&self, bytes: &[u8]) -> Result<(), Failure> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(bytes)?;
        Ok(stdout.flush()?)
    }

    /// Writes a result to stdout as one line of JSON.
    pub fn print_json(&self, value: &impl Serialize) -> Result<(), Failure> {
        let text = serde_json::to_string(value)?;
        self.print(&format!("{text}\n"))
    }

    /// Turns the first Ctrl-C or SIGTERM into a request that the returned flag
    /// shows; the second ends the process at once.
    pub fn stop_on_signal(&self) -> Result<Stop, Failure> {
        if let Some(stop) = self.stop.get() {
            return Ok(stop.clone());
        }
        let stop = self.stop.get_or_init(Stop::default).clone();
        let flag = stop.clone();
        ctrlc::set_handler(move || {
            if flag.requested() {
                std::process::exit(Kind::Stopped.code().into());
            }
            flag.request();
        })
        .map_err(|error| Failure::of(Kind::Failed, &error))?;
        Ok(stop)
    }

    /// Takes the bar off the screen.
    pub fn clear(&self) {
        if let Some(bar) = self.bar().take() {
            bar.finish_and_clear();
        }
    }

    fn bar(&self) -> MutexGuard<'_, Option<ProgressBar>> {
        // A thread that died while it drew leaves a bar that can still be drawn.
        self.bar.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Progress for Ui {
    fn start(&self, stage: &str, total: Option<u64>, unit: Unit) {
        self.clear();
        if self.noise != Noise::Bars {
            return;
        }
        let bar = match total {
            Some(total) => ProgressBar::new(total),
            None => ProgressBar::no_length(),
        };
        let template = template(total, unit);
        // The templates are ours, and a test compiles each; the default shows enough.
        let style = ProgressStyle::with_template(&template);
        let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
        bar.set_style(style.progress_chars("━━╌"));
        bar.set_prefix(stage.to_string());
        // The rate and the time left move even where steps are slow.
        bar.enable_steady_tick(Duration::from_millis(250));
        *self.bar() = Some(bar);
    }

    fn advance(&self, count: u64) {
        if let Some(bar) = &*self.bar() {
            bar.inc(count);
        }
    }

    fn remark(&self, text: &str) {
        if let Some(bar) = &*self.bar() {
            bar.set_message(text.to_string());
        }
    }

    fn note(&self, text: &str) {
        if self.noise == Noise::Quiet {
            return;
        }
        // Where stderr is closed, the work goes on without notes.
        let write = || drop(writeln!(anstream::stderr().lock(), "{text}"));
        match &*self.bar() {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }

    fn finish(&self) {
        self.clear();
    }
}

fn template(total: Option<u64>, unit: Unit) -> String {
    let (done, whole, rate) = match unit {
        Unit::Bytes => ("{bytes}", "{total_bytes}", "{bytes_per_sec}"),
        _ => ("{human_pos}", "{human_len}", "{per_sec}"),
    };
    let unit = match unit {
        Unit::Bytes => "",
        Unit::Files => " files",
        Unit::Documents => " documents",
        Unit::Rows => " rows",
        Unit::Steps => " steps",
        Unit::Answers => " answers",
    };
    match total {
        Some(_) => {
            format!(
                "{{prefix:.bold}} {{bar:24.cyan}} {done}/{whole}{unit}, {rate}, {{eta}} left  {{msg}}"
            )
        }
        None => format!("{{prefix:.bold}} {{spinner}} {done}{unit}, {rate}, {{elapsed}}  {{msg}}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_template_compiles() {
        let units = [
            Unit::Bytes,
            Unit::Files,
            Unit::Documents,
            Unit::Rows,
            Unit::Steps,
            Unit::Answers,
        ];
        for unit in units {
            for total in [None, Some(7)] {
                ProgressStyle::with_template(&template(total, unit)).unwrap();
            }
        }
    }
}

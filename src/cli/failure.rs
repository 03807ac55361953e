//! What the user sees when something fails: message chain, hints, exit code.

use std::error::Error;
use std::io::{self, Write};
use std::panic::PanicHookInfo;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

use anstyle::{AnsiColor, Style};
use pausedata::fs;
use pausedata::recipe::{self, Place};
use serde_json::json;

use super::ui::Format;

/// What went wrong, as far as scripts care.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The work failed.
    Failed,
    /// The recipe or the arguments are wrong.
    BadInput,
    /// Data is damaged or incomplete.
    Damaged,
    /// A signal stopped the work after its state was saved.
    Stopped,
    /// Whoever read our output has gone: nobody is left to tell.
    OutputClosed,
}

impl Kind {
    /// The exit code of the process.
    pub fn code(self) -> u8 {
        match self {
            Self::OutputClosed => 0,
            Self::Failed => 1,
            Self::BadInput => 2,
            Self::Damaged => 3,
            Self::Stopped => 75,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::BadInput => "bad-input",
            Self::Damaged => "damaged",
            Self::Stopped => "stopped",
            Self::OutputClosed => "output-closed",
        }
    }
}

/// A failure as the user is told it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    kind: Kind,
    /// The error and its causes, the outermost first.
    chain: Vec<String>,
    /// What to do about it, with the command to run.
    hints: Vec<String>,
    /// Boxed: a result is as large as its failure.
    place: Option<Box<Place>>,
}

impl Failure {
    /// A failure that is no error value of the library.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            chain: vec![message.into()],
            hints: Vec::new(),
            place: None,
        }
    }

    /// A failure from an error and the causes below it.
    pub fn of(kind: Kind, error: &dyn Error) -> Self {
        let mut failure = Self::new(kind, error.to_string());
        let mut source = error.source();
        while let Some(cause) = source {
            failure.chain.push(cause.to_string());
            source = cause.source();
        }
        failure
    }

    /// The work was stopped by a signal and can go on from what is saved.
    pub fn stopped() -> Self {
        Self::new(
            Kind::Stopped,
            "stopped by a signal; everything done so far is saved",
        )
        .hint("run the same command again to go on")
    }

    /// This build cannot do what `command` does.
    #[cfg(not(feature = "train"))]
    pub fn without_training(command: &str) -> Self {
        let message = format!("this build of pausedata cannot {command}: it lacks training");
        Self::new(Kind::Failed, message)
            .hint("install one that can: `cargo install --path .`, with its default features")
    }

    /// Adds a hint.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// Tells the user, and returns the exit code.
    pub fn print(&self, format: Format) -> ExitCode {
        if self.kind != Kind::OutputClosed {
            let text = match format {
                Format::Text => self.text(),
                Format::Json => format!("{}\n", self.json()),
            };
            // Where stderr is closed, the exit code has to do.
            drop(anstream::stderr().lock().write_all(text.as_bytes()));
        }
        ExitCode::from(self.kind.code())
    }

    fn text(&self) -> String {
        let red = AnsiColor::Red.on_default().bold();
        let mut text = format!("{red}error:{red:#} {}\n", self.chain.join(": "));
        for line in self.place.iter().flat_map(|place| place.excerpt()) {
            text += &format!("  {line}\n");
        }
        if !self.hints.is_empty() {
            text.push('\n');
        }
        for hint in &self.hints {
            let cyan = AnsiColor::Cyan.on_default().bold();
            text += &format!("{cyan}hint:{cyan:#} {}\n", backticks_bold(hint));
        }
        text
    }

    fn json(&self) -> serde_json::Value {
        let place = self.place.as_ref().map(|place| {
            let (line, column) = (place.line, place.column);
            json!({ "file": place.file, "line": line, "column": column, "text": place.text })
        });
        json!({
            "error": self.chain.join(": "),
            "kind": self.kind.name(),
            "exit_code": self.kind.code(),
            "place": place,
            "hints": self.hints,
        })
    }
}

/// Makes what stands in backticks bold, which leaves it readable without colour.
fn backticks_bold(text: &str) -> String {
    let bold = Style::new().bold();
    let mut parts = text.split('`');
    let mut styled = parts.next().unwrap_or_default().to_string();
    let mut inside = true;
    for part in parts {
        styled += &match inside {
            true => format!("{bold}`{part}"),
            false => format!("`{bold:#}{part}"),
        };
        inside = !inside;
    }
    styled
}

/// What to do about a disk that refused, where that is at the bottom of an error.
pub fn disk_advice(error: &(dyn Error + 'static)) -> Option<&'static str> {
    let refused = std::iter::successors(Some(error), |&error| error.source())
        .find_map(<dyn Error>::downcast_ref::<io::Error>)?;
    match refused.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            Some("free some space and run the same command again: what is done is kept")
        }
        io::ErrorKind::ReadOnlyFilesystem => {
            Some("choose a folder that can be written to, as in `--out /tmp/run`")
        }
        io::ErrorKind::PermissionDenied => {
            Some("change the permissions there, or name another place")
        }
        _ => None,
    }
}

impl From<fs::Error> for Failure {
    fn from(error: fs::Error) -> Self {
        let failure = Self::of(Kind::Failed, &error);
        match disk_advice(&error) {
            Some(advice) => failure.hint(advice),
            None => failure,
        }
    }
}

impl From<recipe::Error> for Failure {
    fn from(error: recipe::Error) -> Self {
        match error {
            recipe::Error::File(error) => {
                let failure = Self::of(Kind::BadInput, &error);
                match error.is_missing() {
                    true => failure.hint("recipes that work stand in `pipelines/`"),
                    false => failure,
                }
            }
            recipe::Error::Invalid(diagnosis) => Self {
                kind: Kind::BadInput,
                chain: vec![diagnosis.message],
                hints: diagnosis.hints,
                place: diagnosis.place.map(Box::new),
            },
            error @ recipe::Error::Unwritable(_) => Self::of(Kind::Failed, &error),
        }
    }
}

/// For what is written to stdout: a reader that has gone is no failure.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::new(Kind::OutputClosed, "the output was closed"),
            _ => Self::new(Kind::Failed, format!("cannot write to stdout: {error}")),
        }
    }
}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Self {
        Self::new(
            Kind::Failed,
            format!("cannot write a result as JSON: {error}"),
        )
    }
}

/// What the last panic said, until it is known whether anybody caught it.
static LAST_PANIC: Mutex<Option<String>> = Mutex::new(None);

/// Keeps panics off the terminal. The library turns some into errors, those of other
/// libraries on hostile files; what is left comes to [`mistake`].
pub fn remember_panics() {
    std::panic::set_hook(Box::new(remember));
}

fn remember(panic: &PanicHookInfo<'_>) {
    let mut message = panic.payload_as_str().unwrap_or("no message").to_string();
    if let Some(place) = panic.location() {
        message += &format!(" ({}:{})", place.file(), place.line());
    }
    *LAST_PANIC.lock().unwrap_or_else(PoisonError::into_inner) = Some(message);
}

/// The panic that ended the work: it is our mistake, never the user's.
fn mistake() -> Failure {
    let mut last = LAST_PANIC.lock().unwrap_or_else(PoisonError::into_inner);
    let message = last.take().unwrap_or_else(|| "no message".into());
    Failure::new(Kind::Failed, format!("a mistake in pausedata: {message}"))
        .hint("please report it, with this message and the command that you ran")
}

/// Tells the user of the panic that ended the work, and returns the exit code.
pub fn print_mistake() -> ExitCode {
    let json = std::env::args_os().any(|argument| argument == "--json");
    mistake().print(if json { Format::Json } else { Format::Text })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use expect_test::expect;

    use super::*;

    fn plain(failure: &Failure) -> String {
        anstream::adapter::strip_str(&failure.text()).to_string()
    }

    #[test]
    fn a_failure_is_a_chain_and_hints() {
        let error = fs::read(Path::new("/nonexistent/file")).unwrap_err();
        let failure = Failure::from(error).hint("run `pausedata doctor`");
        expect![[r#"
            error: cannot open `/nonexistent/file`: No such file or directory (os error 2)

            hint: run `pausedata doctor`
        "#]]
        .assert_eq(&plain(&failure));
        expect![[r#"{"error":"cannot open `/nonexistent/file`: No such file or directory (os error 2)","kind":"failed","exit_code":1,"place":null,"hints":["run `pausedata doctor`"]}"#]]
        .assert_eq(&failure.json().to_string());
    }

    #[test]
    fn a_full_disk_has_a_hint_wherever_it_is_met() {
        let full = io::Error::from(io::ErrorKind::StorageFull);
        let error = fs::Error::new("write", Path::new("a.bin"))(full);
        let error = pausedata::run::datasets::Error::Verify(error.into());
        expect![[r#"
            error: cannot write `a.bin`: no storage space

            hint: free some space and run the same command again: what is done is kept
        "#]]
        .assert_eq(&plain(&error.into()));
    }

    #[test]
    fn a_mistake_in_a_recipe_shows_its_line() {
        let error = recipe::Recipe::parse("sede = 1\n", Path::new("r.toml"), &[]).unwrap_err();
        expect![[r#"
            error: unknown key `sede`
               --> r.toml:1:1
                |
              1 | sede = 1
                | ^^^^

            hint: did you mean `seed`?
        "#]]
        .assert_eq(&plain(&error.into()));
    }

    #[test]
    fn a_closed_output_is_quiet() {
        let failure = Failure::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!((failure.kind, failure.kind.code()), (Kind::OutputClosed, 0));
    }

    #[test]
    fn a_panic_that_nobody_caught_is_a_mistake_with_its_place() {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(remember));
        let caught = std::panic::catch_unwind(|| panic!("two is not three"));
        std::panic::set_hook(usual);
        caught.unwrap_err();
        let text = plain(&mistake());
        let (before, after) = text.split_once(file!()).unwrap();
        assert_eq!(before, "error: a mistake in pausedata: two is not three (");
        let hint = "\n\nhint: please report it, with this message and the command that you ran\n";
        assert!(after.ends_with(&format!("){hint}")), "{text}");
    }
}

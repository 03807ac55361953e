//! Faults: calls that fail, files that are damaged or hostile, processes that die.
//!
//! ```text
//! cargo test --release --test faults                       a minute's worth
//! cargo test --release --test faults -- calls --all        every call, every fault
//! cargo test --release --test faults -- mutants --count 20000 --seed 7
//! ```
//! Words choose among `calls`, `mutants` and `hostile`. Each ends with a line
//! `N passed, N failed`; one failure makes the exit code 1.
#![expect(
    clippy::cast_possible_truncation,
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "in a test, a panic is a failure, and its output is its record"
)]

mod calls;
mod crafted;
mod hostile;
mod mutants;
mod mutate;
mod samples;
mod trace;
mod watch;

use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

/// How much is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Seconds: a part of every `cargo test`.
    Sample,
    /// Minutes: what CI runs.
    Ci,
    /// Everything there is.
    All,
}

/// What the arguments ask for.
pub struct Options {
    /// How much is tried.
    pub extent: Extent,
    /// Mutants; the extent decides where it is absent.
    pub count: Option<u64>,
    /// Where the mutants start.
    pub seed: u64,
}

/// How a suite ended.
#[derive(Default)]
pub struct Tally {
    passed: usize,
    failures: Vec<String>,
}

impl Tally {
    /// Counts one trial.
    pub fn note(&mut self, name: &str, result: Result<(), String>) {
        match result {
            Ok(()) => self.passed += 1,
            Err(reason) => {
                println!("FAILED {name}: {reason}");
                self.failures.push(name.into());
            }
        }
    }

    /// Counts the trials of another tally.
    pub fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failures.extend(other.failures);
    }
}

type Suite = fn(&Options) -> Tally;

const SUITES: [(&str, Suite); 3] = [
    ("mutants", mutants::run),
    ("hostile", hostile::run),
    ("calls", calls::run),
];

#[global_allocator]
static MEMORY: watch::Counting = watch::Counting;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [first, name, path] = &arguments[..]
        && first == hostile::MAKE
    {
        hostile::make(name, path);
        return ExitCode::SUCCESS;
    }
    let (options, words) = options(arguments.into_iter());
    if std::env::args().any(|argument| argument == "--list") {
        return ExitCode::SUCCESS;
    }
    let mut failed = false;
    for (name, suite) in SUITES {
        // As in other tests, words are filters.
        let wanted = words.is_empty() || words.iter().any(|word| name.contains(word.as_str()));
        if wanted {
            let start = Instant::now();
            let tally = suite(&options);
            println!(
                "{name}: {} passed, {} failed ({:.1}s)",
                tally.passed,
                tally.failures.len(),
                start.elapsed().as_secs_f64()
            );
            failed |= !tally.failures.is_empty();
        }
    }
    ExitCode::from(u8::from(failed))
}

fn options(arguments: impl Iterator<Item = String>) -> (Options, Vec<String>) {
    let mut options = Options {
        extent: Extent::Sample,
        count: None,
        seed: 1,
    };
    let mut words = Vec::new();
    let mut arguments = arguments;
    while let Some(argument) = arguments.next() {
        let mut number = || arguments.next().and_then(|text| text.parse().ok());
        match argument.as_str() {
            "--ci" => options.extent = Extent::Ci,
            "--all" => options.extent = Extent::All,
            "--count" => options.count = Some(number().expect("--count N")),
            "--seed" => options.seed = number().expect("--seed N"),
            // Options of the usual harness mean nothing here.
            other if other.starts_with('-') => {}
            word => words.push(word.to_string()),
        }
    }
    (options, words)
}

/// The program under test.
pub fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_pausedata"))
}

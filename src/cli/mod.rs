//! The command line: one file a command.
//!
//! A command turns its arguments into a call of the library and the result into
//! text: data on stdout, all else on stderr.

pub mod failure;
pub mod ui;
pub mod values;

mod bench;
mod completions;
mod convert;
mod doctor;
mod eval;
mod experiment;
mod explain;
mod export;
mod finalize;
mod generate;
mod import;
mod inspect;
mod load;
mod plan;
mod prepare;
mod recipe;
mod report;
mod run;
mod schema;
mod stats;
#[cfg(feature = "train")]
mod summary;
mod train;
#[cfg(feature = "train")]
mod verdict;
mod verify;

use std::process::ExitCode;

use clap::builder::Styles;
use clap::builder::styling::AnsiColor;
use clap::{Parser, Subcommand};

use failure::{Failure, Kind};
use ui::{Format, Ui};

/// What a command that did its work has to say to scripts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All is well.
    Done,
    /// The work is done and the answer is no: `verify` found damage.
    Refuted,
}

const EXAMPLES: &str = "\
Examples:
  pausedata run pipelines/quickstart.toml
  pausedata prepare pipelines/novels.toml --data-root ~/corpora
  pausedata verify runs/quickstart/data/pretrain
  pausedata generate runs/quickstart/train/finetune --prompt 'Q: Where does Ada live?' --pauses 10

Exit codes:
  0  done
  1  failed
  2  bad recipe or arguments
  3  damaged or incomplete data
  75 stopped by a signal after saving: run the same command again";

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

/// Pause-token training from raw text to a verdict: exact data, exact resume.
#[derive(Debug, Parser)]
#[command(name = "pausedata", version, styles = STYLES, after_help = EXAMPLES)]
#[command(arg_required_else_help = true, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Arguments of every command.
#[derive(Clone, Debug, clap::Args)]
pub struct Global {
    /// Write results as JSON to stdout, and a failure as JSON to stderr
    #[arg(long, global = true)]
    pub json: bool,
    /// Show no progress and no notes; results and failures only
    #[arg(long, short, global = true)]
    pub quiet: bool,
    /// Threads to use; every core where absent. Results never depend on it
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Args),
    Plan(plan::Args),
    Prepare(prepare::Args),
    Finalize(finalize::Args),
    Verify(verify::Args),
    Inspect(inspect::Args),
    Stats(stats::Args),
    Report(report::Args),
    Load(load::Args),
    Convert(convert::Args),
    Train(train::Args),
    Generate(generate::Args),
    Eval(eval::Args),
    Experiment(experiment::Args),
    Import(import::Args),
    Export(export::Args),
    Doctor(doctor::Args),
    Bench(bench::Args),
    Schema(schema::Args),
    Completions(completions::Args),
}

/// Parses the command line, does what it says, and tells how that went.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return refuse(&error),
    };
    let ui = Ui::new(&cli.global);
    match use_threads(&cli.global).and_then(|()| execute(&cli.command, &ui)) {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Refuted) => ExitCode::FAILURE,
        Err(failure) => {
            ui.clear();
            failure.print(ui.format())
        }
    }
}

fn execute(command: &Command, ui: &Ui) -> Result<Outcome, Failure> {
    match command {
        Command::Run(args) => run::execute(args, ui),
        Command::Plan(args) => plan::execute(args, ui),
        Command::Prepare(args) => prepare::execute(args, ui),
        Command::Finalize(args) => finalize::execute(args, ui),
        Command::Verify(args) => verify::execute(args, ui),
        Command::Inspect(args) => inspect::execute(args, ui),
        Command::Stats(args) => stats::execute(args, ui),
        Command::Report(args) => report::execute(args, ui),
        Command::Load(args) => load::execute(args, ui),
        Command::Convert(args) => convert::execute(args, ui),
        Command::Train(args) => train::execute(args, ui),
        Command::Generate(args) => generate::execute(args, ui),
        Command::Eval(args) => eval::execute(args, ui),
        Command::Experiment(args) => experiment::execute(args, ui),
        Command::Import(args) => import::execute(args, ui),
        Command::Export(args) => export::execute(args, ui),
        Command::Doctor(args) => doctor::execute(args, ui),
        Command::Bench(args) => bench::execute(args, ui),
        Command::Schema(args) => schema::execute(args, ui),
        Command::Completions(args) => completions::execute(args, ui),
    }
}

/// Help and versions go to stdout, mistakes to stderr: as clap has it, or as JSON.
fn refuse(error: &clap::Error) -> ExitCode {
    let json = std::env::args_os().any(|argument| argument == "--json");
    if !error.use_stderr() || !json {
        // Nothing is left to tell the user where the terminal is gone.
        drop(error.print());
        return u8::try_from(error.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from);
    }
    let text = error.render().to_string();
    let text = text.trim_start_matches("error: ");
    let (message, _) = text.split_once("\n\n").unwrap_or((text, ""));
    Failure::new(Kind::BadInput, message.trim())
        .hint("`pausedata --help` shows the commands and their arguments")
        .print(Format::Json)
}

fn use_threads(global: &Global) -> Result<(), Failure> {
    let Some(threads) = global.threads else {
        return Ok(());
    };
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads.into())
        .build_global()
        .map_err(|error| Failure::of(Kind::Failed, &error))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_help_with_examples() {
        for command in Cli::command().get_subcommands() {
            let name = command.get_name();
            assert!(command.get_about().is_some(), "{name} says nothing");
            let help = command.get_after_help().map(ToString::to_string);
            let help = help.unwrap_or_default();
            assert!(
                help.contains(&format!("pausedata {name}")),
                "{name} has no example"
            );
        }
    }

    /// The words of an example up to a remark, a pipe or a redirection.
    fn words(example: &str) -> Vec<String> {
        let (mut words, mut quoted) = (vec![String::new()], false);
        for c in example.split("    ").next().unwrap().chars() {
            match c {
                '\'' => quoted = !quoted,
                ' ' if !quoted => words.push(String::new()),
                _ => words.last_mut().unwrap().push(c),
            }
        }
        let shell = |word: &String| ["|", ">", "<"].contains(&word.as_str());
        words.into_iter().take_while(|word| !shell(word)).collect()
    }

    #[test]
    fn every_example_can_be_typed() {
        let mut texts = vec![EXAMPLES.to_string()];
        for command in Cli::command().get_subcommands() {
            texts.extend(command.get_after_help().map(ToString::to_string));
        }
        let lines = texts.iter().flat_map(|text| text.lines()).map(str::trim);
        let examples: Vec<_> = lines
            .filter(|line| line.starts_with("pausedata "))
            .collect();
        assert!(20 < examples.len());
        for example in examples {
            let cli = Cli::try_parse_from(words(example));
            let cli = cli.unwrap_or_else(|error| panic!("{example}: {error}"));
            let recipe = match &cli.command {
                Command::Run(args) => &args.recipe,
                Command::Plan(args) => &args.recipe,
                Command::Prepare(args) => &args.recipe,
                Command::Finalize(args) => &args.recipe,
                Command::Train(args) => &args.recipe,
                Command::Eval(args) => &args.recipe,
                Command::Experiment(args) => &args.recipe,
                _ => continue,
            };
            recipe
                .plan()
                .unwrap_or_else(|failure| panic!("{example}: {failure:?}"));
        }
    }
}

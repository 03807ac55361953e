//! `pausedata completions`: help for the shell.

use clap::CommandFactory;
use clap_complete::Shell;

use super::failure::Failure;
use super::ui::Ui;
use super::{Cli, Outcome};

/// Print completions for a shell
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pausedata completions bash > ~/.local/share/bash-completion/completions/pausedata
  pausedata completions zsh > ~/.zfunc/_pausedata
  pausedata completions fish > ~/.config/fish/completions/pausedata.fish")]
pub struct Args {
    /// Which shell
    #[arg(value_name = "SHELL")]
    pub shell: Shell,
}

/// Runs the command.
pub fn execute(args: &Args, ui: &Ui) -> Result<Outcome, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "pausedata", &mut script);
    ui.print(&String::from_utf8_lossy(&script))?;
    Ok(Outcome::Done)
}

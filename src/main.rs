//! The `pausedata` program: parse, run, print the failure, exit code.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::failure::remember_panics();
    std::panic::catch_unwind(cli::main).unwrap_or_else(|_| cli::failure::print_mistake())
}

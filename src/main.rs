//! The `pausedata` program: parse, run, print the failure, exit code.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::failure::report_panics();
    match std::panic::catch_unwind(cli::main) {
        Ok(code) => code,
        // The hook has told the user.
        Err(_) => ExitCode::FAILURE,
    }
}

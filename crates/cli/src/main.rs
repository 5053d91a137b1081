//! The binary `cenote`: see [`cenote_cli::run`].

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(cenote_cli::run(std::env::args_os()))
}

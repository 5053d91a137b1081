//! The command `cenote`: arguments in, results on standard output, everything else on standard error.
//!
//! It knows the facade and nothing below it. Exit codes: 0 done, 1 failed, 2 wrong usage. The binary is [`run`] and no
//! more, so that the Python package can bring the same command.
//!
//! ```
//! let arguments = ["cenote", "--version"].map(Into::into);
//! assert_eq!(cenote_cli::run(arguments), 0);
//! ```

mod arguments;
mod commands;
mod demo;
mod memory;
mod monitor;
mod output;
mod progress;
mod report;
mod session;

use std::ffi::OsString;
use std::io::IsTerminal;

use cenote_runtime::Error;
use clap::Parser;

use crate::arguments::Arguments;

/// Runs the command line `arguments`, whose first is the program's name, and returns the exit code.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            // If standard error is closed, the exit code still tells.
            drop(error.print());
            return error.exit_code() as u8;
        }
    };
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("error"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    // A host process keeps a log that it has set up.
    drop(log.try_init());
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("start the async runtime: {error}"), 1),
    };
    // A request for a log is a request for causes too.
    let verbose = arguments.verbose || std::env::var_os("RUST_LOG").is_some();
    let outcome = runtime.block_on(async {
        tokio::select! {
            outcome = commands::run(arguments) => outcome,
            () = session::impatience() => Err(Error::cancelled("stopped at once")),
        }
    });
    // A blocking read that outlives Ctrl-C must not hold the process.
    runtime.shutdown_background();
    match outcome {
        Ok(()) => 0,
        Err(_) if output::is_closed() => 0,
        Err(error) => {
            let text = if verbose { format!("{error:#}") } else { error.to_string() };
            fail(&text, 1)
        }
    }
}

fn fail(message: &str, code: u8) -> u8 {
    output::note(&format!("error: {message}"));
    code
}

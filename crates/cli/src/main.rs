//! The binary `cenote`: arguments in, results on standard output, everything else on standard error.
//!
//! It knows the facade and nothing below it. Exit codes: 0 done, 1 failed, 2 wrong usage.

mod arguments;
mod commands;
mod demo;
mod output;
mod progress;
mod session;

use std::io::IsTerminal;
use std::process::ExitCode;

use cenote_runtime::ErrorKind;
use clap::Parser;

use crate::arguments::Arguments;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("error"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("start the async runtime: {error}"), 1),
    };
    let verbose = arguments.verbose;
    let outcome = runtime.block_on(commands::run(arguments));
    // A blocking read that Ctrl-C left behind must not hold the process.
    runtime.shutdown_background();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if output::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            let text = if verbose { format!("{error:#}") } else { error.to_string() };
            fail(&text, if error.kind() == ErrorKind::Cancelled { 130 } else { 1 })
        }
    }
}

fn fail(message: &str, code: u8) -> ExitCode {
    output::note(&format!("error: {message}"));
    ExitCode::from(code)
}

//! The binary `cenote`: arguments in, results on standard output, everything else on standard error.
//!
//! It knows the facade and nothing below it. Exit codes: 0 done, 1 failed, 2 wrong usage.

mod arguments;
mod commands;
mod demo;
mod output;
mod progress;
mod session;
mod sight;

use std::io::IsTerminal;
use std::process::ExitCode;

use cenote_runtime::Error;
use clap::Parser;

use crate::arguments::Arguments;

/// The system's own allocator keeps what threads gave back: memory would grow past the budget.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

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
    // Who asks for a log wants to know causes too.
    let verbose = arguments.verbose || std::env::var_os("RUST_LOG").is_some();
    let outcome = runtime.block_on(async {
        tokio::select! {
            outcome = commands::run(arguments) => outcome,
            () = session::impatience() => Err(Error::cancelled("stopped at once")),
        }
    });
    // A blocking read that Ctrl-C left behind must not hold the process.
    runtime.shutdown_background();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if output::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            let text = if verbose { format!("{error:#}") } else { error.to_string() };
            fail(&text, 1)
        }
    }
}

fn fail(message: &str, code: u8) -> ExitCode {
    output::note(&format!("error: {message}"));
    ExitCode::from(code)
}

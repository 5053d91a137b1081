//! The binary `cenote`: see [`cenote_cli::run`].

use std::process::ExitCode;

/// The system's own allocator keeps what threads gave back: memory would grow past the budget.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    ExitCode::from(cenote_cli::run(std::env::args_os()))
}

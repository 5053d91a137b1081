//! The binary `cenote`: see [`cenote_cli::run`].

use std::process::ExitCode;

/// The system's own allocator keeps what threads gave back: memory would grow past the budget.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[expect(unsafe_code, clippy::disallowed_methods, reason = "no other thread runs yet")]
fn main() -> ExitCode {
    // Else a layer of Mesa looks for a display when devices are listed, and complains on standard error where there is none.
    // SAFETY: nobody else reads or writes the environment, since this is the only thread.
    unsafe { std::env::set_var("NODEVICE_SELECT", "1") };
    ExitCode::from(cenote_cli::run(std::env::args_os()))
}

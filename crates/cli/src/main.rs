//! The binary `cenote`: see [`cenote_cli::run`].

use std::process::ExitCode;

/// The system's own allocator keeps what threads gave back: memory would grow past the budget.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `mi_option_purge_delay` of mimalloc's `mi_option_t`, which its bindings do not name.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;
/// For how many milliseconds pages that are free stay resident; by default 1,000.
const PURGE_DELAY_MILLIS: i64 = 10;

#[expect(unsafe_code, clippy::disallowed_methods, reason = "no other thread runs yet")]
fn main() -> ExitCode {
    // Else a layer of Mesa looks for a display when devices are listed, and complains on standard error where there is none.
    // SAFETY: nobody else reads or writes the environment, since this is the only thread.
    unsafe { std::env::set_var("NODEVICE_SELECT", "1") };
    // SAFETY: it sets a number, unless the environment did.
    unsafe { libmimalloc_sys::mi_option_set_default(PURGE_DELAY, PURGE_DELAY_MILLIS) };
    ExitCode::from(cenote_cli::run(std::env::args_os()))
}

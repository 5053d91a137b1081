//! The binary `cenote`: see [`cenote_cli::run`].

use std::process::ExitCode;

/// glibc's allocator keeps memory that threads have freed, and so would grow past the budget.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `mi_option_purge_delay` of mimalloc's `mi_option_t`, which the bindings lack.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;
/// Milliseconds that free pages stay resident; mimalloc's default is 1,000.
const PURGE_DELAY_MILLIS: i64 = 10;

#[expect(unsafe_code, clippy::disallowed_methods, reason = "no other thread runs yet")]
fn main() -> ExitCode {
    // Keeps a Vulkan layer of Mesa from looking for a display, and from complaining on standard error without one.
    // SAFETY: this is the only thread, so nothing else reads or writes the environment.
    unsafe { std::env::set_var("NODEVICE_SELECT", "1") };
    // SAFETY: the call sets a number, unless the environment has set it.
    unsafe { libmimalloc_sys::mi_option_set_default(PURGE_DELAY, PURGE_DELAY_MILLIS) };
    ExitCode::from(cenote_cli::run(std::env::args_os()))
}

//! The command `cenote` that the wheel installs.

use std::ffi::OsString;

use pyo3::prelude::*;

/// Runs the command line `arguments`, whose first is the program's name, and returns the exit code.
#[pyfunction]
pub(crate) fn command(py: Python<'_>, arguments: Vec<OsString>) -> u8 {
    // Only here: elsewhere the process is the host's.
    give_memory_back();
    py.detach(|| cenote_cli::run(arguments))
}

/// Makes glibc return large buffers to the system when they are freed, and share free memory among threads: otherwise
/// memory grows past the budget.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(unsafe_code, reason = "the allocator's settings are a matter of the C library")]
fn give_memory_back() {
    const MMAPPED_FROM_BYTES: i32 = 1 << 20;
    const KEPT_BYTES_MAX: i32 = 16 << 20;
    const ARENAS_MAX: i32 = 2;
    let settings = [
        (libc::M_MMAP_THRESHOLD, MMAPPED_FROM_BYTES),
        (libc::M_TRIM_THRESHOLD, KEPT_BYTES_MAX),
        (libc::M_ARENA_MAX, ARENAS_MAX),
    ];
    for (name, value) in settings {
        // SAFETY: the call sets a number, and returns whether it did.
        let is_set = unsafe { libc::mallopt(name, value) } == 1;
        debug_assert!(is_set, "mallopt({name}, {value})");
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn give_memory_back() {}

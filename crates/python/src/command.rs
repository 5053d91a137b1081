//! The command `cenote`, as the wheel installs it.

use std::ffi::OsString;

use pyo3::prelude::*;

/// Runs the command line with `arguments`, of which the first is the program's name; its exit code.
#[pyfunction]
pub(crate) fn command(py: Python<'_>, arguments: Vec<OsString>) -> u8 {
    // Elsewhere the process belongs to somebody else.
    give_memory_back();
    py.detach(|| cenote_cli::run(arguments))
}

/// Has glibc give large buffers back to the system when they are freed, and share what it keeps among threads: memory
/// would grow past the budget.
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
        // SAFETY: it sets a number, and says if it does not.
        let is_set = unsafe { libc::mallopt(name, value) } == 1;
        debug_assert!(is_set, "mallopt({name}, {value})");
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn give_memory_back() {}

//! System calls on processes that the standard library lacks.

#![expect(unsafe_code, reason = "each call is one system call on plain numbers, and says what makes it sound")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use cenote_base::{Context as _, Result};

/// Makes standard input empty, so that processes started later inherit nothing else.
pub(super) fn empty_stdin() -> Result<()> {
    let doing = || "open /dev/null as standard input";
    let null = File::open("/dev/null").context(doing)?;
    // SAFETY: the call takes two descriptors and touches no memory. Standard input stays open throughout.
    match unsafe { libc::dup2(null.as_raw_fd(), libc::STDIN_FILENO) } {
        -1 => Err(io::Error::last_os_error()).context(doing),
        _ => Ok(()),
    }
}

/// Returns whether the child process `pid`, which has not been waited for, has ended. It can still be waited for.
pub(super) fn has_ended(pid: u32) -> bool {
    // SAFETY: a `siginfo_t` is plain data, for which zeros are valid. The call writes to it alone, and `si_pid` reads
    // what it has written, or zero.
    unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
        libc::waitid(libc::P_PID, pid, &raw mut info, options) == 0 && info.si_pid() != 0
    }
}

/// Kills the group of processes that `pid` leads; `pid` alone if it leads none. `pid` must be this process, or a child
/// that has not been waited for: the number belongs to no other process then.
pub(super) fn kill_group(pid: u32) {
    let Ok(pid) = libc::pid_t::try_from(pid) else { return };
    // SAFETY: the calls take numbers and touch no memory.
    unsafe {
        if libc::kill(-pid, libc::SIGKILL) == -1 {
            libc::kill(pid, libc::SIGKILL);
        }
    }
}

//! What a writer adds to a file of the log stays out of others' sight until its own readers see it.
//!
//! The bytes of a group are in the file before they are on the disk, and before the memory of its writer has them.
//! Whoever read them then would see a write that may be refused yet, and would see it earlier than the process that
//! writes it. So the writer locks the file from its end on (an *open file description lock*, fcntl(2)), and others read
//! up to the lock. The lock goes with its writer: of a process that dies, everybody sees the same whole frames. Systems
//! other than Linux have no such locks, and show a group while it is written.

use std::fs::File;
use std::sync::Arc;

use cenote_base::Result;

/// A group that was added to the log: nobody else sees it before this is dropped, which its writer does in the moment
/// in which its own readers are shown it. Nothing where groups appear at once and whole.
#[derive(Debug, Default)]
pub(crate) struct Unseen {
    file: Option<Arc<File>>,
}

impl Unseen {
    /// Keeps what `file`, open to be written, gets from `end` on from others.
    pub(super) fn behind(file: Arc<File>, end: u64) -> Result<Self> {
        locks::lock_from(&file, end)?;
        Ok(Self { file: Some(file) })
    }
}

impl Drop for Unseen {
    fn drop(&mut self) {
        let Some(file) = self.file.take() else { return };
        if let Err(error) = locks::unlock(&file) {
            tracing::error!(%error, "other processes cannot see what was written until this table is closed");
        }
    }
}

/// Returns how far readers may read in `file`, of `length` bytes, from `end` on.
pub(super) fn seen_to(file: &File, end: u64, length: u64) -> Result<u64> {
    Ok(locks::seen_to(file, end, length)?)
}

#[cfg(target_os = "linux")]
mod locks {
    use std::fs::File;
    use std::io;
    use std::os::fd::AsRawFd;

    use libc::{F_OFD_GETLK, F_OFD_SETLK, F_RDLCK, F_UNLCK, F_WRLCK, SEEK_SET, c_int, flock};

    /// Describes a lock of `kind` on the bytes from `start` on: `length` of them, or with 0 all.
    fn lock(kind: c_int, start: u64, length: u64) -> flock {
        flock {
            l_type: kind as _,
            l_whence: SEEK_SET as _,
            // No file is larger than an `i64` says.
            l_start: start as _,
            l_len: length as _,
            l_pid: 0,
        }
    }

    #[expect(unsafe_code, reason = "the standard library locks whole files only")]
    fn fcntl(file: &File, command: c_int, lock: &mut flock) -> io::Result<()> {
        // SAFETY: the descriptor is open as long as `file` is borrowed, and both commands take a `flock`.
        match unsafe { libc::fcntl(file.as_raw_fd(), command, std::ptr::from_mut(lock)) } {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        }
    }

    /// Locks `file` from `end` on.
    pub(super) fn lock_from(file: &File, end: u64) -> io::Result<()> {
        fcntl(file, F_OFD_SETLK, &mut lock(F_WRLCK, end, 0))
    }

    /// Gives the lock on `file` back.
    pub(super) fn unlock(file: &File) -> io::Result<()> {
        fcntl(file, F_OFD_SETLK, &mut lock(F_UNLCK, 0, 0))
    }

    pub(super) fn seen_to(file: &File, end: u64, length: u64) -> io::Result<u64> {
        if length <= end {
            return Ok(length);
        }
        let mut first = lock(F_RDLCK, end, length - end);
        fcntl(file, F_OFD_GETLK, &mut first)?;
        Ok(if c_int::from(first.l_type) == F_UNLCK { length } else { (first.l_start as u64).max(end) })
    }
}

#[cfg(not(target_os = "linux"))]
mod locks {
    use std::fs::File;
    use std::io;

    pub(super) fn lock_from(_file: &File, _end: u64) -> io::Result<()> {
        Ok(())
    }

    pub(super) fn unlock(_file: &File) -> io::Result<()> {
        Ok(())
    }

    pub(super) fn seen_to(_file: &File, _end: u64, length: u64) -> io::Result<u64> {
        Ok(length)
    }
}

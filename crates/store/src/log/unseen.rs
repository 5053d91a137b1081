//! Hides what a writer appends to a log file from other processes until the writer's own readers see it.
//!
//! The bytes of a group are in the file before they are durable, and before the writer has applied them. A process that
//! read them then would see a write that may still fail, and would see it before the writing process does. So the
//! writer locks the file from its end on (an *open file description lock*, fcntl(2)), and other processes read up to
//! the lock. The lock is released when its process dies, and then every process sees the same complete frames. Systems
//! other than Linux have no such locks, and show a group while it is being written.

use std::fs::File;
use std::sync::Arc;

use cenote_base::Result;

/// A group that was appended to the log and is hidden from other processes until this is dropped, which its writer does
/// at the moment it shows the group to its own readers. Empty where groups appear as a whole.
#[derive(Debug, Default)]
pub(crate) struct Unseen {
    file: Option<Arc<File>>,
}

impl Unseen {
    /// Hides what is written to `file`, which is open for writing, from byte `end` on.
    pub(super) fn behind(file: Arc<File>, end: u64) -> Result<Self> {
        locks::lock_from(&file, end)?;
        Ok(Self { file: Some(file) })
    }
}

impl Drop for Unseen {
    fn drop(&mut self) {
        let Some(file) = self.file.take() else { return };
        if let Err(error) = locks::unlock(&file) {
            tracing::error!(%error, "other processes cannot see the write until this table is closed");
        }
    }
}

/// Returns how far processes other than the writer may read `file`, of `length` bytes, from `end` on.
pub(super) fn seen_to(file: &File, end: u64, length: u64) -> Result<u64> {
    Ok(locks::seen_to(file, end, length)?)
}

#[cfg(target_os = "linux")]
mod locks {
    use std::fs::File;
    use std::io;
    use std::os::fd::AsRawFd;

    use libc::{F_OFD_GETLK, F_OFD_SETLK, F_RDLCK, F_UNLCK, F_WRLCK, SEEK_SET, c_int, flock};

    /// Returns a lock of `kind` on `length` bytes from `start`, or on all bytes from there if `length` is 0.
    fn lock(kind: c_int, start: u64, length: u64) -> flock {
        flock {
            l_type: kind as _,
            l_whence: SEEK_SET as _,
            // No file is longer than `i64::MAX` bytes.
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

    /// Locks `file` from byte `end` on.
    pub(super) fn lock_from(file: &File, end: u64) -> io::Result<()> {
        fcntl(file, F_OFD_SETLK, &mut lock(F_WRLCK, end, 0))
    }

    /// Releases the lock on `file`.
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

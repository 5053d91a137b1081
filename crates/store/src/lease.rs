//! One writer a table, in any process: an advisory lock on a file beside the table, released by the operating system
//! when its holder ends, however it ends.

use std::fs::{File, TryLockError};
use std::path::Path;
use std::time::{Duration, Instant};

use cenote_base::{Context, Error, Result};

const POLL_INTERVAL: Duration = Duration::from_millis(2);

/// The right to do something to a table that only one may do at a time, until dropped. Within a process a mutex comes
/// first: a file lock does not order those who wait for it.
#[derive(Debug)]
pub(crate) struct Lease {
    _file: File,
}

/// Waits for the lock on `path` while another process has it.
///
/// # Errors
/// `Conflict` when that has lasted for longer than `wait_max`.
pub(crate) async fn acquire(path: &Path, wait_max: Duration) -> Result<Lease> {
    let start = Instant::now();
    loop {
        if let Some(lease) = try_acquire(path)? {
            return Ok(lease);
        }
        if start.elapsed() >= wait_max {
            return Err(Error::conflict(format!(
                "another process has been writing to this table for {} s; wait for it to end and try again",
                wait_max.as_secs()
            )));
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// The lock on `path`, unless somebody has it.
pub(crate) fn try_acquire(path: &Path) -> Result<Option<Lease>> {
    let file = File::options().create(true).truncate(false).write(true).open(path);
    let file = file.context(|| format!("open lock file {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(Lease { _file: file })),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(source)) => Err(Error::from(source).context(format!("lock {}", path.display()))),
    }
}

//! One writer a table, in any process: an advisory lock on a file beside the table, released by the operating system
//! when its holder ends, however it ends.

use std::fs::{File, TryLockError};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cenote_base::{Context, Error, Result};
use tokio::sync::{Mutex, OwnedMutexGuard};

const POLL_INTERVAL: Duration = Duration::from_millis(4);

/// The right to write a table, until dropped.
pub(crate) struct Lease {
    _file: File,
    _turn: OwnedMutexGuard<()>,
}

/// Waits for the turn among this process's writers (`turns`, first come first served), then for other processes.
///
/// # Errors
/// `Conflict` when another process has held the table for longer than `wait_max`.
pub(crate) async fn acquire(turns: &Arc<Mutex<()>>, path: &Path, wait_max: Duration) -> Result<Lease> {
    let turn = Arc::clone(turns).lock_owned().await;
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .context(|| format!("open lock file {}", path.display()))?;
    let start = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(Lease { _file: file, _turn: turn }),
            Err(TryLockError::WouldBlock) if start.elapsed() < wait_max => tokio::time::sleep(POLL_INTERVAL).await,
            Err(TryLockError::WouldBlock) => {
                return Err(Error::conflict(format!(
                    "another process has been writing to this table for {} s; wait for it to end and try again",
                    wait_max.as_secs()
                )));
            }
            Err(TryLockError::Error(source)) => {
                return Err(Error::from(source).context(format!("lock {}", path.display())));
            }
        }
    }
}

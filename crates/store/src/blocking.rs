//! Helpers for blocking work, and for work that must run to its end.

use cenote_base::{Error, Result};
use futures::FutureExt;

/// Runs blocking work of this crate off the executor.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|source| {
        Error::internal("a task that was handed to the blocking threads ended early").with_source(source)
    })?
}

/// Maximum rows that are looked up or applied on the caller's thread: waking another thread costs several times as
/// much.
pub(crate) const SHORT_ROWS: usize = 256;

/// Runs short work on the caller's thread, other work off the executor.
pub(crate) async fn blocking_unless<T: Send + 'static>(
    is_short: bool,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    if is_short { work() } else { blocking(work).await }
}

/// Runs `work` to its end even when the caller is cancelled: what is half done on disk must be finished in memory.
pub(crate) async fn detached<T: Send + 'static>(work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
    let done = tokio::spawn(work.boxed()).await;
    done.map_err(|source| Error::internal("a storage task ended early").with_source(source))?
}

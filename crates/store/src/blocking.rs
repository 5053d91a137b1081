//! Work that blocks, and work that must run to its end.

use cenote_base::{Error, Result};
use futures::FutureExt;

/// Runs blocking work of this crate off the executor.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|source| Error::internal("a storage task ended early").with_source(source))?
}

/// So many rows are looked up or taken in where the caller is: a thread that has to be woken costs several times that.
pub(crate) const SHORT_ROWS: usize = 256;

/// Runs short work where the caller is, other work off the executor.
pub(crate) async fn blocking_unless<T: Send + 'static>(
    is_short: bool,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    if is_short { work() } else { blocking(work).await }
}

/// Runs `work` to its end even when the caller gives up waiting: what is half done on disk must be finished in memory.
pub(crate) async fn detached<T: Send + 'static>(work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
    let done = tokio::spawn(work.boxed()).await;
    done.map_err(|source| Error::internal("a storage task ended early").with_source(source))?
}

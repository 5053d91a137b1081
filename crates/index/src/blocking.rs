//! Work that would block the async runtime.

use cenote_base::{Error, Result};

/// Runs `work` on a thread of the blocking pool, and returns its result.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|source| Error::internal("index work ended early").with_source(source))?
}

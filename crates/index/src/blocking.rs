//! Work that would block the threads of the async runtime.

use cenote_base::{Error, Result};

/// Runs `work` on the runtime's pool of blocking threads, and returns its result.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|source| Error::internal("an index task ended early").with_source(source))?
}

//! Work that would hold up whoever waits for a disk or a caller.

use cenote_base::{Error, Result};

/// What `work` gives, done on a thread that may be busy.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|source| Error::internal("index work ended early").with_source(source))?
}

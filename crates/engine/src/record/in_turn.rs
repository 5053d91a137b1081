//! Commits of runs over one table, one at a time.

use std::sync::Arc;

use cenote_base::{Error, Result};
use cenote_store::{Table, Turn};

/// Runs `work` in the turn of `table`, which no other run has meanwhile, in any process. Once it has begun it runs to
/// its end, even when the caller gives up: no write of it may outlast the turn.
pub(crate) async fn in_turn<T, W>(table: &Table, work: impl FnOnce(Arc<Turn>) -> W) -> Result<T>
where
    T: Send + 'static,
    W: Future<Output = Result<T>> + Send + 'static,
{
    let turn = Arc::new(table.turn().await?);
    let work = work(Arc::clone(&turn));
    let task = tokio::spawn(async move {
        let done = work.await;
        if let Some(turn) = Arc::into_inner(turn) {
            turn.end().await;
        }
        done
    });
    task.await.map_err(|source| Error::internal("a commit ended early").with_source(source))?
}

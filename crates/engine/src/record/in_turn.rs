//! Commits of runs over one table, which happen one at a time.

use std::sync::Arc;

use cenote_base::{Error, Result};
use cenote_store::{Table, Turn};

/// Runs `work` while holding the turn of `table`, which only one run in any process holds at a time. Once begun, `work`
/// runs to its end even if the caller is dropped: none of its writes may outlast the turn.
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

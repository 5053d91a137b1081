//! The upkeep of indexes, which runs after each fold of a table.

use cenote_base::Result;
use cenote_index::{IndexInfo, Indexes};
use cenote_store::{AfterFold, Table};
use futures::FutureExt;
use futures::future::BoxFuture;

/// An index is brought up to date when it lags by `max(LAG_ROWS, rows indexed / LAG_SHARE)` rows.
const LAG_ROWS: usize = 1024;
const LAG_SHARE: usize = 16;

/// Brings a table's indexes up to date after folds, once they lag enough to be worth a commit.
#[derive(Debug)]
pub(crate) struct IndexUpkeep {
    indexes: Indexes,
}

impl IndexUpkeep {
    /// Makes the upkeep of `indexes`.
    pub(crate) fn new(indexes: Indexes) -> Self {
        Self { indexes }
    }
}

impl AfterFold for IndexUpkeep {
    fn after_fold(&self, table: Table) -> BoxFuture<'static, Result<()>> {
        let indexes = self.indexes.clone();
        let keep = async move {
            let listed = indexes.list(&table.snapshot().await?).await?;
            let lags = |index: &IndexInfo| index.rows_unindexed >= LAG_ROWS.max(index.rows_indexed / LAG_SHARE);
            if listed.iter().any(lags) {
                Box::pin(indexes.optimize(&table)).await?;
            }
            for done in Box::pin(indexes.retune(&table)).await? {
                tracing::warn!(table = table.name(), "{done}");
            }
            Ok(())
        };
        keep.boxed()
    }
}

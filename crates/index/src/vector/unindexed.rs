//! The vectors that an index does not have, cached from one search to the next.

use std::sync::Arc;

use arrow::array::RecordBatch;
use cenote_base::Result;
use cenote_store::{Snapshot, blocking};
use futures::TryStreamExt;

use super::exact::{RowVectors, VectorShape};
use crate::metric::Metric;
use crate::rows::cache::Cache;
use crate::rows::fragments::{self, Examined, Fragment, PerFragment, column_id};
use crate::rows::runs::ChangedRows;

/// The cached vectors of uncovered fragments and of change stores, bounded in bytes.
pub(crate) struct UnindexedVectorCache {
    uncovered: Cache<PerFragment<RowVectors>>,
    changed: Cache<ChangedRows<RowVectors>>,
    examined: Examined,
}

impl UnindexedVectorCache {
    /// Makes a cache of which either part takes up to `bytes_max`.
    pub(crate) fn new(bytes_max: usize, examined: Examined) -> Self {
        Self { uncovered: Cache::new(bytes_max), changed: Cache::new(bytes_max), examined }
    }

    /// Drops the entries of the table with identity `table`.
    pub(crate) fn forget(&self, table: u64) {
        self.uncovered.forget(table);
        self.changed.forget(table);
    }

    /// Reads `column` in `uncovered`, the fragments that index `name` does not cover. They have up to
    /// [`UNCOVERED_ROWS_MAX`](crate::rows::fragments::UNCOVERED_ROWS_MAX) rows.
    pub(super) async fn uncovered(
        &self,
        snapshot: &Snapshot,
        name: &str,
        column: &str,
        shape: VectorShape,
        uncovered: &[Fragment],
    ) -> Result<Arc<PerFragment<RowVectors>>> {
        let key = format!("{name} {} {}", column_id(snapshot, column), shape.metric == Metric::Hamming);
        let known = self.uncovered.last(snapshot, &key);
        if let Some(known) = known.as_ref().filter(|known| known.are_of(uncovered)) {
            return Ok(Arc::clone(known));
        }
        let (mut entries, missing) = PerFragment::carried(known.as_deref(), uncovered);
        for fragment in missing {
            let mut vectors = RowVectors::new(shape);
            let mut batches = fragments::read(snapshot.base(), column, &fragment).await?;
            while let Some(batch) = batches.try_next().await? {
                self.examined.add(batch.num_rows());
                vectors = blocking(move || vectors.read(&batch).map(|_| vectors)).await?;
            }
            entries.push(fragment, vectors);
        }
        let entries = Arc::new(entries);
        self.uncovered.put_lasting(snapshot, &key, &entries, entries.bytes());
        Ok(entries)
    }

    /// Reads `column` in the change store.
    pub(super) async fn changed(
        &self,
        snapshot: &Snapshot,
        column: &str,
        shape: VectorShape,
    ) -> Result<Arc<ChangedRows<RowVectors>>> {
        let key = format!("{column} {}", shape.metric == Metric::Hamming);
        let read = move |batches: Vec<RecordBatch>| {
            let mut vectors = RowVectors::new(shape);
            batches.iter().try_for_each(|batch| vectors.read(batch).map(drop)).map(|()| vectors)
        };
        ChangedRows::read(&self.changed, snapshot, key, column, read).await
    }
}

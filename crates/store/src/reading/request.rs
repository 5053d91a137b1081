//! What a scan is asked for, and what it gives.

use std::pin::Pin;

use arrow::array::RecordBatch;
use cenote_base::Result;
use futures::Stream;

use crate::rows::filter::Filter;

/// Rows of one batch of the change store.
pub(crate) const BATCH_ROWS: usize = 8192;
/// Target size of a scan's batches, in bytes.
pub(crate) const BATCH_BYTES: u64 = 4 << 20;
/// A stream of batches of one schema.
pub type RecordBatches = Pin<Box<dyn Stream<Item = Result<RecordBatch>> + Send>>;

/// What to read. The default is every visible column of every row.
#[derive(Debug, Clone, Default)]
pub struct ScanRequest {
    /// Columns in the order wanted, each once even if it is named twice; `None`: all visible ones.
    pub columns: Option<Vec<String>>,
    /// Rows wanted; `None`: all.
    pub filter: Option<Filter>,
    /// At most so many rows.
    pub limit: Option<usize>,
    /// Whether to append the column [`ROW_ID`](crate::ROW_ID).
    pub with_row_id: bool,
    /// Rows of a batch, at most. A batch of wide rows has fewer: it holds about 4 MiB.
    pub batch_rows: Option<usize>,
}

impl ScanRequest {
    /// Only these columns.
    pub fn columns<S: Into<String>>(mut self, columns: impl IntoIterator<Item = S>) -> Self {
        self.columns = Some(columns.into_iter().map(Into::into).collect());
        self
    }

    /// Only rows that satisfy `filter`.
    pub fn filter(mut self, filter: impl Into<Filter>) -> Self {
        self.filter = Some(filter.into());
        self
    }

    /// At most `rows` rows.
    pub fn limit(mut self, rows: usize) -> Self {
        self.limit = Some(rows);
        self
    }

    /// With the column [`ROW_ID`](crate::ROW_ID).
    pub fn with_row_id(mut self) -> Self {
        self.with_row_id = true;
        self
    }

    /// At most `rows` rows a batch.
    pub fn batch_rows(mut self, rows: usize) -> Self {
        self.batch_rows = Some(rows);
        self
    }
}

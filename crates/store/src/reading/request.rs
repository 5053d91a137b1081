//! Scan requests, and the stream of batches that a scan returns.

use std::pin::Pin;

use arrow::array::RecordBatch;
use cenote_base::Result;
use futures::Stream;

use crate::rows::filter::Filter;

/// Rows per batch of the change store.
pub(crate) const BATCH_ROWS: usize = 8192;
/// Target size of a scan's batches, in bytes.
pub(crate) const BATCH_BYTES: u64 = 4 << 20;
/// A stream of batches of one schema.
pub type RecordBatches = Pin<Box<dyn Stream<Item = Result<RecordBatch>> + Send>>;

/// The columns and rows to read. The default is every visible column of every row.
#[derive(Debug, Clone, Default)]
pub struct ScanRequest {
    /// Columns in the order wanted, each once even if it is named twice; `None`: all visible columns.
    pub columns: Option<Vec<String>>,
    /// The rows to read; `None`: all.
    pub filter: Option<Filter>,
    /// The maximum number of rows; `None`: unlimited.
    pub limit: Option<usize>,
    /// Whether to append the column [`ROW_ID`](crate::ROW_ID).
    pub with_row_id: bool,
    /// Maximum rows per batch. A batch of wide rows has fewer: it holds about 4 MiB.
    pub batch_rows: Option<usize>,
}

impl ScanRequest {
    /// Selects these columns only.
    pub fn columns<S: Into<String>>(mut self, columns: impl IntoIterator<Item = S>) -> Self {
        self.columns = Some(columns.into_iter().map(Into::into).collect());
        self
    }

    /// Selects only rows that satisfy `filter`.
    pub fn filter(mut self, filter: impl Into<Filter>) -> Self {
        self.filter = Some(filter.into());
        self
    }

    /// Stops after `rows` rows.
    pub fn limit(mut self, rows: usize) -> Self {
        self.limit = Some(rows);
        self
    }

    /// Appends the column [`ROW_ID`](crate::ROW_ID).
    pub fn with_row_id(mut self) -> Self {
        self.with_row_id = true;
        self
    }

    /// Limits batches to `rows` rows.
    pub fn batch_rows(mut self, rows: usize) -> Self {
        self.batch_rows = Some(rows);
        self
    }
}

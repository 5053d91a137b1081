//! The keys that a write to the base concerned, on their way to the log.
//!
//! They are logged in parts, as records before that of the base, so that neither a record nor memory grows with the
//! write. Parts whose base record never follows, because their writer died, mean nothing.

use arrow::array::{Array, RecordBatch};
use arrow::compute::concat_batches;
use cenote_base::Result;
use serde::{Deserialize, Serialize};

use crate::errors::arrow_error;

/// Keys of rows that a write to the base concerned.
#[derive(Debug, Clone, Default)]
pub(crate) struct Concerned {
    /// Keys with new values.
    pub(crate) written: Option<RecordBatch>,
    /// Deleted keys.
    pub(crate) deleted: Option<RecordBatch>,
}

/// The parts that precede a base's record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KeyParts {
    /// Distinguishes these parts from those of a writer that died.
    pub(crate) id: u64,
    pub(crate) count: u64,
}

impl Concerned {
    pub(crate) fn written(keys: RecordBatch) -> Self {
        Self { written: Some(keys), deleted: None }
    }

    pub(crate) fn deleted(keys: RecordBatch) -> Self {
        Self { written: None, deleted: Some(keys) }
    }

    pub(crate) fn batches(&self) -> impl Iterator<Item = &RecordBatch> {
        [&self.written, &self.deleted].into_iter().flatten()
    }

    /// Returns the bytes of the keys in memory.
    pub(crate) fn bytes(&self) -> usize {
        self.batches().map(row_bytes).sum()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.batches().all(|keys| keys.num_rows() == 0)
    }

    /// Splits these keys into pieces of at most `bytes_max` bytes, or one row, and adds them to `pieces`.
    pub(crate) fn split(self, bytes_max: usize, pieces: &mut Vec<Self>) {
        let rows = |keys: &Option<RecordBatch>| keys.as_ref().map_or(0, RecordBatch::num_rows);
        let (written, deleted) = (rows(&self.written), rows(&self.deleted));
        if self.bytes() <= bytes_max || written.max(deleted) <= 1 {
            return pieces.push(self);
        }
        let half = |keys: &Option<RecordBatch>, first: bool| {
            let keys = keys.as_ref()?;
            let middle = keys.num_rows().div_ceil(2);
            Some(if first { keys.slice(0, middle) } else { keys.slice(middle, keys.num_rows() - middle) })
        };
        for first in [true, false] {
            let (written, deleted) = (half(&self.written, first), half(&self.deleted, first));
            Self { written, deleted }.split(bytes_max, pieces);
        }
    }

    /// Joins all keys of `pieces`.
    pub(crate) fn join(pieces: &[Self]) -> Result<Self> {
        let side = |side: fn(&Self) -> Option<&RecordBatch>| {
            let batches: Vec<&RecordBatch> = pieces.iter().filter_map(side).collect();
            let Some(first) = batches.first() else { return Ok(None) };
            concat_batches(first.schema_ref(), batches.iter().copied()).map(Some).map_err(arrow_error)
        };
        Ok(Self { written: side(|piece| piece.written.as_ref())?, deleted: side(|piece| piece.deleted.as_ref())? })
    }
}

/// Returns the bytes of `rows`, which may be a slice of a larger batch.
pub(crate) fn row_bytes(rows: &RecordBatch) -> usize {
    let bytes = |column: &dyn Array| column.to_data().get_slice_memory_size().unwrap_or(column.get_array_memory_size());
    rows.columns().iter().map(|column| bytes(column.as_ref())).sum()
}

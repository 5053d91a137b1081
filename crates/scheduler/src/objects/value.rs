//! The values that tasks take and make.

use arrow::array::{Array, RecordBatch};
use arrow::buffer::Buffer;
use cenote_base::{Error, Result};

/// An immutable object: rows or plain bytes. Clones share the memory.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Rows.
    Batch(RecordBatch),
    /// Anything else.
    Bytes(Buffer),
}

impl Value {
    /// Returns the bytes of data. An object that is a slice of a shared buffer counts the slice alone.
    pub fn size_bytes(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Batch(batch) => batch_bytes(batch),
        }
    }

    /// Returns the rows.
    ///
    /// # Errors
    /// `InvalidInput` when the object is plain bytes.
    pub fn batch(&self) -> Result<&RecordBatch> {
        match self {
            Self::Batch(batch) => Ok(batch),
            Self::Bytes(bytes) => {
                Err(Error::invalid_input(format!("the object holds {} plain bytes; rows were expected", bytes.len())))
            }
        }
    }

    /// Returns the plain bytes.
    ///
    /// # Errors
    /// `InvalidInput` when the object holds rows.
    pub fn bytes(&self) -> Result<&[u8]> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            Self::Batch(batch) => Err(Error::invalid_input(format!(
                "the object holds {} rows of {} columns; plain bytes were expected",
                batch.num_rows(),
                batch.num_columns()
            ))),
        }
    }
}

/// Returns the bytes of the rows in `batch`.
fn batch_bytes(batch: &RecordBatch) -> u64 {
    let column = |column: &std::sync::Arc<dyn Array>| match column.to_data().get_slice_memory_size() {
        Ok(bytes) => bytes,
        // Arrow cannot measure slices of some types: they count their whole buffers.
        Err(_) => column.get_array_memory_size(),
    };
    batch.columns().iter().map(column).sum::<usize>() as u64
}

impl From<RecordBatch> for Value {
    fn from(batch: RecordBatch) -> Self {
        Self::Batch(batch)
    }
}

impl From<Vec<u8>> for Value {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(Buffer::from_vec(bytes))
    }
}

impl From<&[u8]> for Value {
    fn from(bytes: &[u8]) -> Self {
        Self::from(bytes.to_vec())
    }
}

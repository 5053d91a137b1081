//! Batches: rows as Arrow columns, tensors of transformed columns, blocks of packed columns, and how they are made.
//!
//! This part is given samples. It does not know their order or ranks, and of epochs only the number.

pub(crate) mod columns;
pub(crate) mod maker;
pub(crate) mod packing;
pub(crate) mod tensor_pool;
pub(crate) mod transform;

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch};
use tensor_pool::TensorBuffer;

use crate::order::sample::Sample;

/// The treatment of rows whose media cannot be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnError {
    /// The batch fails with an error that names the row.
    #[default]
    Raise,
    /// The row's tensor is zero and marked in [`ColumnTensor::valid`].
    Zero,
}

/// The numbers of one column of a batch, row after row.
#[derive(Debug, Clone, PartialEq)]
pub enum TensorValues {
    /// Bytes.
    Byte(TensorBuffer<u8>),
    /// 32-bit floats.
    Float(TensorBuffer<f32>),
}

/// A column of a batch as one contiguous array.
#[derive(Debug, Clone, PartialEq)]
pub struct ColumnTensor {
    /// The name of the column.
    pub name: String,
    /// The dimensions, rows first.
    pub shape: Vec<usize>,
    /// All numbers, in row-major order.
    pub data: Arc<TensorValues>,
    /// Whether each row has a value: a null has none, nor do media that cannot be decoded. `None` if all rows have one.
    pub valid: Option<Vec<bool>>,
}

/// The samples of a batch that is to be made.
#[derive(Debug)]
pub(crate) struct BatchPlan {
    /// The step of this rank in the epoch.
    pub(crate) step: u64,
    pub(crate) samples: Vec<Sample>,
    /// The number of samples at the end that repeat earlier ones to fill the batch.
    pub(crate) repeated: usize,
}

/// The rows of one step of training. A clone shares their memory.
#[derive(Debug, Clone)]
pub struct Batch {
    /// The epoch.
    pub epoch: u64,
    /// The step of this rank in the epoch, counted from where the loader began.
    pub step: u64,
    /// The columns that are neither transformed nor packed, as Arrow.
    pub rows: RecordBatch,
    /// The transformed columns.
    pub tensors: Vec<ColumnTensor>,
    /// The packed columns, each followed by the column of its row numbers. See
    /// [`Transform::Pack`](crate::Transform::Pack).
    pub packed: Vec<PackedColumn>,
    /// The number of rows at the end that repeat earlier rows to fill the batch.
    pub repeated: usize,
    /// Rows that could not be decoded.
    pub failures: Vec<DecodeFailure>,
}

/// A packed column of a batch, or the column of its row numbers.
#[derive(Debug, Clone)]
pub struct PackedColumn {
    /// The name of the column.
    pub name: String,
    /// Its numbers in blocks of one length, which are not the rows of the batch.
    pub blocks: ArrayRef,
}

/// A row of a batch that could not be decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecodeFailure {
    /// The row's position in the batch.
    pub row: usize,
    /// The column and what was wrong with its value.
    pub reason: String,
}

impl Batch {
    /// Returns the number of rows.
    pub fn len(&self) -> usize {
        self.rows.num_rows()
    }

    /// Returns whether the batch is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the bytes of all columns.
    pub fn bytes(&self) -> u64 {
        let tensor = |tensor: &ColumnTensor| match tensor.data.as_ref() {
            TensorValues::Byte(numbers) => numbers.len(),
            TensorValues::Float(numbers) => numbers.len() * 4,
        };
        let tensors = self.tensors.iter().map(tensor).sum::<usize>();
        let packed = self.packed.iter().map(|column| column.blocks.get_array_memory_size()).sum::<usize>();
        (self.rows.get_array_memory_size() + tensors + packed) as u64
    }
}

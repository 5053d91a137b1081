//! Batches: rows as Arrow columns, tensors of transformed columns, blocks of packed columns, and how they are made.
//!
//! This part is given samples. It does not know their order or ranks, and of epochs only the number.

pub(crate) mod columns;
pub(crate) mod maker;
pub(crate) mod memory;
pub(crate) mod packing;
pub(crate) mod transform;

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch};
use memory::Memory;

/// The treatment of rows whose media cannot be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnError {
    /// The batch fails with an error that names the row.
    #[default]
    Raise,
    /// The row's tensor is zero and marked in [`Tensor::valid`].
    Zero,
}

/// The numbers of one column of a batch, row after row.
#[derive(Debug, Clone, PartialEq)]
pub enum Numbers {
    /// Bytes.
    Byte(Memory<u8>),
    /// 32-bit floats.
    Float(Memory<f32>),
}

/// A column of a batch as one contiguous array.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    /// The name of the column.
    pub name: String,
    /// The dimensions, rows first.
    pub shape: Vec<usize>,
    /// All numbers, in row-major order.
    pub numbers: Arc<Numbers>,
    /// Whether each row has a value: a null has none, nor do media that cannot be decoded. `None` if all rows have one.
    pub valid: Option<Vec<bool>>,
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
    pub tensors: Vec<Tensor>,
    /// The packed columns, each followed by the column of its row numbers: blocks, not rows. See
    /// [`Transform::Pack`](crate::Transform::Pack).
    pub blocks: Vec<(String, ArrayRef)>,
    /// The number of rows at the end that repeat earlier rows to fill the batch.
    pub repeated: usize,
    /// Rows that could not be decoded, with the reasons.
    pub errors: Vec<(usize, String)>,
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
        let tensor = |tensor: &Tensor| match tensor.numbers.as_ref() {
            Numbers::Byte(numbers) => numbers.len(),
            Numbers::Float(numbers) => numbers.len() * 4,
        };
        let tensors = self.tensors.iter().map(tensor).sum::<usize>();
        let blocks = self.blocks.iter().map(|(_, column)| column.get_array_memory_size()).sum::<usize>();
        (self.rows.get_array_memory_size() + tensors + blocks) as u64
    }
}

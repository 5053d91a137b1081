//! Batches: rows of Arrow columns, tensors of transformed columns, blocks of packed ones.

pub(crate) mod columns;
pub(crate) mod maker;
pub(crate) mod memory;
pub(crate) mod packing;
pub(crate) mod transform;

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch};
use memory::Memory;

/// What becomes of a batch in which a picture cannot be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnError {
    /// The loader fails, naming the row.
    #[default]
    Raise,
    /// The row's tensor is zero, and [`Tensor::valid`] says so.
    Zero,
}

/// Numbers of one column of a batch, row after row.
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
    /// The column.
    pub name: String,
    /// Rows first.
    pub shape: Vec<usize>,
    /// All numbers, in row-major order.
    pub numbers: Arc<Numbers>,
    /// Whether each row has a value, where one has none: a null, or a picture that cannot be decoded.
    pub valid: Option<Vec<bool>>,
}

/// Rows for one step of training. A clone shares their memory.
#[derive(Debug, Clone)]
pub struct Batch {
    /// Which epoch it is of.
    pub epoch: u64,
    /// Which step of this rank in the epoch, counted from where the loader began.
    pub step: u64,
    /// The columns that are not transformed, as Arrow.
    pub rows: RecordBatch,
    /// The columns that are.
    pub tensors: Vec<Tensor>,
    /// The columns that are packed, each with one that says of which row each number is: blocks, not rows. See
    /// [`Transform::Pack`](crate::Transform::Pack).
    pub blocks: Vec<(String, ArrayRef)>,
    /// How many of the last rows are repeats that fill the batch up.
    pub repeated: usize,
    /// Rows that could not be decoded, with reasons.
    pub errors: Vec<(usize, String)>,
}

impl Batch {
    /// How many rows it has.
    pub fn len(&self) -> usize {
        self.rows.num_rows()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that it holds.
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

//! Workers: the rows that they take and the outputs that they give.

use arrow::array::{Array, ArrayRef, UInt32Array};
use cenote_base::Result;

/// Does an operator's work on one thread.
pub trait Worker: Send {
    /// Processes `rows`. A bad row is data: null outputs and a [`RowError`].
    ///
    /// # Errors
    /// Fails the whole batch, for causes outside the rows: a model that cannot run, memory that cannot be reserved.
    fn process(&mut self, rows: &Rows<'_>) -> Result<Output>;
}

/// Input rows: one array for each port, in the order of [`Definition::inputs`](crate::Definition::inputs), all of one
/// length, typed as [`PortType::arrives_as`](crate::PortType::arrives_as) says.
pub struct Rows<'a> {
    columns: &'a [ArrayRef],
    check: &'a (dyn Fn() -> Result<()> + Sync),
}

impl<'a> Rows<'a> {
    /// Creates rows from `columns`, which have one length.
    pub fn new(columns: &'a [ArrayRef]) -> Self {
        debug_assert!(columns.windows(2).all(|pair| pair[0].len() == pair[1].len()));
        Self { columns, check: &|| Ok(()) }
    }

    /// Attaches `check`, whose error ends the work on the rows.
    pub fn checked_by(self, check: &'a (dyn Fn() -> Result<()> + Sync)) -> Self {
        Self { check, ..self }
    }

    /// Fails when the work should stop. An operator that takes long for a row calls this at least once per row, and
    /// returns the error.
    ///
    /// # Errors
    /// `Cancelled` when nobody waits for the output any more.
    pub fn check(&self) -> Result<()> {
        (self.check)()
    }

    /// Returns the array of port number `port`.
    pub fn column(&self, port: usize) -> &'a ArrayRef {
        &self.columns[port]
    }

    /// Returns the number of rows.
    pub fn len(&self) -> usize {
        self.columns.first().map_or(0, |column| column.len())
    }

    /// Returns whether it holds no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// An input row that could not be processed: its outputs are null (or absent, in a one-to-many operator).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowError {
    /// The row's position in the input.
    pub row: usize,
    /// What was wrong with the row, for the person who will look at it.
    pub reason: String,
}

/// The output of a worker for some rows.
#[derive(Debug, Clone)]
pub struct Output {
    /// One array for each output field, as long as the input unless the operator is one-to-many.
    pub columns: Vec<ArrayRef>,
    /// The input row of each output row, ascending; one-to-many operators only.
    pub parents: Option<UInt32Array>,
    /// The rows that failed, ascending.
    pub errors: Vec<RowError>,
}

impl From<Vec<ArrayRef>> for Output {
    fn from(columns: Vec<ArrayRef>) -> Self {
        Self { columns, parents: None, errors: Vec::new() }
    }
}

impl Output {
    /// Sets the errors that say why some rows are null.
    pub fn with_errors(mut self, errors: Vec<RowError>) -> Self {
        self.errors = errors;
        self
    }
}

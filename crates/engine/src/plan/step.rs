//! Steps that were checked against their tables and their operators.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::{Field, SchemaRef};
use cenote_operator::{BoundOperator, Fingerprint};

/// A step that was checked against its table and its operator.
pub(crate) struct PlannedStep {
    pub(crate) table: String,
    pub(crate) operator: Arc<BoundOperator>,
    /// The column of each port.
    pub(crate) inputs: Vec<String>,
    /// The column of each output field, in `table` or in the child table.
    pub(crate) outputs: Vec<Field>,
    /// The child table of a one-to-many step.
    pub(crate) child: Option<Child>,
    /// The rows that it applies to: its own predicate and the thresholds of filters before it.
    pub(crate) filter: Option<String>,
    /// The columns that `filter` compares.
    pub(crate) filter_columns: BTreeSet<String>,
    pub(crate) fingerprint: Fingerprint,
    /// The column of `table` that holds, for each row, the fingerprint by which this step's outputs were made.
    pub(crate) fingerprint_column: String,
    /// The numbers of earlier steps over the same table whose outputs it reads.
    pub(crate) reads_from: Vec<usize>,
}

/// The child table that a one-to-many step fills.
#[derive(Clone)]
pub(crate) struct Child {
    pub(crate) table: String,
    /// The parent's key, the ordinal, and the outputs.
    pub(crate) schema: SchemaRef,
    pub(crate) key: Vec<String>,
}

impl PlannedStep {
    /// Returns what the step makes, for reports: its columns (`width, height`) or its child table (`chunks`).
    pub(crate) fn target(&self) -> String {
        match &self.child {
            Some(child) => child.table.clone(),
            None => self.outputs.iter().map(|f| f.name().as_str()).collect::<Vec<_>>().join(", "),
        }
    }

    /// Returns the name of the step in the error table: its first output column, or its child table.
    pub(crate) fn label(&self) -> &str {
        match &self.child {
            Some(child) => &child.table,
            None => self.outputs.first().map_or("", |field| field.name()),
        }
    }
}

//! The specification of an index to create: plain data.

use crate::kind::{IndexKind, ScalarStructure, VectorStructure};

/// An index to create.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexSpec {
    /// The name, unique in the table; `None`: derived from column and kind.
    pub name: Option<String>,
    /// The column to index.
    pub column: String,
    /// The kind, with the options of its build.
    pub kind: IndexKind,
}

impl IndexSpec {
    /// Makes the specification of an index of `kind` over `column`, with a name derived from both.
    pub fn new(column: impl Into<String>, kind: IndexKind) -> Self {
        Self { name: None, column: column.into(), kind }
    }

    /// Sets the name.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Returns the name given, or else `column_kind`. For vectors the default is `column_metric`, or
    /// `column_metric_kind` when a structure was chosen.
    pub fn effective_name(&self) -> String {
        match (&self.name, &self.kind) {
            (Some(name), _) => name.clone(),
            (None, IndexKind::Vector(vector)) if vector.structure == VectorStructure::Auto => {
                format!("{}_{}", self.column, vector.metric)
            }
            (None, IndexKind::Vector(vector)) => format!("{}_{}_{}", self.column, vector.metric, vector.structure),
            (None, IndexKind::Scalar(ScalarStructure::BTree)) => format!("{}_scalar", self.column),
            (None, kind) => format!("{}_{kind}", self.column),
        }
    }
}

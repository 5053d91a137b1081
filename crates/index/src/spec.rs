//! What an index is asked to be: plain data.

use crate::kind::{IndexKind, ScalarStructure, VectorStructure};

/// An index to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexSpec {
    /// Its name, unique in the table; `None`: made from column and kind.
    pub name: Option<String>,
    /// The column it covers.
    pub column: String,
    /// What it is for, and how it is built.
    pub kind: IndexKind,
}

impl IndexSpec {
    /// An index of `kind` over `column`, with a name made from both.
    pub fn new(column: impl Into<String>, kind: IndexKind) -> Self {
        Self { name: None, column: column.into(), kind }
    }

    /// The same index under `name`.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// The name given, or `column_kind`; for vectors with the metric, and with the kind when one was chosen.
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

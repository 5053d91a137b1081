//! Recipes as plain data: the columns and child tables to derive, and from what.

use std::collections::BTreeMap;

use cenote_operator::OperatorSpec;
use serde::{Deserialize, Serialize};

/// Derived columns and child tables, and the indexes over them. Running a recipe does what is not done yet, and nothing
/// else.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Recipe {
    /// The name of the recipe in reports.
    pub name: String,
    /// Steps in the order in which they run. A step may read what an earlier one made.
    pub steps: Vec<Step>,
    /// Indexes to build or bring up to date after the steps.
    pub indexes: Vec<IndexRequest>,
    /// The positions of the steps in the recipe's text, for errors. Empty for a recipe made in Rust.
    #[serde(skip)]
    pub(crate) positions: FieldPositions,
}

impl Recipe {
    /// Creates a recipe of `steps` without indexes.
    pub fn new(name: impl Into<String>, steps: Vec<Step>) -> Self {
        Self { name: name.into(), steps, indexes: Vec::new(), positions: FieldPositions::default() }
    }
}

/// One operator applied to one table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// The table whose rows it reads.
    pub table: String,
    /// The operator with its parameters.
    pub operator: OperatorSpec,
    /// The column of each input port, by port name. A lone port may go by the empty name.
    pub input: BTreeMap<String, String>,
    /// The column of each output field, by field name. A lone field may go by the empty name; a field that is not named
    /// here keeps its name.
    pub output: BTreeMap<String, String>,
    /// The child table of a one-to-many operator.
    pub into: Option<String>,
    /// The rows that it applies to, as a SQL predicate. Other rows get null.
    pub filter: Option<String>,
    /// For a filter operator: the scores with which a row goes on to later steps.
    pub keep: Option<Keep>,
}

impl Step {
    /// Applies `operator` to column `input` of `table`. Its outputs keep their own names.
    pub fn new(table: impl Into<String>, operator: OperatorSpec, input: impl Into<String>) -> Self {
        Self {
            table: table.into(),
            operator,
            input: BTreeMap::from([(String::new(), input.into())]),
            output: BTreeMap::new(),
            into: None,
            filter: None,
            keep: None,
        }
    }

    /// Sets the column of the lone output.
    pub fn output(mut self, column: impl Into<String>) -> Self {
        self.output = BTreeMap::from([(String::new(), column.into())]);
        self
    }

    /// Sets the child table of a one-to-many operator.
    pub fn into_table(mut self, table: impl Into<String>) -> Self {
        self.into = Some(table.into());
        self
    }

    /// Restricts the step to rows that satisfy `predicate`.
    pub fn filter(mut self, predicate: impl Into<String>) -> Self {
        self.filter = Some(predicate.into());
        self
    }
}

/// Bounds of a score, inclusive. A row without a score is not kept.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Keep {
    /// The smallest score that is kept.
    pub min: Option<f64>,
    /// The largest score that is kept.
    pub max: Option<f64>,
}

impl Keep {
    pub(crate) fn predicate(&self, column: &str) -> String {
        let mut parts = vec![format!("`{column}` IS NOT NULL")];
        parts.extend(self.min.map(|min| format!("`{column}` >= {min:?}")));
        parts.extend(self.max.map(|max| format!("`{column}` <= {max:?}")));
        parts.join(" AND ")
    }
}

/// An index that a recipe requests: plain data, on which the owner of the indexes acts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IndexRequest {
    /// The table.
    pub table: String,
    /// The column.
    pub column: String,
    /// A kind that `cenote index create` knows, such as `hnsw`, `ivf_pq`, `text` or `bitmap`.
    pub kind: String,
    /// The metric of a vector index: `l2`, `cosine`, `dot`, or `hamming` for packed bits.
    pub metric: Option<String>,
}

/// The positions of each step's fields in a recipe's text. Not part of the recipe's value.
#[derive(Debug, Clone, Default)]
pub(crate) struct FieldPositions {
    origin: String,
    steps: Vec<BTreeMap<&'static str, TextPosition>>,
}

/// A position in a text, from 1.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TextPosition {
    pub(crate) line: u64,
    pub(crate) column: u64,
}

impl PartialEq for FieldPositions {
    fn eq(&self, _other: &Self) -> bool {
        true
    }
}

impl FieldPositions {
    /// Starts the positions in the text of `origin`, without steps.
    pub(crate) fn new(origin: &str) -> Self {
        Self { origin: origin.to_owned(), steps: Vec::new() }
    }

    /// Adds the positions of the next step's fields.
    pub(crate) fn push(&mut self, fields: BTreeMap<&'static str, TextPosition>) {
        self.steps.push(fields);
    }

    /// Renders the position of a field of a step: `recipe.yaml:7:15 (step 2, operator)`, or `step 2, operator` for a
    /// recipe made in Rust.
    pub(crate) fn of(&self, step: usize, field: &'static str) -> String {
        let number = step + 1;
        match self.steps.get(step).and_then(|fields| fields.get(field).or_else(|| fields.get("table"))) {
            Some(TextPosition { line, column }) => format!("{}:{line}:{column} (step {number}, {field})", self.origin),
            None => format!("step {number}, {field}"),
        }
    }
}

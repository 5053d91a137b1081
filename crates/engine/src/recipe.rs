//! A recipe: what is derived from what, as plain data.

use std::collections::BTreeMap;

use cenote_base::Result;
use cenote_operator::{OperatorSpec, Params};
use serde::{Deserialize, Serialize};

/// Derived columns and child tables, and the indexes over them. Running it does what is not done yet, and nothing else.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Recipe {
    /// Names the recipe in reports.
    pub name: String,
    /// In the order in which they run; a step may read what an earlier one made.
    pub steps: Vec<Step>,
    /// Indexes to make or bring up to date after the steps.
    pub indexes: Vec<IndexRequest>,
    /// Where the text of each part stands, for errors; empty for a recipe made in Rust.
    #[serde(skip)]
    pub(crate) positions: Positions,
}

impl Recipe {
    /// A recipe of `steps` without indexes.
    pub fn new(name: impl Into<String>, steps: Vec<Step>) -> Self {
        Self { name: name.into(), steps, indexes: Vec::new(), positions: Positions::default() }
    }

    /// The recipe that `text` holds; `origin` (a path) stands in its errors.
    ///
    /// # Errors
    /// `InvalidInput` with origin, line and column.
    pub fn from_yaml(text: &str, origin: &str) -> Result<Self> {
        crate::yaml::parse(text, origin)
    }
}

/// One operator applied to one table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// The table whose rows it reads.
    pub table: String,
    /// The operator with its parameters.
    pub operator: OperatorSpec,
    /// Column of each input port, by port name; a lone port may go by the empty name.
    pub input: BTreeMap<String, String>,
    /// Column for each output field, by field name; a lone field may go by the empty name; fields not named keep their name.
    pub output: BTreeMap<String, String>,
    /// The child table of a one-to-many operator.
    pub into: Option<String>,
    /// Rows it applies to, as a SQL predicate; other rows get null.
    pub filter: Option<String>,
    /// For a filter operator: the scores with which a row goes on to later steps.
    pub keep: Option<Keep>,
}

impl Step {
    /// `operator` over column `input` of `table`, its outputs under their own names.
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

    /// The same with its lone output in `column`.
    pub fn output(mut self, column: impl Into<String>) -> Self {
        self.output = BTreeMap::from([(String::new(), column.into())]);
        self
    }

    /// The same, one-to-many into child table `table`.
    pub fn into_table(mut self, table: impl Into<String>) -> Self {
        self.into = Some(table.into());
        self
    }

    /// The same for rows that satisfy `predicate` only.
    pub fn filter(mut self, predicate: impl Into<String>) -> Self {
        self.filter = Some(predicate.into());
        self
    }

    pub(crate) fn params(mut self, params: Params) -> Self {
        self.operator.params = params;
        self
    }
}

/// Bounds of a score, inclusive. A row without a score is not kept.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Keep {
    /// Smallest score kept.
    pub min: Option<f64>,
    /// Largest score kept.
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

/// An index that a recipe wants: plain data, made by whoever owns indexes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IndexRequest {
    /// The table.
    pub table: String,
    /// The column.
    pub column: String,
    /// Any kind that `cenote index create` knows, such as `hnsw`, `ivf_pq`, `text` or `bitmap`.
    pub kind: String,
    /// For a vector index: `l2`, `cosine`, `dot`, or `hamming` for packed bits.
    pub metric: Option<String>,
}

/// Where in a YAML text the parts of each step stand. Not part of a recipe's value.
#[derive(Debug, Clone, Default)]
pub(crate) struct Positions {
    pub(crate) origin: String,
    pub(crate) steps: Vec<BTreeMap<&'static str, (u64, u64)>>,
}

impl PartialEq for Positions {
    fn eq(&self, _other: &Self) -> bool {
        true
    }
}

impl Positions {
    /// `recipe.yaml:7:15 (step 2, operator): `, or `step 2, operator: ` for a recipe made in Rust.
    pub(crate) fn of(&self, step: usize, field: &'static str) -> String {
        let number = step + 1;
        match self.steps.get(step).and_then(|fields| fields.get(field).or_else(|| fields.get("table"))) {
            Some((line, column)) => format!("{}:{line}:{column} (step {number}, {field})", self.origin),
            None => format!("step {number}, {field}"),
        }
    }
}

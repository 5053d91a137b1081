//! How recipes derived the columns of a table, as recorded in the table's properties.

use std::collections::BTreeMap;
use std::fmt;

use cenote_store::Snapshot;
use serde_json::Value;

/// Prefix of the table properties that say how columns and child tables were made.
pub(crate) const DERIVED_PREFIX: &str = "cenote.derived.";

/// The operator that derived a column, and its inputs.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Derivation {
    /// The name of the operator.
    pub operator: String,
    /// The columns that it read.
    pub inputs: Vec<String>,
}

impl fmt::Display for Derivation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({})", self.operator, self.inputs.join(", "))
    }
}

/// Returns how each derived column of `snapshot` was derived.
pub fn derivations(snapshot: &Snapshot) -> BTreeMap<String, Derivation> {
    let mut derivations = BTreeMap::new();
    for (_, text) in snapshot.properties().iter().filter(|(name, _)| name.starts_with(DERIVED_PREFIX)) {
        let Ok(record) = serde_json::from_str::<Value>(text) else { continue };
        // The outputs of a one-to-many operator are columns of its child table.
        if !record["into"].is_null() {
            continue;
        }
        let names = |field: &str| -> Vec<String> {
            let names = record[field].as_array().into_iter().flatten();
            names.filter_map(|name| name.as_str().map(str::to_owned)).collect()
        };
        let operator = record["operator"].as_str().unwrap_or_default().to_owned();
        let derivation = Derivation { operator, inputs: names("inputs") };
        derivations.extend(names("outputs").into_iter().map(|output| (output, derivation.clone())));
    }
    derivations
}

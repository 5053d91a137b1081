//! How recipes derived the columns of a table, as recorded in the table's properties.

use std::collections::BTreeMap;
use std::fmt;

use cenote_store::{HIDDEN_PREFIX, Snapshot};
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
    for (_, record) in records(snapshot) {
        let operator = record["operator"].as_str().unwrap_or_default().to_owned();
        let derivation = Derivation { operator, inputs: names(&record, "inputs") };
        derivations.extend(names(&record, "outputs").into_iter().map(|output| (output, derivation.clone())));
    }
    derivations
}

/// Returns the columns that hold the fingerprints of the steps that made `columns` of `snapshot`. They must be dropped
/// together: a column that is added later under the same name holds nothing that a step made.
pub fn fingerprints_of(snapshot: &Snapshot, columns: &[&str]) -> Vec<String> {
    let made = records(snapshot)
        .filter(|(_, record)| names(record, "outputs").iter().any(|output| columns.contains(&output.as_str())));
    let fingerprints = made.map(|(label, _)| fingerprint_column(label));
    fingerprints.filter(|column| snapshot.full_schema().field_with_name(column).is_ok()).collect()
}

/// Returns the name of the column that holds the fingerprints of the step that makes `label`.
pub(crate) fn fingerprint_column(label: &str) -> String {
    format!("{HIDDEN_PREFIX}fingerprint_{label}")
}

/// Returns the label of each step that derived columns of `snapshot`, and the record of how it did.
fn records(snapshot: &Snapshot) -> impl Iterator<Item = (&str, Value)> {
    let records = snapshot.properties().iter().filter_map(|(name, text)| {
        let label = name.strip_prefix(DERIVED_PREFIX)?;
        Some((label, serde_json::from_str::<Value>(text).ok()?))
    });
    // The outputs of a one-to-many operator are columns of its child table.
    records.filter(|(_, record)| record["into"].is_null())
}

/// Returns the names that `field` of a record lists.
fn names(record: &Value, field: &str) -> Vec<String> {
    let names = record[field].as_array().into_iter().flatten();
    names.filter_map(|name| name.as_str().map(str::to_owned)).collect()
}

//! The definition of an index as the table stores it, independent of what was built for it.
//!
//! A definition is a table property, `cenote.index.NAME`, and so part of every version of the base. It refers to its
//! column by Lance's field id, which survives a rename and is never reused.

use std::collections::HashMap;

use cenote_base::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::kind::IndexKind;

/// The prefix of the table properties that hold definitions.
pub const PROPERTY_PREFIX: &str = "cenote.index.";
const FORMAT: u32 = 1;
/// A vector index is rebuilt when its table has `OUTGROWN_FACTOR` times the rows that it was trained on.
const OUTGROWN_FACTOR: usize = 4;

/// The effort of a vector search by an index. A setting that is `None` is derived from the index and from k.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SearchSettings {
    /// Partitions probed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probes: Option<usize>,
    /// Candidates kept while walking a graph.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ef: Option<usize>,
    /// Candidates whose whole vectors are compared, in multiples of k.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refine: Option<u32>,
}

/// The measured recall of an index.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// The share of the nearest rows that was found.
    pub recall: f64,
    /// The recall that was requested.
    pub target: f64,
    /// The rows that each query requested.
    pub k: usize,
    /// The number of queries.
    pub queries: usize,
    /// The rows of the table at that time; 0 when the index has been rebuilt since.
    pub rows: usize,
}

/// The stored definition of an index.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct IndexDefinition {
    pub(crate) format: u32,
    /// The field id of its column.
    pub(crate) field: i32,
    pub(crate) kind: IndexKind,
    #[serde(default)]
    pub(crate) search: SearchSettings,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) measured: Option<Measured>,
    /// The rows of the table when the index was built; 0 where that is not known.
    #[serde(default)]
    pub(crate) rows: usize,
    /// Whether segments of its first build are missing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) is_unfinished: bool,
    /// While segments are missing: the fingerprint of the fragments that were covered when the last one was added.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) covered: u64,
}

impl IndexDefinition {
    /// Returns whether the table has grown to `rows` rows, for which an index would be trained differently.
    pub(crate) fn is_outgrown(&self, rows: usize) -> bool {
        matches!(self.kind, IndexKind::Vector(_)) && self.rows > 0 && rows / OUTGROWN_FACTOR >= self.rows
    }

    pub(crate) fn new(field: i32, kind: IndexKind) -> Self {
        let search = SearchSettings::default();
        Self { format: FORMAT, field, kind, search, measured: None, rows: 0, is_unfinished: false, covered: 0 }
    }

    /// Returns the key and the value of the property that stores it under `name`.
    pub(crate) fn to_property(&self, name: &str) -> Result<(String, String)> {
        let text = serde_json::to_string(self);
        let text = text.map_err(|source| Error::internal("write an index definition").with_source(source))?;
        Ok((format!("{PROPERTY_PREFIX}{name}"), text))
    }

    /// Reads the definitions among `properties`, by name.
    pub(crate) fn read_all(properties: &HashMap<String, String>) -> Result<HashMap<String, Self>> {
        let named = properties.iter().filter_map(|(key, text)| Some((key.strip_prefix(PROPERTY_PREFIX)?, text)));
        named.map(|(name, text)| Ok((name.to_owned(), Self::read(name, text)?))).collect()
    }

    /// Reads the definition of index `name` among `properties`.
    pub(crate) fn read_one(properties: &HashMap<String, String>, name: &str) -> Result<Option<Self>> {
        properties.get(&format!("{PROPERTY_PREFIX}{name}")).map(|text| Self::read(name, text)).transpose()
    }

    fn read(name: &str, text: &str) -> Result<Self> {
        let format = serde_json::from_str::<serde_json::Value>(text).ok().and_then(|value| value["format"].as_u64());
        if format.is_some_and(|format| format > u64::from(FORMAT)) {
            let what = format!("index `{name}` was defined by a newer version of Cenote: use that one");
            return Err(Error::unsupported(what));
        }
        serde_json::from_str(text).map_err(|source| {
            let what = format!(
                "property `{PROPERTY_PREFIX}{name}` is not an index definition: drop the index and create it again"
            );
            Error::corrupt(what).with_source(source)
        })
    }
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::metric::Metric;

    #[test]
    fn a_definition_is_read_as_it_was_written() {
        let mut definition = IndexDefinition::new(3, IndexKind::hnsw(Metric::Cosine));
        definition.search.ef = Some(90);
        definition.measured = Some(Measured { recall: 0.99, target: 0.98, k: 10, queries: 100, rows: 5 });
        let (key, text) = definition.to_property("a.b").unwrap();
        assert_eq!(key, "cenote.index.a.b");
        let properties = HashMap::from([(key, text), ("cenote.duplicates".to_owned(), "last".to_owned())]);
        assert_eq!(IndexDefinition::read_all(&properties).unwrap(), HashMap::from([("a.b".to_owned(), definition)]));
    }

    #[test]
    fn one_of_a_newer_format_is_refused_and_a_broken_one_named() {
        let read =
            |text: &str| IndexDefinition::read_all(&HashMap::from([("cenote.index.i".to_owned(), text.to_owned())]));
        assert_eq!(read(r#"{"format":2,"kind":"future"}"#).unwrap_err().kind(), cenote_base::ErrorKind::Unsupported);
        assert!(read("{").unwrap_err().message().contains("cenote.index.i"));
    }
}

//! Which indexes a snapshot has, and how late each is.

use arrow::datatypes::{DataType, Field};
use cenote_base::Result;
use cenote_store::{Snapshot, Version, lance_error};
use lance::index::DatasetIndexExt;
use lance::table::format::IndexMetadata;
use serde_json::Value;

use crate::live;
use crate::spec::{IndexKind, Metric};

/// An index of a table, as one snapshot has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexInfo {
    /// Its name.
    pub name: String,
    /// The column it covers.
    pub column: String,
    /// What it is for.
    pub kind: IndexKind,
    /// How it is built, such as `IVF_FLAT`, `Inverted` or `BTree`.
    pub structure: String,
    /// The distance it ranks by; only a vector index has one.
    pub metric: Option<Metric>,
    /// Rows that a search finds through it.
    pub rows_indexed: usize,
    /// Rows written since: a search reads them one by one, so they cost time.
    pub rows_unindexed: usize,
    /// The newest version whose rows went into it.
    pub built_to: Version,
    /// How many pieces it has; each upkeep adds one until they are merged.
    pub segments: usize,
}

/// What a search must know of an index.
pub(crate) struct Definition {
    pub(crate) name: String,
    pub(crate) column: String,
    pub(crate) kind: IndexKind,
    pub(crate) structure: String,
    pub(crate) segments: Vec<IndexMetadata>,
}

impl Definition {
    pub(crate) fn metric(&self) -> Option<Metric> {
        match self.kind {
            IndexKind::Vector { metric } => Some(metric),
            _ => None,
        }
    }
}

/// The indexes of `snapshot`, by name, without a look at its rows.
pub(crate) async fn definitions(snapshot: &Snapshot) -> Result<Vec<Definition>> {
    let dataset = snapshot.base();
    let mut definitions = Vec::new();
    for description in dataset.describe_indices(None).await.map_err(lance_error)? {
        let Some(column) = description.field_ids().first().and_then(|id| {
            let field = dataset.schema().field_by_id(*id as i32)?;
            snapshot.full_schema().field_with_name(&field.name).ok()
        }) else {
            // An index of Lance's own bookkeeping covers no column.
            continue;
        };
        let details = description.details().map_err(lance_error)?;
        let details: Value = serde_json::from_str(&details).unwrap_or_default();
        let Some(kind) = kind_of(description.index_type(), &details, column) else { continue };
        definitions.push(Definition {
            name: description.name().to_owned(),
            column: column.name().clone(),
            kind,
            structure: description.index_type().to_owned(),
            segments: description.segments().to_vec(),
        });
    }
    definitions.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(definitions)
}

/// The indexes of `snapshot`, by name.
pub async fn list(snapshot: &Snapshot) -> Result<Vec<IndexInfo>> {
    let definitions = definitions(snapshot).await?;
    if definitions.is_empty() {
        return Ok(Vec::new());
    }
    let rows = snapshot.count(None).await?;
    let superseded = snapshot.superseded().as_ref();
    let mut indexes = Vec::with_capacity(definitions.len());
    for definition in definitions {
        let (_, late) = live::rows(snapshot.base(), &definition.segments).await?;
        let rows_unindexed = live::count(&(late - superseded)) + snapshot.changed_rows();
        let built_to = definition.segments.iter().map(|segment| segment.dataset_version).max().unwrap_or(0);
        indexes.push(IndexInfo {
            metric: definition.metric(),
            name: definition.name,
            column: definition.column,
            kind: definition.kind,
            structure: definition.structure,
            rows_indexed: rows - rows_unindexed,
            rows_unindexed,
            built_to: snapshot.version_of_base(built_to),
            segments: definition.segments.len(),
        });
    }
    Ok(indexes)
}

fn kind_of(structure: &str, details: &Value, column: &Field) -> Option<IndexKind> {
    if matches!(column.data_type(), DataType::FixedSizeList(_, _)) {
        let metric = details["metric_type"].as_str()?.parse().ok()?;
        return Some(IndexKind::Vector { metric });
    }
    if structure.eq_ignore_ascii_case("inverted") {
        let flag = |name: &str| details[name].as_bool().unwrap_or(true);
        return Some(IndexKind::FullText {
            language: details["language"].as_str().unwrap_or("English").to_owned(),
            stem: flag("stem"),
            remove_stop_words: flag("remove_stop_words"),
        });
    }
    Some(IndexKind::Scalar)
}

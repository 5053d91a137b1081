//! Which indexes a snapshot has, and how late each is.

use arrow::datatypes::{DataType, Field};
use cenote_base::Result;
use cenote_store::{Snapshot, Version, lance_error};
use lance::index::DatasetIndexExt;
use serde_json::Value;

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

/// The indexes of `snapshot`, by name.
pub async fn list(snapshot: &Snapshot) -> Result<Vec<IndexInfo>> {
    let dataset = snapshot.base();
    let mut fragments = Vec::new();
    for fragment in dataset.get_fragments() {
        fragments.push((fragment.id() as u32, fragment.count_rows(None).await.map_err(lance_error)?));
    }
    let rows = snapshot.count(None).await?;
    let mut indexes = Vec::new();
    for description in dataset.describe_indices(None).await.map_err(lance_error)? {
        let Some(column) = description.field_ids().first().and_then(|id| {
            let field = dataset.schema().field_by_id(*id as i32)?;
            snapshot.full_schema().field_with_name(&field.name).ok()
        }) else {
            // An index of Lance's own bookkeeping covers no column.
            continue;
        };
        let segments = description.segments();
        let covered = |fragment: u32| {
            segments
                .iter()
                .any(|segment| segment.fragment_bitmap.as_ref().is_none_or(|bitmap| bitmap.contains(fragment)))
        };
        let unseen: usize = fragments.iter().filter(|(id, _)| !covered(*id)).map(|(_, rows)| rows).sum();
        // Some of the unseen rows of the base may be superseded too.
        let rows_unindexed = (unseen + snapshot.changed_rows()).min(rows);
        let details = description.details().map_err(lance_error)?;
        let details: Value = serde_json::from_str(&details).unwrap_or_default();
        let Some(kind) = kind_of(description.index_type(), &details, column) else { continue };
        indexes.push(IndexInfo {
            name: description.name().to_owned(),
            column: column.name().clone(),
            metric: match kind {
                IndexKind::Vector { metric } => Some(metric),
                _ => None,
            },
            kind,
            structure: description.index_type().to_owned(),
            rows_indexed: rows - rows_unindexed,
            rows_unindexed,
            built_to: snapshot
                .version_of_base(segments.iter().map(|segment| segment.dataset_version).max().unwrap_or(0)),
            segments: segments.len(),
        });
    }
    indexes.sort_by(|a, b| a.name.cmp(&b.name));
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

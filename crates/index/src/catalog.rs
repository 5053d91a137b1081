//! The catalog of a snapshot: the definitions of its indexes, and what Lance has built for them.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field};
use cenote_base::{Error, Result, unknown};
use cenote_store::{Snapshot, Version, blocking, lance_error};
use futures::FutureExt;
use lance::Dataset;
use lance::dataset::scanner::RowAddrTreeMap;
use lance::index::{DatasetIndexExt, DatasetIndexInternalExt};
use lance::table::format::IndexMetadata;
use lance_index::metrics::NoOpMetricsCollector;
use serde_json::Value;
use tokio::sync::OnceCell;

use crate::definition::{IndexDefinition, Measured, SearchSettings};
use crate::kind::{IndexKind, ScalarStructure, TextOptions, VectorOptions, VectorStructure};
use crate::metric::Metric;
use crate::rows::coverage::Coverage;
use crate::rows::fragments::{Fragments, rows_of};
use crate::vector::partition::VectorSegment;

/// An index of a table, as one snapshot has it.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct IndexInfo {
    /// The name.
    pub name: String,
    /// The indexed column.
    pub column: String,
    /// The kind, with the options of its build.
    pub kind: IndexKind,
    /// The structure that was built, such as `IVF_FLAT`, `Inverted` or `BTree`; `none` while there is nothing to build
    /// it from.
    pub structure: String,
    /// The distance of a vector index.
    pub metric: Option<Metric>,
    /// Rows that a search finds by the index.
    pub rows_indexed: usize,
    /// Rows that the index lacks: a search compares them one by one, which takes time.
    pub rows_unindexed: usize,
    /// The newest version whose rows the index has.
    pub built_to: Version,
    /// The number of segments; each upkeep adds one until they are merged.
    pub segments: usize,
    /// The effort of a search by the index.
    pub search: SearchSettings,
    /// The recall measured when the index was tuned.
    pub measured: Option<Measured>,
    /// Bytes that an index in memory takes.
    pub memory_bytes: Option<u64>,
    /// The reason why an index in memory is not there.
    pub failure: Option<String>,
}

impl IndexInfo {
    /// Returns why the index lags: what kept it out of memory or, if it lacks rows, `upkeep`, the last failure of the
    /// table's upkeep.
    pub fn trouble<'a>(&'a self, upkeep: Option<&'a str>) -> Option<&'a str> {
        self.failure.as_deref().or(upkeep.filter(|_| self.rows_unindexed > 0))
    }
}

/// An index of one version of a base: its definition, and what was built for it.
#[derive(Debug)]
pub(crate) struct Index {
    pub(crate) name: String,
    pub(crate) column: String,
    pub(crate) definition: IndexDefinition,
    pub(crate) built: Option<BuiltIndex>,
}

/// An index on disk, as Lance has built it for one version of a base.
#[derive(Debug)]
pub(crate) struct BuiltIndex {
    pub(crate) structure: String,
    pub(crate) segments: Vec<IndexMetadata>,
    coverage: OnceCell<Coverage>,
    live_by_segment: OnceCell<Arc<[RowAddrTreeMap]>>,
    vector_segments: OnceCell<Vec<Arc<VectorSegment>>>,
}

impl Index {
    /// Returns the metric of a vector index.
    pub(crate) fn metric(&self) -> Option<Metric> {
        self.definition.kind.metric()
    }
}

impl BuiltIndex {
    /// Returns the coverage of the base, which has `fragments`, by all segments.
    pub(crate) async fn coverage(&self, fragments: &Arc<Fragments>) -> Result<&Coverage> {
        self.coverage.get_or_try_init(async || Coverage::new(fragments, fragments.covered(&self.segments)).await).await
    }

    /// Returns, for each segment, the live rows of the fragments that it covers.
    pub(crate) async fn live_by_segment(&self, fragments: &Arc<Fragments>) -> Result<&Arc<[RowAddrTreeMap]>> {
        let list = async || {
            let covered = self.segments.iter().map(|segment| fragments.covered(std::slice::from_ref(segment)));
            let (covered, fragments) = (covered.collect::<Vec<_>>(), Arc::clone(fragments));
            blocking(move || Ok(covered.iter().map(|covered| rows_of(&fragments.of(covered))).collect())).await
        };
        self.live_by_segment.get_or_try_init(list).await
    }

    /// Opens the segments of a vector index over `column`.
    pub(crate) async fn vector_segments(&self, snapshot: &Snapshot, column: &str) -> Result<&[Arc<VectorSegment>]> {
        let open = async || {
            let mut opened = Vec::with_capacity(self.segments.len());
            for segment in &self.segments {
                let base = snapshot.base();
                let index = base.open_vector_index(column, &segment.uuid, &NoOpMetricsCollector).boxed().await;
                opened.push(Arc::new(VectorSegment::new(index.map_err(lance_error)?)));
            }
            Ok(opened)
        };
        self.vector_segments.get_or_try_init(open).await.map(Vec::as_slice)
    }
}

/// The indexes of one version of a base, ordered by name.
#[derive(Debug)]
pub(crate) struct Catalog {
    pub(crate) indexes: Vec<Index>,
    /// The names of definitions whose column was dropped.
    pub(crate) orphans: Vec<String>,
}

impl Catalog {
    /// Reads the catalog of `snapshot`.
    pub(crate) async fn read(snapshot: &Snapshot) -> Result<Self> {
        let dataset = snapshot.base();
        let mut definitions = IndexDefinition::read_all(snapshot.properties())?;
        let mut indexes = Vec::new();
        for description in dataset.describe_indices(None).await.map_err(lance_error)? {
            // Lance's system indexes cover no column.
            let Some(field) = description.field_ids().first().map(|id| *id as i32) else { continue };
            let Some(column) = column_of(dataset, snapshot, field) else { continue };
            let details = description.details().map_err(lance_error)?;
            let details: Value = serde_json::from_str(&details).map_err(|source| {
                let what = format!("the details of index `{}` cannot be read", description.name());
                Error::corrupt(what).with_source(source)
            })?;
            let structure = description.index_type().to_owned();
            // A lake of an earlier version has no definitions. An index of a kind that is not known here is not listed.
            let Some(kind) = kind_of(&structure, &details, column) else { continue };
            let known = definitions.remove(description.name()).filter(|known| known.field == field);
            // A build that was interrupted before its definition was written: what was built counts.
            let known = known.filter(|known| known.kind.is_resident() || known.kind.is_same_use(&kind));
            indexes.push(Index {
                name: description.name().to_owned(),
                column: column.name().clone(),
                definition: known.unwrap_or_else(|| IndexDefinition::new(field, kind)),
                built: Some(BuiltIndex {
                    structure,
                    segments: description.segments().to_vec(),
                    coverage: OnceCell::new(),
                    live_by_segment: OnceCell::new(),
                    vector_segments: OnceCell::new(),
                }),
            });
        }
        let mut orphans = Vec::new();
        for (name, definition) in definitions {
            match column_of(dataset, snapshot, definition.field) {
                Some(column) => indexes.push(Index { name, column: column.name().clone(), definition, built: None }),
                None => orphans.push(name),
            }
        }
        indexes.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Self { indexes, orphans })
    }

    /// Returns index `name`.
    ///
    /// # Errors
    /// `NotFound`, with the names of the indexes of `table`.
    pub(crate) fn find(&self, table: &str, name: &str) -> Result<&Index> {
        self.indexes.iter().find(|index| index.name == name).ok_or_else(|| {
            let known = self.indexes.iter().map(|index| index.name.as_str());
            unknown("index", name, known).context(format!("table `{table}`"))
        })
    }
}

/// Describes `index` as [`Indexes::list`](crate::Indexes::list) does, without counting rows.
pub(crate) fn outline(snapshot: &Snapshot, index: &Index) -> IndexInfo {
    let segments = index.built.as_ref().map_or(&[][..], |built| &built.segments);
    let built_to = segments.iter().map(|segment| segment.dataset_version).max().unwrap_or(0);
    let structure = index.built.as_ref().map_or("none", |built| built.structure.as_str());
    IndexInfo {
        name: index.name.clone(),
        column: index.column.clone(),
        structure: if index.definition.kind.is_resident() { "HNSW" } else { structure }.to_owned(),
        metric: index.metric(),
        kind: index.definition.kind.clone(),
        rows_indexed: 0,
        rows_unindexed: 0,
        built_to: snapshot.version_of_base(built_to),
        segments: segments.len(),
        search: index.definition.search,
        measured: index.definition.measured,
        memory_bytes: None,
        failure: None,
    }
}

/// Returns the column of `snapshot` with field id `field`.
fn column_of<'a>(dataset: &Dataset, snapshot: &'a Snapshot, field: i32) -> Option<&'a Field> {
    let field = dataset.schema().field_by_id(field)?;
    snapshot.full_schema().field_with_name(&field.name).ok()
}

/// Returns the kind of an index without a definition, from what Lance says of it; `None` for an unknown kind.
fn kind_of(structure: &str, details: &Value, column: &Field) -> Option<IndexKind> {
    let word = structure.to_ascii_lowercase().replace('_', "");
    if matches!(column.data_type(), DataType::FixedSizeList(_, _)) {
        let metric = details["metric_type"].as_str()?.parse().ok()?;
        let structure = match word.as_str() {
            "ivfpq" => VectorStructure::IvfPq,
            "ivfsq" => VectorStructure::IvfSq,
            "ivfrq" => VectorStructure::IvfRq,
            "ivfhnswpq" => VectorStructure::IvfHnswPq,
            _ => VectorStructure::Auto,
        };
        return Some(IndexKind::Vector(VectorOptions { metric, structure, ..VectorOptions::default() }));
    }
    Some(match word.as_str() {
        "inverted" => {
            let flag = |name: &str| details[name].as_bool().unwrap_or(true);
            IndexKind::FullText(TextOptions {
                language: details["language"].as_str().unwrap_or("English").to_owned(),
                stem: flag("stem"),
                remove_stop_words: flag("remove_stop_words"),
                ngram: None,
            })
        }
        "bitmap" => IndexKind::Scalar(ScalarStructure::Bitmap),
        "labellist" => IndexKind::Scalar(ScalarStructure::LabelList),
        "zonemap" => IndexKind::Scalar(ScalarStructure::ZoneMap),
        "bloomfilter" => IndexKind::Scalar(ScalarStructure::BloomFilter),
        "ngram" => IndexKind::Scalar(ScalarStructure::NGram),
        "btree" => IndexKind::scalar(),
        _ => return None,
    })
}

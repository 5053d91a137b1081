//! The search for the rows whose vectors are nearest to a query vector.

use std::fmt;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, UInt64Array};
use arrow::datatypes::DataType;
use cenote_base::{Error, Result};
use cenote_store::{Filter, ROW_ID, RecordBatches, ScanRequest, Snapshot, arrow_error, blocking, row_ids_after};
use futures::{FutureExt, StreamExt, TryStreamExt};
use lance_select::RowSetOps;

use super::exact::{QueryVector, RowVectors, VectorShape, VectorType, vector_type};
use super::partition::RowCandidate;
use super::resident::graph::search::{EF_FACTOR, EF_MIN, GraphSearch};
use super::walk::DiskWalk;
use crate::catalog::{BuiltIndex, Index, IndexInfo};
use crate::definition::SearchSettings;
use crate::hits::{DISTANCE, Hit, by_distance, check_k, keep_first, materialize};
use crate::indexes::{Indexes, is_of_index, warn_unreadable};
use crate::metric::{Metric, from_lance};
use crate::options::PROCESSORS;
use crate::rows::filtered::FilteredRows;
use crate::rows::fragments::{Fragment, Fragments, PerFragment, UNCOVERED_ROWS_MAX};
use crate::rows::row_set;
use crate::rows::runs::ChangedRows;

/// Candidates that an index of quantised vectors returns, in multiples of k: their whole vectors are then compared.
/// The coarse factor is for product quantisation and RaBitQ.
const REFINE_FACTOR: u32 = 4;
const REFINE_FACTOR_COARSE: u32 = 10;
/// Candidates kept while walking a graph, at least: never fewer than are compared by their whole vectors.
const GRAPH_CANDIDATES_MIN: usize = 64;
/// Rows matching a filter up to which all are compared: cheaper than an index on disk, and exact.
const MATCHING_ROWS_MAX: usize = 1_024;
/// An index in memory is refreshed when it lacks `REFRESH_ROWS` changed rows, or `rows / REFRESH_SHARE` rows of the
/// base and at least `REFRESH_ROWS`.
const REFRESH_ROWS: usize = 256;
const REFRESH_SHARE: usize = 1_024;
/// Walks through an index in memory that keeps changing meanwhile, at most.
const WALKS_MAX: usize = 3;
/// Bytes of vectors up to which they are compared on the calling thread.
const INLINE_BYTES_MAX: usize = 64 << 10;

/// A search for the rows whose vectors are nearest to one.
#[derive(Debug, Clone)]
pub struct VectorQuery {
    /// The column of vectors: a `FixedSizeList` of Float32, Float16 or Int8, or of UInt8 for packed bits.
    pub column: String,
    /// The query vector, as long as those of the column; for packed bits whole numbers from 0 to 255.
    pub vector: Vec<f32>,
    /// Rows to return, at most.
    pub k: usize,
    /// The distance; `None`: that of the column's index, or [`Metric::L2`] without one ([`Metric::Hamming`] for packed
    /// bits).
    pub metric: Option<Metric>,
    /// The condition that rows must satisfy, applied before the search.
    pub filter: Option<Filter>,
    /// The columns to return; `None`: all visible ones.
    pub columns: Option<Vec<String>>,
}

impl VectorQuery {
    /// Makes a query for the `k` rows whose `column` is nearest to `vector`.
    pub fn new(column: impl Into<String>, vector: Vec<f32>, k: usize) -> Self {
        Self { column: column.into(), vector, k, metric: None, filter: None, columns: None }
    }
}

/// The way in which a search found its rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VectorStrategy {
    /// A comparison with every row, or with every row that satisfies the filter.
    Exact,
    /// A comparison with the rows that satisfy the filter, after counting them.
    Matching {
        /// The number of those rows.
        rows: usize,
    },
    /// A search of an index, and a comparison with the rows that it lacks.
    Index {
        /// The name of the index.
        name: String,
        /// The number of rows that satisfy the filter, if there is one.
        matching: Option<usize>,
    },
}

impl VectorStrategy {
    /// Describes how a search that may use `index` will proceed, as far as is known before the rows that satisfy its
    /// filter are counted.
    pub fn outlook(index: Option<&IndexInfo>, has_filter: bool) -> String {
        match index {
            None => Self::Exact.to_string(),
            Some(IndexInfo { name, kind, .. }) if !has_filter || kind.is_resident() => {
                Self::Index { name: name.clone(), matching: None }.to_string()
            }
            Some(index) => format!("exact up to {MATCHING_ROWS_MAX} matching rows, else index {}", index.name),
        }
    }
}

impl fmt::Display for VectorStrategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact => f.write_str("exact"),
            Self::Matching { rows } => write!(f, "exact over {rows} matching rows"),
            Self::Index { name, matching: None } => write!(f, "index {name}"),
            Self::Index { name, matching: Some(rows) } => write!(f, "index {name} under {rows} matching rows"),
        }
    }
}

impl Indexes {
    /// Returns the nearest rows: the requested columns, and [`DISTANCE`] ascending. A row whose vector is null or has
    /// no distance (a zero vector under cosine) is never among them; otherwise there are min(k, matching rows).
    ///
    /// # Errors
    /// `NotFound` for an unknown column; `InvalidInput` for a vector that does not fit it, a `k` of 0 or a filter that
    /// does not parse.
    pub async fn vector_search(&self, snapshot: &Snapshot, query: &VectorQuery) -> Result<RecordBatch> {
        let hits = self.vector_hits(snapshot, query).await?;
        materialize(snapshot, &hits, query.columns.as_deref(), &[DISTANCE]).await
    }

    /// Does what [`vector_search`](Self::vector_search) does, without reading the rows.
    pub async fn vector_hits(&self, snapshot: &Snapshot, query: &VectorQuery) -> Result<Vec<Hit>> {
        Ok(self.find_vectors(snapshot, query).await?.0)
    }

    /// Returns [`vector_hits`](Self::vector_hits) with the strategy that found them.
    pub async fn find_vectors(&self, snapshot: &Snapshot, query: &VectorQuery) -> Result<(Vec<Hit>, VectorStrategy)> {
        let catalog = self.catalog(snapshot).await?;
        let indexes = || catalog.indexes.iter().filter(|index| index.column == query.column);
        let search = self.checked(snapshot, query, indexes().find_map(Index::metric))?;
        let metric = search.shape.metric;
        let fitting: Vec<&Index> = indexes().filter(|index| index.metric() == Some(metric)).collect();
        if fitting.is_empty() {
            return Ok((search.exact().await?, VectorStrategy::Exact));
        }
        let filtered = match &query.filter {
            Some(filter) => Some(Arc::new(self.filtered(snapshot, filter).await?)),
            None => None,
        };
        let matching = filtered.as_ref().map(|filtered| filtered.count());
        for index in fitting.iter().filter(|index| index.definition.kind.is_resident()) {
            if let Some(hits) = search.by_resident(index, filtered.as_ref()).await? {
                return Ok((hits, VectorStrategy::Index { name: index.name.clone(), matching }));
            }
        }
        if let (Some(filtered), Some(rows)) = (&filtered, matching.filter(|rows| *rows <= MATCHING_ROWS_MAX)) {
            return Ok((search.matching(filtered).await?, VectorStrategy::Matching { rows }));
        }
        for index in fitting {
            let Some(built) = &index.built else { continue };
            match search.on_disk(index, built, filtered.as_ref()).await {
                Ok(hits) if hits.len() >= query.k => {
                    return Ok((hits, VectorStrategy::Index { name: index.name.clone(), matching }));
                }
                // The index has fewer than k rows; the exact search finds the others, if there are any.
                Ok(_) => break,
                Err(error) if is_of_index(&error) => warn_unreadable(&index.name, &error),
                Err(error) => return Err(error),
            }
        }
        Ok((search.exact().await?, VectorStrategy::Exact))
    }

    /// Returns the nearest rows by comparing every row.
    pub(super) async fn exact_hits(&self, snapshot: &Snapshot, query: &VectorQuery) -> Result<Vec<Hit>> {
        self.checked(snapshot, query, None)?.exact().await
    }

    /// Returns the nearest rows by `index` with `settings`; none when it has nothing for this snapshot.
    pub(super) async fn hits_by(
        &self,
        snapshot: &Snapshot,
        query: &VectorQuery,
        index: &Index,
        settings: SearchSettings,
    ) -> Result<Vec<Hit>> {
        let search = VectorSearch { settings: Some(settings), ..self.checked(snapshot, query, index.metric())? };
        match &index.built {
            _ if index.definition.kind.is_resident() => Ok(search.by_resident(index, None).await?.unwrap_or_default()),
            Some(built) => search.on_disk(index, built, None).await,
            None => Ok(Vec::new()),
        }
    }

    /// Checks `query`. Its metric is the one that it names, or else `metric`.
    fn checked<'a>(
        &'a self,
        snapshot: &'a Snapshot,
        query: &'a VectorQuery,
        metric: Option<Metric>,
    ) -> Result<VectorSearch<'a>> {
        check_k(query.k)?;
        let VectorType { item, width } = vector_type(snapshot, &query.column)?;
        let default = if item == DataType::UInt8 { Metric::Hamming } else { Metric::default() };
        let metric = query.metric.or(metric).unwrap_or(default);
        check_vector(query, metric, &item, width)?;
        let vector = Arc::new(QueryVector::new(&query.vector, metric)?);
        Ok(VectorSearch {
            indexes: self,
            snapshot,
            query,
            shape: VectorShape { metric, width },
            item,
            vector,
            settings: None,
        })
    }
}

/// A checked search.
struct VectorSearch<'a> {
    indexes: &'a Indexes,
    snapshot: &'a Snapshot,
    query: &'a VectorQuery,
    shape: VectorShape,
    /// The type of the numbers of the column's vectors.
    item: DataType,
    vector: Arc<QueryVector>,
    /// The settings of the search; `None`: those of the index's definition.
    settings: Option<SearchSettings>,
}

impl VectorSearch<'_> {
    /// Returns the nearest rows by comparing every row.
    async fn exact(&self) -> Result<Vec<Hit>> {
        let mut request = ScanRequest::default().columns([&self.query.column]).with_row_id();
        request.filter.clone_from(&self.query.filter);
        let mut hits = self.nearest_of(self.snapshot.scan(&request).await?).await?;
        self.finish(&mut hits);
        Ok(hits)
    }

    /// Returns the nearest rows by comparing each of `filtered`.
    async fn matching(&self, filtered: &FilteredRows) -> Result<Vec<Hit>> {
        let mut hits = self.compare(filtered.ids()?).await?;
        self.finish(&mut hits);
        Ok(hits)
    }

    /// Returns the nearest of `row_ids` by their whole vectors, in any order.
    async fn compare(&self, row_ids: Vec<u64>) -> Result<Vec<Hit>> {
        let taken = self.snapshot.take(&row_ids, std::slice::from_ref(&self.query.column)).await?;
        let row_ids: ArrayRef = Arc::new(UInt64Array::from(row_ids));
        let taken = [(self.query.column.as_str(), Arc::clone(taken.column(0))), (ROW_ID, row_ids)];
        let taken = RecordBatch::try_from_iter(taken).map_err(arrow_error)?;
        let (shape, k, vector) = (self.shape, self.query.k, Arc::clone(&self.vector));
        let is_small = taken.get_array_memory_size() <= INLINE_BYTES_MAX;
        let compare = move || {
            let mut vectors = RowVectors::new(shape);
            vectors.read(&taken)?;
            Ok(vectors.nearest(&vector, k, 0, |_| true))
        };
        if is_small { compare() } else { blocking(compare).await }
    }

    /// Returns the nearest rows by the graph of `index` in memory; `None` without a graph for this snapshot.
    async fn by_resident(&self, index: &Index, filtered: Option<&Arc<FilteredRows>>) -> Result<Option<Vec<Hit>>> {
        let Some(options) = index.definition.kind.resident_options() else { return Ok(None) };
        let resident = self.indexes.resident(self.snapshot, index, options);
        let fragments = self.indexes.fragments(self.snapshot).await?;
        for _ in 0..WALKS_MAX {
            let view = resident.view(self.snapshot, &fragments).await?;
            let uncovered = view.as_ref().map_or(usize::MAX, |view| row_set::count(&view.coverage.uncovered));
            let known = view.as_ref().map_or(0, |view| row_set::count(&view.coverage.covered));
            let changed = view.as_ref().map_or(0, |view| self.snapshot.changed_rows_since(view.changed_to));
            if uncovered >= REFRESH_ROWS.max(known / REFRESH_SHARE) || changed >= REFRESH_ROWS {
                self.indexes.spawn_refresh(self.snapshot, index, &resident);
            }
            let Some(view) = view.filter(|_| uncovered <= UNCOVERED_ROWS_MAX) else { return Ok(None) };
            let since = row_ids_after(view.changed_to);
            let unindexed = self.unindexed(index, &view.coverage.uncovered_fragments, since, filtered).await?;
            let (k, vector) = (self.query.k, Arc::clone(&self.vector));
            let settings = self.settings.unwrap_or(index.definition.search);
            let ef = settings.ef.unwrap_or_else(|| (k * EF_FACTOR).max(EF_MIN)).max(k);
            let (resident, snapshot, filtered) = (Arc::clone(&resident), self.snapshot.clone(), filtered.cloned());
            let walk = move || {
                let found = resident.nearest(&snapshot, &view, &vector, GraphSearch { k, ef }, filtered.as_deref())?;
                Ok(found.map(|mut hits| {
                    hits.extend(unindexed.nearest());
                    hits
                }))
            };
            if let Some(mut hits) = blocking(walk).await? {
                self.finish(&mut hits);
                return Ok(Some(hits));
            }
        }
        Ok(None)
    }

    /// Returns the nearest rows by the index on disk, and by comparing the rows that it lacks.
    async fn on_disk(
        &self,
        index: &Index,
        built: &BuiltIndex,
        filtered: Option<&Arc<FilteredRows>>,
    ) -> Result<Vec<Hit>> {
        let superseded = self.snapshot.superseded().as_ref();
        let fragments = self.indexes.fragments(self.snapshot).await?;
        let coverage = built.coverage(&fragments).await?;
        let mut hits = self.walk(index, built, &fragments, filtered).await?;
        let is_small = row_set::count(&coverage.uncovered) <= UNCOVERED_ROWS_MAX;
        if !is_small {
            let mut uncovered = coverage.uncovered.clone() - superseded;
            if let Some(filtered) = filtered {
                uncovered &= filtered.base();
            }
            hits.extend(
                self.nearest_of(row_set::read(self.snapshot.base(), &self.query.column, uncovered).await?).await?,
            );
        }
        let uncovered: &[Fragment] = if is_small { &coverage.uncovered_fragments } else { &[] };
        let unindexed = self.unindexed(index, uncovered, 0, filtered).await?;
        hits.extend(match unindexed.bytes() <= INLINE_BYTES_MAX {
            true => unindexed.nearest(),
            false => blocking(move || Ok(unindexed.nearest())).await?,
        });
        self.finish(&mut hits);
        Ok(hits)
    }

    /// Reads the rows that `index` lacks: those of the fragments `uncovered`, and those of the change store with row id
    /// `since` or a later one.
    async fn unindexed(
        &self,
        index: &Index,
        uncovered: &[Fragment],
        since: u64,
        filtered: Option<&Arc<FilteredRows>>,
    ) -> Result<UnindexedVectors> {
        let (cache, column, shape) = (self.indexes.unindexed_vectors(), &self.query.column, self.shape);
        let uncovered = match uncovered.len() {
            0 => None,
            _ => Some(cache.uncovered(self.snapshot, &index.name, column, shape, uncovered).await?),
        };
        let changed = match self.snapshot.changed_rows() {
            0 => None,
            _ => Some(cache.changed(self.snapshot, column, shape).await?),
        };
        Ok(UnindexedVectors {
            snapshot: self.snapshot.clone(),
            vector: Arc::clone(&self.vector),
            k: self.query.k,
            uncovered,
            changed,
            since,
            filtered: filtered.cloned(),
        })
    }

    /// Returns the nearest rows of `batches`, which hold vectors and row ids, by comparing each.
    async fn nearest_of(&self, batches: RecordBatches) -> Result<Vec<Hit>> {
        let (shape, k) = (self.shape, self.query.k);
        let compared = batches.map(|batch| {
            let vector = Arc::clone(&self.vector);
            async move {
                let batch = batch?;
                let compare = move || {
                    let mut vectors = RowVectors::new(shape);
                    vectors.read(&batch)?;
                    Ok(vectors.nearest(&vector, k, 0, |_| true))
                };
                blocking(compare).await
            }
        });
        let mut compared = compared.buffer_unordered(*PROCESSORS);
        let mut hits = Vec::new();
        while let Some(more) = compared.try_next().await? {
            hits.extend(more);
            keep_first(&mut hits, k, by_distance);
        }
        Ok(hits)
    }

    /// Leaves the nearest `k` of `hits`, in order.
    fn finish(&self, hits: &mut Vec<Hit>) {
        hits.sort_unstable_by(by_distance);
        hits.truncate(self.query.k);
    }

    /// Returns the nearest rows that `index` has. Where it does not keep whole vectors, reads and compares those of its
    /// candidates.
    async fn walk(
        &self,
        index: &Index,
        built: &BuiltIndex,
        fragments: &Arc<Fragments>,
        filtered: Option<&Arc<FilteredRows>>,
    ) -> Result<Vec<Hit>> {
        let SearchSettings { probes, ef, refine } = self.settings.unwrap_or(index.definition.search);
        // Lance rounds the query to Float16, so its distances are not exact.
        let is_exact = built.structure == "IVF_FLAT" && self.item != DataType::Float16;
        // Without any hits, the caller compares every row.
        let Some(key) = self.vector.to_array(&self.item)? else { return Ok(Vec::new()) };
        let is_coarse = built.structure.contains("PQ") || built.structure.contains("RQ");
        let refine = match refine {
            _ if is_exact => 1,
            Some(refine) => refine,
            None if is_coarse => REFINE_FACTOR_COARSE,
            None => REFINE_FACTOR,
        };
        let walk = DiskWalk {
            snapshot: self.snapshot,
            column: &self.query.column,
            metric: self.shape.metric,
            key,
            candidates: self.query.k.saturating_mul(refine as usize),
            k: self.query.k,
            probes,
            ef: ef.unwrap_or(GRAPH_CANDIDATES_MIN),
            fragments,
            positions: self.indexes.positions(),
            examined: self.indexes.examined(),
        };
        let candidates = walk.run(built, filtered).boxed().await?;
        if is_exact {
            let hit = |RowCandidate { row_id, distance }| {
                let distance = from_lance(self.shape.metric, distance);
                Hit { row_id, distance: Some(distance), score: None }
            };
            return Ok(candidates.into_iter().map(hit).collect());
        }
        self.compare(candidates.iter().map(|candidate| candidate.row_id).collect()).await
    }
}

/// The live rows that an index does not have, compared one by one.
struct UnindexedVectors {
    snapshot: Snapshot,
    vector: Arc<QueryVector>,
    k: usize,
    uncovered: Option<Arc<PerFragment<RowVectors>>>,
    changed: Option<Arc<ChangedRows<RowVectors>>>,
    /// The smallest row id of the change store that is compared.
    since: u64,
    filtered: Option<Arc<FilteredRows>>,
}

impl UnindexedVectors {
    fn bytes(&self) -> usize {
        let uncovered = self.uncovered.as_ref().map_or(0, |uncovered| uncovered.bytes());
        uncovered + self.changed.as_ref().map_or(0, |changed| changed.runs.bytes())
    }

    /// Returns the nearest rows, at least `k` of them if there are, in any order.
    fn nearest(&self) -> Vec<Hit> {
        let (snapshot, superseded) = (&self.snapshot, self.snapshot.superseded());
        let is_match = |row: u64| self.filtered.as_ref().is_none_or(|filtered| filtered.contains(row));
        let mut hits = Vec::new();
        for entry in self.uncovered.iter().flat_map(|uncovered| uncovered.iter()) {
            let rows = entry.fragment.rows();
            let is_live = |row: u64| rows.contains(row) && !superseded.contains(row) && is_match(row);
            hits.extend(entry.value.nearest(&self.vector, self.k, 0, is_live));
        }
        for run in self.changed.iter().flat_map(|changed| changed.runs.iter()) {
            let is_live = |row: u64| snapshot.is_changed(row) && is_match(row);
            hits.extend(run.nearest(&self.vector, self.k, run.before(self.since), is_live));
        }
        hits
    }
}

fn check_vector(query: &VectorQuery, metric: Metric, item: &DataType, dimensions: usize) -> Result<()> {
    let column = &query.column;
    if query.vector.len() != dimensions {
        return Err(Error::invalid_input(format!(
            "the query vector has {} numbers, and column `{column}` has vectors of {dimensions}",
            query.vector.len(),
        )));
    }
    if let Some(at) = query.vector.iter().position(|number| !number.is_finite()) {
        return Err(Error::invalid_input(format!("number {} of the query vector is {}", at + 1, query.vector[at])));
    }
    if (metric == Metric::Hamming) != (item == &DataType::UInt8) {
        let fitting = if item == &DataType::UInt8 { "hamming" } else { "l2, cosine or dot" };
        let what = format!("column `{column}` holds vectors of {item}, whose distance is {fitting}, not {metric}");
        return Err(Error::invalid_input(what));
    }
    if metric == Metric::Cosine && query.vector.iter().all(|number| *number == 0.0) {
        return Err(Error::invalid_input("a zero vector has no direction: cosine distance to it is undefined"));
    }
    Ok(())
}

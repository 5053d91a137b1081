//! Nearest vectors.

use std::collections::HashSet;
use std::num::NonZero;
use std::sync::Arc;

use arrow::array::{Array, AsArray, Float32Array, RecordBatch};
use arrow::datatypes::{DataType, Float32Type};
use cenote_base::{Error, Result};
use cenote_store::{Filter, RecordBatches, ScanRequest, Snapshot, lance_error};
use futures::{StreamExt, TryStreamExt, stream};
use lance::dataset::scanner::{RowAddrMask, RowAddrTreeMap};
use lance_select::RowSetOps;

use crate::catalog::{Definition, definitions};
use crate::hits::{DISTANCE, Hit, by_distance, check_k, materialize};
use crate::live;
use crate::spec::Metric;

/// Quantised distances rank so many times k rows, and whole vectors rank those again.
const REFINE_FACTOR: u32 = 4;
/// At least so many partitions are searched.
const PROBES_MIN: usize = 20;
/// Candidates kept while walking a graph: at least so many, and as many as are ranked again.
const GRAPH_CANDIDATES_MIN: usize = 128;

/// A search for the rows whose vectors are nearest to one.
#[derive(Debug, Clone)]
pub struct VectorQuery {
    /// A `FixedSizeList<Float32>` column.
    pub column: String,
    /// As many numbers as the column's vectors have.
    pub vector: Vec<f32>,
    /// How many rows, at most.
    pub k: usize,
    /// How distance is measured; `None`: as the column's index does, or [`Metric::L2`] without one.
    pub metric: Option<Metric>,
    /// Only rows that satisfy this; applied before the search.
    pub filter: Option<Filter>,
    /// Columns of the answer; `None`: all visible ones.
    pub columns: Option<Vec<String>>,
}

impl VectorQuery {
    /// The `k` rows whose `column` is nearest to `vector`.
    pub fn new(column: impl Into<String>, vector: Vec<f32>, k: usize) -> Self {
        Self { column: column.into(), vector, k, metric: None, filter: None, columns: None }
    }
}

/// The nearest rows: the columns asked for, and [`DISTANCE`] ascending. A row whose vector is null, or has no distance
/// (a zero vector under cosine), is never among them; otherwise there are min(k, matching rows).
///
/// # Errors
/// `NotFound` for an unknown column; `InvalidInput` for a vector that does not fit it, a `k` of 0 or a filter that does
/// not parse.
pub async fn vector_search(snapshot: &Snapshot, query: &VectorQuery) -> Result<RecordBatch> {
    let hits = vector_hits(snapshot, query).await?;
    materialize(snapshot, &hits, query.columns.as_deref(), &[DISTANCE]).await
}

/// [`vector_search`] without reading the rows.
pub async fn vector_hits(snapshot: &Snapshot, query: &VectorQuery) -> Result<Vec<Hit>> {
    check_k(query.k)?;
    let indexes = definitions(snapshot).await?;
    let indexes: Vec<&Definition> = indexes.iter().filter(|index| index.column == query.column).collect();
    let metric = query.metric.or_else(|| indexes.iter().find_map(|index| index.metric())).unwrap_or_default();
    check_vector(snapshot, query, metric)?;
    let index = indexes.into_iter().find(|index| index.metric() == Some(metric));
    if let Some(index) = index {
        let hits = nearest_indexed(snapshot, query, metric, index).await?;
        if hits.len() >= query.k {
            return Ok(hits);
        }
        // The index came up short of k. When that is all there is, the exact search says so too.
    }
    let mut request = ScanRequest::default().columns([&query.column]).with_row_id();
    request.filter.clone_from(&query.filter);
    nearest_of(snapshot.scan(&request).await?, query, metric).await
}

/// The nearest rows by `index`, and by comparing with those that it has not seen.
async fn nearest_indexed(
    snapshot: &Snapshot,
    query: &VectorQuery,
    metric: Metric,
    index: &Definition,
) -> Result<Vec<Hit>> {
    let base = snapshot.base();
    let superseded = snapshot.superseded().as_ref();
    let wanted = match &query.filter {
        Some(filter) => Some(live::satisfying(snapshot, filter).await?),
        None => None,
    };
    let (covered, late) = live::rows(base, &index.segments).await?;
    let allowed = wanted.as_ref().map(|wanted| (wanted.clone() & &covered) - superseded);
    let mut hits = walk(snapshot, query, metric, index, allowed).await?;
    if hits.iter().any(|hit| !covered.contains(hit.row_id)) {
        // The index holds rows that a compaction removed.
        hits = walk(snapshot, query, metric, index, Some(covered - superseded)).await?;
    }
    let mut late = late - superseded;
    if let Some(wanted) = &wanted {
        late &= wanted;
    }
    let mut request = ScanRequest::default().columns([&query.column]).with_row_id();
    request.filter.clone_from(&query.filter);
    let changed = stream::iter(snapshot.changed(&request).await?).map(Ok);
    let unseen = changed.chain(live::read(base, &query.column, late).await?).boxed();
    hits.extend(nearest_of(unseen, query, metric).await?);
    hits.sort_unstable_by(by_distance);
    hits.truncate(query.k);
    Ok(hits)
}

/// The nearest rows of `batches`, which hold vectors and row ids, by comparing with each.
async fn nearest_of(batches: RecordBatches, query: &VectorQuery, metric: Metric) -> Result<Vec<Hit>> {
    let vector: Arc<[f32]> = query.vector.as_slice().into();
    let k = query.k;
    let compared = batches.map(|batch| {
        let vector = Arc::clone(&vector);
        async move {
            let batch = batch?;
            let hits = tokio::task::spawn_blocking(move || compare(&batch, &vector, metric, k)).await;
            hits.map_err(|source| Error::internal("a search ended early").with_source(source))?
        }
    });
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
    let mut compared = compared.buffer_unordered(threads);
    let mut hits = Vec::new();
    while let Some(more) = compared.try_next().await? {
        hits.extend(more);
        keep_nearest(&mut hits, k);
    }
    hits.sort_unstable_by(by_distance);
    Ok(hits)
}

/// The nearest rows of `batch`, in any order. A distance that is no number comes from a vector that has none: it is no hit.
fn compare(batch: &RecordBatch, vector: &[f32], metric: Metric, k: usize) -> Result<Vec<Hit>> {
    let row_ids = live::row_ids(batch)?;
    let vectors = batch.column(0).as_fixed_size_list();
    let numbers = vectors.values().as_primitive::<Float32Type>().values();
    let distance = metric.to_lance().func::<f32>();
    let hit = |row: usize| {
        let raw = distance(vector, &numbers[row * vector.len()..(row + 1) * vector.len()]);
        raw.is_finite().then(|| Hit { row_id: row_ids[row], distance: Some(metric.distance_of(raw)), score: None })
    };
    let mut hits = (0..vectors.len()).filter(|row| vectors.is_valid(*row)).filter_map(hit).collect();
    keep_nearest(&mut hits, k);
    Ok(hits)
}

fn keep_nearest(hits: &mut Vec<Hit>, k: usize) {
    if hits.len() > k {
        hits.select_nth_unstable_by(k - 1, by_distance);
        hits.truncate(k);
    }
}

/// How many numbers the vectors of `column` have.
///
/// # Errors
/// `NotFound` for an unknown column; `InvalidInput` for one that does not hold vectors.
pub fn vector_dimensions(snapshot: &Snapshot, column: &str) -> Result<usize> {
    let is_vector = |data_type: &DataType| matches!(data_type, DataType::FixedSizeList(item, _) if item.data_type() == &DataType::Float32);
    let schema = snapshot.schema();
    let vectors = || {
        let fields = schema.fields().iter().filter(|field| is_vector(field.data_type()));
        let names = fields.map(|field| field.name().as_str()).collect::<Vec<_>>().join(", ");
        if names.is_empty() { "the table has no vector columns".to_owned() } else { format!("vector columns: {names}") }
    };
    match schema.field_with_name(column).map(|field| field.data_type()) {
        Ok(DataType::FixedSizeList(item, dimensions)) if item.data_type() == &DataType::Float32 => {
            Ok(*dimensions as usize)
        }
        Ok(other) => {
            Err(Error::invalid_input(format!("column `{column}` is {other}, which holds no vectors; {}", vectors())))
        }
        Err(_) => Err(Error::not_found(format!("no column `{column}`; {}", vectors()))),
    }
}

fn check_vector(snapshot: &Snapshot, query: &VectorQuery, metric: Metric) -> Result<()> {
    let dimensions = vector_dimensions(snapshot, &query.column)?;
    if query.vector.len() != dimensions {
        return Err(Error::invalid_input(format!(
            "the query vector has {} numbers, and column `{}` has vectors of {dimensions}",
            query.vector.len(),
            query.column
        )));
    }
    if let Some(at) = query.vector.iter().position(|number| !number.is_finite()) {
        return Err(Error::invalid_input(format!("number {} of the query vector is {}", at + 1, query.vector[at])));
    }
    if metric == Metric::Cosine && query.vector.iter().all(|number| *number == 0.0) {
        return Err(Error::invalid_input("a zero vector has no direction: cosine distance to it is undefined"));
    }
    Ok(())
}

/// The nearest rows that `index` has: of `rows`, or of all that are not superseded.
async fn walk(
    snapshot: &Snapshot,
    query: &VectorQuery,
    metric: Metric,
    index: &Definition,
    rows: Option<RowAddrTreeMap>,
) -> Result<Vec<Hit>> {
    let mut scanner = snapshot.base_scanner();
    if let Some(rows) = rows {
        scanner.with_row_id_prefilter(RowAddrMask::from_allowed(rows));
    }
    scanner.prefilter(true);
    let vector = Float32Array::from(query.vector.clone());
    scanner.nearest(&query.column, &vector, query.k).map_err(lance_error)?;
    // Lance knows only the first index of a column unless it is told. Asked by metric for another, or for rows that the index has
    // not seen, it compares vectors itself, and takes nulls for other rows' where a batch is a part of another one.
    let segments = index.segments.iter().map(|segment| segment.uuid).collect();
    scanner.with_index_segments(segments).map_err(lance_error)?.fast_search();
    scanner.distance_metric(metric.to_lance()).minimum_nprobes(PROBES_MIN);
    if index.structure != "IVF_FLAT" {
        let candidates = query.k * REFINE_FACTOR as usize;
        scanner.refine(REFINE_FACTOR).ef(candidates.max(GRAPH_CANDIDATES_MIN));
    }
    scanner.project(&[DISTANCE]).map_err(lance_error)?.with_row_id();
    let mut batches = scanner.try_into_stream().await.map_err(lance_error)?;
    let mut hits = Vec::with_capacity(query.k.min(1024));
    let mut seen = HashSet::new();
    while let Some(batch) = batches.try_next().await.map_err(lance_error)? {
        let distances = batch.column_by_name(DISTANCE).and_then(|column| column.as_primitive_opt::<Float32Type>());
        let distances = distances.ok_or_else(|| Error::internal("a search gave no distances"))?;
        for (row_id, raw) in live::row_ids(&batch)?.iter().zip(distances) {
            if let Some(raw) = raw.filter(|raw| raw.is_finite() && seen.insert(*row_id)) {
                hits.push(Hit { row_id: *row_id, distance: Some(metric.distance_of(raw)), score: None });
            }
        }
    }
    Ok(hits)
}

//! Nearest vectors.

use std::collections::HashSet;

use arrow::array::{Array, AsArray, Float32Array, RecordBatch};
use arrow::datatypes::{DataType, Float32Type, UInt64Type};
use cenote_base::{Error, Result};
use cenote_store::{Filter, ROW_ID, ScanRequest, Snapshot, lance_error};
use futures::TryStreamExt;
use lance::dataset::scanner::{RowAddrMask, RowAddrTreeMap, Scanner};
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
    let mut hits = nearest(snapshot, query, metric, index, None).await?;
    if index.is_some() {
        let rows = live::all_rows(snapshot.base()).await?;
        if hits.iter().any(|hit| !rows.contains(hit.row_id)) {
            // The index holds rows that a compaction removed.
            let rows = rows - &live::superseded(snapshot).await?;
            hits = nearest(snapshot, query, metric, index, Some(rows)).await?;
        }
        if hits.len() < query.k {
            // The index came up short of k. When that is all there is, the exact search says so too.
            hits = nearest(snapshot, query, metric, None, None).await?;
        }
    }
    hits.extend(nearest_changed(snapshot, query, metric).await?);
    hits.sort_unstable_by(by_distance);
    hits.truncate(query.k);
    Ok(hits)
}

/// The nearest of the rows that no index has seen because the base has not: exactly, for they are few.
async fn nearest_changed(snapshot: &Snapshot, query: &VectorQuery, metric: Metric) -> Result<Vec<Hit>> {
    let mut request = ScanRequest::default().columns([&query.column]).with_row_id();
    request.filter.clone_from(&query.filter);
    let batches = snapshot.changed(&request).await?;
    if batches.is_empty() {
        return Ok(Vec::new());
    }
    let (vector, k) = (query.vector.clone(), query.k);
    let compare = move || {
        let distance = metric.to_lance().func::<f32>();
        let mut hits = Vec::new();
        for batch in &batches {
            let vectors = batch.column(0).as_fixed_size_list();
            let numbers = vectors.values().as_primitive::<Float32Type>().values();
            let row_ids = batch.column(1).as_primitive::<UInt64Type>().values();
            for row in (0..vectors.len()).filter(|row| vectors.is_valid(*row)) {
                let raw = distance(&vector, &numbers[row * vector.len()..(row + 1) * vector.len()]);
                if raw.is_finite() {
                    hits.push(Hit { row_id: row_ids[row], distance: Some(metric.distance_of(raw)), score: None });
                }
            }
            if hits.len() > k {
                hits.select_nth_unstable_by(k - 1, by_distance);
                hits.truncate(k);
            }
        }
        hits
    };
    let hits = tokio::task::spawn_blocking(compare).await;
    hits.map_err(|source| Error::internal("a search ended early").with_source(source))
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

async fn nearest(
    snapshot: &Snapshot,
    query: &VectorQuery,
    metric: Metric,
    index: Option<&Definition>,
    rows: Option<RowAddrTreeMap>,
) -> Result<Vec<Hit>> {
    let mut scanner = snapshot.base_scanner();
    if let Some(rows) = rows {
        scanner.with_row_id_prefilter(RowAddrMask::from_allowed(rows));
    }
    apply_filter(&mut scanner, query.filter.as_ref())?;
    scanner.prefilter(true);
    let vector = Float32Array::from(query.vector.clone());
    scanner.nearest(&query.column, &vector, query.k).map_err(lance_error)?;
    scanner.distance_metric(metric.to_lance());
    match index {
        None => {
            scanner.use_index(false);
        }
        Some(index) => {
            scanner.minimum_nprobes(PROBES_MIN);
            if index.structure != "IVF_FLAT" {
                let candidates = query.k * REFINE_FACTOR as usize;
                scanner.refine(REFINE_FACTOR).ef(candidates.max(GRAPH_CANDIDATES_MIN));
            }
        }
    }
    scanner.project(&[DISTANCE]).map_err(lance_error)?.with_row_id();
    let mut hits = Vec::with_capacity(query.k.min(1024));
    let mut seen = HashSet::new();
    for (row_id, raw) in ranked(&scanner, DISTANCE, query.filter.as_ref()).await? {
        // A distance that is no number comes from a vector that has none: it is no hit.
        if raw.is_finite() && seen.insert(row_id) {
            hits.push(Hit { row_id, distance: Some(metric.distance_of(raw)), score: None });
        }
    }
    Ok(hits)
}

pub(crate) fn apply_filter(scanner: &mut Scanner, filter: Option<&Filter>) -> Result<()> {
    match filter {
        Some(Filter::Sql(text)) => {
            scanner.filter(text).map_err(|source| lance_error(source).context(format!("filter `{text}`")))?;
        }
        Some(Filter::Expr(expr)) => {
            scanner.filter_expr(expr.as_ref().clone());
        }
        None => {}
    }
    Ok(())
}

/// Runs `scanner` and gives each row id with the number in column `rank`.
pub(crate) async fn ranked(scanner: &Scanner, rank: &str, filter: Option<&Filter>) -> Result<Vec<(u64, f32)>> {
    let failed = |source| match filter {
        Some(filter) => lance_error(source).context(format!("search under filter `{filter}`")),
        None => lance_error(source),
    };
    let stream = scanner.try_into_stream().await.map_err(failed)?;
    let batches: Vec<RecordBatch> = stream.try_collect().await.map_err(failed)?;
    scored(&batches, rank)
}

/// Each row id in `batches` with the number in column `rank`.
pub(crate) fn scored(batches: &[RecordBatch], rank: &str) -> Result<Vec<(u64, f32)>> {
    let mut rows = Vec::new();
    for batch in batches {
        let ids = batch.column_by_name(ROW_ID).and_then(|column| column.as_primitive_opt::<UInt64Type>());
        let ranks = batch.column_by_name(rank).and_then(|column| column.as_primitive_opt::<Float32Type>());
        let (Some(ids), Some(ranks)) = (ids, ranks) else {
            return Err(Error::internal(format!("the search gave no `{ROW_ID}` or no `{rank}`")));
        };
        rows.extend(ids.iter().zip(ranks).filter_map(|(id, rank)| Some((id?, rank?))));
    }
    Ok(rows)
}

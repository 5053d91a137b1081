//! A walk through a vector index that Lance has built, without Lance's query planner: the partitions nearest to the query in each
//! piece, and in each partition the nearest rows.
//!
//! A walk under a mask asks it of every row of a partition before it takes a step. Where most rows may be found it is cheaper to walk
//! without one, to look at some more, and to pass over those that may not be found; and when these hid a row that is as near as the
//! hits, the walk is begun again under the mask.

use std::cmp::Ordering;
use std::collections::VecDeque;
use std::num::NonZero;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Float32Array, UInt32Array};
use arrow::datatypes::Float32Type;
use cenote_base::{Error, Result};
use cenote_store::{Snapshot, lance_error};
use futures::FutureExt;
use futures::future::try_join_all;
use lance::dataset::scanner::{RowAddrMask, RowAddrTreeMap};
use lance::index::DatasetIndexInternalExt;
use lance_index::metrics::NoOpMetricsCollector;
use lance_index::prefilter::{NoFilter, PreFilter};
use lance_index::vector::{ApproxMode, PreparedPartitionSearchHandle, Query, VectorIndex};
use lance_linalg::kernels::normalize_arrow;
use lance_select::RowSetOps;
use tokio::task::JoinError;

use crate::catalog::Built;
use crate::hits::DISTANCE;
use crate::live;
use crate::matches::Rows;
use crate::spec::Metric;

/// Partitions that are read from disk at once, and then searched by one thread.
const PARTITIONS_A_THREAD: usize = 8;
/// Where so large a share of a piece's rows may be found, it is walked without a mask.
const UNMASKED_SHARE: f64 = 0.7;
/// And so many rows more are looked at in each partition, and one for so many.
const SPARE_ROWS: usize = 8;
const SPARE_SHARE: usize = 4;

/// What is looked for.
pub(crate) struct Walk<'a> {
    pub(crate) snapshot: &'a Snapshot,
    pub(crate) column: &'a str,
    pub(crate) metric: Metric,
    pub(crate) key: ArrayRef,
    /// How many rows.
    pub(crate) candidates: usize,
    /// How many are enough not to look at more partitions.
    pub(crate) k: usize,
    /// Partitions of each piece to look at before it is asked whether there are enough rows.
    pub(crate) probes: usize,
    /// Candidates kept while walking a graph.
    pub(crate) ef: usize,
}

/// A row, and its distance as the index keeps it.
pub(crate) type Candidate = (u64, f32);

/// What partitions gave.
struct Near {
    rows: Vec<Candidate>,
    /// No partition has a nearer row that it did not give.
    reach: f32,
}

impl Default for Near {
    fn default() -> Self {
        Self { rows: Vec::new(), reach: f32::INFINITY }
    }
}

impl Near {
    fn extend(&mut self, more: Self) {
        self.rows.extend(more.rows);
        self.reach = self.reach.min(more.reach);
    }
}

/// A piece, opened for a query.
struct Piece {
    index: Arc<dyn VectorIndex>,
    query: Query,
    partitions: UInt32Array,
    distances: Float32Array,
    filter: Arc<dyn PreFilter>,
}

impl Walk<'_> {
    /// Up to `candidates` of the nearest rows that `built` has, are not superseded and are among `wanted`, each once and the nearest first.
    /// When there are fewer in the nearest partitions, others are searched too.
    pub(crate) async fn run(&self, built: &Built, wanted: Option<&Arc<RowAddrTreeMap>>) -> Result<Vec<Candidate>> {
        let live = built.pieces(self.snapshot).await?;
        if let Some(found) = self.walk(built, live, wanted, false).await? {
            return Ok(found);
        }
        self.walk(built, live, wanted, true).await.map(Option::unwrap_or_default)
    }

    /// The rows; `None` when others that may not be found have hidden some, which a walk under a mask does not let happen.
    async fn walk(
        &self,
        built: &Built,
        live: &[RowAddrTreeMap],
        wanted: Option<&Arc<RowAddrTreeMap>>,
        is_masked: bool,
    ) -> Result<Option<Vec<Candidate>>> {
        let mut pieces = Vec::with_capacity(live.len());
        for (segment, live) in built.segments.iter().zip(live) {
            let base = self.snapshot.base();
            let opened = base.open_vector_index(self.column, &segment.uuid, &NoOpMetricsCollector).boxed().await;
            pieces.push(self.piece(opened.map_err(lance_error)?, live, wanted, is_masked)?);
        }
        let superseded = self.snapshot.superseded().as_ref();
        let partitions_max = pieces.iter().map(|piece| piece.partitions.len()).max().unwrap_or(0);
        let mut near = Near::default();
        let mut found: Vec<Candidate> = Vec::new();
        let mut passes_over = false;
        let mut range = 0..self.probes.max(1).min(partitions_max);
        while !range.is_empty() {
            for (piece, live) in pieces.iter().zip(live) {
                near = piece.search(range.clone(), near).await?;
                for (row, distance) in near.rows.drain(..) {
                    let is_hit = live.contains(row)
                        && !superseded.contains(row)
                        && wanted.is_none_or(|wanted| wanted.contains(row));
                    passes_over |= !is_hit;
                    if is_hit && distance.is_finite() {
                        found.push((row, distance));
                    }
                }
            }
            if found.len() >= self.k {
                break;
            }
            range = range.end..(range.end * 2).min(partitions_max);
        }
        found.sort_unstable_by(nearer);
        found.dedup_by_key(|(row, _)| *row);
        found.truncate(self.candidates);
        let is_in_reach =
            found.len() == self.candidates && found.last().is_some_and(|(_, farthest)| *farthest <= near.reach);
        Ok((is_masked || !passes_over || is_in_reach).then_some(found))
    }

    fn piece(
        &self,
        index: Arc<dyn VectorIndex>,
        live: &RowAddrTreeMap,
        wanted: Option<&Arc<RowAddrTreeMap>>,
        is_masked: bool,
    ) -> Result<Piece> {
        let superseded = self.snapshot.superseded().as_ref();
        let rows = index.num_rows().max(1) as f64;
        let most = wanted.map_or_else(|| live::count(live), |wanted| live::count(&(live.clone() & wanted.as_ref())));
        let share = most.saturating_sub(live::count(superseded)) as f64 / rows;
        let (filter, spare): (Arc<dyn PreFilter>, usize) = match share {
            1.0 if !is_masked => (Arc::new(NoFilter), 0),
            UNMASKED_SHARE.. if !is_masked => (Arc::new(NoFilter), SPARE_ROWS + self.candidates / SPARE_SHARE),
            _ => {
                let mut allowed = live.clone() - superseded;
                if let Some(wanted) = wanted {
                    allowed &= wanted.as_ref();
                }
                (Arc::new(Rows(Arc::new(RowAddrMask::from_allowed(allowed)))), 0)
            }
        };
        let rows = self.candidates + spare;
        let key = match self.metric {
            Metric::Cosine => normalize_arrow(self.key.as_ref()).map_err(normalized)?.0,
            _ => Arc::clone(&self.key),
        };
        let query = Query {
            column: self.column.to_owned(),
            key,
            k: rows,
            lower_bound: None,
            upper_bound: None,
            minimum_nprobes: self.probes,
            maximum_nprobes: None,
            search_effort: 0.5,
            ef: Some(self.ef.max(rows)),
            refine_factor: None,
            metric_type: Some(self.metric.to_lance()),
            use_index: true,
            query_parallelism: 1,
            dist_q_c: 0.0,
            approx_mode: ApproxMode::Normal,
        };
        let (partitions, distances) = index.find_partitions(&query).map_err(lance_error)?;
        let prepared = Arc::clone(&index).prepare_partition_query(&query).map_err(lance_error)?;
        let (index, query) = prepared.unwrap_or((index, query));
        Ok(Piece { index, query, partitions, distances, filter })
    }
}

fn nearer(a: &Candidate, b: &Candidate) -> Ordering {
    a.1.total_cmp(&b.1).then(a.0.cmp(&b.0))
}

fn normalized(source: arrow::error::ArrowError) -> Error {
    Error::internal("normalise a query vector").with_source(source)
}

impl Piece {
    /// The nearest rows of each of these partitions, added to `near`.
    async fn search(&self, range: Range<usize>, mut near: Near) -> Result<Near> {
        let range = range.start.min(self.partitions.len())..range.end.min(self.partitions.len());
        let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
        let mut searching = VecDeque::new();
        // What is prepared is held in memory, so there is never much of it.
        for first in range.clone().step_by(PARTITIONS_A_THREAD) {
            let some = first..range.end.min(first + PARTITIONS_A_THREAD);
            let prepared = try_join_all(some.map(|at| self.prepare(at).boxed())).await?;
            let (index, rows) = (Arc::clone(&self.index), self.query.k);
            searching.push_back(tokio::task::spawn_blocking(move || search_all(index.as_ref(), prepared, rows)));
            if searching.len() > threads
                && let Some(first) = searching.pop_front()
            {
                near.extend(joined(first.await)?);
            }
        }
        for rest in searching {
            near.extend(joined(rest.await)?);
        }
        Ok(near)
    }

    async fn prepare(&self, at: usize) -> Result<PreparedPartitionSearchHandle> {
        let partition = self.partitions.value(at) as usize;
        let query = Query { dist_q_c: self.distances.value(at), ..self.query.clone() };
        let filter = Arc::clone(&self.filter);
        let prepared = self.index.prepare_partition_search(partition, &query, filter, &NoOpMetricsCollector);
        prepared.await.map_err(lance_error)
    }
}

fn joined<T>(done: std::result::Result<Result<T>, JoinError>) -> Result<T> {
    done.map_err(|source| Error::internal("a search ended early").with_source(source))?
}

/// The nearest `rows_max` rows of each of these partitions.
fn search_all(
    index: &dyn VectorIndex,
    partitions: Vec<PreparedPartitionSearchHandle>,
    rows_max: usize,
) -> Result<Near> {
    let mut near = Near::default();
    for prepared in partitions {
        let batch = index.search_prepared_partition(prepared, &NoOpMetricsCollector).map_err(lance_error)?;
        let distances = batch.column_by_name(DISTANCE).and_then(|column| column.as_primitive_opt::<Float32Type>());
        let distances = distances.ok_or_else(|| Error::internal("a search gave no distances"))?;
        if batch.num_rows() >= rows_max {
            near.reach = near.reach.min(distances.values().iter().copied().fold(f32::NEG_INFINITY, f32::max));
        }
        let rows = live::row_ids(&batch)?.iter().zip(distances);
        near.rows.extend(rows.filter_map(|(row, distance)| Some((*row, distance?))));
    }
    Ok(near)
}

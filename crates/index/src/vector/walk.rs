//! A walk through a vector index that Lance has built, without Lance's query planner: the partitions nearest to the
//! query in each piece, and in each partition the nearest rows.
//!
//! MaskFilter of some structures are compared here (`scan.rs`); graphs and codes are searched by Lance. Lance's search under
//! a mask asks it of every row of a partition before it takes a step. Where most rows may be found it is cheaper to
//! walk without one, to look at some more, and to pass over those that may not be found; and when these hid a row that
//! is as near as the hits, the walk is begun again under the mask.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Float32Array, UInt32Array};
use arrow::datatypes::Float32Type;
use cenote_base::{Error, Result};
use cenote_store::{Snapshot, lance_error};
use futures::FutureExt;
use futures::future::try_join_all;
use lance::dataset::scanner::{RowAddrMask, RowAddrTreeMap};
use lance::table::format::IndexMetadata;
use lance_index::metrics::NoOpMetricsCollector;
use lance_index::prefilter::{NoFilter, PreFilter};
use lance_index::vector::{ApproxMode, PreparedPartitionSearchHandle, Query, VectorIndex};
use lance_select::RowSetOps;
use tokio::task::{JoinError, JoinHandle};

use super::partition::{Candidate, FilteredPositions, Partition, ProbedPartition, VectorSegment, nearer, nearest};
use crate::blocking::blocking;
use crate::catalog::Built;
use crate::hits::{DISTANCE, keep_first};
use crate::metric::Metric;
use crate::options::PROCESSORS;
use crate::rows::cache::Cache;
use crate::rows::filtered::FilteredRows;
use crate::rows::fragments::{Examined, Fragments};
use crate::rows::row_set::{self, MaskFilter};

/// Of n partitions so many are searched, times the square root of n, and at least so many.
const PROBES_FACTOR: usize = 3;
const PROBES_MIN: usize = 20;
/// One thread searches partitions of about so many rows; more wake another.
const ROWS_A_THREAD: usize = 16 << 10;
/// And so many partitions, at least and at most: they are read from disk at once, and held in memory.
const PARTITIONS_A_THREAD_MIN: usize = 8;
const PARTITIONS_A_THREAD_MAX: usize = 64;
/// Where so large a share of a piece's rows may be found, it is walked without a mask.
const UNMASKED_SHARE: f64 = 0.7;
/// Where centres take so few bytes a query is compared with them where the caller is.
const CENTRES_INLINE_BYTES_MAX: usize = 1 << 20;
/// Where so small a share may be found, and is asked for again, only those rows are compared.
const POSITIONS_SHARE_MAX: f64 = 0.4;
/// And so many rows more are looked at in each partition, and one for so many.
const SPARE_ROWS: usize = 8;
const SPARE_SHARE: usize = 4;

/// What is looked for.
pub(crate) struct Walk<'a> {
    pub(crate) snapshot: &'a Snapshot,
    pub(crate) column: &'a str,
    pub(crate) metric: Metric,
    /// The query: of unit length under cosine.
    pub(crate) key: ArrayRef,
    /// How many rows.
    pub(crate) candidates: usize,
    /// How many are enough not to look at more partitions.
    pub(crate) k: usize,
    /// Partitions of each piece to look at before it is asked whether there are enough rows; `None`: by how many there
    /// are.
    pub(crate) probes: Option<usize>,
    /// Candidates kept while walking a graph.
    pub(crate) ef: usize,
    pub(crate) fragments: &'a Arc<Fragments>,
    /// Where rows that satisfy filters are.
    pub(crate) positions: &'a Cache<FilteredPositions>,
    pub(crate) examined: &'a Examined,
}

/// What partitions gave.
struct WalkResult {
    candidates: Vec<Candidate>,
    /// No partition has a nearer row that it did not give.
    complete_to: f32,
}

impl Default for WalkResult {
    fn default() -> Self {
        Self { candidates: Vec::new(), complete_to: f32::INFINITY }
    }
}

impl WalkResult {
    fn extend(&mut self, more: Self) {
        self.candidates.extend(more.candidates);
        self.complete_to = self.complete_to.min(more.complete_to);
    }
}

/// The rows of a piece that a search may find.
struct AllowedRows {
    live: Arc<[RowAddrTreeMap]>,
    segment: usize,
    superseded: Arc<RowAddrTreeMap>,
    filtered: Option<Arc<FilteredRows>>,
}

impl AllowedRows {
    fn contains(&self, row: u64) -> bool {
        self.filtered.as_ref().is_none_or(|filtered| filtered.contains(row))
            && self.live[self.segment].contains(row)
            && !self.superseded.contains(row)
    }

    /// How many they are, as well as that is known without looking at each.
    fn count(&self) -> usize {
        let live = &self.live[self.segment];
        let most = self
            .filtered
            .as_ref()
            .map_or_else(|| row_set::count(live), |filtered| row_set::count(&(live.clone() & filtered.base())));
        most.saturating_sub(row_set::count(&self.superseded))
    }

    fn rows(&self) -> RowAddrTreeMap {
        let mut rows = self.live[self.segment].clone() - self.superseded.as_ref();
        if let Some(filtered) = &self.filtered {
            rows &= filtered.base();
        }
        rows
    }
}

/// A piece, opened for a query.
struct SegmentWalk {
    opened: Arc<VectorSegment>,
    /// As Lance searches it for this query.
    index: Arc<dyn VectorIndex>,
    query: Query,
    partitions: UInt32Array,
    distances: Float32Array,
    allowed: Arc<AllowedRows>,
    /// What Lance asks before it finds a row.
    filter: Arc<dyn PreFilter>,
    /// The rows to compare; `None`: all.
    positions: Option<Arc<FilteredPositions>>,
}

impl Walk<'_> {
    /// Up to `candidates` of the nearest rows that `built` has, are not superseded and are among `filtered`, each once
    /// and the nearest first. When there are fewer in the nearest partitions, others are searched too.
    pub(crate) async fn run(&self, built: &Built, filtered: Option<&Arc<FilteredRows>>) -> Result<Vec<Candidate>> {
        let live = built.live_by_segment(self.fragments).await?;
        if let Some(found) = self.walk(built, live, filtered, false).await? {
            return Ok(found);
        }
        self.walk(built, live, filtered, true).await.map(Option::unwrap_or_default)
    }

    /// The rows; `None` when others that may not be found have hidden some, which a walk under a mask does not let
    /// happen.
    async fn walk(
        &self,
        built: &Built,
        live: &Arc<[RowAddrTreeMap]>,
        filtered: Option<&Arc<FilteredRows>>,
        is_masked: bool,
    ) -> Result<Option<Vec<Candidate>>> {
        // The fewer rows may be found, the farther away the nearest of them are.
        let share = filtered.map_or(1.0, |filtered| {
            let rows: usize = live.iter().map(row_set::count).sum();
            (filtered.count() as f64 / rows.max(1) as f64).clamp(f64::MIN_POSITIVE, 1.0)
        });
        let mut segments = Vec::with_capacity(live.len());
        for (segment, opened) in built.vector_segments(self.snapshot, self.column).await?.iter().enumerate() {
            let (live, superseded) = (Arc::clone(live), Arc::clone(self.snapshot.superseded()));
            let allowed = AllowedRows { live, segment, superseded, filtered: filtered.cloned() };
            let positions = filtered.filter(|_| share <= POSITIONS_SHARE_MAX);
            let positions =
                positions.and_then(|filtered| self.positions(opened, &built.segments[segment], &allowed, filtered));
            segments.push(self.prepare_segment(opened, allowed, positions, is_masked).await?);
        }
        let partitions_max = segments.iter().map(|segment| segment.partitions.len()).max().unwrap_or(0);
        let mut near = WalkResult::default();
        let mut found: Vec<Candidate> = Vec::new();
        let mut passes_over = false;
        let probes = self.probes.unwrap_or_else(|| PROBES_MIN.max(partitions_max.isqrt() * PROBES_FACTOR));
        let probes = (probes.max(1) as f64 / share).ceil().min(partitions_max as f64) as usize;
        let mut range = 0..probes;
        while !range.is_empty() {
            for segment in &segments {
                near = segment.search(range.clone(), near).await?;
                for candidate in near.candidates.drain(..) {
                    let is_hit = segment.allowed.contains(candidate.row_id);
                    passes_over |= !is_hit;
                    if is_hit && candidate.distance.is_finite() {
                        found.push(candidate);
                    }
                }
            }
            if found.len() >= self.k {
                break;
            }
            range = range.end..(range.end * 2).min(partitions_max);
        }
        // Each piece has a row once at most.
        keep_first(&mut found, self.candidates.saturating_mul(segments.len()), nearer);
        found.sort_unstable_by(nearer);
        found.dedup_by_key(|candidate| candidate.row_id);
        found.truncate(self.candidates);
        let is_in_reach =
            found.len() == self.candidates && found.last().is_some_and(|last| last.distance <= near.complete_to);
        Ok((is_masked || !passes_over || is_in_reach).then_some(found))
    }

    async fn prepare_segment(
        &self,
        opened: &Arc<VectorSegment>,
        allowed: AllowedRows,
        positions: Option<Arc<FilteredPositions>>,
        is_masked: bool,
    ) -> Result<SegmentWalk> {
        let query = Query {
            column: self.column.to_owned(),
            key: Arc::clone(&self.key),
            k: self.candidates,
            lower_bound: None,
            upper_bound: None,
            minimum_nprobes: opened.index.total_partitions(),
            maximum_nprobes: None,
            search_effort: 0.5,
            ef: Some(self.ef),
            refine_factor: None,
            metric_type: Some(self.metric.to_lance()),
            use_index: true,
            query_parallelism: 1,
            dist_q_c: 0.0,
            approx_mode: ApproxMode::Normal,
        };
        let opened = Arc::clone(opened);
        let is_short = opened.is_scanned()
            && opened.index.total_partitions() * self.key.get_array_memory_size() <= CENTRES_INLINE_BYTES_MAX;
        let open = move || SegmentWalk::open(opened, query, allowed, positions, is_masked);
        if is_short { open() } else { blocking(open).await }
    }

    /// Where those of `filtered` are in `opened`, if it is worth remembering that.
    fn positions(
        &self,
        opened: &VectorSegment,
        metadata: &IndexMetadata,
        allowed: &AllowedRows,
        filtered: &FilteredRows,
    ) -> Option<Arc<FilteredPositions>> {
        let filtered_base = filtered.repeated().filter(|_| opened.is_scanned())?;
        let name = format!("{}\0{}", metadata.uuid, filtered_base.text);
        let known = self.positions.last(self.snapshot, &name);
        if let Some(known) = known.as_ref().filter(|known| known.are_of(filtered_base)) {
            return Some(Arc::clone(known));
        }
        let rows = filtered_base.rows.clone() & &allowed.live[allowed.segment];
        if let Some(known) = known.filter(|known| known.serve(filtered_base, &rows)) {
            return Some(known);
        }
        let bytes = FilteredPositions::bytes_max(opened, &rows) + filtered_base.text.len();
        if !self.positions.has_room_for(bytes) {
            return None;
        }
        let positions = Arc::new(FilteredPositions::new(filtered_base, rows, opened, self.examined.clone()));
        self.positions.put_lasting(self.snapshot, &name, &positions, bytes);
        Some(positions)
    }
}

impl SegmentWalk {
    /// Compares the query with the centres, and makes it ready for Lance.
    fn open(
        opened: Arc<VectorSegment>,
        mut query: Query,
        allowed: AllowedRows,
        positions: Option<Arc<FilteredPositions>>,
        is_masked: bool,
    ) -> Result<Self> {
        let index = Arc::clone(&opened.index);
        let share = match opened.is_scanned() {
            true => 1.0,
            false => allowed.count() as f64 / index.num_rows().max(1) as f64,
        };
        let (filter, spare): (Arc<dyn PreFilter>, usize) = match share {
            1.0 if !is_masked => (Arc::new(NoFilter), 0),
            UNMASKED_SHARE.. if !is_masked => (Arc::new(NoFilter), SPARE_ROWS + query.k / SPARE_SHARE),
            _ => (Arc::new(MaskFilter::new(RowAddrMask::from_allowed(allowed.rows()))), 0),
        };
        query.k += spare;
        query.ef = query.ef.max(Some(query.k));
        let (partitions, distances) = index.find_partitions(&query).map_err(lance_error)?;
        let prepared = Arc::clone(&index).prepare_partition_query(&query).map_err(lance_error)?;
        let (index, query) = prepared.unwrap_or((index, query));
        Ok(Self { opened, index, query, partitions, distances, allowed: Arc::new(allowed), filter, positions })
    }

    /// The nearest rows of each of these partitions, added to `near`.
    async fn search(&self, range: Range<usize>, mut near: WalkResult) -> Result<WalkResult> {
        let range = range.start.min(self.partitions.len())..range.end.min(self.partitions.len());
        let rows = (self.index.num_rows() as usize / self.partitions.len().max(1)).max(1);
        let most = (ROWS_A_THREAD / rows).clamp(PARTITIONS_A_THREAD_MIN, PARTITIONS_A_THREAD_MAX);
        let partitions = range.len().div_ceil(range.len().div_ceil(most).max(1)).max(1);
        let mut searching = VecDeque::new();
        // What is prepared is held in memory, so there is never much of it.
        for first in range.clone().step_by(partitions) {
            let some = first..range.end.min(first + partitions);
            searching.push_back(match self.opened.is_scanned() {
                true => self.scan(some).await?,
                false => self.search_by_lance(some).await?,
            });
            if searching.len() > *PROCESSORS
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

    /// Compares the rows of these partitions.
    async fn scan(&self, range: Range<usize>) -> Result<JoinHandle<Result<WalkResult>>> {
        let numbers: Vec<usize> = range.clone().map(|at| self.partitions.value(at) as usize).collect();
        let partitions = match numbers.iter().map(|number| self.opened.kept(*number)).collect() {
            Some(kept) => kept,
            None => try_join_all(numbers.iter().map(|number| self.opened.partition(*number))).await?,
        };
        let loaded: Vec<(Arc<dyn Partition>, f32)> =
            partitions.into_iter().zip(self.distances.values()[range].iter().copied()).collect();
        let (key, rows, allowed) = (Arc::clone(&self.query.key), self.query.k, Arc::clone(&self.allowed));
        let positions = self.positions.clone();
        let scan = move || {
            let probed = numbers.into_iter().zip(loaded).map(|(number, (partition, from_centre))| {
                let probed = ProbedPartition::new(partition, from_centre);
                match &positions {
                    Some(positions) => probed.only(number, positions),
                    None => probed,
                }
            });
            let probed: Vec<ProbedPartition> = probed.collect();
            let candidates = nearest(&probed, &key, rows, |row| allowed.contains(row));
            Ok(WalkResult { candidates, complete_to: f32::INFINITY })
        };
        Ok(tokio::task::spawn_blocking(scan))
    }

    /// Lets Lance search these partitions.
    async fn search_by_lance(&self, range: Range<usize>) -> Result<JoinHandle<Result<WalkResult>>> {
        let prepared = try_join_all(range.map(|at| self.prepare(at).boxed())).await?;
        let (index, rows) = (Arc::clone(&self.index), self.query.k);
        Ok(tokio::task::spawn_blocking(move || search_all(index.as_ref(), prepared, rows)))
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
) -> Result<WalkResult> {
    let mut near = WalkResult::default();
    for prepared in partitions {
        let batch = index.search_prepared_partition(prepared, &NoOpMetricsCollector).map_err(lance_error)?;
        let distances = batch.column_by_name(DISTANCE).and_then(|column| column.as_primitive_opt::<Float32Type>());
        let distances = distances.ok_or_else(|| Error::internal("a search gave no distances"))?;
        if batch.num_rows() >= rows_max {
            near.complete_to =
                near.complete_to.min(distances.values().iter().copied().fold(f32::NEG_INFINITY, f32::max));
        }
        let rows = row_set::row_ids(&batch)?.iter().zip(distances);
        near.candidates
            .extend(rows.filter_map(|(row, distance)| Some(Candidate { row_id: *row, distance: distance? })));
    }
    Ok(near)
}

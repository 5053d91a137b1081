//! A search of a vector index on disk, without Lance's query planner: it probes the partitions of each segment that are
//! nearest to the query, and collects the nearest rows of each partition.
//!
//! Partitions of whole or 8-bit vectors are scanned here (`partition.rs`); Lance searches graphs and product codes.
//! Under a mask, Lance tests every row of a partition before it takes a step. Where most rows are allowed it is cheaper
//! to search without a mask, ask for some spare rows and skip those that are not allowed. When skipped rows may have
//! displaced an allowed one, the walk runs again under the mask.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Float32Array, UInt32Array};
use arrow::datatypes::Float32Type;
use cenote_base::{Error, Result};
use cenote_store::{Snapshot, blocking, lance_error};
use futures::FutureExt;
use futures::future::try_join_all;
use lance::dataset::scanner::{RowAddrMask, RowAddrTreeMap};
use lance::table::format::IndexMetadata;
use lance_index::metrics::NoOpMetricsCollector;
use lance_index::prefilter::{NoFilter, PreFilter};
use lance_index::vector::{ApproxMode, PreparedPartitionSearchHandle, Query, VectorIndex};
use lance_select::RowSetOps;
use tokio::task::{JoinError, JoinHandle};

use super::partition::{FilteredPositions, Partition, ProbedPartition, RowCandidate, VectorSegment, nearer, nearest};
use crate::catalog::BuiltIndex;
use crate::hits::{DISTANCE, keep_first};
use crate::metric::{Metric, lance_type};
use crate::options::PROCESSORS;
use crate::rows::cache::Cache;
use crate::rows::filtered::FilteredRows;
use crate::rows::fragments::{Examined, Fragments};
use crate::rows::row_set::{self, MaskFilter};

/// Partitions probed: `PROBES_FACTOR · √partitions`, at least `PROBES_MIN`.
const PROBES_FACTOR: usize = 3;
const PROBES_MIN: usize = 20;
/// Partitions that one task searches: `ROWS_PER_TASK / rows per partition`, from `PARTITIONS_PER_TASK_MIN` to
/// `PARTITIONS_PER_TASK_MAX`. They are read from disk together, and held in memory.
const ROWS_PER_TASK: usize = 16 << 10;
const PARTITIONS_PER_TASK_MIN: usize = 8;
const PARTITIONS_PER_TASK_MAX: usize = 64;
/// The smallest share of allowed rows in a segment for which a search runs without a mask.
const UNMASKED_SHARE_MIN: f64 = 0.7;
/// Rows requested beyond k in each partition that is searched without a mask: `SPARE_ROWS + k / SPARE_SHARE`.
const SPARE_ROWS: usize = 8;
const SPARE_SHARE: usize = 4;
/// Bytes of partition centres up to which the query is compared with them on the calling thread.
const CENTRES_INLINE_BYTES_MAX: usize = 1 << 20;
/// The largest share of rows that a filter may match for their positions to be cached.
const POSITIONS_SHARE_MAX: f64 = 0.4;

/// The parameters of a search of a vector index on disk.
pub(super) struct DiskWalk<'a> {
    pub(super) snapshot: &'a Snapshot,
    pub(super) column: &'a str,
    pub(super) metric: Metric,
    /// The query vector, of unit length under cosine.
    pub(super) key: ArrayRef,
    /// Rows to return, at most.
    pub(super) candidates: usize,
    /// The number of rows at which no further partitions are probed.
    pub(super) k: usize,
    /// Partitions to probe first in each segment; `None`: derived from the number of partitions.
    pub(super) probes: Option<usize>,
    /// Candidates kept while walking a graph.
    pub(super) ef: usize,
    pub(super) fragments: &'a Arc<Fragments>,
    pub(super) positions: &'a Cache<FilteredPositions>,
    pub(super) examined: &'a Examined,
}

/// The rows that some partitions returned.
struct WalkResult {
    candidates: Vec<RowCandidate>,
    /// The distance up to which the candidates are complete: no partition left out a nearer row.
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

/// The rows of a segment that a search may find.
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

    /// Returns a lower bound of the number of rows, without testing each.
    fn count(&self) -> usize {
        let live = &self.live[self.segment];
        let most = self
            .filtered
            .as_ref()
            .map_or_else(|| row_set::count(live), |filtered| row_set::count(&(live.clone() & filtered.base())));
        most.saturating_sub(row_set::count(&self.superseded))
    }

    /// Returns the rows as a set.
    fn rows(&self) -> RowAddrTreeMap {
        let mut rows = self.live[self.segment].clone() - self.superseded.as_ref();
        if let Some(filtered) = &self.filtered {
            rows &= filtered.base();
        }
        rows
    }
}

/// A segment, prepared for one query.
struct SegmentWalk {
    segment: Arc<VectorSegment>,
    /// The index of the segment, as Lance prepares it for the query.
    index: Arc<dyn VectorIndex>,
    query: Query,
    /// The numbers of all partitions, the nearest first.
    partitions: UInt32Array,
    /// The distance from the query to the centre of each of `partitions`.
    distances: Float32Array,
    allowed: Arc<AllowedRows>,
    /// The rows that Lance may find.
    filter: Arc<dyn PreFilter>,
    /// The rows to compare; `None`: all.
    positions: Option<Arc<FilteredPositions>>,
}

impl DiskWalk<'_> {
    /// Returns up to `candidates` of the nearest live rows of `built` that are among `filtered`: each once, the nearest
    /// first. Probes more partitions when the nearest ones have fewer than `k` rows.
    pub(super) async fn run(
        &self,
        built: &BuiltIndex,
        filtered: Option<&Arc<FilteredRows>>,
    ) -> Result<Vec<RowCandidate>> {
        let live = built.live_by_segment(self.fragments).await?;
        if let Some(found) = self.walk(built, live, filtered, false).await? {
            return Ok(found);
        }
        self.walk(built, live, filtered, true).await.map(Option::unwrap_or_default)
    }

    /// Walks once. Returns `None` where rows that are not allowed may have displaced allowed ones, which cannot happen
    /// under a mask.
    async fn walk(
        &self,
        built: &BuiltIndex,
        live: &Arc<[RowAddrTreeMap]>,
        filtered: Option<&Arc<FilteredRows>>,
        is_masked: bool,
    ) -> Result<Option<Vec<RowCandidate>>> {
        // The fewer rows match, the farther away the nearest match is.
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
        let mut result = WalkResult::default();
        let mut found: Vec<RowCandidate> = Vec::new();
        let mut has_skipped = false;
        let probes = self.probes.unwrap_or_else(|| PROBES_MIN.max(partitions_max.isqrt() * PROBES_FACTOR));
        let probes = (probes.max(1) as f64 / share).ceil().min(partitions_max as f64) as usize;
        let mut range = 0..probes;
        while !range.is_empty() {
            for segment in &segments {
                result = segment.search(range.clone(), result).await?;
                for candidate in result.candidates.drain(..) {
                    let is_hit = segment.allowed.contains(candidate.row_id);
                    has_skipped |= !is_hit;
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
        // A segment has a row at most once.
        keep_first(&mut found, self.candidates.saturating_mul(segments.len()), nearer);
        found.sort_unstable_by(nearer);
        found.dedup_by_key(|candidate| candidate.row_id);
        found.truncate(self.candidates);
        let is_complete =
            found.len() == self.candidates && found.last().is_some_and(|last| last.distance <= result.complete_to);
        Ok((is_masked || !has_skipped || is_complete).then_some(found))
    }

    async fn prepare_segment(
        &self,
        segment: &Arc<VectorSegment>,
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
            minimum_nprobes: segment.index.total_partitions(),
            maximum_nprobes: None,
            search_effort: 0.5,
            ef: Some(self.ef),
            refine_factor: None,
            metric_type: Some(lance_type(self.metric)),
            use_index: true,
            query_parallelism: 1,
            dist_q_c: 0.0,
            approx_mode: ApproxMode::Normal,
        };
        let segment = Arc::clone(segment);
        let is_inline = segment.is_scanned()
            && segment.index.total_partitions() * self.key.get_array_memory_size() <= CENTRES_INLINE_BYTES_MAX;
        let open = move || SegmentWalk::open(segment, query, allowed, positions, is_masked);
        if is_inline { open() } else { blocking(open).await }
    }

    /// Returns the positions in `segment` of the rows of `filtered`, if they are cached or worth caching.
    fn positions(
        &self,
        segment: &VectorSegment,
        metadata: &IndexMetadata,
        allowed: &AllowedRows,
        filtered: &FilteredRows,
    ) -> Option<Arc<FilteredPositions>> {
        let filtered_base = filtered.repeated().filter(|_| segment.is_scanned())?;
        let name = format!("{}\0{}", metadata.uuid, filtered_base.text);
        let known = self.positions.last(self.snapshot, &name);
        if let Some(known) = known.as_ref().filter(|known| known.are_of(filtered_base)) {
            return Some(Arc::clone(known));
        }
        let rows = filtered_base.rows.clone() & &allowed.live[allowed.segment];
        if let Some(known) = known.filter(|known| known.serve(filtered_base, &rows)) {
            return Some(known);
        }
        let bytes = FilteredPositions::bytes_max(segment, &rows) + filtered_base.text.len();
        if !self.positions.has_room_for(bytes) {
            return None;
        }
        let positions = Arc::new(FilteredPositions::new(filtered_base, rows, segment, self.examined.clone()));
        self.positions.put_lasting(self.snapshot, &name, &positions, bytes);
        Some(positions)
    }
}

impl SegmentWalk {
    /// Compares the query with the partition centres, and prepares it for Lance.
    fn open(
        segment: Arc<VectorSegment>,
        mut query: Query,
        allowed: AllowedRows,
        positions: Option<Arc<FilteredPositions>>,
        is_masked: bool,
    ) -> Result<Self> {
        let index = Arc::clone(&segment.index);
        let share = match segment.is_scanned() {
            true => 1.0,
            false => allowed.count() as f64 / index.num_rows().max(1) as f64,
        };
        let (filter, spare): (Arc<dyn PreFilter>, usize) = match share {
            1.0 if !is_masked => (Arc::new(NoFilter), 0),
            UNMASKED_SHARE_MIN.. if !is_masked => (Arc::new(NoFilter), SPARE_ROWS + query.k / SPARE_SHARE),
            _ => (Arc::new(MaskFilter::new(RowAddrMask::from_allowed(allowed.rows()))), 0),
        };
        query.k += spare;
        query.ef = query.ef.max(Some(query.k));
        let (partitions, distances) = index.find_partitions(&query).map_err(lance_error)?;
        let prepared = Arc::clone(&index).prepare_partition_query(&query).map_err(lance_error)?;
        let (index, query) = prepared.unwrap_or((index, query));
        Ok(Self { segment, index, query, partitions, distances, allowed: Arc::new(allowed), filter, positions })
    }

    /// Adds the nearest rows of the partitions in `range` to `result`.
    async fn search(&self, range: Range<usize>, mut result: WalkResult) -> Result<WalkResult> {
        let range = range.start.min(self.partitions.len())..range.end.min(self.partitions.len());
        let rows = (self.index.num_rows() as usize / self.partitions.len().max(1)).max(1);
        let most = (ROWS_PER_TASK / rows).clamp(PARTITIONS_PER_TASK_MIN, PARTITIONS_PER_TASK_MAX);
        let partitions = range.len().div_ceil(range.len().div_ceil(most).max(1)).max(1);
        let mut searching = VecDeque::new();
        // Prepared partitions are held in memory: the number of tasks bounds them.
        for first in range.clone().step_by(partitions) {
            let some = first..range.end.min(first + partitions);
            searching.push_back(match self.segment.is_scanned() {
                true => self.scan(some).await?,
                false => self.search_by_lance(some).await?,
            });
            if searching.len() > *PROCESSORS
                && let Some(first) = searching.pop_front()
            {
                result.extend(joined(first.await)?);
            }
        }
        for rest in searching {
            result.extend(joined(rest.await)?);
        }
        Ok(result)
    }

    /// Starts to scan the partitions in `range`.
    async fn scan(&self, range: Range<usize>) -> Result<JoinHandle<Result<WalkResult>>> {
        let numbers: Vec<usize> = range.clone().map(|at| self.partitions.value(at) as usize).collect();
        let partitions = match numbers.iter().map(|number| self.segment.cached_partition(*number)).collect() {
            Some(cached) => cached,
            None => try_join_all(numbers.iter().map(|number| self.segment.partition(*number))).await?,
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

    /// Starts Lance's search of the partitions in `range`.
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

/// Returns the nearest `rows_max` rows of each of `partitions`.
fn search_all(
    index: &dyn VectorIndex,
    partitions: Vec<PreparedPartitionSearchHandle>,
    rows_max: usize,
) -> Result<WalkResult> {
    let mut result = WalkResult::default();
    for prepared in partitions {
        let batch = index.search_prepared_partition(prepared, &NoOpMetricsCollector).map_err(lance_error)?;
        let distances = batch.column_by_name(DISTANCE).and_then(|column| column.as_primitive_opt::<Float32Type>());
        let distances = distances.ok_or_else(|| Error::internal("a search gave no distances"))?;
        if batch.num_rows() >= rows_max {
            result.complete_to =
                result.complete_to.min(distances.values().iter().copied().fold(f32::NEG_INFINITY, f32::max));
        }
        let rows = row_set::row_ids(&batch)?.iter().zip(distances);
        result
            .candidates
            .extend(rows.filter_map(|(row, distance)| Some(RowCandidate { row_id: *row, distance: distance? })));
    }
    Ok(result)
}

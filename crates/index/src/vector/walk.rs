//! A walk through a vector index that Lance has built, without Lance's query planner: the partitions nearest to the
//! query in each piece, and in each partition the nearest rows.
//!
//! Rows of some structures are compared here (`scan.rs`); graphs and codes are searched by Lance. Lance's search under
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

use super::partition::{Candidate, Opened, Partition, Places, Probed, nearer, nearest};
use crate::blocking::blocking;
use crate::catalog::Built;
use crate::hits::{DISTANCE, keep_first};
use crate::metric::Metric;
use crate::options::PROCESSORS;
use crate::rows::cache::Cache;
use crate::rows::filtered::Wanted;
use crate::rows::fragments::{Examined, Fragments};
use crate::rows::row_set::{self, Rows};

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
const PLACED_SHARE: f64 = 0.4;
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
    pub(crate) places: &'a Cache<Places>,
    pub(crate) examined: &'a Examined,
}

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

/// The rows of a piece that a search may find.
struct Allowed {
    live: Arc<[RowAddrTreeMap]>,
    piece: usize,
    superseded: Arc<RowAddrTreeMap>,
    wanted: Option<Arc<Wanted>>,
}

impl Allowed {
    fn contains(&self, row: u64) -> bool {
        self.wanted.as_ref().is_none_or(|wanted| wanted.contains(row))
            && self.live[self.piece].contains(row)
            && !self.superseded.contains(row)
    }

    /// How many they are, as well as that is known without looking at each.
    fn count(&self) -> usize {
        let live = &self.live[self.piece];
        let most = self
            .wanted
            .as_ref()
            .map_or_else(|| row_set::count(live), |wanted| row_set::count(&(live.clone() & wanted.base())));
        most.saturating_sub(row_set::count(&self.superseded))
    }

    fn rows(&self) -> RowAddrTreeMap {
        let mut rows = self.live[self.piece].clone() - self.superseded.as_ref();
        if let Some(wanted) = &self.wanted {
            rows &= wanted.base();
        }
        rows
    }
}

/// A piece, opened for a query.
struct Piece {
    opened: Arc<Opened>,
    /// As Lance searches it for this query.
    index: Arc<dyn VectorIndex>,
    query: Query,
    partitions: UInt32Array,
    distances: Float32Array,
    allowed: Arc<Allowed>,
    /// What Lance asks before it finds a row.
    filter: Arc<dyn PreFilter>,
    /// The rows to compare; `None`: all.
    places: Option<Arc<Places>>,
}

impl Walk<'_> {
    /// Up to `candidates` of the nearest rows that `built` has, are not superseded and are among `wanted`, each once
    /// and the nearest first. When there are fewer in the nearest partitions, others are searched too.
    pub(crate) async fn run(&self, built: &Built, wanted: Option<&Arc<Wanted>>) -> Result<Vec<Candidate>> {
        let live = built.pieces(self.fragments).await?;
        if let Some(found) = self.walk(built, live, wanted, false).await? {
            return Ok(found);
        }
        self.walk(built, live, wanted, true).await.map(Option::unwrap_or_default)
    }

    /// The rows; `None` when others that may not be found have hidden some, which a walk under a mask does not let
    /// happen.
    async fn walk(
        &self,
        built: &Built,
        live: &Arc<[RowAddrTreeMap]>,
        wanted: Option<&Arc<Wanted>>,
        is_masked: bool,
    ) -> Result<Option<Vec<Candidate>>> {
        // The fewer rows may be found, the farther away the nearest of them are.
        let share = wanted.map_or(1.0, |wanted| {
            let rows: usize = live.iter().map(row_set::count).sum();
            (wanted.count() as f64 / rows.max(1) as f64).clamp(f64::MIN_POSITIVE, 1.0)
        });
        let mut pieces = Vec::with_capacity(live.len());
        for (piece, opened) in built.opened(self.snapshot, self.column).await?.iter().enumerate() {
            let (live, superseded) = (Arc::clone(live), Arc::clone(self.snapshot.superseded()));
            let allowed = Allowed { live, piece, superseded, wanted: wanted.cloned() };
            let places = wanted.filter(|_| share <= PLACED_SHARE);
            let places = places.and_then(|wanted| self.places(opened, &built.segments[piece], &allowed, wanted));
            pieces.push(self.piece(opened, allowed, places, is_masked).await?);
        }
        let partitions_max = pieces.iter().map(|piece| piece.partitions.len()).max().unwrap_or(0);
        let mut near = Near::default();
        let mut found: Vec<Candidate> = Vec::new();
        let mut passes_over = false;
        let probes = self.probes.unwrap_or_else(|| PROBES_MIN.max(partitions_max.isqrt() * PROBES_FACTOR));
        let probes = (probes.max(1) as f64 / share).ceil().min(partitions_max as f64) as usize;
        let mut range = 0..probes;
        while !range.is_empty() {
            for piece in &pieces {
                near = piece.search(range.clone(), near).await?;
                for (row, distance) in near.rows.drain(..) {
                    let is_hit = piece.allowed.contains(row);
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
        // Each piece has a row once at most.
        keep_first(&mut found, self.candidates.saturating_mul(pieces.len()), nearer);
        found.sort_unstable_by(nearer);
        found.dedup_by_key(|(row, _)| *row);
        found.truncate(self.candidates);
        let is_in_reach =
            found.len() == self.candidates && found.last().is_some_and(|(_, farthest)| *farthest <= near.reach);
        Ok((is_masked || !passes_over || is_in_reach).then_some(found))
    }

    async fn piece(
        &self,
        opened: &Arc<Opened>,
        allowed: Allowed,
        places: Option<Arc<Places>>,
        is_masked: bool,
    ) -> Result<Piece> {
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
        let open = move || Piece::open(opened, query, allowed, places, is_masked);
        if is_short { open() } else { blocking(open).await }
    }

    /// Where those of `wanted` are in `opened`, if it is worth remembering that.
    fn places(
        &self,
        opened: &Opened,
        segment: &IndexMetadata,
        allowed: &Allowed,
        wanted: &Wanted,
    ) -> Option<Arc<Places>> {
        let satisfying = wanted.repeated().filter(|_| opened.is_scanned())?;
        let name = format!("{}\0{}", segment.uuid, satisfying.text);
        let known = self.places.last(self.snapshot, &name);
        if let Some(known) = known.as_ref().filter(|known| known.are_of(satisfying)) {
            return Some(Arc::clone(known));
        }
        let rows = satisfying.rows.clone() & &allowed.live[allowed.piece];
        if let Some(known) = known.filter(|known| known.serve(satisfying, &rows)) {
            return Some(known);
        }
        let bytes = Places::bytes_max(opened, &rows) + satisfying.text.len();
        if !self.places.has_room_for(bytes) {
            return None;
        }
        let places = Arc::new(Places::new(satisfying, rows, opened, self.examined.clone()));
        self.places.put_lasting(self.snapshot, &name, &places, bytes);
        Some(places)
    }
}

impl Piece {
    /// Compares the query with the centres, and makes it ready for Lance.
    fn open(
        opened: Arc<Opened>,
        mut query: Query,
        allowed: Allowed,
        places: Option<Arc<Places>>,
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
            _ => (Arc::new(Rows(Arc::new(RowAddrMask::from_allowed(allowed.rows())))), 0),
        };
        query.k += spare;
        query.ef = query.ef.max(Some(query.k));
        let (partitions, distances) = index.find_partitions(&query).map_err(lance_error)?;
        let prepared = Arc::clone(&index).prepare_partition_query(&query).map_err(lance_error)?;
        let (index, query) = prepared.unwrap_or((index, query));
        Ok(Self { opened, index, query, partitions, distances, allowed: Arc::new(allowed), filter, places })
    }

    /// The nearest rows of each of these partitions, added to `near`.
    async fn search(&self, range: Range<usize>, mut near: Near) -> Result<Near> {
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
                false => self.begin(some).await?,
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
    async fn scan(&self, range: Range<usize>) -> Result<JoinHandle<Result<Near>>> {
        let numbers: Vec<usize> = range.clone().map(|at| self.partitions.value(at) as usize).collect();
        let partitions = match numbers.iter().map(|number| self.opened.kept(*number)).collect() {
            Some(kept) => kept,
            None => try_join_all(numbers.iter().map(|number| self.opened.partition(*number))).await?,
        };
        let loaded: Vec<(Arc<dyn Partition>, f32)> =
            partitions.into_iter().zip(self.distances.values()[range].iter().copied()).collect();
        let (key, rows, allowed) = (Arc::clone(&self.query.key), self.query.k, Arc::clone(&self.allowed));
        let places = self.places.clone();
        let scan = move || {
            let probed = numbers.into_iter().zip(loaded).map(|(number, (partition, from_centre))| {
                let probed = Probed::new(partition, from_centre);
                match &places {
                    Some(places) => probed.only(number, places),
                    None => probed,
                }
            });
            let probed: Vec<Probed> = probed.collect();
            let rows = nearest(&probed, &key, rows, |row| allowed.contains(row));
            Ok(Near { rows, reach: f32::INFINITY })
        };
        Ok(tokio::task::spawn_blocking(scan))
    }

    /// Lets Lance search these partitions.
    async fn begin(&self, range: Range<usize>) -> Result<JoinHandle<Result<Near>>> {
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
) -> Result<Near> {
    let mut near = Near::default();
    for prepared in partitions {
        let batch = index.search_prepared_partition(prepared, &NoOpMetricsCollector).map_err(lance_error)?;
        let distances = batch.column_by_name(DISTANCE).and_then(|column| column.as_primitive_opt::<Float32Type>());
        let distances = distances.ok_or_else(|| Error::internal("a search gave no distances"))?;
        if batch.num_rows() >= rows_max {
            near.reach = near.reach.min(distances.values().iter().copied().fold(f32::NEG_INFINITY, f32::max));
        }
        let rows = row_set::row_ids(&batch)?.iter().zip(distances);
        near.rows.extend(rows.filter_map(|(row, distance)| Some((*row, distance?))));
    }
    Ok(near)
}

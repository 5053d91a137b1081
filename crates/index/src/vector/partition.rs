//! Partitions of a vector index on disk that are scanned row by row: those of whole vectors, or of 8 bits per number.
//!
//! Only rows that are near enough are tested against the filter, so that a filter that many rows satisfy costs little,
//! and none displaces a row. For a filter that few rows satisfy, and that is used again, the positions of those rows
//! are cached, and only they are compared ([`FilteredPositions`]).

use std::cmp::Ordering;
use std::fmt;
use std::sync::{Arc, OnceLock, Weak};

use arrow::array::ArrayRef;
use cenote_base::sync::Mutex;
use cenote_base::{Error, Result};
use cenote_store::lance_error;
use futures::FutureExt;
use futures::future::BoxFuture;
use lance::dataset::scanner::RowAddrTreeMap;
use lance::index::vector::ivf::v2::{IVFIndex, PartitionEntry};
use lance_index::metrics::NoOpMetricsCollector;
use lance_index::vector::VectorIndex;
use lance_index::vector::flat::index::{FlatBinQuantizer, FlatIndex, FlatQuantizer};
use lance_index::vector::quantizer::Quantization;
use lance_index::vector::sq::ScalarQuantizer;
use lance_index::vector::storage::{DistCalculator, VectorStore};
use lance_select::RowSetOps;

use crate::hits::{keep_first, kept_max};
use crate::rows::filtered::FilteredBase;
use crate::rows::fragments::Examined;
use crate::rows::row_set;

/// The distance in rows at which the memory of a row is prefetched.
const PREFETCH_ROWS: usize = 4;
/// Positions of more than `STALE_FACTOR` times the rows that still match are looked up again.
const STALE_FACTOR: usize = 2;

/// A row with its distance as Lance measures it: see [`from_lance`](crate::metric::from_lance).
#[derive(Debug, Clone, Copy)]
pub(super) struct RowCandidate {
    pub(super) row_id: u64,
    pub(super) distance: f32,
}

/// Compares two candidates: the nearer one first, equally near ones by row id.
pub(super) fn nearer(a: &RowCandidate, b: &RowCandidate) -> Ordering {
    a.distance.total_cmp(&b.distance).then(a.row_id.cmp(&b.row_id))
}

/// A segment whose partitions can be scanned.
trait LoadPartition: Send + Sync {
    /// Loads partition `number`, from Lance's cache where it is there.
    fn load(&self, number: usize) -> BoxFuture<'_, Result<Arc<dyn Partition>>>;
}

/// A partition in memory whose rows can be scanned.
pub(super) trait Partition: fmt::Debug + Send + Sync {
    /// Returns the number of rows.
    fn rows(&self) -> usize;

    /// Returns the distance of each row from `query`, which is `from_centre` away from the partition's centre.
    fn distances(&self, query: ArrayRef, from_centre: f32) -> Vec<f32>;

    /// Returns the distances of the rows at `positions`, as [`distances`](Self::distances) does.
    fn distances_of(&self, query: ArrayRef, from_centre: f32, positions: &[u32]) -> Vec<f32>;

    /// Returns the id of the row at `position`.
    fn row_id(&self, position: usize) -> u64;
}

impl<Q: Quantization + 'static> LoadPartition for IVFIndex<FlatIndex, Q> {
    fn load(&self, number: usize) -> BoxFuture<'_, Result<Arc<dyn Partition>>> {
        let load = async move {
            let loaded = self.load_partition(number, true, &NoOpMetricsCollector).await.map_err(lance_error)?;
            Ok(loaded as Arc<dyn Partition>)
        };
        load.boxed()
    }
}

impl<Q: Quantization + 'static> Partition for PartitionEntry<FlatIndex, Q> {
    fn rows(&self) -> usize {
        self.storage.len()
    }

    fn distances(&self, query: ArrayRef, from_centre: f32) -> Vec<f32> {
        self.storage.dist_calculator(query, from_centre).distance_all(0)
    }

    fn distances_of(&self, query: ArrayRef, from_centre: f32, positions: &[u32]) -> Vec<f32> {
        let calculator = self.storage.dist_calculator(query, from_centre);
        positions.iter().take(PREFETCH_ROWS).for_each(|&position| calculator.prefetch(position));
        let distance = |(at, &position): (usize, &u32)| {
            if let Some(&next) = positions.get(at + PREFETCH_ROWS) {
                calculator.prefetch(next);
            }
            calculator.distance(position)
        };
        positions.iter().enumerate().map(distance).collect()
    }

    fn row_id(&self, position: usize) -> u64 {
        self.storage.row_id(position as u32)
    }
}

/// A segment of a vector index on disk, opened.
#[derive(Debug)]
pub(crate) struct VectorSegment {
    pub(super) index: Arc<dyn VectorIndex>,
    is_scanned: bool,
    /// The partitions that Lance's cache holds, found without the key of a cache entry: making the key takes longer
    /// than scanning a small partition. The cache does not see these uses, so one that is too small for an index evicts
    /// its oldest entries, not the least used.
    partitions: Vec<Mutex<Option<Weak<dyn Partition>>>>,
}

impl VectorSegment {
    pub(crate) fn new(index: Arc<dyn VectorIndex>) -> Self {
        let is_scanned = scanned(index.as_ref()).is_some();
        let partitions = if is_scanned { index.total_partitions() } else { 0 };
        Self { partitions: (0..partitions).map(|_| Mutex::default()).collect(), index, is_scanned }
    }

    /// Returns whether the partitions are scanned row by row.
    pub(super) fn is_scanned(&self) -> bool {
        self.is_scanned
    }

    /// Loads partition `number` of a segment that is scanned.
    pub(super) async fn partition(&self, number: usize) -> Result<Arc<dyn Partition>> {
        let missing = || Error::internal(format!("the index has no partition {number} to scan"));
        let slot = self.partitions.get(number).ok_or_else(missing)?;
        if let Some(partition) = self.cached_partition(number) {
            return Ok(partition);
        }
        let partition = scanned(self.index.as_ref()).ok_or_else(missing)?.load(number).await?;
        *slot.lock() = Some(Arc::downgrade(&partition));
        Ok(partition)
    }

    /// Returns partition `number`, if Lance's cache holds it.
    pub(super) fn cached_partition(&self, number: usize) -> Option<Arc<dyn Partition>> {
        self.partitions.get(number)?.lock().as_ref()?.upgrade()
    }
}

fn scanned(index: &dyn VectorIndex) -> Option<&dyn LoadPartition> {
    fn with<Q: Quantization + 'static>(index: &dyn VectorIndex) -> Option<&dyn LoadPartition> {
        index.as_any().downcast_ref::<IVFIndex<FlatIndex, Q>>().map(|index| index as &dyn LoadPartition)
    }
    with::<ScalarQuantizer>(index).or_else(|| with::<FlatQuantizer>(index)).or_else(|| with::<FlatBinQuantizer>(index))
}

/// The positions, in the partitions of a segment, of the rows that satisfied a filter in a base. They still satisfy it
/// in a later base, or are gone.
#[derive(Debug)]
pub(crate) struct FilteredPositions {
    rows: RowAddrTreeMap,
    /// The result of the filter whose rows are all known to be here.
    filtered_base: Mutex<Weak<FilteredBase>>,
    partitions: Vec<OnceLock<Arc<[u32]>>>,
    examined: Examined,
}

impl FilteredPositions {
    /// Prepares the positions of `rows`, which are those of `filtered_base` that `segment` has. A partition is searched
    /// when it is first probed.
    pub(super) fn new(
        filtered_base: &Arc<FilteredBase>,
        rows: RowAddrTreeMap,
        segment: &VectorSegment,
        examined: Examined,
    ) -> Self {
        let partitions = segment.partitions.iter().map(|_| OnceLock::new()).collect();
        Self { rows, filtered_base: Mutex::new(Arc::downgrade(filtered_base)), partitions, examined }
    }

    /// Returns whether all rows of `filtered_base` are known to be here.
    pub(super) fn are_of(&self, filtered_base: &Arc<FilteredBase>) -> bool {
        let known = self.filtered_base.lock();
        std::ptr::eq(known.as_ptr(), Arc::as_ptr(filtered_base))
    }

    /// Returns whether all of `rows`, which are those of `filtered_base` that the segment has, are here with few
    /// others.
    pub(super) fn serve(&self, filtered_base: &Arc<FilteredBase>, rows: &RowAddrTreeMap) -> bool {
        let serves =
            row_set::count(&self.rows) <= STALE_FACTOR * row_set::count(rows) && row_set::are_among(rows, &self.rows);
        if serves {
            *self.filtered_base.lock() = Arc::downgrade(filtered_base);
        }
        serves
    }

    /// Returns an upper bound of the bytes that the positions of `rows` take.
    pub(super) fn bytes_max(segment: &VectorSegment, rows: &RowAddrTreeMap) -> usize {
        let partitions = segment.partitions.len() * size_of::<OnceLock<Arc<[u32]>>>();
        row_set::count(rows) * size_of::<u32>() + rows.serialized_size() + partitions
    }

    /// Returns the positions in `partition`, which is partition `number`. The first call finds them.
    fn in_partition(&self, number: usize, partition: &dyn Partition) -> Option<Arc<[u32]>> {
        let find = || {
            self.examined.add(partition.rows());
            let is_one = |position: &usize| self.rows.contains(partition.row_id(*position));
            (0..partition.rows()).filter(is_one).map(|position| position as u32).collect()
        };
        self.partitions.get(number).map(|positions| Arc::clone(positions.get_or_init(find)))
    }
}

/// A partition that is scanned for a query.
pub(super) struct ProbedPartition {
    partition: Arc<dyn Partition>,
    /// The distance from the query to the partition's centre.
    from_centre: f32,
    /// The rows to compare; `None`: all.
    positions: Option<Arc<[u32]>>,
}

impl ProbedPartition {
    pub(super) fn new(partition: Arc<dyn Partition>, from_centre: f32) -> Self {
        Self { partition, from_centre, positions: None }
    }

    /// Restricts the scan of this partition, whose number is `number`, to `positions`.
    pub(super) fn only(mut self, number: usize, positions: &FilteredPositions) -> Self {
        self.positions = positions.in_partition(number, self.partition.as_ref());
        self
    }
}

/// Returns the nearest `rows_max` rows of `partitions` that `is_allowed`, in any order. Quickest when the nearest
/// partition comes first.
pub(super) fn nearest(
    partitions: &[ProbedPartition],
    query: &ArrayRef,
    rows_max: usize,
    is_allowed: impl Fn(u64) -> bool,
) -> Vec<RowCandidate> {
    let mut near = Vec::new();
    let mut farthest = f32::MAX;
    for ProbedPartition { partition, from_centre, positions } in partitions {
        let positions = positions.as_deref();
        let distances = match positions {
            None => partition.distances(Arc::clone(query), *from_centre),
            Some([]) => continue,
            Some(positions) => partition.distances_of(Arc::clone(query), *from_centre, positions),
        };
        let row_id = |at: usize| partition.row_id(positions.map_or(at, |positions| positions[at] as usize));
        let (distances, mut next) = (distances.as_slice(), 0);
        // The innermost loop of a search: it calls nothing for a row that is too far away.
        while next < distances.len() {
            let (at, distance) = (next, distances[next]);
            next += 1;
            // A NaN or infinite distance is never a hit.
            if distance <= farthest && distance >= f32::MIN && is_allowed(row_id(at)) {
                near.push(RowCandidate { row_id: row_id(at), distance });
                if near.len() >= kept_max(rows_max) {
                    keep_first(&mut near, rows_max, nearer);
                    farthest = near.iter().map(|candidate| candidate.distance).fold(f32::MIN, f32::max);
                }
            }
        }
    }
    keep_first(&mut near, rows_max, nearer);
    near
}

//! Partitions of a vector index on disk whose rows are compared one by one: of whole vectors, or of such with 8 bits a
//! number.
//!
//! Whether a row may be found is asked only when it is near enough: a filter that many rows satisfy costs little, and
//! none hides a row. Of one that few rows satisfy, and that is asked for again, it is remembered where they are, and
//! only they are compared ([`FilteredPositions`]).

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

/// MaskFilter ahead of the one being compared whose memory is asked for.
const AHEAD: usize = 4;
/// FilteredPositions are looked for anew when more than half of their rows are gone.
const GONE_FACTOR: usize = 2;

/// A row, and its distance as the index keeps it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Candidate {
    pub(crate) row_id: u64,
    pub(crate) distance: f32,
}

/// The nearest first; equally near ones by row id.
pub(crate) fn nearer(a: &Candidate, b: &Candidate) -> Ordering {
    a.distance.total_cmp(&b.distance).then(a.row_id.cmp(&b.row_id))
}

/// An index of such partitions.
trait LoadPartition: Send + Sync {
    /// Number `at` of its partitions, from Lance's cache where it is there.
    fn load(&self, at: usize) -> BoxFuture<'_, Result<Arc<dyn Partition>>>;
}

/// Such a partition, in memory.
pub(crate) trait Partition: fmt::Debug + Send + Sync {
    /// How many rows it has.
    fn rows(&self) -> usize;

    /// From `query`, which is `from_centre` away from the partition's centre, to each row.
    fn distances(&self, query: ArrayRef, from_centre: f32) -> Vec<f32>;

    /// To rows number `places` alone.
    fn distances_of(&self, query: ArrayRef, from_centre: f32, positions: &[u32]) -> Vec<f32>;

    /// The id of row number `at`.
    fn row_id(&self, at: usize) -> u64;
}

impl<Q: Quantization + 'static> LoadPartition for IVFIndex<FlatIndex, Q> {
    fn load(&self, at: usize) -> BoxFuture<'_, Result<Arc<dyn Partition>>> {
        let load = async move {
            let loaded = self.load_partition(at, true, &NoOpMetricsCollector).await.map_err(lance_error)?;
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
        positions.iter().take(AHEAD).for_each(|&position| calculator.prefetch(position));
        let distance = |(at, &position): (usize, &u32)| {
            if let Some(&next) = positions.get(at + AHEAD) {
                calculator.prefetch(next);
            }
            calculator.distance(position)
        };
        positions.iter().enumerate().map(distance).collect()
    }

    fn row_id(&self, at: usize) -> u64 {
        self.storage.row_id(at as u32)
    }
}

/// A vector index on disk, or a piece of one, that was opened.
#[derive(Debug)]
pub(crate) struct VectorSegment {
    pub(crate) index: Arc<dyn VectorIndex>,
    is_scanned: bool,
    /// Where they are as long as Lance's cache has them: to make the key under which they are there takes longer than
    /// to compare the rows of a small one. The cache does not see these uses: one that is too small for an index drops
    /// what came first.
    partitions: Vec<Mutex<Option<Weak<dyn Partition>>>>,
}

impl VectorSegment {
    pub(crate) fn new(index: Arc<dyn VectorIndex>) -> Self {
        let is_scanned = scanned(index.as_ref()).is_some();
        let partitions = if is_scanned { index.total_partitions() } else { 0 };
        Self { partitions: (0..partitions).map(|_| Mutex::default()).collect(), index, is_scanned }
    }

    /// Whether its partitions are compared row by row.
    pub(crate) fn is_scanned(&self) -> bool {
        self.is_scanned
    }

    /// Number `at` of the partitions of one that is.
    pub(crate) async fn partition(&self, at: usize) -> Result<Arc<dyn Partition>> {
        let missing = || Error::internal(format!("the index has no partition {at} to compare"));
        let position = self.partitions.get(at).ok_or_else(missing)?;
        if let Some(partition) = self.kept(at) {
            return Ok(partition);
        }
        let partition = scanned(self.index.as_ref()).ok_or_else(missing)?.load(at).await?;
        *position.lock() = Some(Arc::downgrade(&partition));
        Ok(partition)
    }

    /// It, if Lance's cache has it.
    pub(crate) fn kept(&self, at: usize) -> Option<Arc<dyn Partition>> {
        self.partitions.get(at)?.lock().as_ref()?.upgrade()
    }
}

fn scanned(index: &dyn VectorIndex) -> Option<&dyn LoadPartition> {
    fn with<Q: Quantization + 'static>(index: &dyn VectorIndex) -> Option<&dyn LoadPartition> {
        index.as_any().downcast_ref::<IVFIndex<FlatIndex, Q>>().map(|index| index as &dyn LoadPartition)
    }
    with::<ScalarQuantizer>(index).or_else(|| with::<FlatQuantizer>(index)).or_else(|| with::<FlatBinQuantizer>(index))
}

/// Where in the partitions of an index rows are: those that satisfied a filter in a base, and so do in later ones, or
/// are gone.
#[derive(Debug)]
pub(crate) struct FilteredPositions {
    rows: RowAddrTreeMap,
    /// What they were last seen to have all rows of.
    filtered_base: Mutex<Weak<FilteredBase>>,
    partitions: Vec<OnceLock<Arc<[u32]>>>,
    examined: Examined,
}

impl FilteredPositions {
    /// Of `rows`, which are those of `filtered_base` that the index has; none is looked for yet.
    pub(crate) fn new(
        filtered_base: &Arc<FilteredBase>,
        rows: RowAddrTreeMap,
        opened: &VectorSegment,
        examined: Examined,
    ) -> Self {
        let partitions = opened.partitions.iter().map(|_| OnceLock::new()).collect();
        Self { rows, filtered_base: Mutex::new(Arc::downgrade(filtered_base)), partitions, examined }
    }

    /// Whether they are known to have all rows of `filtered_base`.
    pub(crate) fn are_of(&self, filtered_base: &Arc<FilteredBase>) -> bool {
        let known = self.filtered_base.lock();
        std::ptr::eq(known.as_ptr(), Arc::as_ptr(filtered_base))
    }

    /// Whether they have all of `rows`, which are those of `filtered_base` that the index has, and few others.
    pub(crate) fn serve(&self, filtered_base: &Arc<FilteredBase>, rows: &RowAddrTreeMap) -> bool {
        let serves =
            row_set::count(&self.rows) <= GONE_FACTOR * row_set::count(rows) && row_set::are_among(rows, &self.rows);
        if serves {
            *self.filtered_base.lock() = Arc::downgrade(filtered_base);
        }
        serves
    }

    /// What those of `rows` take at most.
    pub(crate) fn bytes_max(opened: &VectorSegment, rows: &RowAddrTreeMap) -> usize {
        let partitions = opened.partitions.len() * size_of::<OnceLock<Arc<[u32]>>>();
        row_set::count(rows) * size_of::<u32>() + rows.serialized_size() + partitions
    }

    /// Those in `partition`, which is number `at`; found when they are asked for first.
    fn of(&self, at: usize, partition: &dyn Partition) -> Option<Arc<[u32]>> {
        let find = || {
            self.examined.add(partition.rows());
            let is_one = |row: &usize| self.rows.contains(partition.row_id(*row));
            (0..partition.rows()).filter(is_one).map(|row| row as u32).collect()
        };
        self.partitions.get(at).map(|positions| Arc::clone(positions.get_or_init(find)))
    }
}

/// A partition that a query is compared with.
pub(crate) struct ProbedPartition {
    partition: Arc<dyn Partition>,
    /// From the query to its centre.
    from_centre: f32,
    /// The rows to compare; `None`: all.
    positions: Option<Arc<[u32]>>,
}

impl ProbedPartition {
    pub(crate) fn new(partition: Arc<dyn Partition>, from_centre: f32) -> Self {
        Self { partition, from_centre, positions: None }
    }

    /// Only those rows that `places` has in it, which is partition number `at`.
    pub(crate) fn only(mut self, at: usize, positions: &FilteredPositions) -> Self {
        self.positions = positions.of(at, self.partition.as_ref());
        self
    }
}

/// The nearest `rows_max` rows of `partitions` that `may_be_found`, in any order. The nearest partition comes first.
pub(crate) fn nearest(
    partitions: &[ProbedPartition],
    query: &ArrayRef,
    rows_max: usize,
    may_be_found: impl Fn(u64) -> bool,
) -> Vec<Candidate> {
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
        // Of all that a search does this is done most often: nothing is called for a row that is too far.
        while next < distances.len() {
            let (at, distance) = (next, distances[next]);
            next += 1;
            // Some distances are no numbers, or without end: those are no hits.
            if distance <= farthest && distance >= f32::MIN && may_be_found(row_id(at)) {
                near.push(Candidate { row_id: row_id(at), distance });
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

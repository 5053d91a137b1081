//! The options of a loader: plain data.

use cenote_base::ByteSize;

use crate::batch::OnError;
use crate::batch::transform::Transform;
use crate::order::buckets::Buckets;
use crate::shard::{EpochTail, Shard};

/// The options of a loader.
#[derive(Debug, Clone)]
pub struct LoaderOptions {
    /// Columns of the batches, in order; `None` for all visible ones.
    pub columns: Option<Vec<String>>,
    /// Rows in a batch.
    pub batch_rows: usize,
    /// Seed of the order, and of chance in transforms. `None` for rows in the order of their keys.
    pub shuffle: Option<u64>,
    /// Bytes of rows within which the order mixes; `None` for all. See
    /// [`Shuffle::window_rows`](crate::Shuffle::window_rows).
    pub window: Option<ByteSize>,
    /// The grouping of samples by length, if any.
    pub buckets: Option<Buckets>,
    /// The number of this process among those that train together.
    pub rank: usize,
    /// The number of processes that train together.
    pub world_size: usize,
    /// The number of this worker among those of the rank. A loader has threads and needs no workers; they are for a
    /// host program that has them anyway.
    pub worker: usize,
    /// The number of workers of the rank.
    pub workers: usize,
    /// The treatment of the last step of an epoch.
    pub tail: EpochTail,
    /// The transforms of columns, by name.
    pub transforms: Vec<(String, Vec<Transform>)>,
    /// Samples in an epoch of sources with weights; `None` for the number of all rows.
    pub epoch_rows: Option<u64>,
    /// The treatment of rows whose media cannot be decoded.
    pub on_error: OnError,
    /// Limit on the bytes of batches that are ready or being made; a single batch may exceed it.
    pub prefetch_bytes_max: ByteSize,
    /// Threads that make batches; 0 for this worker's share of the cores. Each reads the next batch while it decodes
    /// one.
    pub threads: usize,
    /// Whether each epoch reads the newest version, rather than the one that the loader was opened at.
    pub follow: bool,
}

impl Default for LoaderOptions {
    fn default() -> Self {
        Self {
            columns: None,
            batch_rows: 64,
            shuffle: None,
            window: None,
            buckets: None,
            rank: 0,
            world_size: 1,
            worker: 0,
            workers: 1,
            tail: EpochTail::default(),
            transforms: Vec::new(),
            epoch_rows: None,
            on_error: OnError::default(),
            prefetch_bytes_max: ByteSize::mib(256),
            threads: 0,
            follow: false,
        }
    }
}

impl LoaderOptions {
    /// Returns the shard that this loader reads.
    pub(crate) fn shard(&self) -> Shard {
        Shard {
            batch_rows: self.batch_rows as u64,
            rank: self.rank as u64,
            world_size: self.world_size as u64,
            worker: self.worker as u64,
            workers: self.workers as u64,
            tail: self.tail,
        }
    }
}

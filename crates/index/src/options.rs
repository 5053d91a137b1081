//! The options of [`Indexes`](crate::Indexes).

use std::num::NonZero;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use cenote_base::ByteSize;

use crate::build::train::Trainer;

/// The number of threads that can run in parallel. Determined once, since that reads files.
pub(crate) static PROCESSORS: LazyLock<usize> =
    LazyLock::new(|| std::thread::available_parallelism().map_or(1, NonZero::get));

/// The options of [`Indexes`](crate::Indexes).
#[derive(Debug, Clone)]
pub struct IndexOptions {
    /// Bytes that all indexes in memory take together, at most.
    pub memory_bytes_max: ByteSize,
    /// Bytes that searches cache for later ones, at most: rows that no index has, and the rows that satisfy filters
    /// with their positions.
    pub cache_bytes_max: ByteSize,
    /// The directory in which indexes in memory are saved, so that another process need not build them; `None`: they
    /// are not saved.
    pub directory: Option<PathBuf>,
    /// The approximate bytes of a build on disk: the sample from which the partitions of vectors are trained, and the
    /// texts gathered before they are written. The rest of a build takes some hundred MiB, however large the table is.
    pub build_bytes_max: ByteSize,
    /// Threads that build an index in memory, or read texts for one on disk. Lance builds the rest of an index on disk
    /// with its own threads, which `LANCE_CPU_THREADS` bounds.
    pub threads: usize,
    /// Rows of a segment of a first build on disk: `segment_rows` or a quarter of the table, whichever is more. An
    /// index over fewer rows is built at once. A build that is interrupted loses its last segment.
    pub segment_rows: usize,
    /// A trainer of the partition centres of vector indexes on disk, in place of Lance: for Float32 under L2 or cosine.
    pub trainer: Option<Arc<dyn Trainer>>,
    /// Minimum time between two saves while an index in memory is built; each also waits until a quarter of its rows
    /// are new. A build that is interrupted loses what came after its last save.
    pub save_every: Duration,
}

impl Default for IndexOptions {
    fn default() -> Self {
        Self {
            memory_bytes_max: ByteSize::mib(1024),
            cache_bytes_max: ByteSize::mib(64),
            build_bytes_max: ByteSize::mib(2048),
            directory: None,
            threads: *PROCESSORS,
            segment_rows: 4_000_000,
            trainer: None,
            save_every: Duration::from_secs(30),
        }
    }
}

//! The bounds of [`Indexes`](crate::Indexes).

use std::num::NonZero;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use cenote_base::ByteSize;

use crate::build::train::Trainer;

/// How many threads run at once here. Asked for once: it reads files.
pub(crate) static PROCESSORS: LazyLock<usize> =
    LazyLock::new(|| std::thread::available_parallelism().map_or(1, NonZero::get));

/// RefreshOptions and places of [`Indexes`].
#[derive(Debug, Clone)]
pub struct IndexOptions {
    /// Bytes that indexes in memory take together, at most.
    pub memory_bytes_max: ByteSize,
    /// Bytes that searches keep for the next ones, at most: what no index has seen, and which rows satisfy filters and
    /// where they are.
    pub cache_bytes_max: ByteSize,
    /// Where indexes in memory are saved, so that another process need not build them; `None`: nowhere.
    pub directory: Option<PathBuf>,
    /// Bytes that the build of an index on disk takes, about: what the partitions of vectors are learned from, and what
    /// is gathered of texts before it is written. The rest of a build takes some hundred MiB, however large the table
    /// is.
    pub build_bytes_max: ByteSize,
    /// Threads that build an index in memory, or read texts for one on disk. The rest of one on disk is built by
    /// Lance's threads, which `LANCE_CPU_THREADS` bounds.
    pub threads: usize,
    /// MaskFilter of one piece of a first build on disk: `segment_rows` or a quarter of the table, whichever is more. Smaller
    /// tables are built whole. A build that is cut off loses its last piece.
    pub segment_rows: usize,
    /// Who learns the centres of the partitions of a vector index on disk, if not Lance: under L2 and cosine, of
    /// Float32.
    pub trainer: Option<Arc<dyn Trainer>>,
    /// How often a build of an index in memory is saved, at most: it is when a quarter of its rows are new. One that is
    /// cut off loses what came later.
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

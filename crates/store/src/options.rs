//! The options of a store.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cenote_base::{ByteSize, Clock, SystemClock};

use crate::after_fold::AfterFold;
use crate::faults::Faults;

/// Limits and settings of a [`Store`](crate::Store).
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// Bytes of index pages kept in memory, for all tables together.
    pub index_cache_bytes_max: ByteSize,
    /// Bytes of manifests and page tables kept in memory, for all tables together.
    pub metadata_cache_bytes_max: ByteSize,
    /// Bytes of rows kept in memory for reads of few rows, for all tables together.
    pub page_cache_bytes_max: ByteSize,
    /// How long a write waits for a writer in another process before it fails.
    pub writer_wait_max: Duration,
    /// Bytes of unfolded writes at which a table is folded; writers wait at four times as many.
    pub fold_bytes: ByteSize,
    /// Unfolded rows and deletions at which a table is folded.
    pub fold_rows: usize,
    /// Age of the oldest unfolded write at which a table is folded.
    pub fold_age: Duration,
    /// Bytes of a write from which it goes straight to the base.
    pub bulk_bytes: ByteSize,
    /// Target bytes of a base file, media included, when small files are joined.
    pub file_bytes: ByteSize,
    /// Target rows of a base file when small files are joined.
    pub file_rows: usize,
    /// Settings of the object store in addition to those of the environment, named like the environment variables in
    /// lower case, such as `aws_endpoint_url`.
    pub object_store: HashMap<String, String>,
    /// For object stores: how long a writer may give no sign of life before others may consider it dead.
    pub lease_patience: Duration,
    /// The directory for local copies of what is stored in an object store and read often.
    pub cache_directory: PathBuf,
    /// Bytes of remote files kept there; with 0, every read goes to the object store.
    pub block_cache_bytes_max: ByteSize,
    /// Maximum number of unused tables that are kept open: each holds some files open, and the contents of its log in
    /// memory.
    pub idle_tables_max: usize,
    /// Work to do after a fold.
    pub after_fold: Option<Arc<dyn AfterFold>>,
    /// The clock that stamps versions.
    pub clock: Arc<dyn Clock>,
    /// Failures to inject, in tests.
    pub faults: Faults,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            index_cache_bytes_max: ByteSize::mib(256),
            metadata_cache_bytes_max: ByteSize::mib(64),
            page_cache_bytes_max: ByteSize::mib(64),
            writer_wait_max: Duration::from_secs(60),
            fold_bytes: ByteSize::mib(32),
            fold_rows: 65_536,
            fold_age: Duration::from_secs(60),
            bulk_bytes: ByteSize::mib(8),
            file_bytes: ByteSize::mib(1024),
            file_rows: 1 << 20,
            object_store: HashMap::new(),
            lease_patience: Duration::from_secs(10),
            cache_directory: std::env::temp_dir().join("cenote"),
            block_cache_bytes_max: ByteSize::mib(4096),
            idle_tables_max: 128,
            after_fold: None,
            clock: Arc::new(SystemClock),
            faults: Faults::default(),
        }
    }
}

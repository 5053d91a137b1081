//! The options of a store.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cenote_base::{ByteSize, Clock, SystemClock};

use crate::after_fold::AfterFold;
use crate::faults::Faults;

/// Limits of a [`Store`](crate::Store).
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// Bytes of index pages kept in memory, over all tables.
    pub index_cache_bytes_max: ByteSize,
    /// Bytes of manifests and page tables kept in memory, over all tables.
    pub metadata_cache_bytes_max: ByteSize,
    /// Bytes of rows kept in memory for reads of few rows, over all tables.
    pub page_cache_bytes_max: ByteSize,
    /// How long a write waits for a writer in another process.
    pub writer_wait_max: Duration,
    /// Bytes of unfolded writes at which a table is folded; writers wait at four times as many.
    pub fold_bytes: ByteSize,
    /// A table's writes are folded into its base when they concern so many rows.
    pub fold_rows: usize,
    /// A table's writes are folded into its base when the oldest is so old.
    pub fold_age: Duration,
    /// A write of so many bytes goes straight to the base.
    pub bulk_bytes: ByteSize,
    /// Small files of a table's base are joined into files of about this many bytes, media included.
    pub file_bytes: ByteSize,
    /// Small files of a table's base are joined into files of about this many rows.
    pub file_rows: usize,
    /// What the object store is told beside what the environment says, by the names of the environment's variables in
    /// lower case, such as `aws_endpoint_url`.
    pub object_store: HashMap<String, String>,
    /// In an object store: a writer that gave no sign of life for so long may be taken for dead.
    pub lease_patience: Duration,
    /// Where copies of what lies in an object store are, to be read often.
    pub cache_directory: PathBuf,
    /// Bytes of remote files that are kept there; with none, each is read from afar each time.
    pub block_cache_bytes_max: ByteSize,
    /// Tables kept open that nobody uses, at most: each holds some files open, and in memory what its log says.
    pub idle_tables_max: usize,
    /// What is done after a fold.
    pub after_fold: Option<Arc<dyn AfterFold>>,
    /// What times the history of tables.
    pub clock: Arc<dyn Clock>,
    /// What fails, in tests.
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

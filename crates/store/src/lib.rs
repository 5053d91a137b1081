//! Tables with a primary key. Each is a Lance dataset, the base, plus the writes that the base does not hold yet.
//!
//! A [`Store`] is a directory of tables, or a prefix of an object store. A [`Table`] takes writes: each call is one
//! atomic version, durable in a write-ahead log when it returns, and visible to every later [`Snapshot`] in any
//! process. A fold moves what was logged into the base, in the background. A snapshot reads the base without the rows
//! that later writes supersede, and then those writes. It never changes, however long it is held.
//!
//! | file | what it is |
//! |---|---|
//! | `NAME.lance` | the base: a plain Lance dataset, complete up to the last fold |
//! | `NAME.changes/*.log` | the write-ahead log, in segments |
//! | `NAME.changes/keys/` | the key index: the row id of each key in the base |
//! | `NAME.staged/` | claims on files that no version names yet |
//! | `NAME.lock`, `NAME.base.lock` | the locks for writing the log and for changing the base |
//! | `NAME.turn.lock` | the lock of the [`Turn`] |
//!
//! An object store has one object per group of writes in `NAME.changes/log/` instead, the lease of the writer in
//! `NAME.changes/lease/`, and that of the turn in `NAME.changes/turn/`.
//!
//! This crate does not know operators, search, media formats, or SQL text beyond a filter.
//!
//! ```
//! # async fn example() -> cenote_base::Result<()> {
//! use std::sync::Arc;
//! use arrow::array::record_batch;
//! use arrow::datatypes::{self as arrow_schema, DataType, Field, Schema};
//! use cenote_store::{ScanRequest, Store, StoreOptions, TableSpec};
//! use futures::TryStreamExt;
//!
//! let directory = tempfile::tempdir()?;
//! let store = Store::open(directory.path(), StoreOptions::default()).await?;
//! let schema = Schema::new(vec![
//!     Field::new("id", DataType::Int64, false),
//!     Field::new("caption", DataType::Utf8, true),
//! ]);
//! let table = store.create_table("photos", TableSpec::new(Arc::new(schema), ["id"])).await?;
//! table.upsert(record_batch!(("id", Int64, [1, 2]), ("caption", Utf8, ["a cat", "a dog"])).unwrap()).await?;
//!
//! let before = table.snapshot().await?;
//! table.upsert(record_batch!(("id", Int64, [2]), ("caption", Utf8, ["two dogs"])).unwrap()).await?;
//! assert_eq!(before.count(None).await?, 2);
//! let dogs = ScanRequest::default().columns(["id"]).filter("caption LIKE '%dogs'");
//! assert_eq!(before.scan(&dogs).await?.try_collect::<Vec<_>>().await?.iter().map(|b| b.num_rows()).sum::<usize>(), 0);
//! assert_eq!(table.snapshot().await?.count(Some("caption LIKE '%dogs'".into())).await?, 1);
//! # Ok(())
//! # }
//! # tokio::runtime::Runtime::new().unwrap().block_on(example()).unwrap();
//! ```

mod base;
mod changes;
mod errors;
mod faults;
mod feed;
mod files;
mod keys;
mod leases;
mod log;
mod reading;
mod rows;
mod state;
mod store;
mod table;
mod upkeep;
mod writing;

pub use errors::{arrow_error, lance_error};
pub use faults::Faults;
pub use feed::ChangeFeed;
pub use files::block_cache::BlockCacheUsage;
pub use leases::turn::Turn;
pub use reading::snapshot::{ROW_ID, RecordBatches, ScanRequest, Snapshot, row_ids_after};
pub use reading::widths::batch_rows;
pub use rows::column::HIDDEN_PREFIX;
pub use rows::filter::Filter;
pub use rows::primary_key::PrimaryKey;
pub use rows::schema::{BLOB_TYPE_KEY, blob_field, fixed_bytes, is_blob};
pub use state::location::{create_file, read_file};
pub use store::{Store, StoreOptions, TableSpec};
pub use table::{DEPENDENTS_PROPERTY, DUPLICATES_PROPERTY, DURABILITY_PROPERTY, Table, VOID, WriteReport};
pub use upkeep::collect::{Collected, RETENTION_BYTES_PROPERTY, RETENTION_PROPERTY};
pub use upkeep::schedule::{AfterFold, UpkeepStatus};
pub use writing::direct::Staged;

/// A position in a table's history; every write makes the next one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(pub u64);

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

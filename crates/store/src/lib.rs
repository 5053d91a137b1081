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
//! Inside, each folder is a part; the lower ones build on those above:
//!
//! | folder | what it holds |
//! |---|---|
//! | `files/`, `rows/` | files and objects; the shape of rows |
//! | `keys/`, `leases/`, `log/` | row ids by key; the rights to write and to change the base; the write-ahead log |
//! | `base/` | the Lance dataset: its rows by position, and commits to it |
//! | `changes/` | the newest version in memory, with the writes that the base does not hold yet |
//! | `reading/` | snapshots: scans, and lookups by key or row id |
//! | `state/` | a table that is open in this process and follows the log |
//! | `writing/` | group commits to the log, and writes that go straight to the base |
//! | `upkeep/` | folds, compaction of files, collection of the past |
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

mod after_fold;
mod base;
mod blocking;
mod changes;
mod errors;
mod faults;
mod feed;
mod files;
mod identity;
mod keys;
mod leases;
mod log;
mod options;
mod properties;
mod reading;
mod report;
mod row_id;
mod rows;
mod shared;
mod state;
mod store;
mod table;
mod upkeep;
mod version;
mod writing;

pub use after_fold::AfterFold;
pub use blocking::blocking;
pub use errors::{arrow_error, lance_error};
pub use faults::Faults;
pub use feed::ChangeFeed;
pub use files::block_cache::BlockCacheUsage;
pub use leases::turn::Turn;
pub use options::StoreOptions;
pub use properties::{
    DEPENDENTS_PROPERTY, DUPLICATES_PROPERTY, DURABILITY_PROPERTY, RETENTION_BYTES_PROPERTY, RETENTION_PROPERTY, VOID,
};
pub use reading::request::{RecordBatches, ScanRequest};
pub use reading::snapshot::Snapshot;
pub use reading::widths::batch_rows;
pub use report::WriteReport;
pub use row_id::{ROW_ID, row_ids_after};
pub use rows::column::HIDDEN_PREFIX;
pub use rows::filter::Filter;
pub use rows::primary_key::PrimaryKey;
pub use rows::schema::{BLOB_TYPE_KEY, bad_vectors, blob_field, fixed_bytes, is_blob};
pub use state::location::{create_file, read_file};
pub use store::{Store, TableSpec};
pub use table::Table;
pub use upkeep::collect::Collected;
pub use upkeep::schedule::UpkeepStatus;
pub use version::{Version, VersionInfo};
pub use writing::direct::Staged;

//! Tables with a primary key, as snapshots of Lance datasets.
//!
//! A [`Store`] is a directory of tables. A [`Table`] takes writes: each call is one atomic commit, and one writer at a time
//! holds the table, in this process and in others. A [`Snapshot`] reads: it never changes, however long it is held.
//!
//! This crate does not know operators, SQL text beyond a filter, search or media formats.
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

mod fault;
mod key;
mod lease;
mod schema;
mod snapshot;
mod store;
mod table;

pub use fault::{arrow_error, lance_error};
pub use key::PrimaryKey;
pub use schema::{BLOB_TYPE_KEY, HIDDEN_PREFIX, blob_field, is_blob};
pub use snapshot::{Filter, ROW_ID, RecordBatches, ScanRequest, Snapshot};
pub use store::{Store, StoreOptions, TableSpec};
pub use table::{DEPENDENTS_PROPERTY, Table, WriteReport};

/// A position in a table's history: every write makes the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(pub u64);

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

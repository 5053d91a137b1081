//! Training batches from tables: a computed order, shards for ranks and workers, exact resume, decoding ahead.
//!
//! A [`Loader`] reads one version of a table or of several. The order of an epoch depends only on the seed, the epoch
//! and the keys of the rows, not on the number of processes or the placement of rows. All ranks make the same number of
//! steps; after each step they have taken a prefix of the order together. A [`LoaderState`] is therefore a few numbers,
//! and a loader of another shape resumes from it with exactly the rows that are left.
//!
//! Threads read rows by id, decode and transform media, and hold at most a limit of bytes ahead.
//!
//! This crate knows nothing of Python or of what trains on the batches, nor of recipes, nor of SQL beyond a filter.
//!
//! ```
//! # async fn example() -> cenote_base::Result<()> {
//! use std::sync::Arc;
//! use arrow::array::{AsArray, Int64Array, RecordBatch};
//! use arrow::datatypes::{DataType, Field, Int64Type, Schema};
//! use cenote_loader::{Loader, LoaderOptions, SampleSource};
//! use cenote_store::{Store, StoreOptions, TableSpec};
//!
//! let directory = tempfile::tempdir()?;
//! let store = Store::open(directory.path(), StoreOptions::default()).await?;
//! let schema = Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, false)]));
//! let table = store.create_table("numbers", TableSpec::new(schema.clone(), ["id"])).await?;
//! let numbers = Arc::new(Int64Array::from_iter_values(0..10));
//! table.upsert(RecordBatch::try_new(schema, vec![numbers]).unwrap()).await?;
//!
//! let options = LoaderOptions { batch_rows: 4, shuffle: Some(7), ..LoaderOptions::default() };
//! let open = || Loader::open(vec![SampleSource::new(table.clone())], options.clone());
//! let loader = Arc::new(open().await?);
//! let reader = loader.clone();
//! let first = tokio::task::spawn_blocking(move || reader.next_batch()).await.unwrap()?;
//! assert_eq!(first.unwrap().len(), 4);
//!
//! // Another loader, perhaps of another shape, resumes at the position of this one.
//! let other = LoaderOptions { batch_rows: 6, ..options };
//! let other = Loader::open(vec![SampleSource::new(table)], other).await?;
//! other.restore(&loader.state()).await?;
//! let rest = tokio::task::spawn_blocking(move || other.next_batch()).await.unwrap()?;
//! assert_eq!(rest.unwrap().len(), 6);
//! # Ok(())
//! # }
//! # tokio::runtime::Runtime::new().unwrap().block_on(example()).unwrap();
//! ```

mod batch;
mod loader;
mod options;
mod order;
mod pipeline;
mod shard;
mod sources;
mod state;

pub use batch::tensor_pool::TensorBuffer;
pub use batch::transform::Transform;
pub use batch::{Batch, ColumnTensor, DecodeFailure, OnError, PackedColumn, TensorValues};
pub use loader::Loader;
pub use options::LoaderOptions;
pub use order::Shuffle;
pub use order::buckets::Buckets;
pub use pipeline::{Next, Offer, Stats};
pub use shard::EpochTail;
pub use sources::selection::SampleSource;
pub use state::{LoaderState, SourceState, merge};

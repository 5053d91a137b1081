//! Indexes over a table, and the searches that use them: vector, full-text and hybrid search, and scalar filters.
//!
//! [`Indexes`] creates, lists, maintains, drops and searches them; a search reads one
//! [`Snapshot`](cenote_store::Snapshot). An index may lag behind its table, but a search is never stale: it compares
//! the rows that the index lacks one by one and merges them in, and it never finds a deleted or replaced row by its old
//! value. A search under a filter returns min(k, matching rows).
//!
//! This crate does not know SQL, beyond a predicate that it hands to the store, nor operators: a query vector is given
//! as numbers.
//!
//! ```
//! # async fn example() -> cenote_base::Result<()> {
//! use std::sync::Arc;
//! use arrow::array::record_batch;
//! use arrow::datatypes::{self as arrow_schema, DataType, Field, Schema};
//! use cenote_index::{IndexKind, IndexSpec, Indexes, TextQuery};
//! use cenote_store::{Store, StoreOptions, TableSpec};
//!
//! let directory = tempfile::tempdir()?;
//! let store = Store::open(directory.path(), StoreOptions::default()).await?;
//! let schema = Schema::new(vec![Field::new("id", DataType::Int64, false), Field::new("note", DataType::Utf8, true)]);
//! let table = store.create_table("notes", TableSpec::new(Arc::new(schema), ["id"])).await?;
//! table.upsert(record_batch!(("id", Int64, [1, 2]), ("note", Utf8, ["a red car", "rain"])).unwrap()).await?;
//! let indexes = Indexes::default();
//! indexes.create(&table, &IndexSpec::new("note", IndexKind::full_text())).await?;
//!
//! // A row that is written after the index was built is found all the same.
//! table.upsert(record_batch!(("id", Int64, [3]), ("note", Utf8, ["red cars, red cars"])).unwrap()).await?;
//! let found = indexes.text_search(&table.snapshot().await?, &TextQuery::new("red car", 10)).await?;
//! assert_eq!(found.num_rows(), 2);
//! let query = TextQuery::new("(\"red car\" OR rian~2) AND NOT car", 10);
//! assert_eq!(indexes.text_search(&table.snapshot().await?, &query).await?.num_rows(), 1);
//! # Ok(())
//! # }
//! # tokio::runtime::Runtime::new().unwrap().block_on(example()).unwrap();
//! ```

mod build;
mod catalog;
mod definition;
mod hits;
mod hybrid;
mod indexes;
mod kind;
mod metric;
mod options;
mod rows;
mod spec;
mod text;
mod vector;

pub use build::train::Trainer;
pub use catalog::IndexInfo;
pub use definition::{Measured, PROPERTY_PREFIX, SearchSettings};
pub use hits::{DISTANCE, Hit, K_MAX, SCORE, materialize};
pub use hybrid::HybridQuery;
pub use indexes::Indexes;
pub use kind::{IndexKind, NGramLengths, ScalarStructure, TextOptions, VectorOptions, VectorStructure};
pub use metric::{Metric, is_packed_byte};
pub use options::IndexOptions;
pub use spec::IndexSpec;
pub use text::search::TextQuery;
pub use vector::exact::vector_dimensions;
pub use vector::search::{VectorQuery, VectorStrategy};
pub use vector::tune::{TunePoint, Tuning};

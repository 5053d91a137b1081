//! SQL over a store's tables, with searches and operators in it, on DataFusion.
//!
//! [`QueryEngine::sql`] runs one statement, which sees every table at one version: the newest when it was planned. SQL
//! only reads, except that it creates and drops indexes; tables are created and changed through the API or the command
//! line.
//!
//! | SQL | meaning |
//! |---|---|
//! | `l2_distance(a, b)`, `cosine_distance`, `inner_product`, `hamming_distance` | a number from two vectors |
//! | `ORDER BY l2_distance(column, [..]) LIMIT k` | a search of the column's index, if it has one for that distance |
//! | `vector_search('table', 'column', vector, k [, filter])` | the table's nearest rows, with `_distance` |
//! | `text_search('table', 'query', k [, filter])` | the rows that match a [query][text] best, with `_score` |
//! | `hybrid_search('table', 'column', vector, 'query', k [, filter])` | both rankings fused |
//! | `more_like('table', 'column', key.., k [, filter])` | the rows nearest to one row, without it |
//! | `embed_text('red car')`, and every other row-wise operator | its output column, or a struct of its outputs |
//! | `CREATE INDEX [name] ON table [USING kind] (column) [WITH (option = value)]` | a new index, by default `btree` |
//! | `DROP INDEX name ON table`, `SHOW INDEXES FROM table` | indexes dropped and listed |
//!
//! A vector is an array literal, an operator call, or a scalar subquery. Nulls sort last, ascending or descending.
//! Floats have PostgreSQL's order: −0.0 equals 0.0, and every NaN equals every other and is greater than all numbers.
//!
//! This crate does not know pipelines, protocols or Lance.
//!
//! [text]: cenote_index::TextQuery::query
//!
//! ```
//! # async fn example() -> cenote_base::Result<()> {
//! use std::sync::Arc;
//! use arrow::array::record_batch;
//! use arrow::datatypes::{self as arrow_schema, DataType, Field, Schema};
//! use cenote_index::Indexes;
//! use cenote_operator::Registry;
//! use cenote_query::{QueryEngine, QueryOptions};
//! use cenote_scheduler::{Scheduler, SchedulerOptions};
//! use cenote_store::{Store, StoreOptions, TableSpec};
//!
//! let directory = tempfile::tempdir()?;
//! let store = Store::open(directory.path(), StoreOptions::default()).await?;
//! let schema = Schema::new(vec![Field::new("id", DataType::Int64, false), Field::new("note", DataType::Utf8, true)]);
//! let table = store.create_table("notes", TableSpec::new(Arc::new(schema), ["id"])).await?;
//! table.upsert(record_batch!(("id", Int64, [1, 2]), ("note", Utf8, ["a red car", "rain"])).unwrap()).await?;
//!
//! let scheduler = Scheduler::new(SchedulerOptions::default())?;
//! let (options, registry) = (QueryOptions::default(), Arc::new(Registry::default()));
//! let engine = QueryEngine::new(options, store, Indexes::default(), registry, &scheduler)?;
//! let answer = engine.sql("SELECT id FROM notes WHERE note LIKE '%car'").await?.collect().await?;
//! assert_eq!(answer[0].num_rows(), 1);
//! # Ok(())
//! # }
//! # tokio::runtime::Runtime::new().unwrap().block_on(example()).unwrap();
//! ```

mod engine;
mod fault;
mod scalar;
mod search;
mod statement;
mod table;

pub use engine::{QueryEngine, QueryOptions, QueryResult};
pub use statement::parameter::Parameter;

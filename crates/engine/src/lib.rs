//! Recipes over tables: derived columns and child tables that are kept current by doing only what changed.
//!
//! A [`Recipe`] is plain data. [`Engine::run`] checks all of it against the tables and the operators, then runs its
//! steps. Every derived value carries the fingerprint by which it was made (operator, version, parameters, model, and
//! the fingerprints of derived inputs), and every change of a row voids the fingerprints that depend on what changed.
//! So a second run processes only the rows whose fingerprint is missing or different, an interrupted run resumes at its
//! last commit, and a bad row becomes a null and an entry in the error table.
//!
//! This crate does not know SQL beyond handing a predicate to the store, nor indexes, protocols, or what operators do.
//!
//! ```
//! # async fn example() -> cenote_base::Result<()> {
//! use std::sync::Arc;
//! use arrow::array::{Array, ArrayRef, AsArray, Int32Array, record_batch};
//! use arrow::datatypes::{self as arrow_schema, DataType, Field, Schema};
//! use cenote_engine::{Engine, EngineOptions, Recipe, RunOptions, Step};
//! use cenote_operator::{Definition, OperatorSpec, Port, PortType, Registry, Rows, row_wise};
//! use cenote_scheduler::{Scheduler, SchedulerOptions};
//! use cenote_store::{Store, StoreOptions, TableSpec};
//!
//! let mut registry = Registry::default();
//! registry.register(
//!     Definition::new("count_words", 1, "Number of words", |_params| {
//!         Ok(row_wise(vec![Field::new("words", DataType::Int32, true)], |rows: &Rows<'_>| {
//!             let text = rows.column(0).as_string::<i32>();
//!             let words: Int32Array = text.iter().map(|t| t.map(|t| t.split_whitespace().count() as i32)).collect();
//!             Ok(vec![Arc::new(words) as ArrayRef].into())
//!         }))
//!     })
//!     .input(Port::new("text", PortType::Text)),
//! );
//! let directory = tempfile::tempdir()?;
//! let store = Store::open(directory.path(), StoreOptions::default()).await?;
//! let schema = Schema::new(vec![Field::new("id", DataType::Int64, false), Field::new("note", DataType::Utf8, true)]);
//! let table = store.create_table("notes", TableSpec::new(Arc::new(schema), ["id"])).await?;
//! table.upsert(record_batch!(("id", Int64, [1, 2]), ("note", Utf8, ["two words", "one"])).unwrap()).await?;
//!
//! let scheduler = Scheduler::new(SchedulerOptions::default())?;
//! let engine = Engine::new(store, Arc::new(registry), scheduler, EngineOptions::default());
//! let recipe = Recipe::new("words", vec![Step::new("notes", OperatorSpec::new("count_words"), "note")]);
//! assert_eq!(engine.run(&recipe, &RunOptions::default()).await?.steps[0].rows_processed, 2);
//! table.upsert(record_batch!(("id", Int64, [2]), ("note", Utf8, ["now three words"])).unwrap()).await?;
//! assert_eq!(engine.run(&recipe, &RunOptions::default()).await?.steps[0].rows_processed, 1);
//! # Ok(())
//! # }
//! # tokio::runtime::Runtime::new().unwrap().block_on(example()).unwrap();
//! ```

mod devices;
mod engine;
mod fault;
mod group;
mod group_work;
mod pass;
mod plan;
mod prepare;
mod recipe;
mod record;
mod report;
mod run;
mod yaml;

pub use devices::Devices;
pub use engine::{Engine, EngineOptions, RunOptions};
pub use recipe::{IndexRequest, Keep, Recipe, Step};
pub use record::derivation::{Derivation, derivations, fingerprints_of};
pub use record::error_table::{ERROR_TABLE, ErrorTable};
pub use report::{RunReport, StagePlan, StepReport};

//! The facade: a [`Lake`] wires store, scheduler, operators, models, engine, indexes, queries and training loaders
//! together. An embedder depends on this crate alone: it re-exports every type that its own API uses.
//!
//! It knows no protocol: the command line, servers and language bindings stand above it.
//!
//! ```
//! # async fn example() -> cenote_runtime::Result<()> {
//! use std::sync::Arc;
//! use cenote_runtime::arrow::array::record_batch;
//! use cenote_runtime::arrow::datatypes::{self as arrow_schema, DataType, Field, Schema};
//! use cenote_runtime::{Lake, LakeOptions, Recipe, RunOptions, TableSpec};
//!
//! let directory = tempfile::tempdir()?;
//! Lake::init(directory.path()).await?;
//! let lake = Lake::open(directory.path(), LakeOptions::default()).await?;
//! let schema = Schema::new(vec![Field::new("id", DataType::Int64, false), Field::new("note", DataType::Utf8, true)]);
//! let notes = lake.create_table("notes", TableSpec::new(Arc::new(schema), ["id"])).await?;
//! notes.upsert(record_batch!(("id", Int64, [1, 2]), ("note", Utf8, ["a red car", "rain"])).unwrap()).await?;
//!
//! let recipe = "{ name: words, steps: [ { table: notes, operator: count_words, input: note } ] }";
//! lake.run(&Recipe::from_yaml(recipe, "words.yaml")?, &RunOptions::default()).await?;
//! let answer = lake.sql("SELECT id FROM notes WHERE words = 3").await?.collect().await?;
//! assert_eq!(answer[0].num_rows(), 1);
//! # Ok(())
//! # }
//! # tokio::runtime::Runtime::new().unwrap().block_on(example()).unwrap();
//! ```

mod budget;
mod device;
mod embed;
mod ingest;
mod lake;
mod search;
mod status;
mod table;
mod train;
mod upkeep;

pub use arrow;
pub use cenote_base::sync;
pub use cenote_base::{
    ByteSize, Clock, Context, DeviceShare, Error, ErrorKind, Progress, Random, Resources, Result, Share, Silent,
    SystemClock, Timestamp, both, unknown,
};
pub use cenote_engine::{
    Derivation, ERROR_TABLE, IndexRequest, Keep, Recipe, RunOptions, RunReport, StagePlan, Step, StepReport,
    derivations,
};
pub use cenote_index::{
    IndexInfo, IndexKind, IndexSpec, Measured, Metric, NGramLengths, ScalarStructure, SearchSettings, TextOptions,
    TunePoint, Tuning, VectorOptions, VectorStructure,
};
pub use cenote_loader as loader;
pub use cenote_models as models;
pub use cenote_operator as operator;
pub use cenote_query::{Parameter, QueryResult};
pub use cenote_scheduler as scheduler;
pub use cenote_scheduler::{Cancel, Scheduler, SchedulerStatus, Usage, WorkOptions, byte_queue};
pub use cenote_store::{
    ChangeFeed, Collected, DUPLICATES_PROPERTY, DURABILITY_PROPERTY, Filter, PrimaryKey, RETENTION_BYTES_PROPERTY,
    RETENTION_PROPERTY, ROW_ID, RecordBatches, ScanRequest, Snapshot, Staged, TableSpec, UpkeepStatus, Version,
    VersionInfo, WriteReport, blob_field, is_blob,
};
pub use device::DeviceChoice;
pub use ingest::{IngestReport, SkippedFile, media_schema};
pub use lake::{Lake, LakeOptions, Tended, operators};
pub use search::Search;
pub use status::{LakeStatus, TableStatus};
pub use table::{Table, VectorColumn};

//! The engine: one statement in, a stream of batches out.

use std::collections::HashMap;
use std::fmt;
use std::num::NonZeroUsize;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use cenote_base::{ByteSize, Error, Result};
use cenote_index::Indexes;
use cenote_operator::Registry;
use cenote_scheduler::{Cancel, Scheduler};
use cenote_store::{RecordBatches, Store};
use datafusion::catalog::{CatalogProviderList, MemoryCatalogProviderList};
use datafusion::execution::FunctionRegistry;
use datafusion::execution::memory_pool::FairSpillPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::session_state::{SessionState, SessionStateBuilder};
use datafusion::physical_plan::execute_stream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::prelude::{SQLOptions, SessionConfig};
use datafusion::sql::sqlparser::dialect::dialect_from_str;
use futures::{StreamExt, TryStreamExt, stream};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use crate::fault::query_error;
use crate::scalar::distance;
use crate::scalar::float_order::FloatOrder;
use crate::scalar::operator::OperatorFunctions;
use crate::search::nearest_rule::NearestRule;
use crate::search::table_function;
use crate::statement::depth;
use crate::statement::index::IndexStatement;
use crate::statement::parameter::{self, Parameter};
use crate::statement::reading;
use crate::table::catalog::{CATALOG, PinnedCatalog, SCHEMA};
use crate::table::pinned::Pinned;
use crate::table::scan;

/// Batches of a result that are buffered ahead of its reader.
const RESULT_QUEUE_BATCHES: usize = 2;

/// Limits of a [`QueryEngine`].
#[derive(Debug, Clone)]
pub struct QueryOptions {
    /// Bytes that the sorts, joins and aggregations of all queries hold together; beyond it they spill to disk or fail.
    pub memory_bytes_max: ByteSize,
    /// Rows of a batch, at most.
    pub batch_rows: usize,
    /// Threads that plan and run queries.
    pub threads: NonZeroUsize,
}

impl Default for QueryOptions {
    fn default() -> Self {
        Self {
            memory_bytes_max: ByteSize::mib(256),
            batch_rows: 8192,
            threads: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
        }
    }
}

/// SQL over a store's tables. Queries run on the engine's own threads, never on the caller's.
pub struct QueryEngine {
    store: Store,
    indexes: Indexes,
    state: SessionState,
    operators: Arc<OperatorFunctions>,
    threads: Threads,
}

impl fmt::Debug for QueryEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueryEngine").field("store", &self.store).finish_non_exhaustive()
    }
}

/// A runtime that may be dropped anywhere, also on a thread of another runtime: queries that run are stopped without
/// waiting for them.
struct Threads(Option<Runtime>);

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl QueryEngine {
    /// Opens an engine over `store` that searches by `indexes`. The row-wise operators of `registry` are its functions,
    /// and run on `scheduler`.
    pub fn new(
        options: QueryOptions,
        store: Store,
        indexes: Indexes,
        registry: Arc<Registry>,
        scheduler: &Scheduler,
    ) -> Result<Self> {
        let mut config = SessionConfig::new()
            .with_default_catalog_and_schema(CATALOG, SCHEMA)
            .with_create_default_catalog_and_schema(false)
            .with_information_schema(true)
            .with_batch_size(options.batch_rows.max(1))
            .with_target_partitions(options.threads.get());
        // Ascending or descending, a row without a distance is never the nearest.
        config.options_mut().sql_parser.default_null_ordering = "nulls_last".to_owned();
        let environment = RuntimeEnvBuilder::new()
            .with_memory_pool(Arc::new(FairSpillPool::new(options.memory_bytes_max.0 as usize)))
            .build_arc()
            .map_err(query_error)?;
        let mut state = SessionStateBuilder::new()
            .with_config(config)
            .with_runtime_env(environment)
            .with_default_features()
            .with_analyzer_rule(Arc::new(FloatOrder))
            .with_optimizer_rule(Arc::new(NearestRule))
            .build();
        let operators = OperatorFunctions::new(&registry, scheduler);
        for function in distance::functions().chain(operators.of_query(&Cancel::default())) {
            // Whether a built-in function with the same alias wins depends on the order of a hash table, so it is
            // removed.
            if let Ok(taken) = state.udf(function.name()) {
                state.deregister_udf(taken.name()).map_err(query_error)?;
            }
            state.register_udf(Arc::new(function)).map_err(query_error)?;
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(options.threads.get())
            .thread_stack_size(depth::STACK_BYTES)
            .thread_name("cenote-query")
            .enable_all()
            .build()
            .map_err(|source| Error::from(source).context("start query threads"))?;
        Ok(Self { store, indexes, state, operators: Arc::new(operators), threads: Threads(Some(runtime)) })
    }

    /// Runs `text`, one statement that reads, or that creates, drops or lists indexes. The statement sees every table
    /// at its newest version, and at the same version wherever it is named. Dropping the result stops the query.
    ///
    /// # Errors
    /// `InvalidInput` for text that does not parse or type-check; `NotFound` for an unknown table, naming the known
    /// ones; `Unsupported` for a statement that changes rows or tables, naming what does so instead. Errors while the
    /// statement runs come from the stream.
    pub async fn sql(&self, text: &str) -> Result<QueryResult> {
        self.sql_with(text, &[]).await
    }

    /// Runs a statement with placeholders, as [`sql`](Self::sql) does: `$1` stands for the first of `parameters`, and
    /// so on.
    ///
    /// # Errors
    /// Those of [`sql`](Self::sql), and `InvalidInput` when placeholders and parameters do not match.
    pub async fn sql_with(&self, text: &str, parameters: &[Parameter]) -> Result<QueryResult> {
        let Some(runtime) = &self.threads.0 else { return Err(Error::internal("the query engine was stopped")) };
        let (store, indexes) = (self.store.clone(), self.indexes.clone());
        let (mut state, text) = (self.state.clone(), text.to_owned());
        let cancel = Cancel::default();
        for function in self.operators.of_query(&cancel).chain(parameter::functions(parameters)?) {
            state.register_udf(Arc::new(function)).map_err(query_error)?;
        }
        let parameters = parameters.to_vec();
        let (schema_sender, schema) = tokio::sync::oneshot::channel();
        let (batch_sender, batches) = mpsc::channel::<Result<RecordBatch>>(RESULT_QUEUE_BATCHES);
        let task = runtime.spawn(async move {
            let mut stream = match plan(store, indexes, state, &text, &parameters).await {
                Ok(stream) => stream,
                Err(error) => return drop(schema_sender.send(Err(error))),
            };
            if schema_sender.send(Ok(stream.schema())).is_err() {
                return;
            }
            while let Some(batch) = stream.next().await {
                if batch_sender.send(batch.map_err(query_error)).await.is_err() {
                    return;
                }
            }
        });
        let stop = StopOnDrop { task: task.abort_handle(), operators: cancel };
        let schema = schema.await.map_err(|_| Error::internal("the query stopped while it was planned"))??;
        // A task that panics closes the channel too, which must not look like the end of the result.
        let batches = stream::unfold((batches, Some(task), stop), |(mut batches, task, stop)| async move {
            if let Some(batch) = batches.recv().await {
                return Some((batch, (batches, task, stop)));
            }
            match task?.await {
                Ok(()) => None,
                Err(source) => {
                    let what = "the query stopped while it ran";
                    let error = if source.is_cancelled() { Error::cancelled(what) } else { Error::internal(what) };
                    let error = error.with_source(source);
                    Some((Err(error), (batches, None, stop)))
                }
            }
        });
        Ok(QueryResult { schema, stream: batches.boxed() })
    }
}

/// Stops a query when dropped, also while it waits for an operator.
struct StopOnDrop {
    task: AbortHandle,
    operators: Cancel,
}

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.task.abort();
        self.operators.cancel();
    }
}

/// Plans the statement `text`, and starts its execution.
async fn plan(
    store: Store,
    indexes: Indexes,
    state: SessionState,
    text: &str,
    parameters: &[Parameter],
) -> Result<datafusion::execution::SendableRecordBatchStream> {
    let dialect = state.config_options().sql_parser.dialect;
    if let Some(dialect) = dialect_from_str(dialect) {
        depth::check(text, dialect.as_ref())?;
    }
    let mut statement = state.sql_to_statement(text, &dialect).map_err(query_error)?;
    parameter::bind(&mut statement, parameters)?;
    if let Some(statement) = IndexStatement::read(&statement)? {
        let rows = Box::pin(statement.run(&store, &indexes)).await?;
        let schema = rows.schema();
        return Ok(Box::pin(RecordBatchStreamAdapter::new(schema, stream::iter([Ok(rows)]))));
    }
    reading::check_reads(&statement)?;
    let searched = reading::searched_tables(&statement)?;
    let function_names = state.table_functions().keys().cloned().chain(table_function::names()).collect();
    let pinned = Pinned::new(store, indexes, function_names).await?;
    for table in searched {
        pinned.pin(&table).await?;
    }
    let catalogs = MemoryCatalogProviderList::new();
    catalogs.register_catalog(CATALOG.to_owned(), Arc::new(PinnedCatalog::new(Arc::clone(&pinned))));
    let mut functions: HashMap<_, _> = state.table_functions().clone();
    functions.extend(table_function::functions(&pinned));
    let mut state = SessionStateBuilder::new_from_existing(state)
        .with_catalog_list(Arc::new(catalogs))
        .with_table_functions(functions)
        .build();
    // The time of `now()` and `current_date`.
    state.mark_start_execution();
    let logical = state.statement_to_plan(statement).await.map_err(query_error)?;
    let reads = SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
    reads.verify_plan(&logical).map_err(|source| {
        Error::unsupported("SQL only reads; rows and tables change outside of SQL").with_source(source)
    })?;
    let mut physical = state.create_physical_plan(&logical).await.map_err(query_error)?;
    let rows_max = state.config().batch_size();
    let batch_rows = scan::batch_rows(&physical, rows_max);
    if batch_rows < rows_max {
        // Many plans join batches up to the configured number of rows, which a filter reads when it is planned.
        let config = state.config().clone().with_batch_size(batch_rows);
        state = SessionStateBuilder::new_from_existing(state).with_config(config).build();
        physical = state.create_physical_plan(&logical).await.map_err(query_error)?;
    }
    execute_stream(physical, state.task_ctx()).map_err(query_error)
}

/// The result of a statement.
#[non_exhaustive]
pub struct QueryResult {
    /// The columns of the result.
    pub schema: SchemaRef,
    /// The rows of the result. The stream ends after its first error.
    pub stream: RecordBatches,
}

impl fmt::Debug for QueryResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueryResult").field("schema", &self.schema).finish_non_exhaustive()
    }
}

impl QueryResult {
    /// Collects all batches, at least one: an empty result is one empty batch, which has the columns.
    pub async fn collect(self) -> Result<Vec<RecordBatch>> {
        let mut batches: Vec<RecordBatch> = self.stream.try_collect().await?;
        if batches.is_empty() {
            batches.push(RecordBatch::new_empty(self.schema));
        }
        Ok(batches)
    }
}

//! A lake: tables in one place, and everything that works on them.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroUsize;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::RecordBatch;
use cenote_base::{ByteSize, Error, ErrorKind, Progress, Result};
use cenote_engine::{
    ERROR_TABLE, Engine, EngineOptions, ErrorTable, IndexRequest, Recipe, RunOptions, RunReport, StagePlan,
};
use cenote_index::{IndexKind, IndexOptions, IndexSpec, Indexes, Trainer};
use cenote_models::{ModelOptions, ModelRegistry, Provider};
use cenote_operator::{Definition, Registry};
use cenote_query::{Parameter, QueryEngine, QueryOptions, QueryResult};
use cenote_scheduler::{Scheduler, SchedulerOptions};
use cenote_store::{Store, StoreOptions, TableSpec, create_file, read_file};
use serde_json::json;

use crate::budget::{self, Budget};
use crate::device::{DeviceChoice, device};
use crate::ingest::{self, IngestReport};
use crate::status::{self, LakeStatus};
use crate::table::Table;
use crate::train::DeviceTrainer;
use crate::upkeep::IndexUpkeep;

const MARKER: &str = "cenote.json";
const FORMAT: u64 = 1;
const TABLES: &str = "tables";

/// Limits and settings of a [`Lake`].
///
/// ```
/// use cenote_runtime::{ByteSize, LakeOptions};
///
/// let options = LakeOptions::default().memory_max(ByteSize::mib(512)).cpus(2.0);
/// assert_eq!(options.cpus, Some(2.0));
/// ```
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct LakeOptions {
    /// The memory budget, at least [`MEMORY_MIN`](Self::MEMORY_MIN). `None`: a quarter of the memory of the machine or
    /// container, from 256 MiB to 4 GiB.
    pub memory_max: Option<ByteSize>,
    /// Bytes of a remote lake that are cached on the local disk. `None`: 4 GiB.
    pub cache_max: Option<ByteSize>,
    /// CPU cores for operators, within [`CPUS`](Self::CPUS). `None`: all.
    pub cpus: Option<f32>,
    /// The device for kernels of operators and for learning the centres of vector indexes on disk. With
    /// [`DeviceChoice::Auto`] and [`DeviceChoice::Gpu`], models run on a GPU too where ONNX Runtime can.
    pub device: DeviceChoice,
    /// Units of named resources that operators may request.
    pub named: BTreeMap<String, u32>,
    /// The sources of models and of the packages that they are built from.
    pub models: ModelOptions,
    /// Memory for a timeline of the newest work (see [`Scheduler::write_trace`]); 0 by default, which keeps none.
    pub trace_max: ByteSize,
    /// The seed of everything random.
    pub seed: u64,
    /// Operators beside Cenote's own; one of the same name replaces Cenote's.
    pub operators: Vec<Definition>,
}

impl LakeOptions {
    /// The smallest [`memory_max`](Self::memory_max).
    pub const MEMORY_MIN: ByteSize = budget::MIN;

    /// The range of [`cpus`](Self::cpus).
    pub const CPUS: RangeInclusive<f32> = SchedulerOptions::CPU_CORES;

    /// Sets the memory budget.
    pub fn memory_max(mut self, bytes: impl Into<Option<ByteSize>>) -> Self {
        self.memory_max = bytes.into();
        self
    }

    /// Sets the bytes of a remote lake that are cached on the local disk.
    pub fn cache_max(mut self, bytes: impl Into<Option<ByteSize>>) -> Self {
        self.cache_max = bytes.into();
        self
    }

    /// Sets the CPU cores for operators.
    pub fn cpus(mut self, cores: impl Into<Option<f32>>) -> Self {
        self.cpus = cores.into();
        self
    }

    /// Sets the device for kernels of operators and for learning the centres of vector indexes on disk.
    pub fn device(mut self, device: DeviceChoice) -> Self {
        self.device = device;
        self
    }

    /// Sets the units of named resources that operators may request.
    pub fn named(mut self, units: BTreeMap<String, u32>) -> Self {
        self.named = units;
        self
    }

    /// Sets the sources of models and of the packages that they are built from.
    pub fn models(mut self, models: ModelOptions) -> Self {
        self.models = models;
        self
    }

    /// Sets the memory for a timeline of the newest work.
    pub fn trace_max(mut self, bytes: ByteSize) -> Self {
        self.trace_max = bytes;
        self
    }

    /// Sets the seed of everything random.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Sets the operators beside Cenote's own.
    pub fn operators(mut self, operators: Vec<Definition>) -> Self {
        self.operators = operators;
        self
    }
}

/// Tables in one place, with operators, models, recipes, search and SQL over them. Cheap to clone.
#[derive(Clone)]
pub struct Lake {
    shared: Arc<Shared>,
}

/// A table on which [`Lake::tend`] did upkeep.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Tended {
    /// The table's name.
    pub table: String,
    /// The reason why upkeep was due.
    pub reason: String,
}

struct Shared {
    location: PathBuf,
    store: Store,
    indexes: Indexes,
    registry: Arc<Registry>,
    models: Arc<ModelRegistry>,
    scheduler: Scheduler,
    engine: Engine,
    query: QueryEngine,
    memory_max: ByteSize,
}

impl fmt::Debug for Lake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lake").field("location", &self.shared.location).finish_non_exhaustive()
    }
}

impl Lake {
    /// Creates an empty lake at `location`: a directory, which may exist already, or a URI such as `s3://bucket/lake`.
    ///
    /// # Errors
    /// `AlreadyExists` when `location` is already a lake.
    pub async fn init(location: impl AsRef<Path>) -> Result<()> {
        let location = location.as_ref();
        let text = format!("{}\n", json!({ "format": FORMAT }));
        match create_file(location, MARKER, text.into_bytes()).await? {
            true => Ok(()),
            false => Err(Error::already_exists(format!("{} is already a lake", location.display()))),
        }
    }

    /// Opens the lake at `location`, a directory or a URI.
    ///
    /// # Errors
    /// `NotFound` when `location` is not a lake; `InvalidInput` for a budget that is too small, or CPUs out of their
    /// range; `Unsupported` for a lake of a newer Cenote, or a device that is not there.
    pub async fn open(location: impl AsRef<Path>, options: LakeOptions) -> Result<Self> {
        let location = location.as_ref().to_path_buf();
        check_format(&location).await?;
        let memory_max = budget::total(options.memory_max).await?;
        // Where kernels may run on a GPU, models may too.
        let provider = match (options.models.provider, options.device) {
            (Provider::Cpu, DeviceChoice::Auto | DeviceChoice::Gpu) => Provider::Auto,
            (asked, _) => asked,
        };
        let budget = Budget::of(memory_max);
        let sessions_bytes_max = options.models.sessions_bytes_max.or(Some(budget.sessions()));
        let models = Arc::new(ModelRegistry::new(ModelOptions { provider, sessions_bytes_max, ..options.models })?);
        let defaults = SchedulerOptions::default();
        // Loading a driver blocks for long.
        let found = tokio::task::spawn_blocking(move || device(options.device)).await;
        let found = found.map_err(|source| Error::internal("look for a device").with_source(source))??;
        let (device, devices) = found.unzip();
        let cpu_cores = options.cpus.unwrap_or(defaults.cpu_cores);
        if !LakeOptions::CPUS.contains(&cpu_cores) {
            let (least, most) = LakeOptions::CPUS.into_inner();
            let what = format!("cpus must be from {least} to {most}, found {cpu_cores}");
            return Err(Error::invalid_input(what));
        }
        let threads = NonZeroUsize::new(cpu_cores.ceil() as usize).unwrap_or(NonZeroUsize::MIN);
        let scheduler = Scheduler::new(SchedulerOptions {
            cpu_cores,
            memory_max: budget.work,
            named: options.named,
            devices: device.into_iter().collect(),
            trace_max: options.trace_max,
            seed: options.seed,
            ..defaults
        })?;
        let trainer = devices.as_ref().map(|devices| DeviceTrainer::new(&scheduler, &devices.class));
        let indexes = Indexes::new(IndexOptions {
            memory_bytes_max: budget.graphs,
            cache_bytes_max: budget.searches,
            build_bytes_max: budget.builds,
            threads: threads.get(),
            directory: Some(models.cache_dir().join("graphs")),
            trainer: trainer.transpose()?.map(|trainer| Arc::new(trainer) as Arc<dyn Trainer>),
            ..IndexOptions::default()
        });
        let defaults = StoreOptions::default();
        let store_options = StoreOptions {
            block_cache_bytes_max: options.cache_max.unwrap_or(defaults.block_cache_bytes_max),
            index_cache_bytes_max: budget.index_pages,
            metadata_cache_bytes_max: budget.metadata,
            page_cache_bytes_max: budget.pages,
            fold_bytes: budget.fold().min(defaults.fold_bytes),
            cache_directory: models.cache_dir().join("tables"),
            after_fold: Some(Arc::new(IndexUpkeep::new(indexes.clone()))),
            ..defaults
        };
        let store = Store::open(location.join(TABLES), store_options).await?;
        let registry = Arc::new(register(&models, options.operators));
        let engine_options = EngineOptions {
            row_bytes_max: budget.row(),
            budget_bytes: memory_max,
            devices,
            ..EngineOptions::default()
        };
        let engine = Engine::new(store.clone(), Arc::clone(&registry), scheduler.clone(), engine_options);
        let query_options = QueryOptions { memory_bytes_max: budget.queries, threads, ..QueryOptions::default() };
        let query = QueryEngine::new(query_options, store.clone(), indexes.clone(), Arc::clone(&registry), &scheduler)?;
        let shared = Shared { location, store, indexes, registry, models, scheduler, engine, query, memory_max };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Returns the lake's directory or URI.
    pub fn location(&self) -> &Path {
        &self.shared.location
    }

    /// Gives up the right to write, so that other processes need not wait for it to lapse: call it before the process
    /// ends. See [`Store::release`].
    pub async fn release(&self) -> Result<()> {
        self.shared.store.release().await
    }

    /// Returns the operators that recipes and SQL can name.
    pub fn registry(&self) -> &Arc<Registry> {
        &self.shared.registry
    }

    /// Returns the models that operators run.
    pub fn models(&self) -> &Arc<ModelRegistry> {
        &self.shared.models
    }

    /// Returns the scheduler on which operators run.
    pub fn scheduler(&self) -> &Scheduler {
        &self.shared.scheduler
    }

    /// Creates a table.
    ///
    /// # Errors
    /// `AlreadyExists` for a name in use; `InvalidInput` for a name, schema or key that no table can have.
    pub async fn create_table(&self, name: &str, spec: TableSpec) -> Result<Table> {
        check_name(name)?;
        Box::pin(self.shared.store.create_table(name, spec)).await.map(|table| self.with_indexes(table))
    }

    /// Returns the table called `name`.
    ///
    /// # Errors
    /// `NotFound`, naming the tables that exist.
    pub async fn table(&self, name: &str) -> Result<Table> {
        self.shared.store.table(name).await.map(|table| self.with_indexes(table))
    }

    fn with_indexes(&self, table: cenote_store::Table) -> Table {
        Table::new(table, self.shared.indexes.clone())
    }

    /// Lists the names of all tables, sorted.
    pub async fn tables(&self) -> Result<Vec<String>> {
        self.shared.store.tables().await
    }

    /// Removes a table with all its versions.
    pub async fn drop_table(&self, name: &str) -> Result<()> {
        let table = self.shared.store.table(name).await?;
        // A table that cannot be read can still be dropped.
        if let Err(error) = self.shared.indexes.forget_table(&table).await {
            tracing::warn!(%error, table = name, "saved graphs of the table stay in the cache");
        }
        let errors = table.snapshot().await.map(|snapshot| ErrorTable::new(&self.shared.store, name, &snapshot));
        self.shared.store.drop_table(name).await?;
        if let Ok(errors) = errors
            && let Err(error) = errors.forget().await
        {
            tracing::warn!(%error, table = name, "rows of the dropped table stay in the table of errors");
        }
        Ok(())
    }

    /// Writes files, and the files under directories, to `table`, one row each (see
    /// [`media_schema`](crate::media_schema)). Files whose bytes the table has already are passed over. Commits as it
    /// goes: an interrupted ingest keeps what it has committed.
    ///
    /// # Errors
    /// `NotFound` for a path that does not exist; `InvalidInput` for a table with other columns. A file that cannot be
    /// read is not an error: the report names it.
    pub async fn ingest(&self, table: &str, paths: &[PathBuf], progress: &dyn Progress) -> Result<IngestReport> {
        check_name(table)?;
        let commit_bytes_max = Budget::of(self.shared.memory_max).file();
        Box::pin(ingest::ingest(&self.shared.store, table, paths, commit_bytes_max, progress)).await
    }

    /// Runs `recipe`: first its steps, over the rows that are stale, then its indexes, which are built or brought up to
    /// date. An interrupted run resumes at its last commit.
    pub async fn run(&self, recipe: &Recipe, options: &RunOptions) -> Result<RunReport> {
        let report = Box::pin(self.shared.engine.run(recipe, options)).await?;
        if options.dry_run_rows.is_none() {
            for request in &recipe.indexes {
                options.cancel.check()?;
                Box::pin(self.keep_index(request)).await.map_err(|error| {
                    error.context(format!("index on column `{}` of table `{}`", request.column, request.table))
                })?;
            }
        }
        Ok(report)
    }

    /// Checks `recipe` against tables and operators without running it.
    pub async fn check(&self, recipe: &Recipe) -> Result<()> {
        self.shared.engine.check(recipe).await
    }

    /// Plans the tasks of [`run`](Self::run), in order, each with the steps it joins and the resources it requests.
    pub async fn stages(&self, recipe: &Recipe) -> Result<Vec<StagePlan>> {
        self.shared.engine.stages(recipe).await
    }

    /// Runs a SQL query over the lake's tables, each pinned to one version.
    pub async fn sql(&self, text: &str) -> Result<QueryResult> {
        self.sql_with(text, &[]).await
    }

    /// Runs a SQL query with placeholders: `$1` stands for the first of `parameters`, and so on.
    pub async fn sql_with(&self, text: &str, parameters: &[Parameter]) -> Result<QueryResult> {
        Box::pin(self.shared.query.sql_with(text, parameters)).await
    }

    /// Returns the rows of `table` that could not be processed: `row_key`, `step`, `operator`, `reason`, `time`.
    pub async fn errors(&self, table: &str) -> Result<RecordBatch> {
        let snapshot = self.shared.store.table(table).await?.snapshot().await?;
        ErrorTable::new(&self.shared.store, table, &snapshot).rows().await
    }

    /// Does the upkeep that is due on every table, waits for it, and returns each table it worked on with the reason. A
    /// process that writes does this by itself.
    pub async fn tend(&self) -> Result<Vec<Tended>> {
        let mut done = Vec::new();
        for name in self.tables().await? {
            let tended = async { self.table(&name).await?.tend().await };
            match tended.await {
                Ok(reason) => done.extend(reason.map(|reason| Tended { table: name, reason })),
                // The table was dropped meanwhile.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error.context(format!("table `{name}`"))),
            }
        }
        Ok(done)
    }

    /// Returns the rows, versions, bytes on disk, indexes with their lag, and errors of each table, and the resources
    /// in use.
    pub async fn status(&self) -> Result<LakeStatus> {
        let tables = Box::pin(status::tables(&self.shared.store, &self.shared.indexes)).await?;
        Ok(LakeStatus { tables, usage: self.shared.scheduler.usage() })
    }

    async fn keep_index(&self, request: &IndexRequest) -> Result<()> {
        let table = self.table(&request.table).await?;
        let options = request.metric.iter().map(|metric| ("metric", metric.as_str()));
        let kind = IndexKind::parse(&request.kind, options)?;
        if table.indexes().await?.iter().any(|index| index.column == request.column && index.kind.same_kind(&kind)) {
            return table.optimize_indexes().await;
        }
        table.create_index(IndexSpec::new(&request.column, kind)).await.map(drop)
    }
}

/// Returns the operators of a lake opened with `options`, without loading models.
pub fn operators(options: &LakeOptions) -> Result<Registry> {
    ModelRegistry::new(options.models.clone()).map(|models| register(&Arc::new(models), options.operators.clone()))
}

fn register(models: &Arc<ModelRegistry>, others: Vec<Definition>) -> Registry {
    let mut registry = Registry::default();
    cenote_operators_text::register(&mut registry, models);
    cenote_operators_image::register(&mut registry, models);
    cenote_operators_video::register(&mut registry);
    others.into_iter().for_each(|definition| registry.register(definition));
    registry
}

async fn check_format(location: &Path) -> Result<()> {
    let Some(text) = read_file(location, MARKER).await? else {
        let what = format!("{} is not a lake; create one with `cenote --lake {0} init`", location.display());
        return Err(Error::not_found(what));
    };
    let marker = serde_json::from_slice::<serde_json::Value>(&text).ok();
    match marker.and_then(|marker| marker["format"].as_u64()) {
        Some(FORMAT) => Ok(()),
        Some(other) => Err(Error::unsupported(format!(
            "{} has format {other}, and this Cenote reads format {FORMAT}: use a newer one",
            location.display()
        ))),
        None => Err(Error::corrupt(format!("{} is unreadable", location.join(MARKER).display()))),
    }
}

/// Checks that callers may create a table called `name`.
///
/// # Errors
/// `InvalidInput` for the name of the table of failed rows.
fn check_name(name: &str) -> Result<()> {
    if name == ERROR_TABLE {
        return Err(Error::invalid_input(format!("table `{name}` holds the rows that failed: choose another name")));
    }
    Ok(())
}

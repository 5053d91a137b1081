//! A lake: a directory of tables and everything that works on them.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::RecordBatch;
use cenote_base::{ByteSize, Context, Error, ErrorKind, Progress, Result, memory_available_bytes};
use cenote_engine::{
    ERROR_TABLE, Engine, EngineOptions, IndexRequest, Recipe, RunOptions, RunReport, error_table_schema,
};
use cenote_index::{IndexKind, IndexSpec};
use cenote_models::{ModelOptions, ModelRegistry};
use cenote_operator::Registry;
use cenote_query::{QueryEngine, QueryOptions, QueryResult};
use cenote_scheduler::{Scheduler, SchedulerOptions};
use cenote_store::{ScanRequest, Store, StoreOptions, TableSpec};
use serde_json::json;

use crate::ingest::{self, IngestReport};
use crate::status::{self, LakeStatus};
use crate::table::Table;

const MARKER: &str = "cenote.json";
const FORMAT: u64 = 1;
const TABLES: &str = "tables";
/// The smallest budget under which a run can hold one piece of input, one of output and a model.
const MEMORY_MIN: ByteSize = ByteSize::mib(256);
const MEMORY_DEFAULT_MAX: ByteSize = ByteSize::mib(4096);

/// Bounds and places of a [`Lake`].
#[derive(Debug, Clone, Default)]
pub struct LakeOptions {
    /// Memory budget, at least 256 MiB. `None`: a quarter of what the machine or container has, from 256 MiB to 4 GiB.
    pub memory_max: Option<ByteSize>,
    /// CPU cores for operators. `None`: all.
    pub cpu_cores: Option<f32>,
    /// Where models, and what they are built from, come from.
    pub models: ModelOptions,
    /// Seeds everything that is random.
    pub seed: u64,
}

/// A directory of tables, with operators, models, recipes, search and SQL over them. Cheap to clone.
#[derive(Clone)]
pub struct Lake {
    shared: Arc<Shared>,
}

struct Shared {
    directory: PathBuf,
    store: Store,
    registry: Arc<Registry>,
    models: Arc<ModelRegistry>,
    scheduler: Scheduler,
    engine: Engine,
    query: QueryEngine,
    memory_max: ByteSize,
}

impl fmt::Debug for Lake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lake").field("directory", &self.shared.directory).finish_non_exhaustive()
    }
}

impl Lake {
    /// Makes an empty lake in `directory`, which may exist already.
    ///
    /// # Errors
    /// `AlreadyExists` when it is a lake.
    pub async fn init(directory: impl AsRef<Path>) -> Result<()> {
        let directory = directory.as_ref();
        let marker = directory.join(MARKER);
        if tokio::fs::try_exists(&marker).await.context(|| format!("look for {}", marker.display()))? {
            return Err(Error::already_exists(format!("{} is a lake already", directory.display())));
        }
        let tables = directory.join(TABLES);
        tokio::fs::create_dir_all(&tables).await.context(|| format!("make directory {}", tables.display()))?;
        // Written last, and under another name first: a directory with a marker is a whole lake.
        let draft = directory.join(format!("{MARKER}.new"));
        let text = format!("{}\n", json!({ "format": FORMAT }));
        tokio::fs::write(&draft, text).await.context(|| format!("write {}", draft.display()))?;
        tokio::fs::rename(&draft, &marker).await.context(|| format!("write {}", marker.display()))
    }

    /// Opens the lake in `directory`.
    ///
    /// # Errors
    /// `NotFound` when it is no lake; `Unsupported` when a newer Cenote made it; `InvalidInput` for a budget that is too
    /// small.
    pub async fn open(directory: impl AsRef<Path>, options: LakeOptions) -> Result<Self> {
        let directory = directory.as_ref();
        check_format(directory).await?;
        let directory =
            tokio::fs::canonicalize(directory).await.context(|| format!("resolve {}", directory.display()))?;
        let memory_max = memory_budget(options.memory_max).await?;

        // Shares of the budget. What they leave is for models, Arrow buffers in flight and the runtime itself.
        let share = |parts: u64| ByteSize(memory_max.0 / parts);
        let store_options = StoreOptions {
            index_cache_bytes_max: share(8),
            metadata_cache_bytes_max: share(16),
            ..StoreOptions::default()
        };
        let store = Store::open(directory.join(TABLES), store_options).await?;
        let defaults = SchedulerOptions::default();
        let scheduler = Scheduler::new(SchedulerOptions {
            cpu_cores: options.cpu_cores.unwrap_or(defaults.cpu_cores),
            memory_max,
            seed: options.seed,
            ..defaults
        })?;
        let models = Arc::new(ModelRegistry::new(options.models)?);
        let registry = Arc::new(register(&models));
        let engine_options = EngineOptions {
            chunk_bytes_max: share(32),
            queue_bytes_max: share(16),
            commit_bytes_max: share(16),
            ..EngineOptions::default()
        };
        let engine = Engine::new(store.clone(), Arc::clone(&registry), scheduler.clone(), engine_options);
        let query_options = QueryOptions { memory_bytes_max: share(4), ..QueryOptions::default() };
        let query = QueryEngine::new(query_options, store.clone(), Arc::clone(&registry))?;
        let shared = Shared { directory, store, registry, models, scheduler, engine, query, memory_max };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Where the lake is.
    pub fn directory(&self) -> &Path {
        &self.shared.directory
    }

    /// The operators that recipes and SQL can name.
    pub fn registry(&self) -> &Arc<Registry> {
        &self.shared.registry
    }

    /// The models behind them.
    pub fn models(&self) -> &Arc<ModelRegistry> {
        &self.shared.models
    }

    /// What runs the operators.
    pub fn scheduler(&self) -> &Scheduler {
        &self.shared.scheduler
    }

    /// Makes a table.
    pub async fn create_table(&self, name: &str, spec: TableSpec) -> Result<Table> {
        Box::pin(self.shared.store.create_table(name, spec)).await.map(Table::new)
    }

    /// The table called `name`.
    ///
    /// # Errors
    /// `NotFound`, naming the tables there are.
    pub async fn table(&self, name: &str) -> Result<Table> {
        self.shared.store.table(name).await.map(Table::new)
    }

    /// The names of all tables, sorted.
    pub async fn tables(&self) -> Result<Vec<String>> {
        self.shared.store.tables().await
    }

    /// Removes a table with all its versions.
    pub async fn drop_table(&self, name: &str) -> Result<()> {
        self.shared.store.drop_table(name).await
    }

    /// Puts files, and the files under directories, into table `table`, one row each (see
    /// [`media_schema`](crate::media_schema)); files whose bytes are there already are passed over. Commits as it goes: what
    /// was committed stays when it is interrupted.
    ///
    /// # Errors
    /// `NotFound` for a path that is not there; `InvalidInput` when the table has another form. A file that cannot be read is
    /// reported, not an error.
    pub async fn ingest(&self, table: &str, paths: &[PathBuf], progress: &dyn Progress) -> Result<IngestReport> {
        let commit_bytes_max = ByteSize(self.shared.memory_max.0 / 16);
        Box::pin(ingest::ingest(&self.shared.store, table, paths, commit_bytes_max, progress)).await
    }

    /// Runs `recipe`: its steps, then its indexes, which are made or brought up to date.
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

    /// Checks `recipe` against tables and operators; runs nothing.
    pub async fn check(&self, recipe: &Recipe) -> Result<()> {
        self.shared.engine.check(recipe).await
    }

    /// Answers a SQL query over the lake's tables; each table is seen at one version.
    pub async fn sql(&self, text: &str) -> Result<QueryResult> {
        Box::pin(self.shared.query.sql(text)).await
    }

    /// The rows of `table` that could not be processed: `row_key`, `step`, `operator`, `reason`, `time`.
    pub async fn errors(&self, table: &str) -> Result<RecordBatch> {
        self.shared.store.table(table).await?;
        let request = ScanRequest::default()
            .columns(["row_key", "step", "operator", "reason", "time"])
            .filter(format!("table_name = '{table}'"));
        match self.shared.store.table(ERROR_TABLE).await {
            Ok(errors) => errors.snapshot().await?.collect(&request).await,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let none = RecordBatch::new_empty(error_table_schema());
                none.project(&[1, 2, 3, 4, 5]).map_err(|source| Error::internal("empty error list").with_source(source))
            }
            Err(error) => Err(error),
        }
    }

    /// Rows, versions, bytes on disk, indexes and their lateness, and errors, for each table.
    pub async fn status(&self) -> Result<LakeStatus> {
        Box::pin(status::status(self, &self.shared.store)).await
    }

    async fn keep_index(&self, request: &IndexRequest) -> Result<()> {
        let table = self.table(&request.table).await?;
        let kind = IndexKind::parse(&request.kind, request.metric.as_deref())?;
        if table.indexes().await?.iter().any(|index| index.column == request.column && index.kind.same_kind(&kind)) {
            return table.optimize_indexes().await;
        }
        // An index over nothing would learn nothing: until there are values, search is exact. The next run makes it.
        let has_values =
            ScanRequest::default().columns([""; 0]).filter(format!("`{}` IS NOT NULL", request.column)).limit(1);
        if table.snapshot().await?.collect(&has_values.with_row_id()).await?.num_rows() == 0 {
            return Ok(());
        }
        table.create_index(IndexSpec::new(&request.column, kind)).await.map(drop)
    }
}

/// The operators that a lake opened with `options` knows; loads no model.
pub fn operators(options: &LakeOptions) -> Result<Registry> {
    ModelRegistry::new(options.models.clone()).map(|models| register(&Arc::new(models)))
}

fn register(models: &Arc<ModelRegistry>) -> Registry {
    let mut registry = Registry::default();
    cenote_operators_text::register(&mut registry, models);
    cenote_operators_image::register(&mut registry, models);
    cenote_operators_video::register(&mut registry);
    registry
}

async fn check_format(directory: &Path) -> Result<()> {
    let marker = directory.join(MARKER);
    let text = match tokio::fs::read_to_string(&marker).await {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let what = format!("{} is no lake; make one with `cenote --lake {0} init`", directory.display());
            return Err(Error::not_found(what));
        }
        Err(error) => return Err(Error::from(error).context(format!("read {}", marker.display()))),
    };
    let format = serde_json::from_str::<serde_json::Value>(&text).ok().and_then(|marker| marker["format"].as_u64());
    match format {
        Some(FORMAT) => Ok(()),
        Some(other) => Err(Error::unsupported(format!(
            "{} has format {other}, and this Cenote reads format {FORMAT}: use a newer one",
            directory.display()
        ))),
        None => Err(Error::corrupt(format!("{} is unreadable", marker.display()))),
    }
}

async fn memory_budget(wanted: Option<ByteSize>) -> Result<ByteSize> {
    if let Some(wanted) = wanted {
        if wanted < MEMORY_MIN {
            return Err(Error::invalid_input(format!(
                "a memory budget of {wanted} is too small: give {MEMORY_MIN} or more"
            )));
        }
        return Ok(wanted);
    }
    let cgroup = tokio::fs::read_to_string("/sys/fs/cgroup/memory.max").await.ok();
    let meminfo = tokio::fs::read_to_string("/proc/meminfo").await.ok();
    // Where neither can be read, the smallest budget is safe.
    let available = memory_available_bytes(cgroup.as_deref(), meminfo.as_deref()).unwrap_or(0);
    Ok(ByteSize(available / 4).clamp(MEMORY_MIN, MEMORY_DEFAULT_MAX))
}

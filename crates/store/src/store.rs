//! A directory of tables.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{RecordBatch, RecordBatchIterator};
use arrow::datatypes::{Schema, SchemaRef};
use cenote_base::{ByteSize, Clock, Context, Error, Result, SystemClock};
use futures::FutureExt;
use lance::Dataset;
use lance::dataset::WriteParams;
use lance::session::Session;
use lance_file::version::LanceFileVersion;
use parking_lot::Mutex;
use tokio::sync::OnceCell;

use crate::Faults;
use crate::fault::lance_error;
use crate::key::PrimaryKey;
use crate::lease::{self, Lease};
use crate::schema::{self, HIDDEN_PREFIX};
use crate::state::{Paths, State};
use crate::table::Table;

const EXTENSION: &str = "lance";

/// Limits of a [`Store`].
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// Bytes of index pages kept in memory, over all tables.
    pub index_cache_bytes_max: ByteSize,
    /// Bytes of manifests and page tables kept in memory, over all tables.
    pub metadata_cache_bytes_max: ByteSize,
    /// How long a write waits for a writer in another process.
    pub writer_wait_max: Duration,
    /// A table's writes are folded into its base when they hold so many bytes, and writers wait when they hold four times
    /// as many.
    pub fold_bytes: ByteSize,
    /// A table's writes are folded into its base when they concern so many rows.
    pub fold_rows: usize,
    /// A write of so many bytes goes straight to the base.
    pub bulk_bytes: ByteSize,
    /// What times the history of tables.
    pub clock: Arc<dyn Clock>,
    /// What fails, in tests.
    pub faults: Faults,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            index_cache_bytes_max: ByteSize::mib(256),
            metadata_cache_bytes_max: ByteSize::mib(64),
            writer_wait_max: Duration::from_secs(60),
            fold_bytes: ByteSize::mib(32),
            fold_rows: 65_536,
            bulk_bytes: ByteSize::mib(8),
            clock: Arc::new(SystemClock),
            faults: Faults::default(),
        }
    }
}

/// What a new table is.
#[derive(Debug, Clone)]
pub struct TableSpec {
    /// Columns; [`blob_field`](crate::blob_field) makes one for media.
    pub schema: SchemaRef,
    /// The columns of the primary key, in order.
    pub primary_key: Vec<String>,
    /// Free-form settings, kept with the table.
    pub properties: BTreeMap<String, String>,
}

impl TableSpec {
    /// A table of `schema` keyed by `primary_key`, without properties.
    pub fn new<S: Into<String>>(schema: SchemaRef, primary_key: impl IntoIterator<Item = S>) -> Self {
        let primary_key = primary_key.into_iter().map(Into::into).collect();
        Self { schema, primary_key, properties: BTreeMap::new() }
    }
}

/// A directory of tables that share caches. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    directory: PathBuf,
    session: Arc<Session>,
    options: StoreOptions,
    /// The tables in use: all handles of a table share one state.
    states: Mutex<HashMap<String, Arc<OnceCell<Arc<State>>>>>,
}

impl Store {
    /// The store in `directory`, which is made if it does not exist.
    pub async fn open(directory: impl AsRef<Path>, options: StoreOptions) -> Result<Self> {
        let directory = directory.as_ref().to_path_buf();
        tokio::fs::create_dir_all(&directory).await.context(|| format!("make directory {}", directory.display()))?;
        let directory =
            tokio::fs::canonicalize(&directory).await.context(|| format!("resolve {}", directory.display()))?;
        let session = Session::new(
            options.index_cache_bytes_max.0 as usize,
            options.metadata_cache_bytes_max.0 as usize,
            Arc::default(),
        );
        let shared = Shared { directory, session: Arc::new(session), options, states: Mutex::default() };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Makes a table.
    ///
    /// # Errors
    /// `InvalidInput` for a bad name, schema or key; `AlreadyExists`.
    pub async fn create_table(&self, name: &str, spec: TableSpec) -> Result<Table> {
        check_name(name)?;
        if let Some(field) = spec.schema.fields().iter().find(|field| field.name().starts_with(HIDDEN_PREFIX)) {
            return Err(Error::invalid_input(format!(
                "column `{}`: names in {HIDDEN_PREFIX} are reserved",
                field.name()
            )));
        }
        let key = PrimaryKey::new(&spec.schema, &spec.primary_key)?;
        let stored: SchemaRef = Arc::new(schema::to_stored(&spec.schema, &key));
        let _lease = self.lease(name).await?;
        if tokio::fs::try_exists(self.path(name)).await? {
            return Err(Error::already_exists(format!("table `{name}` exists already")));
        }
        // A drop that was cut short may have left one.
        self.remove_log(name).await?;
        self.shared.states.lock().remove(name);
        let nothing = RecordBatchIterator::new(std::iter::empty::<Result<RecordBatch, _>>(), Arc::clone(&stored));
        let params = WriteParams { session: Some(Arc::clone(&self.shared.session)), ..write_params() };
        let path = self.path(name);
        let written = Dataset::write(nothing, path.to_string_lossy().as_ref(), Some(params)).boxed().await;
        let mut dataset = written.map_err(lance_error)?;
        if !spec.properties.is_empty() {
            dataset.update_config(spec.properties).await.map_err(lance_error)?;
        }
        Ok(Table::new(self.clone(), name))
    }

    /// The table called `name`.
    ///
    /// # Errors
    /// `NotFound`, naming the tables there are.
    pub async fn table(&self, name: &str) -> Result<Table> {
        check_name(name)?;
        if tokio::fs::try_exists(self.path(name)).await? {
            return Ok(Table::new(self.clone(), name));
        }
        let names = self.tables().await?;
        let known =
            if names.is_empty() { "there are none yet".to_owned() } else { format!("there are {}", names.join(", ")) };
        Err(Error::not_found(format!("no table `{name}`; {known}")))
    }

    /// The names of all tables, sorted.
    pub async fn tables(&self) -> Result<Vec<String>> {
        let mut names = Vec::new();
        let mut entries = tokio::fs::read_dir(&self.shared.directory).await?;
        while let Some(entry) = entries.next_entry().await? {
            let path = PathBuf::from(entry.file_name());
            if path.extension().is_some_and(|extension| extension == EXTENSION) {
                names.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
            }
        }
        names.sort();
        Ok(names)
    }

    /// Removes a table and all its versions. Snapshots of it held anywhere stop working.
    pub async fn drop_table(&self, name: &str) -> Result<()> {
        self.table(name).await?;
        let _lease = self.lease(name).await?;
        // Renamed first, so that a crash half-way leaves no half table behind under its name.
        let doomed = self.shared.directory.join(format!("{name}.dropped"));
        tokio::fs::rename(self.path(name), &doomed).await.context(|| format!("drop table `{name}`"))?;
        self.shared.states.lock().remove(name);
        self.remove_log(name).await?;
        tokio::fs::remove_dir_all(&doomed).await.context(|| format!("drop table `{name}`"))
    }

    async fn remove_log(&self, name: &str) -> Result<()> {
        match tokio::fs::remove_dir_all(Paths::new(&self.shared.directory, name).log).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::from(error).context(format!("remove the log of table `{name}`")))
            }
            _ => Ok(()),
        }
    }

    async fn lease(&self, name: &str) -> Result<Lease> {
        let path = self.shared.directory.join(format!("{name}.lock"));
        let lease = lease::acquire(&path, self.shared.options.writer_wait_max).await;
        lease.map_err(|error| error.context(format!("table `{name}`")))
    }

    pub(crate) async fn state(&self, name: &str) -> Result<Arc<State>> {
        let cell = {
            let mut states = self.shared.states.lock();
            Arc::clone(states.entry(name.to_owned()).or_default())
        };
        let open = || async {
            if !tokio::fs::try_exists(self.path(name)).await? {
                return Err(Error::not_found(format!("table `{name}` was dropped")));
            }
            let paths = Paths::new(&self.shared.directory, name);
            State::open(paths, Arc::clone(&self.shared.session), self.shared.options.clone()).await
        };
        let state = cell.get_or_try_init(|| open().boxed()).await;
        state.cloned().map_err(|error| error.context(format!("open table `{name}`")))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.shared.directory.join(format!("{name}.{EXTENSION}"))
    }
}

/// How every dataset of Cenote is written: stable row ids, and the file version that blobs (v2) need.
pub(crate) fn write_params() -> WriteParams {
    WriteParams {
        enable_stable_row_ids: true,
        data_storage_version: Some(LanceFileVersion::V2_2),
        auto_cleanup: None,
        ..WriteParams::default()
    }
}

/// The schema that a stored dataset shows to callers, and the stored one.
pub(crate) fn schemas(dataset: &Dataset) -> (Schema, Schema) {
    let stored = Schema::from(dataset.schema());
    (schema::to_logical(&stored), stored)
}

fn check_name(name: &str) -> Result<()> {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if !name.is_empty()
        && name.len() <= 128
        && name.chars().all(fits)
        && !name.starts_with(|c: char| c.is_ascii_digit())
    {
        return Ok(());
    }
    Err(Error::invalid_input(format!(
        "table name `{name}` must be letters, digits and underscores, not start with a digit, and have at most 128"
    )))
}

//! A directory of tables.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arrow::array::{RecordBatch, RecordBatchIterator};
use arrow::datatypes::{Schema, SchemaRef};
use cenote_base::{ByteSize, Context, Error, Result};
use lance::Dataset;
use lance::dataset::WriteParams;
use lance::session::Session;
use lance_file::version::LanceFileVersion;

use crate::fault::lance_error;
use crate::key::PrimaryKey;
use crate::schema::{self, HIDDEN_PREFIX};
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
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            index_cache_bytes_max: ByteSize::mib(256),
            metadata_cache_bytes_max: ByteSize::mib(64),
            writer_wait_max: Duration::from_secs(60),
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
    /// One turn-taking queue a table name, so that writers of this process wait in line.
    turns: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
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
        let shared = Shared { directory, session: Arc::new(session), options, turns: Mutex::default() };
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
        let nothing = RecordBatchIterator::new(std::iter::empty::<Result<RecordBatch, _>>(), Arc::clone(&stored));
        let params = WriteParams { session: Some(Arc::clone(&self.shared.session)), ..write_params() };
        let mut dataset = Dataset::write(nothing, &self.uri(name), Some(params)).await.map_err(lance_error)?;
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
        tokio::fs::remove_dir_all(&doomed).await.context(|| format!("drop table `{name}`"))
    }

    pub(crate) async fn lease(&self, name: &str) -> Result<crate::lease::Lease> {
        let turns = {
            // A panic while the map is held leaves it as it was: entries are only ever added.
            let mut turns = self.shared.turns.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(turns.entry(name.to_owned()).or_default())
        };
        let path = self.shared.directory.join(format!("{name}.lock"));
        crate::lease::acquire(&turns, &path, self.shared.options.writer_wait_max)
            .await
            .map_err(|error| error.context(format!("table `{name}`")))
    }

    pub(crate) fn session(&self) -> &Arc<Session> {
        &self.shared.session
    }

    fn path(&self, name: &str) -> PathBuf {
        self.shared.directory.join(format!("{name}.{EXTENSION}"))
    }

    pub(crate) fn uri(&self, name: &str) -> String {
        self.path(name).to_string_lossy().into_owned()
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

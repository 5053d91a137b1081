//! A place with tables: a directory, or a prefix of an object store.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use arrow::array::{RecordBatch, RecordBatchIterator};
use arrow::datatypes::{Schema, SchemaRef};
use cenote_base::sync::Mutex;
use cenote_base::{ByteSize, Clock, Error, Result, SystemClock, unknown};
use futures::FutureExt;
use lance::Dataset;
use lance::dataset::WriteParams;
use lance_file::version::LanceFileVersion;
use tokio::sync::OnceCell;

use crate::Faults;
use crate::base::fence::Fence;
use crate::base::pages::Pages;
use crate::base::sessions::{Sessions, new_identity};
use crate::errors::lance_error;
use crate::files::block_cache::BlockCacheUsage;
use crate::leases::lease::{Lease, Leases};
use crate::rows::column::{self, Owner};
use crate::rows::primary_key::PrimaryKey;
use crate::rows::schema;
use crate::state::location::Place;
use crate::state::table_state::State;
use crate::table::{Table, check_property};
use crate::upkeep::schedule::AfterFold;

/// Limits and settings of a [`Store`].
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// Bytes of index pages kept in memory, for all tables together.
    pub index_cache_bytes_max: ByteSize,
    /// Bytes of manifests and page tables kept in memory, for all tables together.
    pub metadata_cache_bytes_max: ByteSize,
    /// Bytes of rows kept in memory for reads of few rows, for all tables together.
    pub page_cache_bytes_max: ByteSize,
    /// How long a write waits for a writer in another process before it fails.
    pub writer_wait_max: Duration,
    /// Bytes of unfolded writes at which a table is folded; writers wait at four times as many.
    pub fold_bytes: ByteSize,
    /// Unfolded rows and deletions at which a table is folded.
    pub fold_rows: usize,
    /// Age of the oldest unfolded write at which a table is folded.
    pub fold_age: Duration,
    /// Bytes of a write from which it goes straight to the base.
    pub bulk_bytes: ByteSize,
    /// Target bytes of a base file, media included, when small files are joined.
    pub file_bytes: ByteSize,
    /// Target rows of a base file when small files are joined.
    pub file_rows: usize,
    /// Settings of the object store in addition to those of the environment, named like the environment variables in
    /// lower case, such as `aws_endpoint_url`.
    pub object_store: HashMap<String, String>,
    /// For object stores: how long a writer may give no sign of life before others may consider it dead.
    pub lease_patience: Duration,
    /// The directory for local copies of what is stored in an object store and read often.
    pub cache_directory: PathBuf,
    /// Bytes of remote files kept there; with 0, every read goes to the object store.
    pub block_cache_bytes_max: ByteSize,
    /// Maximum number of unused tables that are kept open: each holds some files open, and the contents of its log in
    /// memory.
    pub idle_tables_max: usize,
    /// Work to do after a fold.
    pub after_fold: Option<Arc<dyn AfterFold>>,
    /// The clock that stamps versions.
    pub clock: Arc<dyn Clock>,
    /// Failures to inject, in tests.
    pub faults: Faults,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            index_cache_bytes_max: ByteSize::mib(256),
            metadata_cache_bytes_max: ByteSize::mib(64),
            page_cache_bytes_max: ByteSize::mib(64),
            writer_wait_max: Duration::from_secs(60),
            fold_bytes: ByteSize::mib(32),
            fold_rows: 65_536,
            fold_age: Duration::from_secs(60),
            bulk_bytes: ByteSize::mib(8),
            file_bytes: ByteSize::mib(1024),
            file_rows: 1 << 20,
            object_store: HashMap::new(),
            lease_patience: Duration::from_secs(10),
            cache_directory: std::env::temp_dir().join("cenote"),
            block_cache_bytes_max: ByteSize::mib(4096),
            idle_tables_max: 128,
            after_fold: None,
            clock: Arc::new(SystemClock),
            faults: Faults::default(),
        }
    }
}

/// The schema, primary key and properties of a new table.
#[derive(Debug, Clone)]
pub struct TableSpec {
    /// The columns; [`blob_field`](crate::blob_field) makes one for media.
    pub schema: SchemaRef,
    /// The columns of the primary key, in order.
    pub primary_key: Vec<String>,
    /// Free-form settings, kept with the table.
    pub properties: BTreeMap<String, String>,
}

impl TableSpec {
    /// Describes a table of `schema` keyed by `primary_key`, without properties.
    pub fn new<S: Into<String>>(schema: SchemaRef, primary_key: impl IntoIterator<Item = S>) -> Self {
        let primary_key = primary_key.into_iter().map(Into::into).collect();
        Self { schema, primary_key, properties: BTreeMap::new() }
    }
}

/// The tables of one place, which share caches. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    place: Place,
    sessions: Arc<Sessions>,
    pages: Arc<Pages>,
    options: StoreOptions,
    /// The tables in use: all handles of a table share one state.
    states: Mutex<HashMap<String, Entry>>,
    /// A counter of uses of tables.
    uses: AtomicU64,
}

/// A state, once it was opened.
type Cell = Arc<OnceCell<Arc<State>>>;

/// A table in use.
#[derive(Debug, Default)]
struct Entry {
    state: Cell,
    /// The number of the table's last use.
    used: u64,
}

/// A weak reference to a store.
#[derive(Debug)]
pub(crate) struct WeakStore(Weak<Shared>);

impl WeakStore {
    pub(crate) fn upgrade(&self) -> Option<Store> {
        self.0.upgrade().map(|shared| Store { shared })
    }
}

impl Store {
    /// Opens the store at `location`: a directory, which is created if it does not exist, or a URI such as
    /// `s3://bucket/prefix`. Credentials and endpoint of a URI come from the environment (`AWS_ACCESS_KEY_ID`,
    /// `AWS_ENDPOINT_URL` and so on).
    pub async fn open(location: impl AsRef<Path>, options: StoreOptions) -> Result<Self> {
        let sessions = Arc::new(Sessions::new(&options));
        let place = Place::open(location.as_ref(), sessions.stores(), &options).boxed().await?;
        let pages = Arc::new(Pages::new(options.page_cache_bytes_max));
        let shared = Shared { place, sessions, pages, options, states: Mutex::default(), uses: AtomicU64::default() };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Returns the usage of the local cache of a remote store; `None` without a cache.
    pub fn block_cache(&self) -> Option<BlockCacheUsage> {
        self.shared.place.blocks().map(|blocks| blocks.0.usage())
    }

    /// Returns this machine's directory for data that can be rebuilt: [`StoreOptions::cache_directory`].
    pub fn cache_directory(&self) -> &Path {
        &self.shared.options.cache_directory
    }

    /// Releases this process's leases, so that other processes need not wait for them to run out, as they would in an
    /// object store. The store can be used afterwards.
    pub async fn release(&self) -> Result<()> {
        let cells: Vec<_> = self.shared.states.lock().values().map(|entry| Arc::clone(&entry.state)).collect();
        for state in cells.iter().filter_map(|cell| cell.get()) {
            state.place.leases.release().await?;
        }
        Ok(())
    }

    /// Creates a table.
    ///
    /// # Errors
    /// `InvalidInput` for a bad name, schema, key or property; `AlreadyExists`.
    pub async fn create_table(&self, name: &str, spec: TableSpec) -> Result<Table> {
        check_name(name)?;
        spec.schema.fields().iter().try_for_each(|field| column::check(field, Owner::Caller))?;
        if let Some(column) = column::repeated(spec.schema.fields().iter().map(|field| field.name())) {
            return Err(Error::invalid_input(format!("column `{column}` is given twice: name each column once")));
        }
        spec.properties.iter().try_for_each(|(name, value)| check_property(name, Some(value)))?;
        let columns = column::stored(&spec.schema);
        let key = PrimaryKey::new(&columns, &spec.primary_key)?;
        let stored: SchemaRef = Arc::new(schema::to_stored(&columns, &key));
        let (leases, held) = self.leases(name).await?;
        if self.shared.place.has_table(name).boxed().await? {
            return Err(Error::already_exists(format!("table `{name}` exists already")));
        }
        self.shared.place.clear(name, &self.shared.options).boxed().await?;
        self.shared.states.lock().remove(name);
        let nothing = RecordBatchIterator::new(std::iter::empty::<Result<RecordBatch, _>>(), Arc::clone(&stored));
        let place = self.shared.place.table(name, &self.shared.options);
        let uri = place.base;
        let fence = Fence::new(&uri, &self.shared.options.object_store).await.map_err(lance_error)?;
        let params = WriteParams {
            // Caches of its own, since the table has no identity before it has a log.
            session: Some(self.shared.sessions.of(new_identity())),
            store_params: Some(place.params),
            commit_handler: Some(Arc::new(fence)),
            ..write_params()
        };
        let written = Dataset::write(nothing, &uri, Some(params)).boxed().await;
        let mut dataset = written.map_err(lance_error)?;
        if !spec.properties.is_empty() {
            dataset.update_config(spec.properties).await.map_err(lance_error)?;
        }
        drop(held);
        leases.release().await?;
        // Create the log and the key index now: a process that only reads may not be able to.
        self.state(name).boxed().await?;
        Ok(Table::new(self.clone(), name))
    }

    /// Returns the table called `name`.
    ///
    /// # Errors
    /// `NotFound`, listing the existing tables.
    pub async fn table(&self, name: &str) -> Result<Table> {
        check_name(name)?;
        if self.shared.place.has_table(name).boxed().await? {
            return Ok(Table::new(self.clone(), name));
        }
        Err(unknown("table", name, self.tables().await?.iter().map(String::as_str)))
    }

    /// Lists the names of all tables, sorted.
    pub async fn tables(&self) -> Result<Vec<String>> {
        self.shared.place.tables().boxed().await
    }

    /// Removes a table and all its versions. Snapshots of it held anywhere stop working.
    pub async fn drop_table(&self, name: &str) -> Result<()> {
        self.table(name).await?;
        let (leases, _held) = self.leases(name).await?;
        self.shared.states.lock().remove(name);
        self.shared.place.drop_table(name, &self.shared.options).boxed().await?;
        leases.release().await
    }

    /// Returns the bytes of table `name`: base and log, all versions together.
    pub async fn bytes(&self, name: &str) -> Result<u64> {
        self.shared.place.bytes(name).boxed().await
    }

    /// Takes the leases for creating or dropping table `name`: those of its log and its base.
    async fn leases(&self, name: &str) -> Result<(Leases, [Lease; 2])> {
        // The leases of a table in use belong to its state; creating or dropping takes separate ones.
        let known = self.shared.states.lock().get(name).and_then(|entry| entry.state.get().cloned());
        if let Some(state) = known {
            state.place.leases.release().await?;
        }
        let (leases, wait) =
            (self.shared.place.table(name, &self.shared.options).leases, self.shared.options.writer_wait_max);
        let held = async { Ok([leases.base(wait).await?, leases.writer(wait).await?]) };
        let held = held.await.map_err(|error: Error| error.context(format!("table `{name}`")))?;
        Ok((leases, held))
    }

    /// Returns the state of table `name` in this process, opening it if necessary.
    ///
    /// # Errors
    /// `NotFound` when the table does not exist.
    pub(crate) async fn state(&self, name: &str) -> Result<Arc<State>> {
        loop {
            let (cell, is_new) = {
                let mut states = self.shared.states.lock();
                let is_new = !states.contains_key(name);
                let entry = states.entry(name.to_owned()).or_default();
                entry.used = self.shared.uses.fetch_add(1, Ordering::Relaxed);
                (Arc::clone(&entry.state), is_new)
            };
            if is_new {
                self.close_idle().boxed().await;
            }
            let state = cell.get_or_try_init(|| self.open_state(name).boxed()).await;
            let state = state.map_err(|error| error.context(format!("open table `{name}`")));
            match state {
                Ok(state) if !state.is_gone()? => return Ok(Arc::clone(state)),
                // Another process dropped it, and may have made another table under its name.
                Ok(_) => self.forget(name, &cell),
                Err(error) => {
                    self.forget(name, &cell);
                    return Err(error);
                }
            }
        }
    }

    async fn open_state(&self, name: &str) -> Result<Arc<State>> {
        if !self.shared.place.has_table(name).boxed().await? {
            return Err(Error::not_found(format!("table `{name}` was dropped")));
        }
        let place = self.shared.place.table(name, &self.shared.options);
        let store = WeakStore(Arc::downgrade(&self.shared));
        let (sessions, pages) = (Arc::clone(&self.shared.sessions), Arc::clone(&self.shared.pages));
        State::open(name.to_owned(), store, place, sessions, pages, self.shared.options.clone()).await
    }

    /// Makes the next use open table `name` again, unless it was already reopened.
    fn forget(&self, name: &str, cell: &Cell) {
        let mut states = self.shared.states.lock();
        if states.get(name).is_some_and(|entry| Arc::ptr_eq(&entry.state, cell)) {
            states.remove(name);
        }
    }

    /// Closes the least recently used idle tables beyond [`StoreOptions::idle_tables_max`].
    async fn close_idle(&self) {
        let idle_max = self.shared.options.idle_tables_max;
        let mut idle: Vec<(u64, String, Cell)> = {
            let states = self.shared.states.lock();
            if states.len() <= idle_max {
                return;
            }
            let is_idle = |entry: &Entry| entry.state.get().is_some_and(State::is_idle);
            let idle = states.iter().filter(|(_, entry)| is_idle(entry));
            idle.map(|(name, entry)| (entry.used, name.clone(), Arc::clone(&entry.state))).collect()
        };
        idle.sort_unstable_by_key(|(used, ..)| *used);
        let excess = idle.len().saturating_sub(idle_max);
        for (_, name, cell) in idle.into_iter().take(excess) {
            let Some(state) = cell.get() else { continue };
            // Once the table is closed, nothing in this process would fold it.
            if state.has_changes()
                && let Err(error) = state.fold().boxed().await
            {
                tracing::warn!(%error, table = name, "the writes of a closed table stay in its log");
            }
            if let Err(error) = state.place.leases.release().await {
                tracing::warn!(%error, table = name, "a lease was not released: others wait until it runs out");
            }
            let mut states = self.shared.states.lock();
            let is_idle = states.get(&name).is_some_and(|entry| {
                // One reference in the map and one here.
                Arc::ptr_eq(&entry.state, &cell) && Arc::strong_count(&cell) == 2 && State::is_idle(state)
            });
            if is_idle {
                states.remove(&name);
            }
        }
    }
}

/// Returns the parameters that every dataset is written with: stable row ids, and the file version that blobs (v2)
/// need.
pub(crate) fn write_params() -> WriteParams {
    WriteParams {
        enable_stable_row_ids: true,
        data_storage_version: Some(LanceFileVersion::V2_2),
        auto_cleanup: None,
        ..WriteParams::default()
    }
}

/// Returns the schema of a stored dataset as callers see it, and as it is stored.
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
        "table name `{name}` must consist of at most 128 letters, digits and underscores, and not start with a digit"
    )))
}

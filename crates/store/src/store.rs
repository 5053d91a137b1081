//! A directory of tables.

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

/// Limits of a [`Store`].
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// Bytes of index pages kept in memory, over all tables.
    pub index_cache_bytes_max: ByteSize,
    /// Bytes of manifests and page tables kept in memory, over all tables.
    pub metadata_cache_bytes_max: ByteSize,
    /// Bytes of rows kept in memory for reads of few rows, over all tables.
    pub page_cache_bytes_max: ByteSize,
    /// How long a write waits for a writer in another process.
    pub writer_wait_max: Duration,
    /// Bytes of unfolded writes at which a table is folded; writers wait at four times as many.
    pub fold_bytes: ByteSize,
    /// A table's writes are folded into its base when they concern so many rows.
    pub fold_rows: usize,
    /// A table's writes are folded into its base when the oldest is so old.
    pub fold_age: Duration,
    /// A write of so many bytes goes straight to the base.
    pub bulk_bytes: ByteSize,
    /// Small files of a table's base are joined into files of about this many bytes, media included.
    pub file_bytes: ByteSize,
    /// Small files of a table's base are joined into files of about this many rows.
    pub file_rows: usize,
    /// What the object store is told beside what the environment says, by the names of the environment's variables in
    /// lower case, such as `aws_endpoint_url`.
    pub object_store: HashMap<String, String>,
    /// In an object store: a writer that gave no sign of life for so long may be taken for dead.
    pub lease_patience: Duration,
    /// Where copies of what lies in an object store are, to be read often.
    pub cache_directory: PathBuf,
    /// Bytes of remote files that are kept there; with none, each is read from afar each time.
    pub block_cache_bytes_max: ByteSize,
    /// Tables kept open that nobody uses, at most: each holds some files open, and in memory what its log says.
    pub idle_tables_max: usize,
    /// What is done after a fold.
    pub after_fold: Option<Arc<dyn AfterFold>>,
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

/// Tables in one place that share caches. Cheap to clone.
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
    /// Counts uses of tables.
    uses: AtomicU64,
}

/// A state, once it is opened.
type Cell = Arc<OnceCell<Arc<State>>>;

/// A table in use.
#[derive(Debug, Default)]
struct Entry {
    state: Cell,
    /// The number of its last use.
    used: u64,
}

/// A store that may be gone.
#[derive(Debug)]
pub(crate) struct WeakStore(Weak<Shared>);

impl WeakStore {
    pub(crate) fn upgrade(&self) -> Option<Store> {
        self.0.upgrade().map(|shared| Store { shared })
    }
}

impl Store {
    /// The store at `location`: a directory, which is made if it does not exist, or a URI such as `s3://bucket/prefix`,
    /// for which credentials and endpoint come from the environment (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL` and so
    /// on).
    pub async fn open(location: impl AsRef<Path>, options: StoreOptions) -> Result<Self> {
        let sessions = Arc::new(Sessions::new(&options));
        let place = Place::open(location.as_ref(), sessions.stores(), &options).boxed().await?;
        let pages = Arc::new(Pages::new(options.page_cache_bytes_max));
        let shared = Shared { place, sessions, pages, options, states: Mutex::default(), uses: AtomicU64::default() };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// What of a remote store is kept on the local disk, and how much that was of use; `None` where nothing is.
    pub fn block_cache(&self) -> Option<BlockCacheUsage> {
        self.shared.place.blocks().map(|blocks| blocks.0.usage())
    }

    /// The directory of this machine for what can be made anew: [`StoreOptions::cache_directory`].
    pub fn cache_directory(&self) -> &Path {
        &self.shared.options.cache_directory
    }

    /// Lets other processes write at once, which in an object store else wait for this one's leases to run out. The
    /// store can be used on.
    pub async fn release(&self) -> Result<()> {
        let cells: Vec<_> = self.shared.states.lock().values().map(|entry| Arc::clone(&entry.state)).collect();
        for state in cells.iter().filter_map(|cell| cell.get()) {
            state.place.leases.release().await?;
        }
        Ok(())
    }

    /// Makes a table.
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
            // Its own caches, since the table has no identity before it has a log.
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
        // Makes its log and its key index: who only reads later may not be able to.
        self.state(name).boxed().await?;
        Ok(Table::new(self.clone(), name))
    }

    /// The table called `name`.
    ///
    /// # Errors
    /// `NotFound`, naming the tables there are.
    pub async fn table(&self, name: &str) -> Result<Table> {
        check_name(name)?;
        if self.shared.place.has_table(name).boxed().await? {
            return Ok(Table::new(self.clone(), name));
        }
        Err(unknown("table", name, self.tables().await?.iter().map(String::as_str)))
    }

    /// The names of all tables, sorted.
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

    /// Bytes of table `name`: base and log, all versions together.
    pub async fn bytes(&self, name: &str) -> Result<u64> {
        self.shared.place.bytes(name).boxed().await
    }

    /// The right to make or drop table `name`: to write its log and to change its base.
    async fn leases(&self, name: &str) -> Result<(Leases, [Lease; 2])> {
        // The leases of a table in use are known; a table that is made or dropped has its own.
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

    /// The state of table `name` in this process, opened if it is not.
    ///
    /// # Errors
    /// `NotFound` when there is no such table.
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
                // Another process dropped it, and may have made another one under its name.
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

    /// Opens table `name` anew the next time, unless somebody did already.
    fn forget(&self, name: &str, cell: &Cell) {
        let mut states = self.shared.states.lock();
        if states.get(name).is_some_and(|entry| Arc::ptr_eq(&entry.state, cell)) {
            states.remove(name);
        }
    }

    /// Closes the tables that were not used for the longest time, but for [`StoreOptions::idle_tables_max`].
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
            // Nobody in this process would remember to.
            if state.has_changes()
                && let Err(error) = state.fold().boxed().await
            {
                tracing::warn!(%error, table = name, "the writes of a table that is closed stay in its log");
            }
            if let Err(error) = state.place.leases.release().await {
                tracing::warn!(%error, table = name, "others wait until the lease runs out");
            }
            let mut states = self.shared.states.lock();
            let is_idle = states.get(&name).is_some_and(|entry| {
                // One in the map and one here.
                Arc::ptr_eq(&entry.state, &cell) && Arc::strong_count(&cell) == 2 && State::is_idle(state)
            });
            if is_idle {
                states.remove(&name);
            }
        }
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

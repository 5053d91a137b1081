//! A place with tables: a directory, or a prefix of an object store.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchIterator};
use arrow::datatypes::SchemaRef;
use cenote_base::{Error, Result, unknown};
use futures::FutureExt;
use lance::Dataset;
use lance::dataset::WriteParams;

use crate::after_fold::Follower;
use crate::base::dataset::write_params;
use crate::base::pages::Pages;
use crate::base::sessions::Sessions;
use crate::errors::lance_error;
use crate::files::block_cache::BlockCacheUsage;
use crate::identity::new_identity;
use crate::options::StoreOptions;
use crate::properties;
use crate::rows::column::{self, Owner};
use crate::rows::primary_key::PrimaryKey;
use crate::rows::schema;
use crate::shared::{Shared, WholeTable};
use crate::state::location::{Location, LocationOptions};
use crate::state::table_state::{FoldFollower, TableOptions};
use crate::table::Table;

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

impl Store {
    /// Opens the store at `location`: a directory, which is created if it does not exist, or a URI such as
    /// `s3://bucket/prefix`. Credentials and endpoint of a URI come from the environment (`AWS_ACCESS_KEY_ID`,
    /// `AWS_ENDPOINT_URL` and so on).
    pub async fn open(location: impl AsRef<Path>, options: StoreOptions) -> Result<Self> {
        let sessions = Arc::new(Sessions::new(options.index_cache_bytes_max, options.metadata_cache_bytes_max));
        let pages = Arc::new(Pages::new(options.page_cache_bytes_max));
        let location_options = LocationOptions {
            object_store: options.object_store,
            lease_patience: options.lease_patience,
            cache_directory: options.cache_directory,
            block_cache_bytes_max: options.block_cache_bytes_max,
            faults: options.faults.clone(),
        };
        let table_options = TableOptions {
            writer_wait_max: options.writer_wait_max,
            fold_bytes: options.fold_bytes,
            fold_rows: options.fold_rows,
            fold_age: options.fold_age,
            bulk_bytes: options.bulk_bytes,
            file_bytes: options.file_bytes,
            file_rows: options.file_rows,
            clock: options.clock,
            faults: options.faults,
        };
        let location = Location::open(location.as_ref(), sessions.stores(), location_options).boxed().await?;
        let shared = Arc::new_cyclic(|store| {
            let follower =
                options.after_fold.map(|hook| Arc::new(Follower::new(hook, store.clone())) as Arc<dyn FoldFollower>);
            Shared::new(location, sessions, pages, table_options, options.idle_tables_max, follower)
        });
        Ok(Self { shared })
    }

    /// Returns the usage of the local cache of a remote store; `None` without a cache.
    pub fn block_cache(&self) -> Option<BlockCacheUsage> {
        self.shared.location().blocks().map(|blocks| blocks.0.usage())
    }

    /// Returns this machine's directory for data that can be rebuilt: [`StoreOptions::cache_directory`].
    pub fn cache_directory(&self) -> &Path {
        self.shared.location().cache_directory()
    }

    /// Releases this process's leases, so that other processes need not wait for them to run out, as they would in an
    /// object store. The store can be used afterwards.
    pub async fn release(&self) -> Result<()> {
        self.shared.release().await
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
        spec.properties.iter().try_for_each(|(name, value)| properties::check(name, Some(value)))?;
        let columns = column::stored(&spec.schema);
        let key = PrimaryKey::new(&columns, &spec.primary_key)?;
        let stored: SchemaRef = Arc::new(schema::to_stored(&columns, &key));
        let WholeTable { leases, held } = self.shared.whole_table(name).await?;
        if self.shared.location().has_table(name).boxed().await? {
            return Err(Error::already_exists(format!("table `{name}` exists already")));
        }
        self.shared.location().clear(name).boxed().await?;
        self.shared.forget(name);
        let nothing = RecordBatchIterator::new(std::iter::empty::<Result<RecordBatch, _>>(), Arc::clone(&stored));
        let location = self.shared.location().table(name);
        let fence = location.fence().await?;
        let params = WriteParams {
            // Caches of its own, since the table has no identity before it has a log.
            session: Some(self.shared.sessions().of(new_identity())),
            store_params: Some(location.params),
            commit_handler: Some(Arc::new(fence)),
            ..write_params()
        };
        let written = Dataset::write(nothing, &location.base, Some(params)).boxed().await;
        let mut dataset = written.map_err(lance_error)?;
        if !spec.properties.is_empty() {
            dataset.update_config(spec.properties).await.map_err(lance_error)?;
        }
        drop(held);
        leases.release().await?;
        // Create the log and the key index now: a process that only reads may not be able to.
        self.shared.state(name).boxed().await?;
        Ok(Table::new(Arc::clone(&self.shared), name))
    }

    /// Returns the table called `name`.
    ///
    /// # Errors
    /// `NotFound`, listing the existing tables.
    pub async fn table(&self, name: &str) -> Result<Table> {
        check_name(name)?;
        if self.shared.location().has_table(name).boxed().await? {
            return Ok(Table::new(Arc::clone(&self.shared), name));
        }
        Err(unknown("table", name, self.tables().await?.iter().map(String::as_str)))
    }

    /// Lists the names of all tables, sorted.
    pub async fn tables(&self) -> Result<Vec<String>> {
        self.shared.location().tables().boxed().await
    }

    /// Removes a table and all its versions. Snapshots of it held anywhere stop working.
    pub async fn drop_table(&self, name: &str) -> Result<()> {
        self.table(name).await?;
        let WholeTable { leases, held: _held } = self.shared.whole_table(name).await?;
        self.shared.forget(name);
        self.shared.location().drop_table(name).boxed().await?;
        leases.release().await
    }

    /// Returns the bytes of table `name`: base and log, all versions together.
    pub async fn bytes(&self, name: &str) -> Result<u64> {
        self.shared.location().bytes(name).boxed().await
    }
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

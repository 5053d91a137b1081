//! Writes to a table: each call is one version, applied as a whole or not at all.
//!
//! Small writes go to the change store. Large writes, and updates of many rows, go straight to the base as a commit of
//! their own: see `direct`.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::BuildHasherDefault;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, BooleanArray, Int64Array, RecordBatch};
use arrow::compute::{concat_batches, filter_record_batch};
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef};
use cenote_base::{Error, ErrorKind, Result};
use futures::FutureExt;
use lance::Dataset;
use lance::dataset::{BatchUDF, NewColumnTransform};

use crate::base::dataset::{self, schemas};
use crate::blocking::detached;
use crate::changes::change_store::ByHash;
use crate::errors::{arrow_error, lance_error};
use crate::feed::{ChangeFeed, check_written};
use crate::files::block_cache::BlockCacheUsage;
use crate::leases::turn::Turn;
use crate::log::Record;
use crate::log::history::Note;
use crate::properties::{self, DUPLICATES_PROPERTY, VOID};
use crate::reading::snapshot::Snapshot;
use crate::report::WriteReport;
use crate::row_id::WRITE_ROWS_MAX;
use crate::rows::column::{self, HIDDEN_PREFIX, Owner};
use crate::rows::filter::Filter;
use crate::rows::schema::{self, Missing};
use crate::shared::Shared;
use crate::state::table_state::TableState;
use crate::state::writer::RowWrite;
use crate::upkeep::collect::{self, Collected};
use crate::upkeep::compaction;
use crate::upkeep::schedule::UpkeepStatus;
use crate::version::{Version, VersionInfo};
use crate::writing::direct::{self, Staged};
use crate::writing::update::Update;
use crate::writing::{gate, patch, predicate};

/// A table of a [`Store`](crate::Store). Cheap to clone.
#[derive(Debug, Clone)]
pub struct Table {
    shared: Arc<Shared>,
    name: Arc<str>,
}

impl Table {
    pub(crate) fn new(shared: Arc<Shared>, name: &str) -> Self {
        Self { shared, name: name.into() }
    }

    /// See [`Store::block_cache`](crate::Store::block_cache).
    pub fn block_cache(&self) -> Option<BlockCacheUsage> {
        self.shared.location().blocks().map(|blocks| blocks.0.usage())
    }

    /// See [`Store::cache_directory`](crate::Store::cache_directory).
    pub fn cache_directory(&self) -> &Path {
        self.shared.location().cache_directory()
    }

    /// Returns the table's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(crate) async fn state(&self) -> Result<Arc<TableState>> {
        self.shared.state(&self.name).boxed().await
    }

    /// Returns the table's state and a snapshot of its newest version.
    async fn current(&self) -> Result<(Arc<TableState>, Snapshot)> {
        let state = self.state().await?;
        match state.snapshot().boxed().await {
            Ok(snapshot) => Ok((state, snapshot)),
            // Another table may have been made under the name; in an object store only a read finds out.
            Err(_) if state.is_gone()? => {
                let state = self.state().await?;
                let snapshot = state.snapshot().boxed().await?;
                Ok((state, snapshot))
            }
            Err(error) => Err(error),
        }
    }

    /// Returns a snapshot of the newest version: every write that any process had acknowledged before this call.
    pub async fn snapshot(&self) -> Result<Snapshot> {
        Ok(self.current().await?.1)
    }

    /// Returns the table as it was at `version`.
    ///
    /// # Errors
    /// `NotFound` when the version does not exist, or was collected.
    pub async fn snapshot_at(&self, version: Version) -> Result<Snapshot> {
        self.current().await?.0.snapshot_at(version).boxed().await
    }

    /// Returns the table as it was at the version that `tag` names.
    pub async fn snapshot_of(&self, tag: &str) -> Result<Snapshot> {
        let tags = self.tags().await?;
        let version = tags.get(tag).copied().ok_or_else(|| self.no_tag(tag, &tags))?;
        self.snapshot_at(version).await
    }

    /// Lists all versions that can be read, oldest first.
    pub async fn versions(&self) -> Result<Vec<VersionInfo>> {
        self.current().await?.0.versions().await
    }

    /// Tags `version`, which is then kept until the tag is deleted. Versions between it and the oldest one that is
    /// kept for other reasons are not.
    ///
    /// # Errors
    /// `AlreadyExists` for a tag in use, `NotFound` for a version that cannot be read.
    pub async fn tag(&self, tag: &str, version: Version) -> Result<()> {
        let (state, _) = self.current().await?;
        state.snapshot_at(version).await?;
        let tag = tag.to_owned();
        detached(async move {
            let mut writing = state.writing().await?;
            // It may have been collected meanwhile.
            state.check_version(version)?;
            if let Some(other) = state.history().tags.get(&tag) {
                return Err(Error::already_exists(format!("tag `{tag}` is in use for version {other}")));
            }
            writing.note(Note::Tag { name: tag, version: Some(version.0) }).await?;
            state.roll_behind(&mut writing, version).await
        })
        .await
    }

    /// Deletes a tag.
    pub async fn untag(&self, tag: &str) -> Result<()> {
        let tags = self.tags().await?;
        if !tags.contains_key(tag) {
            return Err(self.no_tag(tag, &tags));
        }
        self.note(Note::Tag { name: tag.to_owned(), version: None }).await
    }

    /// Lists all tags with their versions.
    pub async fn tags(&self) -> Result<BTreeMap<String, Version>> {
        let (state, _) = self.current().await?;
        Ok(state.history().tags.iter().map(|(name, version)| (name.clone(), Version(*version))).collect())
    }

    fn no_tag(&self, tag: &str, tags: &BTreeMap<String, Version>) -> Error {
        let known = tags.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        let known = if known.is_empty() { "it has none".to_owned() } else { format!("it has {known}") };
        Error::not_found(format!("table `{}` has no tag `{tag}`; {known}", self.name))
    }

    /// Inserts rows, and replaces existing rows with the same keys as a whole. A column that `batch` lacks becomes
    /// null. When the call returns, the rows are durable and visible to every later snapshot.
    ///
    /// # Errors
    /// `InvalidInput` for an unknown column, a value that its column cannot hold without loss (except that floats are
    /// rounded to narrower float types), a null where none is allowed, a column given twice, a vector with a number
    /// that is NaN, infinite or null, or two rows with one key (see [`DUPLICATES_PROPERTY`]). Nothing is written then.
    pub async fn upsert(&self, batch: RecordBatch) -> Result<WriteReport> {
        self.upsert_all(vec![batch]).await
    }

    /// Upserts several batches as one version: see [`upsert`](Self::upsert).
    pub async fn upsert_all(&self, batches: Vec<RecordBatch>) -> Result<WriteReport> {
        let (state, mut snapshot) = self.current().await?;
        loop {
            let base = Arc::clone(snapshot.base());
            let written = upsert(&state, snapshot, &batches).boxed().await;
            if !written.as_ref().is_err_and(|error| error.kind() == ErrorKind::Conflict) {
                return written;
            }
            // Somebody may have changed the schema since the rows were checked: then they are checked again.
            snapshot = state.snapshot().boxed().await?;
            if dataset::has_schema(snapshot.base(), &base) {
                return written;
            }
        }
    }

    /// Writes rows to files that no version names yet, after the checks of [`upsert_all`](Self::upsert_all). Many
    /// processes may stage at the same time without waiting for each other; [`commit`](Self::commit) makes what they
    /// staged one version. Rows that are not committed within seven days are collected.
    pub async fn stage(&self, batches: Vec<RecordBatch>) -> Result<Staged> {
        let (state, snapshot) = self.current().await?;
        let checked = batches.iter().map(|batch| schema::check_batch(batch, snapshot.full_schema(), Missing::Null));
        let (batches, _) = unique(&state, &snapshot, checked.collect::<Result<Vec<_>>>()?)?;
        let staged = direct::stage(&state, snapshot.base(), batches).boxed().await?;
        staged.sync(snapshot.base()).boxed().await?;
        Ok(staged)
    }

    /// Inserts staged rows, and replaces existing rows with the same keys as a whole, all as one version.
    ///
    /// # Errors
    /// `InvalidInput` when a key was staged twice, `Conflict` when the schema has changed since. Nothing is written
    /// then.
    pub async fn commit(&self, staged: Vec<Staged>) -> Result<WriteReport> {
        let (state, _) = self.current().await?;
        direct::commit(&state, staged).boxed().await
    }

    /// Sets the columns that `batch` has beside the key, for the keys that exist; other keys are skipped. Columns that
    /// depend on them (see [`DEPENDENTS_PROPERTY`]) and are not in `batch` become void.
    ///
    /// [`DEPENDENTS_PROPERTY`]: crate::DEPENDENTS_PROPERTY
    ///
    /// # Errors
    /// Those of [`upsert`](Self::upsert); `Unsupported` for media columns, which change only by an upsert of the whole
    /// row.
    pub async fn update(&self, batch: RecordBatch) -> Result<WriteReport> {
        self.set(batch, None).await
    }

    /// Updates only rows whose `columns` have not changed since `read`, an earlier snapshot: for values that were
    /// computed from those columns. Other rows are skipped; the report counts the rows that were set.
    ///
    /// # Errors
    /// Those of [`update`](Self::update); `NotFound` for a column that the table does not have.
    pub async fn update_unchanged(
        &self,
        batch: RecordBatch,
        read: &Snapshot,
        columns: &[String],
    ) -> Result<WriteReport> {
        self.set(batch, Some((read.clone(), columns.to_vec()))).await
    }

    async fn set(&self, batch: RecordBatch, read: Option<(Snapshot, Vec<String>)>) -> Result<WriteReport> {
        let (state, snapshot) = self.current().await?;
        let batch = schema::check_batch(&batch, snapshot.full_schema(), Missing::Absent)?;
        if let Some(field) = batch.schema().fields().iter().find(|field| schema::is_blob(field)) {
            return Err(Error::unsupported(format!(
                "column `{}` holds media: change it by upserting the whole row",
                field.name()
            )));
        }
        let (mut batches, _) = unique(&state, &snapshot, vec![batch])?;
        let Some(batch) = batches.pop().filter(|batch| batch.num_columns() > state.key().columns().len()) else {
            return Ok(WriteReport::unchanged(snapshot.version()));
        };
        let is_direct = patch::fits_base(&snapshot, &batch, state.options().bulk_bytes.0).boxed().await?;
        let update = Update { batch, read };
        if is_direct {
            return direct::update(&state, update).boxed().await;
        }
        state.make_room().boxed().await?;
        let writing = state.writing().boxed().await?;
        let snapshot = state.view()?;
        let (given, row_ids) = update.at(&snapshot).boxed().await?;
        if row_ids.is_empty() {
            return Ok(WriteReport::unchanged(snapshot.version()));
        }
        let whole = patch::whole_rows(&snapshot, &given, &row_ids).boxed().await?;
        let hashes = state.key().hash(&state.key().project(&given)?, state.hash_key())?;
        let write = RowWrite { record: Record::Upsert(whole), hashes, base: Some(Arc::clone(snapshot.base())) };
        let committing = Arc::clone(&state);
        let reports = detached(async move { committing.commit(writing, vec![write]).await }).await?;
        state.keep_up();
        reports.into_iter().next().ok_or_else(|| Error::internal("a commit returned no report"))?
    }

    /// Waits for the turn on this table, which has one holder at a time across all processes. It is for work of several
    /// reads and writes that other such work must not interleave with. Writes need no turn and wait for none.
    ///
    /// # Errors
    /// `Conflict` when another process holds the turn for longer than [`StoreOptions::writer_wait_max`].
    ///
    /// [`StoreOptions::writer_wait_max`]: crate::StoreOptions::writer_wait_max
    pub async fn turn(&self) -> Result<Turn> {
        let state = self.state().await?;
        state.location().turns.take(state.options().writer_wait_max).boxed().await
    }

    /// Deletes the rows with these keys; absent keys are skipped. `keys` has at least the columns of the primary key.
    pub async fn delete(&self, keys: &RecordBatch) -> Result<WriteReport> {
        let (state, snapshot) = self.current().await?;
        let keys = state.key().keep_last(&state.key().project(keys)?)?;
        if keys.num_rows() == 0 {
            return Ok(WriteReport::unchanged(snapshot.version()));
        }
        drop(snapshot);
        let hashes = state.key().hash(&keys, state.hash_key())?;
        if keys.num_rows() >= state.options().fold_rows {
            return direct::delete(&state, keys, hashes).boxed().await;
        }
        write(&state, RowWrite { record: Record::Delete(keys), hashes, base: None }).boxed().await
    }

    /// Deletes exactly the rows that satisfy `filter` at the moment of the deletion, whatever is written at the same
    /// time.
    pub async fn delete_where(&self, filter: Filter) -> Result<WriteReport> {
        let (state, _) = self.current().await?;
        predicate::delete(&state, filter).boxed().await
    }

    /// Adds nullable columns, null in every row. A column that exists with the same type is skipped.
    ///
    /// # Errors
    /// `InvalidInput` for a column that is not nullable, is a media column, exists with another type, or has a name or
    /// type that no column may have.
    pub async fn add_columns(&self, fields: &[Field]) -> Result<Version> {
        self.add(fields, Owner::Caller, NewColumnTransform::AllNulls).await
    }

    /// Adds columns that Cenote itself maintains: unlike in [`add_columns`](Self::add_columns), names may begin with
    /// [`HIDDEN_PREFIX`](crate::HIDDEN_PREFIX).
    pub async fn add_own_columns(&self, fields: &[Field]) -> Result<Version> {
        self.add(fields, Owner::Cenote, NewColumnTransform::AllNulls).await
    }

    /// Adds 64-bit integer columns that Cenote itself maintains, [`VOID`](crate::VOID) in every row. A column that
    /// exists is skipped.
    pub async fn add_void_columns(&self, names: &[&str]) -> Result<Version> {
        let fields: Vec<Field> = names.iter().map(|name| Field::new(*name, DataType::Int64, true)).collect();
        let void = |output_schema: SchemaRef| {
            let schema = Arc::clone(&output_schema);
            let mapper = move |rows: &RecordBatch| {
                let column: ArrayRef = Arc::new(Int64Array::from(vec![VOID; rows.num_rows()]));
                let columns = vec![column; schema.fields().len()];
                Ok(RecordBatch::try_new(Arc::clone(&schema), columns)?)
            };
            NewColumnTransform::BatchUDF(BatchUDF { mapper: Box::new(mapper), output_schema, result_checkpoint: None })
        };
        self.add(&fields, Owner::Cenote, void).await
    }

    async fn add(
        &self,
        fields: &[Field],
        owner: Owner,
        values: impl FnOnce(SchemaRef) -> NewColumnTransform,
    ) -> Result<Version> {
        let fields = column::stored(&Schema::new(fields.to_vec()));
        let fields = fields.fields();
        let snapshot = self.snapshot().await?;
        if missing(snapshot.full_schema(), fields, owner)?.is_empty() {
            return Ok(snapshot.version());
        }
        let key = snapshot.primary_key().columns();
        drop(snapshot);
        self.alter(async |dataset| {
            // Another writer may have added some of them meanwhile.
            let missing = missing(&schemas(dataset).0, fields, owner)?;
            if missing.is_empty() {
                return Ok(());
            }
            dataset.add_columns(values(Arc::new(Schema::new(missing))), Some(key), None).await.map_err(lance_error)
        })
        .await
    }

    /// Drops columns that are not part of the key. Cenote's own columns that depend on one of them (see
    /// [`DEPENDENTS_PROPERTY`](crate::DEPENDENTS_PROPERTY)) are dropped in the same version: a later column of the same
    /// name is another one. An empty list makes no version.
    pub async fn drop_columns(&self, columns: &[&str]) -> Result<Version> {
        let snapshot = self.snapshot().await?;
        if columns.is_empty() {
            return Ok(snapshot.version());
        }
        for column in columns {
            if snapshot.primary_key().schema().index_of(column).is_ok() {
                return Err(Error::invalid_input(format!("column `{column}` is part of the primary key")));
            }
            if snapshot.full_schema().index_of(column).is_err() {
                return Err(Error::not_found(format!("table `{}` has no column `{column}`", self.name)));
            }
        }
        self.alter(async |dataset| {
            let dependents = properties::dependents(dataset.config())?;
            let own = columns.iter().filter_map(|column| dependents.get(*column)).flatten().map(String::as_str);
            let own = own.filter(|name| name.starts_with(HIDDEN_PREFIX));
            // Another writer may have dropped some of them meanwhile.
            let stored = columns.iter().copied().chain(own).filter(|name| dataset.schema().field(name).is_some());
            let dropped: BTreeSet<&str> = stored.collect();
            if dropped.is_empty() {
                return Ok(());
            }
            dataset.drop_columns(&Vec::from_iter(dropped)).await.map_err(lance_error)
        })
        .await
    }

    /// Sets properties; a value of `None` removes one.
    ///
    /// # Errors
    /// `InvalidInput` for an invalid value of one of Cenote's own properties.
    pub async fn set_properties(&self, properties: BTreeMap<String, Option<String>>) -> Result<Version> {
        properties.iter().try_for_each(|(name, value)| properties::check(name, value.as_deref()))?;
        self.alter(async |dataset| dataset.update_config(properties).await.map(drop).map_err(lance_error)).await
    }

    /// Commits a change of the schema or the properties as a version of its own.
    async fn alter(&self, change: impl AsyncFnOnce(&mut Dataset) -> Result<()>) -> Result<Version> {
        let (state, _) = self.current().await?;
        Box::pin(direct::alter(&state, change)).await
    }

    /// Moves everything written so far into the base. Upkeep does this by itself when enough has been written.
    pub async fn fold(&self) -> Result<()> {
        self.current().await?.0.fold().await
    }

    /// Folds, joins the base's small files, and rewrites files that have lost a tenth of their rows. With `purge`, it
    /// rewrites every file that has lost a row, so that nothing is left of deleted rows after
    /// [`collect`](Self::collect). Writers and folds go on meanwhile.
    ///
    /// # Errors
    /// `Conflict` when the files kept changing while they were joined, or while an index is being built from them.
    pub async fn compact(&self, purge: bool) -> Result<()> {
        let (state, _) = self.current().await?;
        compaction::compact(&state, purge).boxed().await
    }

    /// Removes what only versions older than `keep` need, and files that a crash left behind; `None` uses the table's
    /// own retention (see [`RETENTION_PROPERTY`](crate::RETENTION_PROPERTY)). Versions with a tag, a consumer or a
    /// reader are kept, and everything that these need. A reader is a snapshot, or a scan begun on one that has not
    /// ended: on a local disk in any process, in an object store only in this one. There, a reader in another process
    /// fails with `NotFound` when it reaches a removed file. Upkeep collects by itself after folds.
    pub async fn collect(&self, keep: Option<Duration>) -> Result<Collected> {
        let (state, snapshot) = self.current().await?;
        let keep = match keep {
            Some(keep) => keep,
            None => properties::retention(snapshot.properties())?,
        };
        drop(snapshot);
        collect::collect(&state, keep).boxed().await
    }

    /// Runs `change` on the base after folding everything written so far: for index builds and other upkeep that leaves
    /// the rows as they are. Writers and folds go on meanwhile; each commit of `change` is carried over to the newest
    /// version.
    ///
    /// # Errors
    /// Those of `change`; `Conflict` when the base has changed so that the result no longer fits it.
    pub async fn maintain<T, F>(&self, change: F) -> Result<T>
    where
        F: AsyncFnOnce(&mut Dataset) -> Result<T>,
    {
        let (state, _) = self.current().await?;
        state.fold().await?;
        Box::pin(gate::maintain(&state, change)).await
    }

    /// Returns what happened to rows after version `from`, in order.
    ///
    /// # Errors
    /// `NotFound` when version `from` has not been written yet, or the changes after it were collected: see
    /// [`RETENTION_PROPERTY`](crate::RETENTION_PROPERTY).
    pub async fn changes(&self, from: Version) -> Result<ChangeFeed> {
        ChangeFeed::open(self.current().await?.0, from).boxed().await
    }

    /// Returns how far each durable consumer of the change feed has read. Changes that a consumer has not read are not
    /// collected.
    pub async fn consumers(&self) -> Result<BTreeMap<String, Version>> {
        let (state, _) = self.current().await?;
        Ok(state.history().consumers.iter().map(|(name, version)| (name.clone(), Version(*version))).collect())
    }

    /// Records that consumer `name` has read the changes up to `version`; `None` deletes the consumer.
    ///
    /// # Errors
    /// `NotFound` for a version that has not been written yet.
    pub async fn set_consumer(&self, name: &str, version: Option<Version>) -> Result<()> {
        if let Some(version) = version {
            check_written(version, self.snapshot().await?.version())?;
        }
        self.note(Note::Consumer { name: name.to_owned(), version: version.map(|version| version.0) }).await
    }

    async fn note(&self, note: Note) -> Result<()> {
        let (state, _) = self.current().await?;
        detached(async move { state.writing().await?.note(note).await }).await
    }

    /// Folds, joins files, brings indexes up to date and collects, if there is a reason to, and waits for it. Returns
    /// the reason. A process that writes does this by itself; `tend` is for a process that looks after tables which
    /// others write.
    pub async fn tend(&self) -> Result<Option<String>> {
        self.current().await?.0.tend().boxed().await
    }

    /// Returns how far the base lags behind the writes, and what upkeep is doing about it.
    pub async fn upkeep(&self) -> Result<UpkeepStatus> {
        let (state, _) = self.current().await?;
        state.upkeep_status()
    }
}

/// Upserts `batches`, which are checked with the schema of `snapshot`.
///
/// # Errors
/// `Conflict` when the schema changes before they are written.
async fn upsert(state: &Arc<TableState>, snapshot: Snapshot, batches: &[RecordBatch]) -> Result<WriteReport> {
    let logical = Arc::clone(snapshot.full_schema());
    let checked = batches.iter().map(|batch| schema::check_batch(batch, &logical, Missing::Null));
    let (batches, hashes) = unique(state, &snapshot, checked.collect::<Result<Vec<_>>>()?)?;
    if hashes.is_empty() {
        return Ok(WriteReport::unchanged(snapshot.version()));
    }
    let base = Some(Arc::clone(snapshot.base()));
    // While a snapshot is held, the next write has to copy the list of chunks.
    drop(snapshot);
    let bytes: usize = batches.iter().map(RecordBatch::get_array_memory_size).sum();
    if bytes as u64 >= state.options().bulk_bytes.0 || hashes.len() > WRITE_ROWS_MAX {
        return direct::upsert(state, batches).boxed().await;
    }
    let batch = match <[RecordBatch; 1]>::try_from(batches) {
        Ok([batch]) => batch,
        Err(batches) => concat_batches(&logical, &batches).map_err(arrow_error)?,
    };
    write(state, RowWrite { record: Record::Upsert(batch), hashes, base }).boxed().await
}

/// Writes to the change store once it has room, and starts a fold if there is a reason to.
async fn write(state: &Arc<TableState>, write: RowWrite) -> Result<WriteReport> {
    state.make_room().await?;
    let report = state.write(write).await?;
    state.keep_up();
    Ok(report)
}

/// Returns those of `fields` that a table with the columns `logical` lacks.
fn missing(logical: &Schema, fields: &Fields, owner: Owner) -> Result<Vec<FieldRef>> {
    if let Some(column) = column::repeated(fields.iter().map(|field| field.name())) {
        return Err(Error::invalid_input(format!("column `{column}` is given twice: name each column once")));
    }
    let mut missing = Vec::new();
    for field in fields {
        match logical.field_with_name(field.name()) {
            Ok(existing) if existing.data_type() == field.data_type() => {}
            Ok(existing) => {
                return Err(Error::invalid_input(format!(
                    "column `{}` exists with type {}; drop it before adding it as {}",
                    field.name(),
                    existing.data_type(),
                    field.data_type()
                )));
            }
            Err(_) if !field.is_nullable() || schema::is_blob(field) => {
                let what = format!("column `{}` must be nullable and hold no media to be added", field.name());
                return Err(Error::invalid_input(what));
            }
            Err(_) => {
                column::check(field, owner)?;
                missing.push(field.clone());
            }
        }
    }
    Ok(missing)
}

/// Checks that each key occurs once in all batches together, or keeps its last row where the table allows that. Returns
/// the batches with the hashes of their keys.
fn unique(state: &TableState, snapshot: &Snapshot, batches: Vec<RecordBatch>) -> Result<(Vec<RecordBatch>, Vec<u128>)> {
    let secret = state.hash_key();
    let each = batches.iter().map(|batch| state.key().hash(&state.key().project(batch)?, secret));
    let each = each.collect::<Result<Vec<_>>>()?;
    let hashes: Vec<u128> = each.iter().flatten().copied().collect();
    let mut last: ByHash<usize> = ByHash::with_capacity_and_hasher(hashes.len(), BuildHasherDefault::default());
    let mut repeated = None;
    for (row, hash) in hashes.iter().enumerate() {
        if let Some(first) = last.insert(*hash, row) {
            repeated.get_or_insert((first, row));
        }
    }
    let Some((first, second)) = repeated else { return Ok((batches, hashes)) };
    let policy = snapshot.properties().get(DUPLICATES_PROPERTY).map_or("error", String::as_str);
    if policy != "last" {
        return Err(Error::invalid_input(format!(
            "rows {first} and {second} of the write have the same key: give each key once, or set the table's property \
             `{DUPLICATES_PROPERTY}` to `last` to let the last row of a key count"
        )));
    }
    let mut start = 0;
    let kept = batches.into_iter().map(|batch| {
        let rows = start..start + batch.num_rows();
        start = rows.end;
        let is_last: BooleanArray = rows.map(|row| Some(last[&hashes[row]] == row)).collect();
        filter_record_batch(&batch, &is_last).map_err(arrow_error)
    });
    let batches = kept.collect::<Result<Vec<_>>>()?;
    let hashes = hashes.iter().enumerate().filter(|(row, hash)| last[*hash] == *row).map(|(_, hash)| *hash).collect();
    Ok((batches, hashes))
}

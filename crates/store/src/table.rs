//! Writing a table: each call is one version, whole or not there.
//!
//! Small writes go to the change store. What is large, or changes a caption of many rows with media, goes straight to the base,
//! as one commit of its own: see `direct`.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::BuildHasherDefault;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{BooleanArray, RecordBatch, UInt32Array, new_null_array};
use arrow::compute::{concat_batches, filter_record_batch, take_record_batch};
use arrow::datatypes::{Field, FieldRef, Schema};
use cenote_base::{Error, Result};
use futures::FutureExt;
use lance::Dataset;
use lance::dataset::NewColumnTransform;

use crate::Version;
use crate::block_cache::BlockCacheUsage;
use crate::changes::ByHash;
use crate::commit::RowWrite;
use crate::direct::{self, Staged};
use crate::fault::{arrow_error, lance_error};
use crate::feed::ChangeFeed;
use crate::filter::Filter;
use crate::history::Note;
use crate::log::Record;
use crate::patch;
use crate::schema::{self, Missing};
use crate::snapshot::{ScanRequest, Snapshot, WRITE_ROWS_MAX};
use crate::state::{State, detached};
use crate::store::Store;
use crate::upkeep::{self, Collected, RETENTION_BYTES_PROPERTY, RETENTION_PROPERTY, UpkeepStatus};

/// The property that says which columns of a table are void when another one changes: a JSON object from column to list of
/// columns. [`Table::update`] sets them to null along with the change.
pub const DEPENDENTS_PROPERTY: &str = "cenote.dependents";

/// The property that says what becomes of a write that holds a key twice: `error` (the default) refuses it, `last` lets the
/// last row count.
pub const DUPLICATES_PROPERTY: &str = "cenote.duplicates";

/// The property that says when a write is acknowledged: `synced` (the default) when it is on the disk, `relaxed` when the
/// operating system has it. Then a crash of the machine may lose the writes of the last seconds, the newest first; a crash of
/// the process loses nothing.
pub const DURABILITY_PROPERTY: &str = "cenote.durability";

/// What a write did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WriteReport {
    /// The version that holds it.
    pub version: Version,
    /// Rows that were not there before.
    pub inserted: usize,
    /// Rows that were there and have new values.
    pub updated: usize,
    /// Rows that were there and are gone.
    pub deleted: usize,
}

/// A table of a [`Store`]. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Table {
    store: Store,
    name: Arc<str>,
}

impl Table {
    pub(crate) fn new(store: Store, name: &str) -> Self {
        Self { store, name: name.into() }
    }

    /// See [`Store::block_cache`].
    pub fn block_cache(&self) -> Option<BlockCacheUsage> {
        self.store.block_cache()
    }

    /// See [`Store::cache_directory`].
    pub fn cache_directory(&self) -> &Path {
        self.store.cache_directory()
    }

    /// The table's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    async fn state(&self) -> Result<Arc<State>> {
        self.store.state(&self.name).boxed().await
    }

    /// The newest version: all that was acknowledged by any writer before this call.
    pub async fn snapshot(&self) -> Result<Snapshot> {
        self.state().await?.snapshot().boxed().await
    }

    /// The table as it was at `version`.
    ///
    /// # Errors
    /// `NotFound` when there is no such version, or it was collected.
    pub async fn snapshot_at(&self, version: Version) -> Result<Snapshot> {
        self.state().await?.snapshot_at(version).boxed().await
    }

    /// The table as it was when `tag` was set.
    pub async fn snapshot_of(&self, tag: &str) -> Result<Snapshot> {
        let tags = self.tags().await?;
        let version = tags.get(tag).copied().ok_or_else(|| self.no_tag(tag, &tags))?;
        self.snapshot_at(version).await
    }

    /// All versions that can be read, oldest first, each with its time in microseconds since 1970.
    pub async fn versions(&self) -> Result<Vec<(Version, i64)>> {
        self.state().await?.versions().await
    }

    /// Names `version`: it is kept until the tag is deleted, and what is between it and the oldest version that is kept anyway
    /// is not.
    ///
    /// # Errors
    /// `AlreadyExists` for a tag in use, `NotFound` for a version that is not there.
    pub async fn tag(&self, tag: &str, version: Version) -> Result<()> {
        let state = self.state().await?;
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

    /// Forgets a tag.
    pub async fn untag(&self, tag: &str) -> Result<()> {
        let tags = self.tags().await?;
        if !tags.contains_key(tag) {
            return Err(self.no_tag(tag, &tags));
        }
        self.note(Note::Tag { name: tag.to_owned(), version: None }).await
    }

    /// All tags with their versions.
    pub async fn tags(&self) -> Result<BTreeMap<String, Version>> {
        let state = self.state().await?;
        state.snapshot().boxed().await?;
        Ok(state.history().tags.iter().map(|(name, version)| (name.clone(), Version(*version))).collect())
    }

    fn no_tag(&self, tag: &str, tags: &BTreeMap<String, Version>) -> Error {
        let known = tags.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        let known = if known.is_empty() { "it has none".to_owned() } else { format!("it has {known}") };
        Error::not_found(format!("table `{}` has no tag `{tag}`; {known}", self.name))
    }

    /// Inserts rows, and replaces whole those whose key is there already. A column that `batch` lacks becomes null. When it
    /// returns, the rows are durable, and every later snapshot has them.
    ///
    /// # Errors
    /// `InvalidInput` for an unknown column, a type that does not fit, a null where none may be, a vector with a number that
    /// is NaN or infinite, or two rows with one key (see [`DUPLICATES_PROPERTY`]); nothing is written.
    pub async fn upsert(&self, batch: RecordBatch) -> Result<WriteReport> {
        self.upsert_all(vec![batch]).await
    }

    /// [`upsert`](Self::upsert) of several batches as one version.
    pub async fn upsert_all(&self, batches: Vec<RecordBatch>) -> Result<WriteReport> {
        let state = self.state().await?;
        let snapshot = state.snapshot().boxed().await?;
        let logical = Arc::clone(snapshot.full_schema());
        let checked = batches.iter().map(|batch| schema::check_batch(batch, &logical, Missing::Null));
        let (batches, hashes) = unique(&state, &snapshot, checked.collect::<Result<Vec<_>>>()?)?;
        if hashes.is_empty() {
            return Ok(nothing(&snapshot));
        }
        // A snapshot that is held makes the next write copy the list of chunks.
        drop(snapshot);
        let bytes: usize = batches.iter().map(RecordBatch::get_array_memory_size).sum();
        if bytes as u64 >= state.options.bulk_bytes.0 || hashes.len() > WRITE_ROWS_MAX {
            return direct::upsert(&state, batches).boxed().await;
        }
        let batch = match <[RecordBatch; 1]>::try_from(batches) {
            Ok([batch]) => batch,
            Err(batches) => concat_batches(&logical, &batches).map_err(arrow_error)?,
        };
        state.write(RowWrite { record: Record::Upsert(batch), hashes }).boxed().await
    }

    /// Writes rows to files that no version names yet, as [`upsert_all`](Self::upsert_all) checks them. Many processes may do so
    /// at the same time, without waiting for anybody; [`commit`](Self::commit) makes what they staged one version. What is not
    /// committed within seven days is collected.
    pub async fn stage(&self, batches: Vec<RecordBatch>) -> Result<Staged> {
        let state = self.state().await?;
        let snapshot = state.snapshot().boxed().await?;
        let checked = batches.iter().map(|batch| schema::check_batch(batch, snapshot.full_schema(), Missing::Null));
        let (batches, _) = unique(&state, &snapshot, checked.collect::<Result<Vec<_>>>()?)?;
        direct::stage(&state, snapshot.base(), batches).boxed().await
    }

    /// Inserts staged rows, and replaces whole those whose key is there already, all as one version.
    ///
    /// # Errors
    /// `InvalidInput` when a key was staged twice, `Conflict` when the schema has changed since; nothing is written.
    pub async fn commit(&self, staged: Vec<Staged>) -> Result<WriteReport> {
        let state = self.state().await?;
        direct::commit(&state, staged).boxed().await
    }

    /// Sets the columns that `batch` has beside the key, for the keys that are there; other keys are passed over. Columns
    /// that depend on them (see [`DEPENDENTS_PROPERTY`]) and are not in `batch` become null.
    ///
    /// # Errors
    /// As [`upsert`](Self::upsert); `Unsupported` for media columns, which change by a whole-row upsert.
    pub async fn update(&self, batch: RecordBatch) -> Result<WriteReport> {
        let state = self.state().await?;
        let snapshot = state.snapshot().boxed().await?;
        let batch = schema::check_batch(&batch, snapshot.full_schema(), Missing::Absent)?;
        if let Some(field) = batch.schema().fields().iter().find(|field| schema::is_blob(field)) {
            return Err(Error::unsupported(format!(
                "column `{}` holds media: change it by upserting the whole row",
                field.name()
            )));
        }
        let batch = void_dependents(&snapshot, &batch)?;
        let (mut batches, _) = unique(&state, &snapshot, vec![batch])?;
        let Some(batch) = batches.pop().filter(|batch| batch.num_columns() > state.key.columns().len()) else {
            return Ok(nothing(&snapshot));
        };
        if patch::fits_base(&snapshot, &batch, state.options.bulk_bytes.0).boxed().await? {
            return direct::update(&state, batch).boxed().await;
        }
        state.make_room().boxed().await?;
        let writing = state.writing().boxed().await?;
        let snapshot = state.view()?;
        let found = snapshot.locate(&batch).boxed().await?;
        let rows = (0u32..).zip(&found).filter_map(|(row, id)| Some((row, (*id)?)));
        let (rows, row_ids): (Vec<u32>, Vec<u64>) = rows.unzip();
        if rows.is_empty() {
            return Ok(nothing(&snapshot));
        }
        let given = take_record_batch(&batch, &UInt32Array::from(rows)).map_err(arrow_error)?;
        let whole = patch::whole_rows(&snapshot, &given, &row_ids).boxed().await?;
        let hashes = state.key.hash(&state.key.project(&given)?, state.hash_key())?;
        let write = RowWrite { record: Record::Upsert(whole), hashes };
        let committing = Arc::clone(&state);
        let reports = detached(async move { committing.commit(writing, vec![write]).await }).await?;
        state.keep_up();
        reports.into_iter().next().ok_or_else(|| Error::internal("a commit gave no report"))
    }

    /// Deletes the rows with these keys; a key that is absent is passed over. `keys` holds at least the primary key.
    pub async fn delete(&self, keys: &RecordBatch) -> Result<WriteReport> {
        let state = self.state().await?;
        let keys = state.key.keep_last(&state.key.project(keys)?)?;
        if keys.num_rows() == 0 {
            return Ok(nothing(&state.snapshot().boxed().await?));
        }
        let hashes = state.key.hash(&keys, state.hash_key())?;
        if keys.num_rows() >= state.options.fold_rows {
            return direct::delete(&state, keys, hashes).boxed().await;
        }
        state.write(RowWrite { record: Record::Delete(keys), hashes }).boxed().await
    }

    /// Deletes the rows that satisfy `filter`.
    pub async fn delete_where(&self, filter: Filter) -> Result<WriteReport> {
        let snapshot = self.snapshot().await?;
        let request = ScanRequest::default().columns(snapshot.primary_key().columns()).filter(filter);
        self.delete(&snapshot.collect(&request).await?).await
    }

    /// Adds nullable columns, null in every row. A column that is there already with the same type is passed over.
    ///
    /// # Errors
    /// `InvalidInput` for a column that is not nullable, is a media column, or exists with another type.
    pub async fn add_columns(&self, fields: &[Field]) -> Result<Version> {
        let snapshot = self.snapshot().await?;
        let logical = snapshot.full_schema();
        let mut new = Vec::new();
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
                Err(_) => new.push(field.clone()),
            }
        }
        if new.is_empty() {
            return Ok(snapshot.version());
        }
        let transform = NewColumnTransform::AllNulls(Arc::new(Schema::new(new)));
        self.alter(async |dataset| dataset.add_columns(transform, None, None).await.map_err(lance_error)).await
    }

    /// Drops columns that are not part of the key.
    pub async fn drop_columns(&self, columns: &[&str]) -> Result<Version> {
        let snapshot = self.snapshot().await?;
        for column in columns {
            if snapshot.primary_key().schema().index_of(column).is_ok() {
                return Err(Error::invalid_input(format!("column `{column}` is part of the primary key")));
            }
            if snapshot.full_schema().index_of(column).is_err() {
                return Err(Error::not_found(format!("table `{}` has no column `{column}`", self.name)));
            }
        }
        self.alter(async |dataset| dataset.drop_columns(columns).await.map_err(lance_error)).await
    }

    /// Sets properties; a value of `None` removes one.
    ///
    /// # Errors
    /// `InvalidInput` when one of Cenote's own has a value that it cannot have.
    pub async fn set_properties(&self, properties: BTreeMap<String, Option<String>>) -> Result<Version> {
        properties.iter().try_for_each(|(name, value)| check_property(name, value.as_deref()))?;
        self.alter(async |dataset| dataset.update_config(properties).await.map(drop).map_err(lance_error)).await
    }

    /// Changes what the table is, as a version of its own.
    async fn alter(&self, change: impl AsyncFnOnce(&mut Dataset) -> Result<()>) -> Result<Version> {
        let state = self.state().await?;
        Box::pin(direct::alter(&state, change)).await
    }

    /// Moves everything written so far into the base. It happens by itself when there is much.
    pub async fn fold(&self) -> Result<()> {
        self.state().await?.fold().await
    }

    /// Folds, joins the base's small files, and writes those anew that have lost a tenth of their rows. With `purge` any that
    /// lost one, so that after [`collect`](Self::collect) nothing is left of deleted rows.
    pub async fn compact(&self, purge: bool) -> Result<()> {
        let state = self.state().await?;
        upkeep::compact(&state, purge).boxed().await
    }

    /// Removes what only versions older than `keep` need, and files that a crash left; `None`: the table's own retention (see
    /// [`RETENTION_PROPERTY`](crate::RETENTION_PROPERTY)). Versions that have a tag, a consumer or a snapshot in this process
    /// are kept, and what they need. It happens by itself after folds.
    pub async fn collect(&self, keep: Option<Duration>) -> Result<Collected> {
        let state = self.state().await?;
        let keep = match keep {
            Some(keep) => keep,
            None => upkeep::retention(state.snapshot().boxed().await?.properties())?,
        };
        upkeep::collect(&state, keep).boxed().await
    }

    /// Runs `change` on the base, with everything written so far in it, while nobody else changes the base: for index builds
    /// and other upkeep that leaves the rows as they are. Writers go on meanwhile.
    pub async fn maintain<T, F>(&self, change: F) -> Result<T>
    where
        F: AsyncFnOnce(&mut Dataset) -> Result<T>,
    {
        let state = self.state().await?;
        state.fold().await?;
        Box::pin(direct::maintain(&state, change)).await
    }

    /// What happened to rows after version `from`, in order.
    ///
    /// # Errors
    /// `NotFound` when what was before `from` was collected: see [`RETENTION_PROPERTY`](crate::RETENTION_PROPERTY).
    pub async fn changes(&self, from: Version) -> Result<ChangeFeed> {
        ChangeFeed::open(self.state().await?, from).boxed().await
    }

    /// How far each durable consumer of the change feed has come. What they have not read is not collected.
    pub async fn consumers(&self) -> Result<BTreeMap<String, Version>> {
        let state = self.state().await?;
        state.snapshot().boxed().await?;
        Ok(state.history().consumers.iter().map(|(name, version)| (name.clone(), Version(*version))).collect())
    }

    /// Remembers that consumer `name` has read the changes up to `version`; `None` forgets it.
    pub async fn set_consumer(&self, name: &str, version: Option<Version>) -> Result<()> {
        self.note(Note::Consumer { name: name.to_owned(), version: version.map(|version| version.0) }).await
    }

    async fn note(&self, note: Note) -> Result<()> {
        let state = self.state().await?;
        detached(async move { state.writing().await?.note(note).await }).await
    }

    /// Folds, indexes, compacts and collects now if there is a reason to, and waits for it; the reason. It happens by itself while
    /// a process writes: this is for a process that looks after tables that others write.
    pub async fn tend(&self) -> Result<Option<String>> {
        self.state().await?.tend().boxed().await
    }

    /// How far the base is behind, and what is done about it.
    pub async fn upkeep(&self) -> Result<UpkeepStatus> {
        let state = self.state().await?;
        state.snapshot().boxed().await?;
        state.upkeep_status()
    }
}

fn check_property(name: &str, value: Option<&str>) -> Result<()> {
    let allowed: &[&str] = match name {
        DUPLICATES_PROPERTY => &["error", "last"],
        DURABILITY_PROPERTY => &["synced", "relaxed"],
        _ => &[],
    };
    match value {
        Some(value) if [RETENTION_PROPERTY, RETENTION_BYTES_PROPERTY].contains(&name) => {
            upkeep::parse_limit(name, value).map(drop)
        }
        Some(value) if !allowed.is_empty() && !allowed.contains(&value) => {
            let allowed = allowed.join("` or `");
            Err(Error::invalid_input(format!("property `{name}` is `{allowed}`, found `{value}`")))
        }
        _ => Ok(()),
    }
}

fn nothing(snapshot: &Snapshot) -> WriteReport {
    WriteReport { version: snapshot.version(), inserted: 0, updated: 0, deleted: 0 }
}

/// One row a key over all batches, with the hashes of the keys.
fn unique(state: &State, snapshot: &Snapshot, batches: Vec<RecordBatch>) -> Result<(Vec<RecordBatch>, Vec<u128>)> {
    let secret = state.hash_key();
    let each = batches.iter().map(|batch| state.key.hash(&state.key.project(batch)?, secret));
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

/// `batch` with a null column for each column that is void when one of the batch's changes.
fn void_dependents(snapshot: &Snapshot, batch: &RecordBatch) -> Result<RecordBatch> {
    let Some(text) = snapshot.properties().get(DEPENDENTS_PROPERTY) else { return Ok(batch.clone()) };
    let dependents: BTreeMap<String, Vec<String>> = serde_json::from_str(text).map_err(|source| {
        Error::corrupt(format!("property {DEPENDENTS_PROPERTY} is unreadable")).with_source(source)
    })?;
    let schema = batch.schema();
    let mut fields: Vec<FieldRef> = schema.fields().iter().cloned().collect();
    let mut columns = batch.columns().to_vec();
    let changed = schema.fields().iter().filter_map(|field| dependents.get(field.name())).flatten();
    for name in changed.collect::<BTreeSet<_>>() {
        // A dependent that was dropped meanwhile has nothing to void.
        let Ok(field) = snapshot.full_schema().field_with_name(name) else { continue };
        if schema.index_of(name).is_err() {
            columns.push(new_null_array(field.data_type(), batch.num_rows()));
            fields.push(Arc::new(field.clone()));
        }
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).map_err(arrow_error)
}

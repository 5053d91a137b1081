//! Writing a table: each call is one atomic commit.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch, new_null_array};
use arrow::datatypes::{Field, FieldRef, Schema, SchemaRef, UInt64Type};
use cenote_base::{Error, Result};
use futures::TryStreamExt;
use lance::Dataset;
use lance::dataset::builder::DatasetBuilder;
use lance::dataset::{
    InsertBuilder, MergeInsertBuilder, MergeInsertWriteMode, NewColumnTransform, WhenMatched, WhenNotMatched,
    WriteMode, WriteParams,
};

use crate::Version;
use crate::fault::lance_error;
use crate::key::PrimaryKey;
use crate::schema::{self, Missing};
use crate::snapshot::{Filter, ScanRequest, Snapshot};
use crate::store::{Store, schemas, write_params};

/// An update that touches at least one row in so many of its fragments' rows patches columns in place; a sparser one
/// rewrites its rows whole.
const PATCH_ROWS_DIVISOR: usize = 16;

/// The property that says which columns of a table are void when another one changes: a JSON object from column to list of
/// columns. [`Table::update`] sets them to null along with the change.
pub const DEPENDENTS_PROPERTY: &str = "cenote.dependents";

/// The column in which a Lance scan gives physical row addresses.
const ROW_ADDRESS: &str = "_rowaddr";

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

    /// The table's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The newest version: all that was acknowledged by any writer before this call.
    pub async fn snapshot(&self) -> Result<Snapshot> {
        Snapshot::new(Arc::new(self.load(self.builder()).await?))
    }

    /// The table as it was at `version`.
    ///
    /// # Errors
    /// `NotFound` when there is no such version, or it was collected.
    pub async fn snapshot_at(&self, version: Version) -> Result<Snapshot> {
        Snapshot::new(Arc::new(self.load(self.builder().with_version(version.0)).await?))
    }

    /// The table as it was when `tag` was set.
    pub async fn snapshot_of(&self, tag: &str) -> Result<Snapshot> {
        Snapshot::new(Arc::new(self.load(self.builder().with_tag(tag)).await?))
    }

    /// All versions that can be read, oldest first, each with its time in microseconds since 1970.
    pub async fn versions(&self) -> Result<Vec<(Version, i64)>> {
        let versions = self.latest().await?.versions().await.map_err(lance_error)?;
        Ok(versions.into_iter().map(|v| (Version(v.version), v.timestamp.timestamp_micros())).collect())
    }

    /// Names `version`; it is kept until the tag is deleted.
    ///
    /// # Errors
    /// `AlreadyExists` for a tag in use, `NotFound` for a version that is not there.
    pub async fn tag(&self, tag: &str, version: Version) -> Result<()> {
        self.latest().await?.tags().create(tag, version.0).await.map_err(lance_error)
    }

    /// Forgets a tag.
    pub async fn untag(&self, tag: &str) -> Result<()> {
        self.latest().await?.tags().delete(tag).await.map_err(lance_error)
    }

    /// All tags with their versions.
    pub async fn tags(&self) -> Result<BTreeMap<String, Version>> {
        let tags = self.latest().await?.tags().list().await.map_err(lance_error)?;
        Ok(tags.into_iter().map(|(name, contents)| (name, Version(contents.version))).collect())
    }

    /// Inserts rows, and replaces whole those whose key is there already. A column that `batch` lacks becomes null. Of
    /// several rows with one key, the last one counts. When it returns, every later snapshot has the rows.
    ///
    /// # Errors
    /// `InvalidInput` for an unknown column, a type that does not fit or a null where none may be; nothing is written.
    pub async fn upsert(&self, batch: RecordBatch) -> Result<WriteReport> {
        self.upsert_all(vec![batch]).await
    }

    /// [`upsert`](Self::upsert) of several batches in one commit; the last row of a key counts.
    pub async fn upsert_all(&self, batches: Vec<RecordBatch>) -> Result<WriteReport> {
        let _lease = self.store.lease(&self.name).await?;
        let dataset = Arc::new(self.latest().await?);
        let (logical, stored) = schemas(&dataset);
        let key = PrimaryKey::of_stored(&stored)?;
        let batches = batches
            .iter()
            .map(|batch| schema::store_batch(batch, &logical, &stored, Missing::Null))
            .collect::<Result<Vec<_>>>()?;
        let batches = self.deduplicate(&key, batches)?;
        let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
        if rows == 0 {
            return Ok(self.report(&dataset, 0, 0, 0));
        }
        if self.count_existing(&dataset, &key, &batches).await? == 0 {
            // The lease makes this exact: nobody can insert one of these keys in between.
            let params = WriteParams {
                mode: WriteMode::Append,
                session: Some(Arc::clone(self.store.session())),
                ..write_params()
            };
            let written = InsertBuilder::new(dataset).with_params(&params).execute(batches).await;
            return Ok(self.report(&written.map_err(lance_error)?, rows, 0, 0));
        }
        let mut merge = MergeInsertBuilder::try_new(dataset, key.columns()).map_err(lance_error)?;
        merge.when_matched(WhenMatched::UpdateAll).when_not_matched(WhenNotMatched::InsertAll).use_index(false);
        let job = merge.try_build().map_err(lance_error)?;
        let (dataset, stats) = job.execute_batches(batches).await.map_err(lance_error)?;
        let (inserted, updated) = (stats.num_inserted_rows as usize, stats.num_updated_rows as usize);
        Ok(self.report(&dataset, inserted, updated, 0))
    }

    /// Sets the columns that `batch` has beside the key, for the keys that are there; other keys are passed over. Columns
    /// that depend on them (see [`DEPENDENTS_PROPERTY`]) and are not in `batch` become null.
    ///
    /// # Errors
    /// As [`upsert`](Self::upsert); `Unsupported` for media columns, which change by a whole-row upsert.
    pub async fn update(&self, batch: RecordBatch) -> Result<WriteReport> {
        let _lease = self.store.lease(&self.name).await?;
        let dataset = Arc::new(self.latest().await?);
        let (logical, stored) = schemas(&dataset);
        let key = PrimaryKey::of_stored(&stored)?;
        let batch = schema::store_batch(&batch, &logical, &stored, Missing::Absent)?;
        if let Some(field) = batch.schema().fields().iter().find(|field| schema::is_blob(field)) {
            return Err(Error::unsupported(format!(
                "column `{}` holds media: change it by upserting the whole row",
                field.name()
            )));
        }
        let batch = void_dependents(&dataset, &logical, &key.keep_last(&batch)?)?;
        if batch.num_rows() == 0 || batch.num_columns() == key.columns().len() {
            return Ok(self.report(&dataset, 0, 0, 0));
        }
        let mode = self.write_mode(&dataset, &key, &batch).await?;
        let mut merge = MergeInsertBuilder::try_new(dataset, key.columns()).map_err(lance_error)?;
        merge.when_matched(WhenMatched::UpdateAll).when_not_matched(WhenNotMatched::DoNothing).use_index(false);
        let job = merge.write_mode(mode).try_build().map_err(lance_error)?;
        let (dataset, stats) = job.execute_batches(vec![batch]).await.map_err(lance_error)?;
        Ok(self.report(&dataset, 0, stats.num_updated_rows as usize, 0))
    }

    /// Deletes the rows with these keys; a key that is absent is passed over. `keys` holds at least the primary key.
    pub async fn delete(&self, keys: &RecordBatch) -> Result<WriteReport> {
        let _lease = self.store.lease(&self.name).await?;
        let dataset = Arc::new(self.latest().await?);
        self.delete_keys(dataset, keys).await
    }

    /// Deletes the rows that satisfy `filter`.
    pub async fn delete_where(&self, filter: Filter) -> Result<WriteReport> {
        let _lease = self.store.lease(&self.name).await?;
        let snapshot = self.snapshot().await?;
        let request = ScanRequest::default().columns(snapshot.primary_key().columns()).filter(filter);
        let keys = snapshot.collect(&request).await?;
        self.delete_keys(Arc::clone(snapshot.dataset()), &keys).await
    }

    /// Adds nullable columns, null in every row. A column that is there already with the same type is passed over.
    ///
    /// # Errors
    /// `InvalidInput` for a column that is not nullable, is a media column, or exists with another type.
    pub async fn add_columns(&self, fields: &[Field]) -> Result<Version> {
        let _lease = self.store.lease(&self.name).await?;
        let mut dataset = self.latest().await?;
        let (logical, _) = schemas(&dataset);
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
        if !new.is_empty() {
            let transform = NewColumnTransform::AllNulls(Arc::new(Schema::new(new)));
            dataset.add_columns(transform, None, None).await.map_err(lance_error)?;
        }
        Ok(Version(dataset.version().version))
    }

    /// Drops columns that are not part of the key.
    pub async fn drop_columns(&self, columns: &[&str]) -> Result<Version> {
        let _lease = self.store.lease(&self.name).await?;
        let mut dataset = self.latest().await?;
        let (_, stored) = schemas(&dataset);
        let key = PrimaryKey::of_stored(&stored)?;
        for column in columns {
            if key.schema().index_of(column).is_ok() {
                return Err(Error::invalid_input(format!("column `{column}` is part of the primary key")));
            }
            if stored.index_of(column).is_err() {
                return Err(Error::not_found(format!("table `{}` has no column `{column}`", self.name)));
            }
        }
        dataset.drop_columns(columns).await.map_err(lance_error)?;
        Ok(Version(dataset.version().version))
    }

    /// Sets properties; a value of `None` removes one.
    pub async fn set_properties(&self, properties: BTreeMap<String, Option<String>>) -> Result<Version> {
        let _lease = self.store.lease(&self.name).await?;
        let mut dataset = self.latest().await?;
        dataset.update_config(properties).await.map_err(lance_error)?;
        Ok(Version(dataset.version().version))
    }

    /// Runs `change` on the newest version while nobody else writes: for index builds and other upkeep of the dataset.
    pub async fn maintain<T, F>(&self, change: F) -> Result<T>
    where
        F: AsyncFnOnce(&mut Dataset) -> Result<T>,
    {
        let _lease = self.store.lease(&self.name).await?;
        let mut dataset = self.latest().await?;
        change(&mut dataset).await
    }

    /// Whether an update of `batch` is cheaper by patching columns of the fragments it touches or by rewriting its rows.
    async fn write_mode(
        &self,
        dataset: &Dataset,
        key: &PrimaryKey,
        batch: &RecordBatch,
    ) -> Result<MergeInsertWriteMode> {
        let wanted: HashSet<_> = key.encode(&key.project(batch)?)?.into_iter().collect();
        let mut scanner = dataset.scan();
        scanner.project(&key.columns()).map_err(lance_error)?.with_row_address();
        let mut stream = scanner.try_into_stream().await.map_err(lance_error)?;
        let mut fragments: HashMap<u64, (usize, bool)> = HashMap::new();
        let mut matched = 0;
        while let Some(rows) = stream.try_next().await.map_err(lance_error)? {
            let addresses = rows.column_by_name(ROW_ADDRESS).and_then(|column| column.as_primitive_opt::<UInt64Type>());
            let addresses = addresses.ok_or_else(|| Error::internal("the scan gave no row addresses"))?;
            for (address, row) in addresses.values().iter().zip(key.encode(&key.project(&rows)?)?) {
                let hit = wanted.contains(&row);
                // The upper half of a row address is its fragment.
                let (count, touched) = fragments.entry(address >> 32).or_default();
                *count += 1;
                *touched |= hit;
                matched += usize::from(hit);
            }
        }
        let touched: usize = fragments.values().filter(|(_, touched)| *touched).map(|(count, _)| count).sum();
        Ok(if matched * PATCH_ROWS_DIVISOR >= touched {
            MergeInsertWriteMode::RewriteColumns
        } else {
            MergeInsertWriteMode::RewriteRows
        })
    }

    async fn delete_keys(&self, dataset: Arc<Dataset>, keys: &RecordBatch) -> Result<WriteReport> {
        let key = PrimaryKey::of_stored(&schemas(&dataset).1)?;
        let keys = key.keep_last(&key.project(keys)?)?;
        if keys.num_rows() == 0 {
            return Ok(self.report(&dataset, 0, 0, 0));
        }
        let mut merge = MergeInsertBuilder::try_new(dataset, key.columns()).map_err(lance_error)?;
        merge.when_matched(WhenMatched::Delete).when_not_matched(WhenNotMatched::DoNothing).use_index(false);
        let job = merge.try_build().map_err(lance_error)?;
        let (dataset, stats) = job.execute_batches(vec![keys]).await.map_err(lance_error)?;
        Ok(self.report(&dataset, 0, 0, stats.num_deleted_rows as usize))
    }

    /// One row a key over all batches. They are joined only when a key stands in two of them.
    fn deduplicate(&self, key: &PrimaryKey, batches: Vec<RecordBatch>) -> Result<Vec<RecordBatch>> {
        let mut seen = HashSet::new();
        let mut unique = true;
        for batch in &batches {
            for row in key.encode(&key.project(batch)?)? {
                unique &= seen.insert(row);
            }
        }
        if unique {
            return Ok(batches);
        }
        let schema: SchemaRef = batches[0].schema();
        let whole = arrow::compute::concat_batches(&schema, &batches).map_err(crate::fault::arrow_error)?;
        Ok(vec![key.keep_last(&whole)?])
    }

    async fn count_existing(&self, dataset: &Arc<Dataset>, key: &PrimaryKey, batches: &[RecordBatch]) -> Result<usize> {
        if dataset.count_rows(None).await.map_err(lance_error)? == 0 {
            return Ok(0);
        }
        let mut wanted = HashSet::new();
        for batch in batches {
            wanted.extend(key.encode(&key.project(batch)?)?);
        }
        let snapshot = Snapshot::new(Arc::clone(dataset))?;
        let mut stream = snapshot.scan(&ScanRequest::default().columns(key.columns())).await?;
        let mut existing = 0;
        while let Some(batch) = stream.try_next().await? {
            existing += key.encode(&key.project(&batch)?)?.iter().filter(|row| wanted.contains(*row)).count();
        }
        Ok(existing)
    }

    fn report(&self, dataset: &Dataset, inserted: usize, updated: usize, deleted: usize) -> WriteReport {
        WriteReport { version: Version(dataset.version().version), inserted, updated, deleted }
    }

    fn builder(&self) -> DatasetBuilder {
        DatasetBuilder::from_uri(self.store.uri(&self.name)).with_session(Arc::clone(self.store.session()))
    }

    async fn latest(&self) -> Result<Dataset> {
        self.load(self.builder()).await
    }

    async fn load(&self, builder: DatasetBuilder) -> Result<Dataset> {
        builder.load().await.map_err(|source| lance_error(source).context(format!("open table `{}`", self.name)))
    }
}

/// `batch` with a null column for each column that is void when one of the batch's changes.
fn void_dependents(dataset: &Dataset, logical: &Schema, batch: &RecordBatch) -> Result<RecordBatch> {
    let Some(text) = dataset.config().get(DEPENDENTS_PROPERTY) else { return Ok(batch.clone()) };
    let dependents: BTreeMap<String, Vec<String>> = serde_json::from_str(text).map_err(|source| {
        Error::corrupt(format!("property {DEPENDENTS_PROPERTY} is unreadable")).with_source(source)
    })?;
    let schema = batch.schema();
    let mut fields: Vec<FieldRef> = schema.fields().iter().cloned().collect();
    let mut columns = batch.columns().to_vec();
    let changed = schema.fields().iter().filter_map(|field| dependents.get(field.name())).flatten();
    for name in changed.collect::<BTreeSet<_>>() {
        // A dependent that was dropped meanwhile has nothing to void.
        let Ok(field) = logical.field_with_name(name) else { continue };
        if schema.index_of(name).is_err() {
            columns.push(new_null_array(field.data_type(), batch.num_rows()));
            fields.push(Arc::new(field.clone()));
        }
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).map_err(crate::fault::arrow_error)
}

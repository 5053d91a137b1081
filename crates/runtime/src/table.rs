//! A table as an embedder sees it: rows, versions, indexes and upkeep.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field};
use cenote_base::{Error, ErrorKind, Progress, Result, unknown};
use cenote_engine::fingerprints_of;
use cenote_index::{IndexInfo, IndexSpec, Indexes, Metric, Tuning, vector_dimensions};
use cenote_loader::SampleSource;
use cenote_store::{
    ChangeFeed, Collected, Filter, RecordBatches, ScanRequest, Snapshot, Staged, UpkeepStatus, Version, VersionInfo,
    WriteReport,
};

use crate::search::Search;

/// A table of a [`Lake`](crate::Lake). Cheap to clone.
///
/// Each write is one version, durable and visible to every reader when the call returns. Reads of several steps go
/// through one [`Snapshot`], which never changes.
#[derive(Debug, Clone)]
pub struct Table {
    stored: cenote_store::Table,
    indexes: Indexes,
}

/// A column of vectors.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct VectorColumn {
    /// The column's name.
    pub name: String,
    /// The count of numbers in each vector.
    pub dimensions: usize,
    /// The type of the numbers; those of embeddings are 32-bit floats.
    pub item: DataType,
}

/// Reads.
impl Table {
    pub(crate) fn new(stored: cenote_store::Table, indexes: Indexes) -> Self {
        Self { stored, indexes }
    }

    /// Returns the table's name.
    pub fn name(&self) -> &str {
        self.stored.name()
    }

    /// Returns the newest version: everything acknowledged before this call, by any writer in any process.
    pub async fn snapshot(&self) -> Result<Snapshot> {
        self.stored.snapshot().await
    }

    /// Returns the table as it was at `version`.
    ///
    /// # Errors
    /// `NotFound` for a version that does not exist or was collected.
    pub async fn snapshot_at(&self, version: Version) -> Result<Snapshot> {
        self.stored.snapshot_at(version).await
    }

    /// Returns the table at the version that `tag` names.
    ///
    /// # Errors
    /// `NotFound` for an unknown tag.
    pub async fn snapshot_of(&self, tag: &str) -> Result<Snapshot> {
        self.stored.snapshot_of(tag).await
    }

    /// Returns the rows with these keys, in no promised order; `columns` of `None` means all.
    pub async fn get(&self, keys: &RecordBatch, columns: Option<Vec<String>>) -> Result<RecordBatch> {
        let snapshot = self.snapshot().await?;
        match snapshot.get(keys, columns.clone()).await {
            Err(error) => self.newer_than(&snapshot, error).await?.get(keys, columns).await,
            rows => rows,
        }
    }

    /// Returns the rows with keys given as text, one text per key column.
    pub async fn get_keys(&self, keys: &[Vec<String>], columns: Option<Vec<String>>) -> Result<RecordBatch> {
        let keys = self.snapshot().await?.primary_key().parse(keys)?;
        self.get(&keys, columns).await
    }

    /// Streams rows of the newest version. On a local disk its files are kept until the stream ends or is dropped; in
    /// an object store, a purge by another process ends the stream with `NotFound`, and the scan has to be begun again.
    pub async fn scan(&self, request: &ScanRequest) -> Result<RecordBatches> {
        self.snapshot().await?.scan(request).await
    }

    /// Returns the best rows: with `_distance` ascending for a vector, `_score` descending for a text or for both.
    ///
    /// # Errors
    /// `InvalidInput` for a search without a vector and a text, or with a vector that does not fit its column;
    /// `NotFound` for a text without a full-text index.
    pub async fn search(&self, search: &Search) -> Result<RecordBatch> {
        let snapshot = self.snapshot().await?;
        match search.run(&self.indexes, &snapshot).await {
            Err(error) => search.run(&self.indexes, &self.newer_than(&snapshot, error).await?).await,
            found => found,
        }
    }

    /// Returns the newest version, to repeat a read of the version `read` that failed with `error`: in an object store,
    /// another process may have removed a file of that version meanwhile.
    ///
    /// # Errors
    /// `error`, when it has another cause.
    async fn newer_than(&self, read: &Snapshot, error: Error) -> Result<Snapshot> {
        if error.kind() != ErrorKind::NotFound {
            return Err(error);
        }
        let newest = self.snapshot().await?;
        if newest.placement() == read.placement() { Err(error) } else { Ok(newest) }
    }

    /// Returns the column of vectors called `name`. Without a name it is the only column of 32-bit floats, or else the
    /// only column of vectors.
    ///
    /// # Errors
    /// `NotFound` when there is none; `InvalidInput` when there are several to choose from.
    pub async fn vector_column(&self, name: Option<&str>) -> Result<VectorColumn> {
        let table = self.name();
        let snapshot = self.snapshot().await?;
        let of_field = |field: &Arc<Field>| {
            let dimensions = vector_dimensions(&snapshot, field.name()).ok()?;
            let DataType::FixedSizeList(item, _) = field.data_type() else { return None };
            Some(VectorColumn { name: field.name().clone(), dimensions, item: item.data_type().clone() })
        };
        let columns: Vec<VectorColumn> = snapshot.schema().fields().iter().filter_map(of_field).collect();
        if let Some(name) = name {
            let known = || columns.iter().map(|column| column.name.as_str());
            return columns
                .iter()
                .find(|column| column.name == name)
                .cloned()
                .ok_or_else(|| unknown("vector column", name, known()).context(format!("table `{table}`")));
        }
        let (embeddings, others): (Vec<_>, Vec<_>) =
            columns.into_iter().partition(|column| column.item == DataType::Float32);
        match if embeddings.is_empty() { &others[..] } else { &embeddings[..] } {
            [only] => Ok(only.clone()),
            [] => Err(Error::not_found(format!(
                "table `{table}` has no vector column: derive embeddings with a recipe, or search for words"
            ))),
            several => {
                let names: Vec<&str> = several.iter().map(|column| column.name.as_str()).collect();
                Err(Error::invalid_input(format!(
                    "table `{table}` has several vector columns; choose one with `column`: {}",
                    names.join(", ")
                )))
            }
        }
    }

    /// Returns the table as a source of training batches: all rows of the newest version, until its fields say
    /// otherwise. See [`loader::Loader`](crate::loader::Loader).
    pub fn source(&self) -> SampleSource {
        SampleSource::new(self.stored.clone())
    }
}

/// Writes.
impl Table {
    /// Inserts rows, and replaces whole those whose key exists. A column that `batch` lacks becomes null.
    ///
    /// # Errors
    /// `InvalidInput` for an unknown column, a value that its column cannot hold, a null where none may be, or two rows
    /// with one key; nothing is written.
    pub async fn upsert(&self, batch: RecordBatch) -> Result<WriteReport> {
        self.stored.upsert(batch).await
    }

    /// Upserts several batches as one version.
    pub async fn upsert_all(&self, batches: Vec<RecordBatch>) -> Result<WriteReport> {
        self.stored.upsert_all(batches).await
    }

    /// Writes rows to files that no version names yet, for loads that are larger than memory;
    /// [`commit`](Self::commit) makes them a version. Files that are not committed within seven days are collected.
    pub async fn stage(&self, batches: Vec<RecordBatch>) -> Result<Staged> {
        self.stored.stage(batches).await
    }

    /// Upserts staged rows as one version.
    ///
    /// # Errors
    /// `InvalidInput` when a key was staged twice, `Conflict` when the schema has changed since; nothing is written.
    pub async fn commit(&self, staged: Vec<Staged>) -> Result<WriteReport> {
        self.stored.commit(staged).await
    }

    /// Sets the columns that `batch` has beside the key, in the rows whose key exists; other keys are passed over.
    /// Values derived from those columns become stale.
    ///
    /// # Errors
    /// As [`upsert`](Self::upsert); `Unsupported` for media columns, which change by a whole-row upsert.
    pub async fn update(&self, batch: RecordBatch) -> Result<WriteReport> {
        self.stored.update(batch).await
    }

    /// Deletes the rows with these keys; a key that is absent is passed over.
    pub async fn delete(&self, keys: &RecordBatch) -> Result<WriteReport> {
        self.stored.delete(keys).await
    }

    /// Deletes rows by keys given as text, one text per key column.
    pub async fn delete_keys(&self, keys: &[Vec<String>]) -> Result<WriteReport> {
        let keys = self.snapshot().await?.primary_key().parse(keys)?;
        self.stored.delete(&keys).await
    }

    /// Deletes the rows that satisfy `filter` at the moment of the deletion, whatever is written at the same time.
    pub async fn delete_where(&self, filter: impl Into<Filter>) -> Result<WriteReport> {
        self.stored.delete_where(filter.into()).await
    }

    /// Adds nullable columns, null in every row; a column that exists with the same type is passed over.
    ///
    /// # Errors
    /// `InvalidInput` for a column that is not nullable, holds media, exists with another type, or has a name or type
    /// that no column can have.
    pub async fn add_columns(&self, fields: &[Field]) -> Result<Version> {
        self.stored.add_columns(fields).await
    }

    /// Drops columns that are not part of the key. Values that were derived from them, or with them, become stale: a
    /// column that is added later under the same name is another one.
    pub async fn drop_columns(&self, columns: &[&str]) -> Result<Version> {
        let fingerprints = fingerprints_of(&self.stored.snapshot().await?, columns);
        let all: Vec<&str> = columns.iter().copied().chain(fingerprints.iter().map(String::as_str)).collect();
        self.stored.drop_columns(&all).await
    }

    /// Sets properties; a value of `None` removes one. They are read from [`Snapshot::properties`].
    ///
    /// # Errors
    /// `InvalidInput` for a property of Cenote's own with a value that it cannot have.
    pub async fn set_properties(&self, properties: BTreeMap<String, Option<String>>) -> Result<Version> {
        self.stored.set_properties(properties).await
    }
}

/// History: versions, tags, and the change feed with its consumers.
impl Table {
    /// Lists the versions that can be read, oldest first.
    pub async fn versions(&self) -> Result<Vec<VersionInfo>> {
        self.stored.versions().await
    }

    /// Sets a tag on `version`, which is kept until the tag is deleted.
    ///
    /// # Errors
    /// `AlreadyExists` for a tag in use, `NotFound` for a version that does not exist.
    pub async fn tag(&self, tag: &str, version: Version) -> Result<()> {
        self.stored.tag(tag, version).await
    }

    /// Deletes a tag.
    pub async fn untag(&self, tag: &str) -> Result<()> {
        self.stored.untag(tag).await
    }

    /// Lists the tags with their versions.
    pub async fn tags(&self) -> Result<BTreeMap<String, Version>> {
        self.stored.tags().await
    }

    /// Reads what happened to rows after version `from`, in order; see [`ChangeFeed`] for its columns.
    ///
    /// # Errors
    /// `NotFound` when changes after `from` were collected already.
    pub async fn changes(&self, from: Version) -> Result<ChangeFeed> {
        self.stored.changes(from).await
    }

    /// Lists the consumers of the change feed, each with the version up to which it has read. Changes that a consumer
    /// has not read are not collected.
    pub async fn consumers(&self) -> Result<BTreeMap<String, Version>> {
        self.stored.consumers().await
    }

    /// Records that consumer `name` has read the changes up to `version`; `None` forgets the consumer.
    pub async fn set_consumer(&self, name: &str, version: Option<Version>) -> Result<()> {
        self.stored.set_consumer(name, version).await
    }
}

/// Indexes.
impl Table {
    /// Builds an index; see [`Indexes::create`].
    pub async fn create_index(&self, spec: IndexSpec) -> Result<IndexInfo> {
        Box::pin(self.indexes.create(&self.stored, &spec)).await
    }

    /// Builds an index as [`create_index`](Self::create_index) does, and reports to `progress`.
    pub async fn create_index_watched(&self, spec: IndexSpec, progress: &Arc<dyn Progress>) -> Result<IndexInfo> {
        Box::pin(self.indexes.create_watched(&self.stored, &spec, progress)).await
    }

    /// Lists the table's indexes, each with the number of rows by which it lags.
    pub async fn indexes(&self) -> Result<Vec<IndexInfo>> {
        let snapshot = self.snapshot().await?;
        Box::pin(self.indexes.list(&snapshot)).await
    }

    /// Measures the vector index of `column` against exact search, and keeps the quickest settings that find `recall`
    /// of the nearest rows; see [`Indexes::tune`].
    pub async fn tune_index(&self, column: &str, metric: Option<Metric>, recall: f64) -> Result<Tuning> {
        Box::pin(self.indexes.tune(&self.stored, column, metric, recall, 0)).await
    }

    /// Drops the index called `name`.
    pub async fn drop_index(&self, name: &str) -> Result<()> {
        Box::pin(self.indexes.remove(&self.stored, name)).await
    }

    /// Brings every index up to date with the rows by which it lags.
    pub async fn optimize_indexes(&self) -> Result<()> {
        Box::pin(self.indexes.optimize(&self.stored)).await
    }
}

/// Upkeep, which a process that writes does by itself.
impl Table {
    /// Moves everything written so far into the base.
    pub async fn fold(&self) -> Result<()> {
        self.stored.fold().await
    }

    /// Folds recent writes, joins small files, brings the indexes up to date, and removes the past beyond the table's
    /// retention.
    ///
    /// With `purge`, nothing is left of deleted and replaced rows or of the past, except what tags, consumers and
    /// readers hold: on a local disk, readers in any process; in an object store, those in this process.
    /// [`Collected::held`] counts the versions that readers hold; another purge removes them once the readers are done.
    pub async fn compact(&self, purge: bool) -> Result<Collected> {
        self.stored.compact(purge).await?;
        if purge {
            // An index keeps the values of rows that are gone until it is rebuilt.
            Box::pin(self.indexes.rebuild(&self.stored)).await?;
        } else {
            self.optimize_indexes().await?;
        }
        self.stored.collect(purge.then_some(Duration::ZERO)).await
    }

    /// Removes what only versions older than `keep` need; `None`: the table's own retention. Versions that a tag, a
    /// consumer or a reader holds are kept.
    pub async fn collect(&self, keep: Option<Duration>) -> Result<Collected> {
        self.stored.collect(keep).await
    }

    /// Does the upkeep that is due, waits for it, and returns its reason.
    pub async fn tend(&self) -> Result<Option<String>> {
        self.stored.tend().await
    }

    /// Returns the writes that are not folded yet, and the upkeep under way.
    pub async fn upkeep(&self) -> Result<UpkeepStatus> {
        self.stored.upkeep().await
    }
}

//! A table as an embedder sees it: writes, reads, search, indexes.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use cenote_base::{Error, ErrorKind, Progress, Result};
use cenote_index::{HybridQuery, IndexInfo, IndexSpec, Indexes, Metric, TextQuery, Tuning, VectorQuery};
use cenote_store::{ChangeFeed, Collected, Filter, RecordBatches, ScanRequest, Snapshot, Version, WriteReport};

/// A table of a [`Lake`](crate::Lake). Cheap to clone.
#[derive(Debug, Clone)]
pub struct Table {
    stored: cenote_store::Table,
    indexes: Indexes,
}

/// What to search for: a vector, a text, or both (then the two rankings are fused).
#[derive(Debug, Clone, Default)]
pub struct Search {
    /// A column of vectors and the vector to be near to.
    pub vector: Option<(String, Vec<f32>)>,
    /// A column with a full-text index and the words to find in it; an empty column name stands for the only such index.
    pub text: Option<(String, String)>,
    /// Only rows that satisfy this SQL predicate; applied before the search.
    pub filter: Option<String>,
    /// How many rows, at most.
    pub k: usize,
    /// Columns of the answer; `None`: all.
    pub columns: Option<Vec<String>>,
}

impl Table {
    pub(crate) fn new(stored: cenote_store::Table, indexes: Indexes) -> Self {
        Self { stored, indexes }
    }

    /// The table's name.
    pub fn name(&self) -> &str {
        self.stored.name()
    }

    /// The stored table: versions, tags, schema evolution, properties.
    pub fn stored(&self) -> &cenote_store::Table {
        &self.stored
    }

    /// The newest version: everything acknowledged before this call.
    pub async fn snapshot(&self) -> Result<Snapshot> {
        self.stored.snapshot().await
    }

    /// Inserts rows and replaces whole those whose key is there; see [`cenote_store::Table::upsert`].
    pub async fn upsert(&self, batch: RecordBatch) -> Result<WriteReport> {
        self.stored.upsert(batch).await
    }

    /// Sets named columns of rows that are there; see [`cenote_store::Table::update`].
    pub async fn update(&self, batch: RecordBatch) -> Result<WriteReport> {
        self.stored.update(batch).await
    }

    /// Deletes rows by key.
    pub async fn delete(&self, keys: &RecordBatch) -> Result<WriteReport> {
        self.stored.delete(keys).await
    }

    /// Deletes rows by keys given as text, one text a key column.
    pub async fn delete_keys(&self, keys: &[Vec<String>]) -> Result<WriteReport> {
        let keys = self.snapshot().await?.primary_key().parse(keys)?;
        self.stored.delete(&keys).await
    }

    /// The rows with these keys; `columns` of `None` means all.
    pub async fn get(&self, keys: &RecordBatch, columns: Option<Vec<String>>) -> Result<RecordBatch> {
        let snapshot = self.snapshot().await?;
        match snapshot.get(keys, columns.clone()).await {
            Err(error) => self.instead_of(&snapshot, error).await?.get(keys, columns).await,
            rows => rows,
        }
    }

    /// The newest version, to read again what failed with `error` at the version `read`: in an object store, another
    /// process may have removed a file of that one meanwhile.
    ///
    /// # Errors
    /// `error`, when it has another reason.
    async fn instead_of(&self, read: &Snapshot, error: Error) -> Result<Snapshot> {
        if error.kind() != ErrorKind::NotFound {
            return Err(error);
        }
        let newest = self.snapshot().await?;
        if newest.placement() == read.placement() { Err(error) } else { Ok(newest) }
    }

    /// The rows with keys given as text, one text a key column.
    pub async fn get_keys(&self, keys: &[Vec<String>], columns: Option<Vec<String>>) -> Result<RecordBatch> {
        let keys = self.snapshot().await?.primary_key().parse(keys)?;
        self.get(&keys, columns).await
    }

    /// Streams rows of the newest version. On a local disk its files are kept until the stream ends or is dropped; in
    /// an object store, a purge by another process ends the stream with `NotFound`, and the scan has to be begun again.
    pub async fn scan(&self, request: &ScanRequest) -> Result<RecordBatches> {
        self.snapshot().await?.scan(request).await
    }

    /// The best `k` rows: with `_distance` ascending for a vector, `_score` descending for a text or for both.
    ///
    /// # Errors
    /// `InvalidInput` when neither vector nor text is given or the vector does not fit its column; `NotFound` for a text
    /// without a full-text index.
    pub async fn search(&self, search: &Search) -> Result<RecordBatch> {
        let snapshot = self.snapshot().await?;
        match self.search_at(&snapshot, search).await {
            Err(error) => self.search_at(&self.instead_of(&snapshot, error).await?, search).await,
            found => found,
        }
    }

    async fn search_at(&self, snapshot: &Snapshot, search: &Search) -> Result<RecordBatch> {
        let filter = search.filter.clone().map(Filter::from);
        let vector = search.vector.as_ref().map(|(column, vector)| VectorQuery {
            filter: filter.clone(),
            columns: search.columns.clone(),
            ..VectorQuery::new(column, vector.clone(), search.k)
        });
        let text = search.text.as_ref().map(|(column, text)| {
            let query =
                TextQuery { filter: filter.clone(), columns: search.columns.clone(), ..TextQuery::new(text, search.k) };
            if column.is_empty() { query } else { TextQuery { column: Some(column.clone()), ..query } }
        });
        match (vector, text) {
            (Some(vector), None) => Box::pin(self.indexes.vector_search(snapshot, &vector)).await,
            (None, Some(text)) => Box::pin(self.indexes.text_search(snapshot, &text)).await,
            (Some(vector), Some(text)) => {
                let query = HybridQuery { vector, text, k: search.k };
                Box::pin(self.indexes.hybrid_search(snapshot, &query)).await
            }
            (None, None) => Err(Error::invalid_input("a search needs a vector, a text, or both")),
        }
    }

    /// Makes an index; see [`Indexes::create`].
    pub async fn create_index(&self, spec: IndexSpec) -> Result<IndexInfo> {
        Box::pin(self.indexes.create(&self.stored, &spec)).await
    }

    /// As [`create_index`](Self::create_index), and tells `progress` how far it is.
    pub async fn create_index_watched(&self, spec: IndexSpec, progress: &Arc<dyn Progress>) -> Result<IndexInfo> {
        Box::pin(self.indexes.create_watched(&self.stored, &spec, progress)).await
    }

    /// The table's indexes, with how many rows each has not seen.
    pub async fn indexes(&self) -> Result<Vec<IndexInfo>> {
        let snapshot = self.snapshot().await?;
        Box::pin(self.indexes.list(&snapshot)).await
    }

    /// Measures the vector index of `column` against exact search, and keeps the quickest settings that find `recall` of the
    /// nearest rows; see [`Indexes::tune`].
    pub async fn tune_index(&self, column: &str, metric: Option<Metric>, recall: f64) -> Result<Tuning> {
        Box::pin(self.indexes.tune(&self.stored, column, metric, recall, 0)).await
    }

    /// Drops the index called `name`.
    pub async fn drop_index(&self, name: &str) -> Result<()> {
        Box::pin(self.indexes.remove(&self.stored, name)).await
    }

    /// What happened to rows after version `from`, in order; see [`ChangeFeed`] for its columns.
    pub async fn changes(&self, from: Version) -> Result<ChangeFeed> {
        self.stored.changes(from).await
    }

    /// Folds what was written into the base, joins small files, brings the indexes up to date, and removes the past
    /// that the table's retention does not cover. With `purge`, nothing is left of deleted and replaced rows and of the
    /// past, but what tags, consumers and readers hold: on a local disk, readers in any process; in an object store,
    /// those in this process. [`Collected::held`] says whether there were any; once they are done, another purge
    /// removes what they held.
    pub async fn compact(&self, purge: bool) -> Result<Collected> {
        self.stored.compact(purge).await?;
        if purge {
            // An index keeps the values of rows that are gone until it is built anew.
            Box::pin(self.indexes.rebuild(&self.stored)).await?;
        } else {
            self.optimize_indexes().await?;
        }
        self.stored.collect(purge.then_some(Duration::ZERO)).await
    }

    /// Brings every index up to date by adding what it has not seen.
    pub async fn optimize_indexes(&self) -> Result<()> {
        Box::pin(self.indexes.optimize(&self.stored)).await
    }
}

//! A view of the change store at one version.

use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch, RecordBatchOptions, new_empty_array};
use arrow::compute::interleave_record_batch;
use arrow::datatypes::{Schema, SchemaRef};
use cenote_base::Result;
use lance::dataset::scanner::RowAddrTreeMap;

use super::change_store::{ChangeStore, Chunk, ChunkRow, RowsByKey};
use crate::errors::arrow_error;
use crate::row_id::RowId;
use crate::rows::schema;
use crate::version::Version;

/// The rows of the change store at one version, and the base rows that they supersede. Cheap to clone; never changes.
#[derive(Debug, Clone)]
pub(crate) struct ChangeView {
    version: u64,
    chunks: Arc<Vec<Arc<Chunk>>>,
    by_key: Arc<RowsByKey>,
    mask: Arc<RowAddrTreeMap>,
    masked: usize,
    live: usize,
}

impl ChangeView {
    /// Returns a view of `changes` at `version`, the newest.
    pub(crate) fn of(changes: &ChangeStore, version: u64) -> Self {
        Self {
            version,
            chunks: Arc::clone(&changes.chunks),
            by_key: Arc::clone(&changes.by_key),
            mask: Arc::clone(&changes.mask),
            masked: changes.masked,
            live: changes.live,
        }
    }

    /// Returns the number of live rows.
    pub(crate) fn live(&self) -> usize {
        self.live
    }

    /// Returns the row ids of superseded base rows.
    pub(crate) fn mask(&self) -> &Arc<RowAddrTreeMap> {
        &self.mask
    }

    /// Returns the number of superseded base rows.
    pub(crate) fn masked(&self) -> usize {
        self.masked
    }

    /// Returns whether the base row `row_id` is superseded.
    pub(crate) fn is_masked(&self, row_id: u64) -> bool {
        // The mask stores the upper and lower halves of row ids separately, as if they were row addresses.
        let lower = self.mask.get_fragment_bitmap((row_id >> 32) as u32);
        lower.is_some_and(|lower| lower.contains(row_id as u32))
    }

    /// Counts the rows that were written after `since`, superseded ones included.
    pub(crate) fn rows_since(&self, since: Version) -> usize {
        self.chunks[self.chunks_to(since)..].iter().map(|chunk| chunk.hashes.len()).sum()
    }

    /// Returns whether anything was written after `since`.
    pub(crate) fn has_since(&self, since: Version) -> bool {
        self.chunks_to(since) < self.chunks.len()
    }

    /// Returns the live rows of writes after `since`, oldest first.
    pub(crate) fn live_since(&self, since: Version) -> Vec<ChunkRow> {
        let version = self.version;
        let rows = |(number, chunk): (usize, &Arc<Chunk>)| {
            let chunk = Arc::clone(chunk);
            let live = (0..chunk.hashes.len()).filter(move |row| chunk.is_live(*row, version));
            live.map(move |row| ChunkRow::new(number, row))
        };
        self.chunks.iter().enumerate().skip(self.chunks_to(since)).flat_map(rows).collect()
    }

    /// Returns how many chunks hold writes up to `version`.
    fn chunks_to(&self, version: Version) -> usize {
        self.chunks.partition_point(|chunk| chunk.version <= version.0)
    }

    /// Returns whether `row` is the newest of its key.
    pub(crate) fn is_live(&self, row: ChunkRow) -> bool {
        self.chunks.get(row.chunk()).is_some_and(|chunk| chunk.is_live(row.row(), self.version))
    }

    /// Returns the row that `row_id` names, live or superseded; `None` for an id of the base or of another snapshot.
    pub(crate) fn row(&self, row_id: u64) -> Option<ChunkRow> {
        let RowId::Changed { version, row } = RowId::from(row_id) else { return None };
        let chunk = self.chunks.binary_search_by_key(&version, |chunk| chunk.version).ok()?;
        (row < self.chunks[chunk].hashes.len()).then_some(ChunkRow::new(chunk, row))
    }

    pub(crate) fn row_id(&self, row: ChunkRow) -> u64 {
        RowId::Changed { version: self.chunks[row.chunk()].version, row: row.row() }.into()
    }

    /// Returns the row id of the live row of each key; `None` for a key without one.
    pub(crate) fn find(&self, hashes: &[u128]) -> Vec<Option<u64>> {
        let found = self.by_key.find(hashes, |row| self.is_live(row));
        found.into_iter().map(|row| row.map(|row| self.row_id(row))).collect()
    }

    /// Gathers `rows`, in their order, in the columns of `schema`.
    pub(crate) fn gather(&self, rows: &[ChunkRow], schema: &SchemaRef) -> Result<RecordBatch> {
        let mut used: Vec<usize> = rows.iter().map(|row| row.chunk()).collect();
        used.dedup();
        used.sort_unstable();
        used.dedup();
        let batches = used.iter().map(|chunk| schema::conform(&self.chunks[*chunk].batch, schema));
        let batches = batches.collect::<Result<Vec<_>>>()?;
        if batches.is_empty() || schema.fields().is_empty() {
            let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
            let columns = schema.fields().iter().map(|field| new_empty_array(field.data_type())).collect();
            return RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options).map_err(arrow_error);
        }
        let sources: Vec<&RecordBatch> = batches.iter().collect();
        let source = |row: &ChunkRow| (used.partition_point(|used| *used < row.chunk()), row.row());
        interleave_record_batch(&sources, &rows.iter().map(source).collect::<Vec<_>>()).map_err(arrow_error)
    }

    /// Returns the bytes of the columns of `schema` in `row`, without media.
    pub(crate) fn plain_bytes(&self, row: ChunkRow, schema: &Schema) -> u64 {
        let batch = &self.chunks[row.chunk()].batch;
        let plain = schema.fields().iter().filter(|field| !schema::is_blob(field));
        let columns = plain.filter_map(|field| batch.column_by_name(field.name()));
        columns.map(|column| schema::array_bytes(&column.slice(row.row(), 1))).sum()
    }

    /// Returns the bytes of media column `column` in `row`; 0 for null.
    pub(crate) fn media_bytes(&self, row: ChunkRow, column: &str) -> u64 {
        let media = self.chunks[row.chunk()].batch.column_by_name(column);
        let media = media.and_then(|media| media.as_binary_opt::<i64>());
        media.map_or(0, |media| if media.is_null(row.row()) { 0 } else { media.value_length(row.row()) as u64 })
    }
}

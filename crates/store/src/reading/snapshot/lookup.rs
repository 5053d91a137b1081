//! Lookups of rows by key and by row id.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::compute::interleave_record_batch;
use arrow::datatypes::{FieldRef, Schema, SchemaRef};
use cenote_base::{Error, Result};
use futures::FutureExt;

use super::Snapshot;
use crate::base::media;
use crate::base::row_widths::RowRun;
use crate::blocking::{SHORT_ROWS, blocking};
use crate::changes::change_store::ChunkRow;
use crate::errors::{arrow_error, lance_error};
use crate::keys::key_index::KeyIndex;
use crate::row_id::RowId;
use crate::rows::schema::{self, row_bytes_min};

impl Snapshot {
    /// Returns the row id of each key, in the order of `keys` (the primary key's columns); `None` for an absent key.
    pub async fn locate(&self, keys: &RecordBatch) -> Result<Vec<Option<u64>>> {
        self.locate_hashes(self.key.hash(&self.key.project(keys)?, self.history.hash_key)?).await
    }

    /// Locates rows by the hashes of their keys: see [`locate`](Self::locate).
    pub(crate) async fn locate_hashes(&self, hashes: Vec<u128>) -> Result<Vec<Option<u64>>> {
        if hashes.len() <= SHORT_ROWS
            && let Some(found) = self.find(&hashes, KeyIndex::get_many_cached)?
        {
            return Ok(found);
        }
        let snapshot = self.clone();
        let find = move || snapshot.find(&hashes, |keys, hashes| keys.get_many(hashes).map(Some));
        blocking(find).await?.ok_or_else(|| Error::internal("a blocking lookup returned nothing"))
    }

    /// Returns the row id of each key, finding rows of the base with `search`; `None` if `search` would have to wait.
    fn find(
        &self,
        hashes: &[u128],
        search: impl Fn(&KeyIndex, &[u128]) -> Result<Option<Vec<Option<u64>>>>,
    ) -> Result<Option<Vec<Option<u64>>>> {
        let mut found = self.changes.find(hashes);
        let (unchanged, wanted): (Vec<usize>, Vec<u128>) =
            hashes.iter().copied().enumerate().filter(|(at, _)| found[*at].is_none()).unzip();
        let Some(rows) = search(&self.keys, &wanted)? else { return Ok(None) };
        for (at, row) in unchanged.into_iter().zip(rows) {
            found[at] = row.filter(|row| !self.changes.is_masked(*row));
        }
        Ok(Some(found))
    }

    /// Returns the rows with these keys, in no promised order; absent keys are skipped.
    ///
    /// `keys` holds at least the primary key's columns; `columns` as in
    /// [`ScanRequest::columns`](crate::ScanRequest::columns).
    pub async fn get(&self, keys: &RecordBatch, columns: Option<Vec<String>>) -> Result<RecordBatch> {
        let mut row_ids: Vec<u64> = self.locate(keys).await?.into_iter().flatten().collect();
        row_ids.sort_unstable();
        row_ids.dedup();
        let columns = match columns {
            Some(columns) => columns,
            None => self.visible.fields().iter().map(|field| field.name().clone()).collect(),
        };
        self.take(&row_ids, &columns).await
    }

    /// Returns the rows with these row ids, in the order of `row_ids`, with media columns as bytes; `columns` as in
    /// [`ScanRequest::columns`](crate::ScanRequest::columns).
    ///
    /// # Errors
    /// `NotFound` for an unknown column, or when a row id names no row of this snapshot.
    pub async fn take(&self, row_ids: &[u64], columns: &[String]) -> Result<RecordBatch> {
        let schema = schema::project(&self.logical, columns)?;
        let (changed, base) = self.split(row_ids)?;
        if columns.is_empty() {
            let options = RecordBatchOptions::new().with_row_count(Some(row_ids.len()));
            return RecordBatch::try_new_with_options(schema, Vec::new(), &options).map_err(arrow_error);
        }
        let from_changes = self.changes.gather(&changed.rows, &schema)?;
        if base.row_ids.is_empty() {
            return Ok(from_changes);
        }
        let from_base = self.take_base(&base.row_ids, &schema).boxed().await?;
        if changed.rows.is_empty() {
            return Ok(from_base);
        }
        // For each requested row: 0 (change store) or 1 (base), and its position in that batch.
        let mut order = vec![(0, 0); row_ids.len()];
        changed.at.iter().enumerate().for_each(|(row, at)| order[*at] = (0, row));
        base.at.iter().enumerate().for_each(|(row, at)| order[*at] = (1, row));
        interleave_record_batch(&[&from_changes, &from_base], &order).map_err(arrow_error)
    }

    /// Splits `row_ids` into those of the change store and those of the base, each with its position in `row_ids`.
    fn split(&self, row_ids: &[u64]) -> Result<(ChangedRows, BaseRows)> {
        let (mut changed, mut base) = (ChangedRows::default(), BaseRows::default());
        for (at, row_id) in row_ids.iter().enumerate() {
            if !RowId::from(*row_id).is_changed() {
                base.at.push(at);
                base.row_ids.push(*row_id);
                continue;
            }
            let row = self.changes.row(*row_id);
            changed.at.push(at);
            changed.rows.push(row.ok_or_else(|| Error::not_found("a row id names no row of this snapshot"))?);
        }
        Ok((changed, base))
    }

    async fn take_base(&self, row_ids: &[u64], schema: &SchemaRef) -> Result<RecordBatch> {
        let (blobs, plain): (Vec<&FieldRef>, Vec<&FieldRef>) =
            schema.fields().iter().partition(|field| schema::is_blob(field));
        let [blobs, plain] = [blobs, plain].map(|fields| fields.iter().map(|f| f.name()).collect::<Vec<_>>());
        let mut arrays: HashMap<&str, ArrayRef> = HashMap::new();
        if !plain.is_empty() {
            let projection = self.base.schema().project(&plain).map_err(lance_error)?;
            let batch = self.reader.take(row_ids, &projection).await?;
            for name in plain {
                if let Some(column) = batch.column_by_name(name) {
                    arrays.insert(name, Arc::clone(column));
                }
            }
        }
        for name in blobs {
            arrays.insert(name, media::read(&self.reader, name, row_ids).await?);
        }
        let columns = schema.fields().iter().map(|field| {
            let column = arrays.remove(field.name().as_str());
            column.ok_or_else(|| Error::internal(format!("a read by row id lost column `{}`", field.name())))
        });
        let columns = columns.collect::<Result<Vec<_>>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(row_ids.len()));
        RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options).map_err(arrow_error)
    }

    /// Estimates the bytes in memory of each of these rows with the columns of `schema`, without media.
    pub(crate) async fn plain_sizes(&self, row_ids: &[u64], schema: &Schema) -> Result<Vec<u64>> {
        let mut sizes = vec![row_bytes_min(schema); row_ids.len()];
        let columns = self.varying(schema)?;
        let (changed, base) = self.split(row_ids)?;
        for (at, row) in changed.at.into_iter().zip(changed.rows) {
            sizes[at] = self.changes.plain_bytes(row, schema);
        }
        if !columns.fields.is_empty() {
            let mut known: HashMap<u32, Arc<[RowRun]>> = HashMap::new();
            for (at, address) in base.at.into_iter().zip(self.reader.find(&base.row_ids).await?) {
                let runs = match known.entry(address.fragment_id()) {
                    Entry::Occupied(runs) => runs.into_mut(),
                    Entry::Vacant(runs) => {
                        runs.insert(self.reader.widths(address.fragment_id(), &columns).boxed().await?)
                    }
                };
                let run = runs.partition_point(|run| run.rows.end <= u64::from(address.row_offset()));
                sizes[at] += runs.get(run).map_or(0, |run| run.row_bytes);
            }
        }
        Ok(sizes)
    }

    /// Returns the sizes in bytes of media column `column` for these row ids, in their order; 0 for null. Reads no
    /// media.
    pub async fn blob_sizes(&self, column: &str, row_ids: &[u64]) -> Result<Vec<u64>> {
        let (changed, base) = self.split(row_ids)?;
        let mut sizes = vec![0; row_ids.len()];
        for (at, row) in changed.at.iter().zip(&changed.rows) {
            sizes[*at] = self.changes.media_bytes(*row, column);
        }
        if !base.row_ids.is_empty() {
            let of_base = media::sizes(&self.reader, column, &base.row_ids).await?;
            base.at.iter().zip(of_base).for_each(|(at, size)| sizes[*at] = size);
        }
        Ok(sizes)
    }
}

/// Rows of the change store, with their positions among the requested rows.
#[derive(Debug, Default)]
struct ChangedRows {
    at: Vec<usize>,
    rows: Vec<ChunkRow>,
}

/// Rows of the base, with their positions among the requested rows.
#[derive(Debug, Default)]
struct BaseRows {
    at: Vec<usize>,
    row_ids: Vec<u64>,
}

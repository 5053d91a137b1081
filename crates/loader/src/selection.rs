//! Which rows a source has: those of one version that a filter leaves, in the order of their keys.
//!
//! The order of keys is a property of the rows, not of where they lie: a fold or a compaction changes nothing about it, so the n-th row
//! of a version is the same row for every process that ever asks.

use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch, UInt64Array};
use arrow::compute::{SortColumn, concat_batches, lexsort_to_indices, take};
use arrow::datatypes::{Schema, UInt64Type};
use cenote_base::{Error, Result};
use cenote_store::{Filter, ROW_ID, ScanRequest, Snapshot, Table, Version, arrow_error};
use futures::TryStreamExt;

/// What a source of samples is asked to be.
#[derive(Debug, Clone)]
pub struct Source {
    /// The table.
    pub table: Table,
    /// Its version; `None`: the newest when the loader is opened.
    pub version: Option<Version>,
    /// Only rows that satisfy this SQL predicate.
    pub filter: Option<String>,
    /// Its share of an epoch's samples, relative to the others'; `None`: all its rows, once.
    pub weight: Option<f64>,
}

impl Source {
    /// All rows of the newest version of `table`.
    pub fn new(table: Table) -> Self {
        Self { table, version: None, filter: None, weight: None }
    }
}

/// The rows of one source.
#[derive(Debug, Clone)]
pub(crate) struct Selection {
    pub(crate) snapshot: Snapshot,
    /// Eight bytes a row: the row ids, in the order of keys.
    pub(crate) row_ids: Arc<Vec<u64>>,
}

impl Selection {
    /// Reads the keys of `source`: some tens of bytes a row for the time that it takes, eight afterwards.
    ///
    /// # Errors
    /// `NotFound` for a version that cannot be read; `InvalidInput` for a filter that does not parse.
    pub(crate) async fn read(source: &Source) -> Result<Self> {
        let snapshot = match source.version {
            Some(version) => source.table.snapshot_at(version).await?,
            None => source.table.snapshot().await?,
        };
        let mut request = ScanRequest::default().columns(snapshot.primary_key().columns()).with_row_id();
        request.filter = source.filter.clone().map(Filter::from);
        let schema = snapshot.scan_schema(&request)?;
        let batches: Vec<RecordBatch> = snapshot.scan(&request).await?.try_collect().await?;
        let sorted = tokio::task::spawn_blocking(move || in_key_order(&schema, &batches)).await;
        let row_ids = sorted.map_err(|source| Error::internal("sort keys").with_source(source))??;
        Ok(Self { snapshot, row_ids: Arc::new(row_ids) })
    }
}

fn in_key_order(schema: &Arc<Schema>, batches: &[RecordBatch]) -> Result<Vec<u64>> {
    let rows = concat_batches(schema, batches).map_err(arrow_error)?;
    let Some((row_ids, keys)) = rows.columns().split_last() else { return Ok(Vec::new()) };
    let row_ids: &UInt64Array =
        row_ids.as_primitive_opt::<UInt64Type>().ok_or_else(|| Error::internal(format!("a scan gave no {ROW_ID}")))?;
    let columns: Vec<SortColumn> =
        keys.iter().map(|values| SortColumn { values: Arc::clone(values), options: None }).collect();
    let order = lexsort_to_indices(&columns, None).map_err(arrow_error)?;
    let sorted = take(row_ids, &order, None).map_err(arrow_error)?;
    debug_assert_eq!(sorted.null_count(), 0);
    Ok(sorted.as_primitive::<UInt64Type>().values().to_vec())
}

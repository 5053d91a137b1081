//! Which rows a source has: those of one version that a filter leaves, in the order of their keys.
//!
//! The order of keys is a property of the rows, not of where they lie: a fold or a compaction changes nothing about it, so the n-th row
//! of a version is the same row for every process that ever asks.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, UInt64Array};
use arrow::compute::kernels::length::length;
use arrow::compute::{SortColumn, cast, concat_batches, lexsort_to_indices, take};
use arrow::datatypes::{DataType, Schema, UInt32Type, UInt64Type};
use cenote_base::{Error, Result};
use cenote_store::{Filter, ROW_ID, ScanRequest, Snapshot, Table, Version, arrow_error, is_blob};
use futures::TryStreamExt;

use super::key_orders::{KeyOrder, ROWS_MIN};

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
    /// How long each of them is, where that was asked for.
    pub(crate) lengths: Arc<Vec<u32>>,
}

impl Selection {
    /// The rows of `source`, and how long each is in column `length`. Reads their keys, some tens of bytes a row for the time that it
    /// takes, unless their order is known on this machine; eight or twelve bytes a row afterwards.
    ///
    /// # Errors
    /// `NotFound` for a version that cannot be read or a column that is not there; `InvalidInput` for a filter that does not parse
    /// or a column without lengths.
    pub(crate) async fn read(source: &Source, length: Option<&str>) -> Result<Self> {
        let snapshot = match source.version {
            Some(version) => source.table.snapshot_at(version).await?,
            None => source.table.snapshot().await?,
        };
        let keys = snapshot.primary_key().columns();
        let mut columns = keys.clone();
        if let Some(length) = length {
            check_length(&snapshot, length)?;
            if !columns.iter().any(|column| column == length) {
                columns.push(length.to_owned());
            }
        }
        let directory = source.table.cache_directory().join("orders");
        let order = KeyOrder::new(&directory, &snapshot, source.filter.as_deref(), length);
        if let Some((row_ids, lengths)) = known(&order).await? {
            return Ok(Self { snapshot, row_ids: Arc::new(row_ids), lengths: Arc::new(lengths) });
        }
        let mut request = ScanRequest::default().columns(columns).with_row_id();
        request.filter = source.filter.clone().map(Filter::from);
        let schema = snapshot.scan_schema(&request)?;
        let batches: Vec<RecordBatch> = snapshot.scan(&request).await?.try_collect().await?;
        let length = length.map(str::to_owned);
        let sort = move || {
            let (row_ids, lengths) = in_key_order(&schema, &batches, keys.len(), length.as_deref())?;
            if row_ids.len() >= ROWS_MIN
                && let Err(error) = order.write(&row_ids, &lengths)
            {
                tracing::warn!(%error, "the order of keys is not kept: the next loader sorts them again");
            }
            Ok::<_, Error>((row_ids, lengths))
        };
        let sorted = tokio::task::spawn_blocking(sort).await;
        let (row_ids, lengths) = sorted.map_err(|source| Error::internal("sort keys").with_source(source))??;
        Ok(Self { snapshot, row_ids: Arc::new(row_ids), lengths: Arc::new(lengths) })
    }
}

/// What is kept of `order`. One that cannot be read is made anew.
async fn known(order: &KeyOrder) -> Result<Option<(Vec<u64>, Vec<u32>)>> {
    let order = order.clone();
    let read = tokio::task::spawn_blocking(move || order.read()).await;
    let read = read.map_err(|source| Error::internal("read an order of keys").with_source(source))?;
    Ok(read.unwrap_or_else(|error| {
        tracing::warn!(%error, "the order of keys is made anew");
        None
    }))
}

fn check_length(snapshot: &Snapshot, column: &str) -> Result<()> {
    let schema = snapshot.full_schema();
    let field = schema.field_with_name(column).map_err(|_| {
        let known = snapshot.schema().fields().iter().map(|field| field.name().clone()).collect::<Vec<_>>();
        Error::not_found(format!("no column `{column}` to tell lengths by; the table has {}", known.join(", ")))
    })?;
    let has_length = field.data_type().is_numeric()
        || matches!(
            field.data_type(),
            DataType::Utf8
                | DataType::LargeUtf8
                | DataType::Binary
                | DataType::LargeBinary
                | DataType::List(_)
                | DataType::LargeList(_)
        );
    if has_length && !is_blob(field) {
        return Ok(());
    }
    let what = if is_blob(field) { "media".to_owned() } else { field.data_type().to_string() };
    Err(Error::invalid_input(format!(
        "column `{column}` is {what}: lengths are told by numbers, texts, bytes or lists"
    )))
}

/// How long each value is.
fn lengths(column: &ArrayRef) -> Result<Vec<u32>> {
    let lengths = match column.data_type().is_numeric() {
        true => Arc::clone(column),
        false => length(column).map_err(arrow_error)?,
    };
    let lengths = cast(&lengths, &DataType::UInt32).map_err(arrow_error)?;
    Ok(lengths.as_primitive::<UInt32Type>().iter().map(Option::unwrap_or_default).collect())
}

fn in_key_order(
    schema: &Arc<Schema>,
    batches: &[RecordBatch],
    keys: usize,
    length: Option<&str>,
) -> Result<(Vec<u64>, Vec<u32>)> {
    let rows = concat_batches(schema, batches).map_err(arrow_error)?;
    let Some((row_ids, columns)) = rows.columns().split_last() else { return Ok((Vec::new(), Vec::new())) };
    let row_ids: &UInt64Array =
        row_ids.as_primitive_opt::<UInt64Type>().ok_or_else(|| Error::internal(format!("a scan gave no {ROW_ID}")))?;
    let keys: Vec<SortColumn> =
        columns[..keys].iter().map(|values| SortColumn { values: Arc::clone(values), options: None }).collect();
    let order = lexsort_to_indices(&keys, None).map_err(arrow_error)?;
    let sorted = take(row_ids, &order, None).map_err(arrow_error)?;
    debug_assert_eq!(sorted.null_count(), 0);
    let lengths = match length.and_then(|name| rows.column_by_name(name)) {
        Some(column) => lengths(&take(column, &order, None).map_err(arrow_error)?)?,
        None => Vec::new(),
    };
    Ok((sorted.as_primitive::<UInt64Type>().values().to_vec(), lengths))
}

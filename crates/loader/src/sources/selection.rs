//! The rows of a source: those of one version that satisfy a filter, in the order of their keys.
//!
//! The order of keys is a property of the rows, not of their placement. Folds and compactions do not change it, so the
//! n-th row of a version is the same for every process at any time.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, UInt64Array};
use arrow::compute::kernels::length::length;
use arrow::compute::{SortColumn, cast, concat_batches, lexsort_to_indices, take};
use arrow::datatypes::{DataType, Schema, UInt32Type, UInt64Type};
use cenote_base::{Error, Result, unknown};
use cenote_store::{Filter, ROW_ID, ScanRequest, Snapshot, Table, Version, arrow_error, is_blob};
use futures::TryStreamExt;

use super::key_orders::{KeyOrder, OrderedRows, ROWS_MIN};

/// A source of samples.
#[derive(Debug, Clone)]
pub struct SampleSource {
    /// The table.
    pub table: Table,
    /// The version of the table; `None` for the newest one when the loader is opened.
    pub version: Option<Version>,
    /// The SQL predicate that rows must satisfy; `None` for all rows.
    pub filter: Option<String>,
    /// The share of an epoch's samples, relative to those of the other sources; `None` for all rows, once each.
    pub weight: Option<f64>,
}

impl SampleSource {
    /// Creates a source of all rows of the newest version of `table`.
    pub fn new(table: Table) -> Self {
        Self { table, version: None, filter: None, weight: None }
    }
}

/// The selected rows of one source.
#[derive(Debug, Clone)]
pub(crate) struct SourceSelection {
    snapshot: Snapshot,
    /// Row ids in the order of keys.
    row_ids: Arc<Vec<u64>>,
    /// The length of each row; empty if no lengths were requested.
    lengths: Arc<Vec<u32>>,
}

impl SourceSelection {
    /// Reads the rows of `source`, and the length of each in column `length`. Reading sorts the keys, which takes some
    /// tens of bytes per row, unless their order is kept on this machine; the selection takes eight or twelve bytes per
    /// row.
    ///
    /// # Errors
    /// `NotFound` for a version that cannot be read or a missing column; `InvalidInput` for a filter that does not
    /// parse or a column without lengths.
    pub(crate) async fn read(source: &SampleSource, length: Option<&str>) -> Result<Self> {
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
        if let Some(rows) = read_kept(&order).await? {
            return Ok(Self::new(snapshot, rows));
        }
        let mut request = ScanRequest::default().columns(columns).with_row_id();
        request.filter = source.filter.clone().map(Filter::from);
        let schema = snapshot.scan_schema(&request)?;
        let batches: Vec<RecordBatch> = snapshot.scan(&request).await?.try_collect().await?;
        let length = length.map(str::to_owned);
        let sort = move || {
            let rows = in_key_order(&schema, &batches, keys.len(), length.as_deref())?;
            if rows.row_ids.len() >= ROWS_MIN
                && let Err(error) = order.write(&rows)
            {
                tracing::warn!(%error, "the order of keys is not kept: the next loader sorts them again");
            }
            Ok::<_, Error>(rows)
        };
        let sorted = tokio::task::spawn_blocking(sort).await;
        let rows = sorted.map_err(|source| Error::internal("sort keys").with_source(source))??;
        Ok(Self::new(snapshot, rows))
    }

    fn new(snapshot: Snapshot, rows: OrderedRows) -> Self {
        Self { snapshot, row_ids: Arc::new(rows.row_ids), lengths: Arc::new(rows.lengths) }
    }

    /// Returns the snapshot that the rows are of.
    pub(crate) fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// Returns the number of rows.
    pub(crate) fn rows(&self) -> u64 {
        self.row_ids.len() as u64
    }

    /// Returns the row ids in the order of keys.
    pub(super) fn row_ids(&self) -> &[u64] {
        &self.row_ids
    }

    /// Returns the id of the row with number `row`.
    pub(crate) fn row_id(&self, row: u64) -> u64 {
        self.row_ids[row as usize]
    }

    /// Returns the length of each row; empty if no lengths were requested.
    pub(crate) fn lengths(&self) -> &Arc<Vec<u32>> {
        &self.lengths
    }
}

/// Returns the rows of `order` if they are kept on this machine and can be read.
async fn read_kept(order: &KeyOrder) -> Result<Option<OrderedRows>> {
    let order = order.clone();
    let read = tokio::task::spawn_blocking(move || order.read()).await;
    let read = read.map_err(|source| Error::internal("read an order of keys").with_source(source))?;
    Ok(read.unwrap_or_else(|error| {
        tracing::warn!(%error, "the order of keys cannot be read: keys are sorted again");
        None
    }))
}

/// Checks that the values of `column` have lengths.
fn check_length(snapshot: &Snapshot, column: &str) -> Result<()> {
    let schema = snapshot.full_schema();
    let field = schema.field_with_name(column).map_err(|_| {
        let known = snapshot.schema().fields().iter().map(|field| field.name().as_str());
        unknown("column", column, known).context("lengths of rows")
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
    Err(Error::invalid_input(format!("column `{column}` is {what}: lengths come from numbers, texts, bytes or lists")))
}

/// Returns the length of each value.
fn lengths(column: &ArrayRef) -> Result<Vec<u32>> {
    let lengths = match column.data_type().is_numeric() {
        true => Arc::clone(column),
        false => length(column).map_err(arrow_error)?,
    };
    let lengths = cast(&lengths, &DataType::UInt32).map_err(arrow_error)?;
    Ok(lengths.as_primitive::<UInt32Type>().iter().map(Option::unwrap_or_default).collect())
}

/// Sorts rows by their first `keys` columns. The last column has the row ids, column `length` the lengths.
fn in_key_order(
    schema: &Arc<Schema>,
    batches: &[RecordBatch],
    keys: usize,
    length: Option<&str>,
) -> Result<OrderedRows> {
    let rows = concat_batches(schema, batches).map_err(arrow_error)?;
    let Some((row_ids, columns)) = rows.columns().split_last() else { return Ok(OrderedRows::default()) };
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
    Ok(OrderedRows { row_ids: sorted.as_primitive::<UInt64Type>().values().to_vec(), lengths })
}

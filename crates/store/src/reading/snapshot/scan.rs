//! Scans of all rows of a snapshot, or of those that satisfy a filter.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch, RecordBatchOptions, UInt64Array};
use arrow::compute::{filter as filter_array, filter_record_batch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use cenote_base::{Error, Result};
use futures::{FutureExt, StreamExt, TryStreamExt, stream};

use super::Snapshot;
use super::base_scan::BaseScan;
use crate::base::row_widths::WIDE_BYTES;
use crate::blocking::blocking;
use crate::errors::arrow_error;
use crate::reading::batches::{first_rows, keeping};
use crate::reading::request::{BATCH_ROWS, RecordBatches, ScanRequest};
use crate::reading::widths::parts;
use crate::reading::{late, selectivity};
use crate::row_id::ROW_ID;
use crate::rows::buffers::compact;
use crate::rows::filter::Filter;
use crate::rows::schema;
use crate::version::Version;

/// Bytes of variable-width values per row from which a scan locates the rows first and reads them afterwards: Lance
/// would read whole pages of such columns.
const WIDE_ROW_BYTES: u64 = 8 << 10;
/// The same for a scan whose filter keeps few rows, in bytes of the whole row: Lance would read as many rows at a time
/// as it compares.
const WIDE_CHOSEN_ROW_BYTES: u64 = 4 << 10;

/// Rows of a base below which a scan does not sample its filter first.
const SAMPLED_ROWS_MIN: usize = 16_384;

impl Snapshot {
    /// Returns the schema of the batches of [`scan`](Self::scan).
    ///
    /// # Errors
    /// `NotFound` naming a column that the table does not have.
    pub fn scan_schema(&self, request: &ScanRequest) -> Result<SchemaRef> {
        let schema = match &request.columns {
            None => Arc::clone(&self.visible),
            Some(columns) => schema::project(&self.logical, columns)?,
        };
        if !request.with_row_id {
            return Ok(schema);
        }
        let row_id = Arc::new(Field::new(ROW_ID, DataType::UInt64, false));
        Ok(Arc::new(Schema::new(schema.fields().iter().cloned().chain([row_id]).collect::<Vec<_>>())))
    }

    /// Streams the requested rows, in no promised order. Bytes of a media column are read only if the request names the
    /// column (or names no columns).
    ///
    /// # Errors
    /// `NotFound` for an unknown column, `InvalidInput` for a filter that does not parse or type-check; the stream ends
    /// after its first error.
    pub async fn scan(&self, request: &ScanRequest) -> Result<RecordBatches> {
        let schema = self.scan_schema(request)?;
        let is_loose = match &request.filter {
            Some(filter) => self.is_loose(filter, &schema).boxed().await?,
            None => true,
        };
        let has_media = schema.fields().iter().any(|field| schema::is_blob(field));
        let row_bytes = self.plain_row_bytes(&schema).boxed().await?;
        let is_wide = match is_loose {
            true => row_bytes.varying >= WIDE_ROW_BYTES,
            false => row_bytes.all() >= WIDE_CHOSEN_ROW_BYTES || row_bytes.widest >= WIDE_BYTES,
        };
        if has_media || is_wide {
            let ids = ScanRequest { columns: Some(Vec::new()), with_row_id: true, batch_rows: None, ..request.clone() };
            let found = self.scan_at_once(&ids, self.scan_schema(&ids)?, ids.filter.is_none()).boxed().await?;
            return late::read(self, found, schema, request.batch_rows).boxed().await;
        }
        self.scan_at_once(request, schema, is_loose).boxed().await
    }

    /// Scans the columns of `schema`, finding and reading the rows in one pass. If `is_loose`, all columns are read
    /// before the filter is evaluated.
    async fn scan_at_once(&self, request: &ScanRequest, schema: SchemaRef, is_loose: bool) -> Result<RecordBatches> {
        let changed = self.changed(request).boxed().await?;
        let changed_rows: usize = changed.iter().map(RecordBatch::num_rows).sum();
        let changed = stream::iter(changed.into_iter().map(Ok));
        let limit = request.limit.map(|limit| limit - changed_rows);
        if limit == Some(0) {
            return Ok(changed.boxed());
        }
        // With a filter that keeps few rows, the other columns are read only for those.
        let others = if is_loose { schema.as_ref().clone() } else { Schema::empty() };
        let first = self.columns_read(&others, request.filter.as_ref())?;
        let stretches = self.stretches(&first).boxed().await?;
        let scan = BaseScan {
            snapshot: self.clone(),
            schema,
            filter: request.filter.clone(),
            limit,
            batch_rows: request.batch_rows,
            is_loose,
        };
        let batches = keeping(Arc::clone(&self.reading), scan.read(stretches).boxed().await?);
        match limit {
            Some(limit) => Ok(changed.chain(first_rows(batches, limit)).boxed()),
            None => Ok(changed.chain(batches).boxed()),
        }
    }

    /// Returns whether `filter` keeps enough rows that scanning the other columns beats reading them row by row, as
    /// Lance does with wide columns because it expects filters to be selective.
    async fn is_loose(&self, filter: &Filter, wanted: &Schema) -> Result<bool> {
        let is_narrow = |kind: &DataType| kind.primitive_width().is_some_and(|bytes| bytes <= 8);
        let is_wide = |field: &Arc<Field>| !schema::is_blob(field) && !is_narrow(field.data_type());
        if self.base_rows < SAMPLED_ROWS_MIN || !wanted.fields().iter().any(is_wide) {
            return Ok(false);
        }
        // A scan then reads at most twice what is wanted.
        Ok(selectivity::share(&self.reader, filter).await?.is_some_and(|share| share >= 0.5))
    }

    /// Returns the requested rows that the base does not hold yet, which [`base_scanner`](Self::base_scanner) does not
    /// find.
    ///
    /// # Errors
    /// Those of [`scan`](Self::scan).
    pub async fn changed(&self, request: &ScanRequest) -> Result<Vec<RecordBatch>> {
        self.changed_since(Version(0), request).await
    }

    /// Returns those rows of [`changed`](Self::changed) that were written after `version`.
    ///
    /// # Errors
    /// Those of [`scan`](Self::scan).
    pub async fn changed_since(&self, version: Version, request: &ScanRequest) -> Result<Vec<RecordBatch>> {
        let schema = self.scan_schema(request)?;
        if !self.changes.has_since(version) {
            return Ok(Vec::new());
        }
        let (snapshot, request) = (self.clone(), request.clone());
        blocking(move || {
            // Read only the columns that are wanted or compared: others may hold media.
            let read = snapshot.columns_read(&schema, request.filter.as_ref())?;
            let predicate = request.filter.as_ref().map(|filter| filter.predicate(&read)).transpose()?;
            let live = snapshot.changes.live_since(version);
            let mut limit = request.limit.unwrap_or(usize::MAX);
            let mut batches = Vec::new();
            for live in live.chunks(request.batch_rows.unwrap_or(BATCH_ROWS).max(1)) {
                let mut rows = snapshot.changes.gather(live, &read)?;
                let mut row_ids = UInt64Array::from_iter_values(live.iter().map(|row| snapshot.changes.row_id(*row)));
                if let (Some(filter), Some(predicate)) = (&request.filter, &predicate) {
                    let selected = predicate.evaluate(&rows).and_then(|value| value.into_array(rows.num_rows()));
                    let selected = selected.map_err(|source| filter.failed(source))?;
                    let selected = selected.as_boolean_opt();
                    let selected = selected.ok_or_else(|| Error::invalid_input("the filter is not a condition"))?;
                    rows = filter_record_batch(&rows, selected).map_err(arrow_error)?;
                    row_ids = filter_array(&row_ids, selected).map_err(arrow_error)?.as_primitive().clone();
                }
                let count = rows.num_rows().min(limit);
                let columns = schema.fields().iter().map(|field| match rows.column_by_name(field.name()) {
                    Some(column) => Ok(column.slice(0, count)),
                    None if field.name() == ROW_ID => Ok(Arc::new(row_ids.slice(0, count)) as ArrayRef),
                    None => Err(Error::internal(format!("the change store lost column `{}`", field.name()))),
                });
                let columns = columns.collect::<Result<Vec<_>>>()?;
                let options = RecordBatchOptions::new().with_row_count(Some(count));
                let batch = RecordBatch::try_new_with_options(Arc::clone(&schema), columns, &options);
                for part in parts(&batch.map_err(arrow_error)?, usize::MAX) {
                    batches.push(compact(part)?);
                }
                limit -= count;
                if limit == 0 {
                    break;
                }
            }
            Ok(batches)
        })
        .await
    }

    /// Returns the columns of the table that `schema` wants or `filter` compares.
    fn columns_read(&self, schema: &Schema, filter: Option<&Filter>) -> Result<SchemaRef> {
        let compared = filter.map(|filter| filter.columns(&self.logical)).transpose()?.unwrap_or_default();
        if let Some(filter) = filter
            && compared.iter().any(|name| self.logical.index_of(name).is_err())
        {
            // Checked against all columns, so that the error can name them.
            filter.predicate(&self.logical)?;
        }
        let is_read = |name: &String| schema.index_of(name).is_ok() || compared.contains(name);
        let fields = self.logical.fields().iter().filter(|field| is_read(field.name()));
        Ok(Arc::new(Schema::new(fields.cloned().collect::<Vec<_>>())))
    }

    /// Returns whether `filter` selects the same rows of this snapshot each time it is evaluated, that is, whether it
    /// depends neither on the time nor on chance.
    ///
    /// # Errors
    /// `InvalidInput` when it does not parse.
    pub fn is_steady(&self, filter: &Filter) -> Result<bool> {
        filter.is_steady(&self.logical)
    }

    /// Reads the requested rows into one batch; for results that are known to be small.
    pub async fn collect(&self, request: &ScanRequest) -> Result<RecordBatch> {
        let schema = self.scan_schema(request)?;
        let batches: Vec<RecordBatch> = self.scan(request).await?.try_collect().await?;
        arrow::compute::concat_batches(&schema, &batches).map_err(arrow_error)
    }

    /// Counts all rows, or those that satisfy `filter`.
    pub async fn count(&self, filter: Option<Filter>) -> Result<usize> {
        match filter {
            None => Ok(self.base_rows - self.changes.masked() + self.changes.live()),
            Some(filter) => {
                let request =
                    ScanRequest { filter: Some(filter), ..ScanRequest::default() }.columns([""; 0]).with_row_id();
                let stream = self.scan(&request).await?;
                stream.try_fold(0, |rows, batch| async move { Ok(rows + batch.num_rows()) }).await
            }
        }
    }
}

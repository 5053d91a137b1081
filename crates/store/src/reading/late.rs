//! Scans of wide rows, which first find the rows and then read them, a few megabytes at a time.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch, UInt64Array};
use arrow::datatypes::{Schema, SchemaRef, UInt64Type};
use cenote_base::{Error, Result, pack};
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, TryStreamExt, stream};

use crate::errors::arrow_error;
use crate::reading::snapshot::{BATCH_BYTES, ROW_ID, RecordBatches, ScanRequest, Snapshot};
use crate::rows::schema::is_blob;

/// Maximum rows per batch.
const ROWS_MAX: usize = 1024;
/// Batches read ahead of the consumer.
const AHEAD: usize = 3;

impl Snapshot {
    /// Scans as [`scan`](Self::scan) does, in batches of at most [`BATCH_BYTES`], or one row.
    pub(crate) fn scan_late<'a>(
        &'a self,
        request: &'a ScanRequest,
        schema: SchemaRef,
    ) -> BoxFuture<'a, Result<RecordBatches>> {
        async move { self.find_and_read(request, schema).await }.boxed()
    }

    async fn find_and_read(&self, request: &ScanRequest, schema: SchemaRef) -> Result<RecordBatches> {
        let ids = ScanRequest { columns: Some(Vec::new()), with_row_id: true, batch_rows: None, ..request.clone() };
        let found = self.scan(&ids).await?;
        let plain_bytes = self.plain_row_bytes(&schema).boxed().await?.all();
        let (snapshot, wanted) = (self.clone(), Arc::clone(&schema));
        let rows_max = request.batch_rows.unwrap_or(ROWS_MAX).clamp(1, ROWS_MAX);
        let pieces = found.and_then(move |batch| {
            let (snapshot, wanted) = (snapshot.clone(), Arc::clone(&wanted));
            async move { snapshot.pieces(&batch, &wanted, plain_bytes, rows_max).await }
        });
        let pieces = pieces.map_ok(|pieces| stream::iter(pieces.into_iter().map(Ok))).try_flatten();
        let snapshot = self.clone();
        let batches = pieces.map_ok(move |row_ids| {
            let (snapshot, schema) = (snapshot.clone(), Arc::clone(&schema));
            async move { snapshot.read_piece(&row_ids, &schema).await }
        });
        Ok(batches.try_buffered(AHEAD).boxed())
    }

    /// Splits the row ids of `batch` into those of batches with at most `rows_max` rows of the columns of `wanted`,
    /// whose columns without media take `plain_bytes` per row.
    async fn pieces(
        &self,
        batch: &RecordBatch,
        wanted: &Schema,
        plain_bytes: u64,
        rows_max: usize,
    ) -> Result<Vec<Vec<u64>>> {
        let ids = row_ids(batch)?;
        let mut sizes = vec![plain_bytes; ids.len()];
        for field in wanted.fields().iter().filter(|field| is_blob(field)) {
            let media = self.blob_sizes(field.name(), ids).await?;
            sizes.iter_mut().zip(media).for_each(|(sum, size)| *sum += size);
        }
        Ok(pack(&sizes, BATCH_BYTES, rows_max).into_iter().map(|range| ids[range].to_vec()).collect())
    }

    async fn read_piece(&self, row_ids: &[u64], schema: &SchemaRef) -> Result<RecordBatch> {
        let names = schema.fields().iter().map(|field| field.name().clone()).filter(|name| name != ROW_ID);
        let read = self.take(row_ids, &names.collect::<Vec<_>>()).await?;
        if read.num_columns() == schema.fields().len() {
            return Ok(read);
        }
        let ids: ArrayRef = Arc::new(UInt64Array::from(row_ids.to_vec()));
        let columns = read.columns().iter().cloned().chain([ids]).collect();
        RecordBatch::try_new(Arc::clone(schema), columns).map_err(arrow_error)
    }
}

pub(crate) fn row_ids(batch: &RecordBatch) -> Result<&[u64]> {
    let ids = batch.column_by_name(ROW_ID).and_then(|column| column.as_primitive_opt::<UInt64Type>());
    Ok(ids.ok_or_else(|| Error::internal("the scan returned no row ids"))?.values())
}

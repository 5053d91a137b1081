//! Scans of wide rows: which rows there are is found first, and then they are read, some megabytes at a time.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch, UInt64Array};
use arrow::datatypes::{DataType, Schema, SchemaRef, UInt64Type};
use cenote_base::{Error, Result, pack};
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, TryStreamExt, stream};

use crate::fault::arrow_error;
use crate::schema::{fixed_bytes, is_blob, row_bytes_min};
use crate::snapshot::{BATCH_BYTES, BATCH_ROWS, ROW_ID, RecordBatches, ScanRequest, Snapshot};

/// Row ids looked at together.
const IDS_MAX: usize = 1024;
/// Rows whose media are looked at to know how large they are.
const SAMPLED_ROWS: usize = 256;
/// Batches read ahead of the one that is taken.
const AHEAD: usize = 3;

impl Snapshot {
    /// [`scan`](Self::scan) in batches of [`BATCH_BYTES`] at most, or one row.
    pub(crate) fn scan_late<'a>(
        &'a self,
        request: &'a ScanRequest,
        schema: SchemaRef,
    ) -> BoxFuture<'a, Result<RecordBatches>> {
        async move { self.find_and_read(request, schema).await }.boxed()
    }

    async fn find_and_read(&self, request: &ScanRequest, schema: SchemaRef) -> Result<RecordBatches> {
        let ids = ScanRequest {
            columns: Some(Vec::new()),
            with_row_id: true,
            batch_rows: Some(request.batch_rows.unwrap_or(IDS_MAX).min(IDS_MAX)),
            ..request.clone()
        };
        let found = self.scan(&ids).await?;
        let plain_bytes = self.plain_row_bytes(&schema).all();
        let (snapshot, wanted) = (self.clone(), Arc::clone(&schema));
        let pieces = found.and_then(move |batch| {
            let (snapshot, wanted) = (snapshot.clone(), Arc::clone(&wanted));
            async move { snapshot.pieces(&batch, &wanted, plain_bytes).await }
        });
        let pieces = pieces.map_ok(|pieces| stream::iter(pieces.into_iter().map(Ok))).try_flatten();
        let snapshot = self.clone();
        let batches = pieces.map_ok(move |row_ids| {
            let (snapshot, schema) = (snapshot.clone(), Arc::clone(&schema));
            async move { snapshot.read_piece(&row_ids, &schema).await }
        });
        Ok(batches.try_buffered(AHEAD).boxed())
    }

    /// The row ids of `batch`, cut so that the columns of `wanted` fit a batch, of which those that hold no media take
    /// `plain_bytes` a row.
    async fn pieces(&self, batch: &RecordBatch, wanted: &Schema, plain_bytes: u64) -> Result<Vec<Vec<u64>>> {
        let ids = row_ids(batch)?;
        let mut sizes = vec![plain_bytes; ids.len()];
        for field in wanted.fields().iter().filter(|field| is_blob(field)) {
            let media = self.blob_sizes(field.name(), ids).await?;
            sizes.iter_mut().zip(media).for_each(|(sum, size)| *sum += size);
        }
        Ok(pack(&sizes, BATCH_BYTES, IDS_MAX).into_iter().map(|range| ids[range].to_vec()).collect())
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

    /// How many rows of the columns of `schema` make a batch, by what rows hold on average: of media the first ones.
    pub async fn batch_rows(&self, schema: &Schema) -> Result<usize> {
        let mut row_bytes = self.plain_row_bytes(schema).all();
        let media: Vec<&str> =
            schema.fields().iter().filter(|field| is_blob(field)).map(|field| field.name().as_str()).collect();
        if !media.is_empty() {
            let first =
                self.collect(&ScanRequest::default().columns([""; 0]).with_row_id().limit(SAMPLED_ROWS)).await?;
            let ids = row_ids(&first)?;
            for column in media {
                let bytes: u64 = self.blob_sizes(column, ids).await?.iter().sum();
                row_bytes += bytes / ids.len().max(1) as u64;
            }
        }
        Ok((BATCH_BYTES / row_bytes.max(1)).clamp(1, BATCH_ROWS as u64) as usize)
    }

    /// Bytes of a row's columns of `schema`, media apart.
    pub(crate) fn plain_row_bytes(&self, schema: &Schema) -> RowBytes {
        let varies = |data_type: &DataType| fixed_bytes(data_type) == 0;
        let varying = schema.fields().iter().filter(|field| !is_blob(field) && varies(field.data_type()));
        let varying: Vec<i32> =
            varying.filter_map(|field| self.base().schema().field(field.name()).map(|field| field.id)).collect();
        let (mut bytes, mut rows) = (0, 0);
        for fragment in self.base().fragments().iter() {
            let files = fragment.files.iter().filter(|file| varying.iter().any(|field| file.fields.contains(field)));
            bytes += files.map(|file| file.file_size_bytes.get().map_or(0, u64::from)).sum::<u64>();
            rows += fragment.physical_rows.unwrap_or(0) as u64;
        }
        RowBytes { fixed: row_bytes_min(schema), varying: bytes / rows.max(1) }
    }
}

/// What a row takes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RowBytes {
    /// In memory, of the columns whose values are all of one size.
    pub(crate) fixed: u64,
    /// On the disk, on average, in the files that have any of the others.
    pub(crate) varying: u64,
}

impl RowBytes {
    pub(crate) fn all(self) -> u64 {
        self.fixed + self.varying
    }
}

fn row_ids(batch: &RecordBatch) -> Result<&[u64]> {
    let ids = batch.column_by_name(ROW_ID).and_then(|column| column.as_primitive_opt::<UInt64Type>());
    Ok(ids.ok_or_else(|| Error::internal("the scan gave no row ids"))?.values())
}

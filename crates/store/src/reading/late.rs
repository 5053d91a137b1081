//! Scans of wide rows, which first find the rows and then read them, a few megabytes at a time.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, UInt64Array};
use arrow::datatypes::{Schema, SchemaRef};
use cenote_base::{Result, pack};
use futures::{FutureExt, StreamExt, TryStreamExt, stream};

use crate::errors::arrow_error;
use crate::reading::request::{BATCH_BYTES, RecordBatches};
use crate::reading::snapshot::Snapshot;
use crate::reading::widths::parts;
use crate::row_id::{ROW_ID, row_ids};
use crate::rows::buffers::compact;
use crate::rows::schema::is_blob;

/// Maximum rows per batch.
const ROWS_MAX: usize = 1024;
/// Batches read ahead of the consumer.
const AHEAD: usize = 3;

/// Reads the columns of `schema` of the rows whose row ids `found` yields, in batches of at most [`BATCH_BYTES`] and
/// `rows_max` rows, or one row.
pub(crate) async fn read(
    snapshot: &Snapshot,
    found: RecordBatches,
    schema: SchemaRef,
    rows_max: Option<usize>,
) -> Result<RecordBatches> {
    let rows_max = rows_max.unwrap_or(ROWS_MAX).clamp(1, ROWS_MAX);
    let (source, wanted) = (snapshot.clone(), Arc::clone(&schema));
    let pieces = found.and_then(move |batch| {
        let (snapshot, wanted) = (source.clone(), Arc::clone(&wanted));
        async move { pieces(&snapshot, &batch, &wanted, rows_max).await }
    });
    let pieces = pieces.map_ok(|pieces| stream::iter(pieces.into_iter().map(Ok))).try_flatten();
    let snapshot = snapshot.clone();
    let batches = pieces.map_ok(move |row_ids| {
        let (snapshot, schema) = (snapshot.clone(), Arc::clone(&schema));
        async move { read_piece(&snapshot, &row_ids, &schema).await }
    });
    let batches = batches.try_buffered(AHEAD);
    // The sizes are estimates: rows of up to 32 KiB are taken to be as wide as those around them.
    let batches = batches.map_ok(move |batch| stream::iter(parts(&batch, rows_max).into_iter().map(compact)));
    Ok(batches.try_flatten().boxed())
}

/// Splits the row ids of `batch` into those of batches of at most `rows_max` rows of the columns of `wanted`.
async fn pieces(snapshot: &Snapshot, batch: &RecordBatch, wanted: &Schema, rows_max: usize) -> Result<Vec<Vec<u64>>> {
    let ids = row_ids(batch)?;
    let mut sizes = snapshot.plain_sizes(ids, wanted).boxed().await?;
    for field in wanted.fields().iter().filter(|field| is_blob(field)) {
        let media = snapshot.blob_sizes(field.name(), ids).await?;
        sizes.iter_mut().zip(media).for_each(|(sum, size)| *sum += size);
    }
    Ok(pack(&sizes, BATCH_BYTES, rows_max).into_iter().map(|range| ids[range].to_vec()).collect())
}

async fn read_piece(snapshot: &Snapshot, row_ids: &[u64], schema: &SchemaRef) -> Result<RecordBatch> {
    let names = schema.fields().iter().map(|field| field.name().clone()).filter(|name| name != ROW_ID);
    let read = snapshot.take(row_ids, &names.collect::<Vec<_>>()).await?;
    if read.num_columns() == schema.fields().len() {
        return Ok(read);
    }
    let ids: ArrayRef = Arc::new(UInt64Array::from(row_ids.to_vec()));
    let columns = read.columns().iter().cloned().chain([ids]).collect();
    RecordBatch::try_new(Arc::clone(schema), columns).map_err(arrow_error)
}

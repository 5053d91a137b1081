//! The batches of a scan: their columns, their sizes, and the memory they hold.

use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::SchemaRef;
use cenote_base::{Error, Result};
use futures::{Stream, StreamExt, stream};

use crate::base::readers::Reading;
use crate::errors::arrow_error;
use crate::reading::request::RecordBatches;

/// Returns `batches`, up to the first error, pinning the base that they are read from. The pin ends with the last
/// batch, even if the caller keeps the stream.
pub(crate) fn keeping(reading: Arc<Reading>, batches: RecordBatches) -> RecordBatches {
    let next = |open: Option<(RecordBatches, Arc<Reading>)>| async move {
        let (mut batches, reading) = open?;
        let batch = batches.next().await?;
        let open = batch.is_ok().then_some((batches, reading));
        Some((batch, open))
    };
    stream::unfold(Some((batches, reading)), next).fuse().boxed()
}

/// Returns the first `rows` rows of `batches`.
pub(crate) fn first_rows(
    batches: impl Stream<Item = Result<RecordBatch>>,
    rows: usize,
) -> impl Stream<Item = Result<RecordBatch>> {
    let cut = |left: &mut usize, batch: Result<RecordBatch>| {
        let batch = batch.map(|batch| batch.slice(0, batch.num_rows().min(*left)));
        let is_over = *left == 0;
        *left -= batch.as_ref().map_or(0, RecordBatch::num_rows);
        futures::future::ready((!is_over).then_some(batch))
    };
    batches.scan(rows, cut)
}

/// Returns `batch` with the columns, order and types of `schema`.
pub(crate) fn reshape(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    let columns = schema.fields().iter().map(|field| {
        let column = batch
            .column_by_name(field.name())
            .ok_or_else(|| Error::internal(format!("a scan lost column `{}`", field.name())))?;
        if column.data_type() == field.data_type() {
            return Ok(Arc::clone(column));
        }
        arrow::compute::cast(column, field.data_type()).map_err(arrow_error)
    });
    let columns = columns.collect::<Result<Vec<_>>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options).map_err(arrow_error)
}

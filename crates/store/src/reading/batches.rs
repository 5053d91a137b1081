//! The batches of a scan: their columns, their sizes, and the memory they hold.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, MutableArrayData, RecordBatch, RecordBatchOptions, make_array};
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

/// Copies the columns of `batch` whose buffers are more than twice as large as needed. Otherwise the last rows of a
/// page would hold all of it, and accounting for batches one by one would count the page once for each.
pub(crate) fn compact(batch: RecordBatch) -> Result<RecordBatch> {
    let columns = batch.columns().iter().map(|column| {
        let data = column.to_data();
        let needed = data.get_slice_memory_size().unwrap_or(usize::MAX);
        if column.get_buffer_memory_size() / 2 <= needed {
            return Arc::clone(column);
        }
        let mut copy = MutableArrayData::new(vec![&data], false, data.len());
        copy.extend(0, 0, data.len());
        make_array(copy.freeze())
    });
    let columns: Vec<ArrayRef> = columns.collect();
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(batch.schema(), columns, &options).map_err(arrow_error)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use arrow::array::{FixedSizeListArray, StringArray, StructArray};
    use arrow::datatypes::Float32Type;

    use super::*;

    #[test]
    fn a_small_part_keeps_its_values_and_not_the_rest() {
        let texts: ArrayRef =
            Arc::new((0..1000).map(|n| (n % 3 > 0).then(|| format!("text {n}"))).collect::<StringArray>());
        let vectors = (0..1000).map(|n| (n % 5 > 0).then(|| [n as f32, 1.0].map(Some)));
        let vectors: ArrayRef = Arc::new(FixedSizeListArray::from_iter_primitive::<Float32Type, _, _>(vectors, 2));
        let both = StructArray::try_from(vec![("text", Arc::clone(&texts)), ("vector", Arc::clone(&vectors))]).unwrap();
        let columns = [("texts", texts), ("vectors", vectors), ("both", Arc::new(both) as ArrayRef)];
        let all = RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true))).unwrap();
        let held = |batch: &RecordBatch| batch.columns().iter().map(|c| c.get_buffer_memory_size()).sum::<usize>();
        let part = all.slice(500, 9);
        let copied = compact(part.clone()).unwrap();
        assert_eq!(copied, part);
        assert!(held(&copied) < held(&part) / 10, "{} of {}", held(&copied), held(&part));
        let most = all.slice(0, 900);
        assert_eq!(held(&compact(most.clone()).unwrap()), held(&most), "most of it is shared, not copied");
    }
}

//! Estimates of the bytes of rows in memory. The files do not tell: repetitive text takes a thousandth of them on disk.

use std::collections::HashSet;

use arrow::datatypes::Schema;
use cenote_base::Result;
use futures::FutureExt;

use crate::errors::lance_error;
use crate::reading::request::{BATCH_BYTES, BATCH_ROWS, ScanRequest};
use crate::reading::snapshot::Snapshot;
use crate::row_id::row_ids;
use crate::rows::schema::{fixed_bytes, is_blob, row_bytes_min};

/// Rows whose media are measured.
const MEDIA_ROWS: usize = 256;
/// Files of the base whose rows are measured.
const FILES: usize = 8;

/// Bytes of a row in memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RowBytes {
    /// Bytes of the columns whose values all have one size.
    pub(crate) fixed: u64,
    /// Average bytes of the other columns.
    pub(crate) varying: u64,
}

impl RowBytes {
    pub(crate) fn all(self) -> u64 {
        self.fixed + self.varying
    }
}

/// Returns how many rows of `row_bytes` each make a batch of a scan.
pub fn batch_rows(row_bytes: u64) -> usize {
    (BATCH_BYTES / row_bytes.max(1)).clamp(1, BATCH_ROWS as u64) as usize
}

impl Snapshot {
    /// Estimates the bytes in memory of a row with the columns of `schema`, from a sample of rows.
    pub async fn row_bytes(&self, schema: &Schema) -> Result<u64> {
        let mut row_bytes = self.plain_row_bytes(schema).boxed().await?.all();
        let media: Vec<_> = schema.fields().iter().filter(|field| is_blob(field)).collect();
        if !media.is_empty() {
            let first = self.collect(&ScanRequest::default().columns([""; 0]).with_row_id().limit(MEDIA_ROWS)).await?;
            let ids = row_ids(&first)?;
            for column in media {
                let bytes: u64 = self.blob_sizes(column.name(), ids).await?.iter().sum();
                row_bytes += bytes / ids.len().max(1) as u64;
            }
        }
        Ok(row_bytes)
    }

    /// Estimates the bytes in memory of a row with the columns of `schema`, without media.
    pub(crate) async fn plain_row_bytes(&self, schema: &Schema) -> Result<RowBytes> {
        let varies = |field: &&arrow::datatypes::FieldRef| !is_blob(field) && fixed_bytes(field.data_type()) == 0;
        let names = schema.fields().iter().filter(varies).map(|field| field.name());
        let names: Vec<&String> = names.filter(|name| self.base().schema().field(name).is_some()).collect();
        let fixed = row_bytes_min(schema);
        if names.is_empty() {
            return Ok(RowBytes { fixed, varying: 0 });
        }
        let columns = self.base().schema().project(&names).map_err(lance_error)?;
        let fields: HashSet<i32> = columns.fields.iter().map(|field| field.id).collect();
        let (mut on_disk, mut rows) = (0, 0);
        for fragment in self.base().fragments().iter() {
            let count = fragment.physical_rows.unwrap_or(0) as u64;
            let files = fragment.files.iter().filter(|file| file.fields.iter().any(|field| fields.contains(field)));
            for file in files {
                let others = file.fields.iter().filter_map(|field| self.base().schema().field_by_id(*field));
                let fixed: u64 = others.map(|field| fixed_bytes(&field.data_type())).sum();
                let bytes = file.file_size_bytes.get().map_or(0, u64::from);
                on_disk += bytes.saturating_sub(count * fixed);
            }
            rows += count;
        }
        // If only a few rows are wide, a sample misses them, but the files show it.
        let varying = self.reader().sampled_row_bytes(&columns, FILES).await?.max(on_disk / rows.max(1));
        Ok(RowBytes { fixed, varying })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
    use arrow::datatypes::{DataType, Field};
    use futures::TryStreamExt;

    use super::*;
    use crate::rows::schema::value_bytes;
    use crate::{Store, StoreOptions, TableSpec};

    /// Texts that take a thousandth of their size on disk, in files and one by one.
    #[tokio::test]
    async fn rows_are_as_wide_as_they_are_in_memory() {
        const TEXT_BYTES: usize = 100_000;
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path(), StoreOptions::default()).await.unwrap();
        let fields = vec![Field::new("id", DataType::Int64, false), Field::new("text", DataType::Utf8, true)];
        let schema = Arc::new(Schema::new(fields));
        let table = store.create_table("t", TableSpec::new(Arc::clone(&schema), ["id"])).await.unwrap();
        let texts =
            (0..200).map(|id| id.to_string().repeat(TEXT_BYTES).split_off(TEXT_BYTES * (id.to_string().len() - 1)));
        let columns: Vec<ArrayRef> =
            vec![Arc::new(Int64Array::from_iter_values(0..200)), Arc::new(StringArray::from_iter_values(texts))];
        table.upsert(RecordBatch::try_new(Arc::clone(&schema), columns).unwrap()).await.unwrap();
        table.fold().await.unwrap();
        let snapshot = table.snapshot().await.unwrap();
        let on_disk: u64 = snapshot
            .base()
            .fragments()
            .iter()
            .flat_map(|fragment| &fragment.files)
            .map(|file| file.file_size_bytes.get().map_or(0, u64::from))
            .sum();
        assert!(on_disk < 200 * TEXT_BYTES as u64 / 20, "{on_disk} bytes on disk: the texts are not compressed");
        let row_bytes = snapshot.row_bytes(&schema).await.unwrap();
        assert!((TEXT_BYTES as u64..TEXT_BYTES as u64 + 64).contains(&row_bytes), "{row_bytes}");
        for filter in [None, Some("id % 2 = 0"), Some("id >= 0")] {
            let request = ScanRequest { filter: filter.map(Into::into), ..ScanRequest::default() };
            let batches: Vec<RecordBatch> = snapshot.scan(&request).await.unwrap().try_collect().await.unwrap();
            let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
            assert_eq!(rows, if filter == Some("id % 2 = 0") { 100 } else { 200 });
            for batch in &batches {
                assert!(value_bytes(batch) <= BATCH_BYTES, "{filter:?}: {} bytes", value_bytes(batch));
                let held: usize = batch.columns().iter().map(|column| column.get_buffer_memory_size()).sum();
                assert!(held as u64 <= 2 * value_bytes(batch) + 1024, "{filter:?}: {held} bytes are held");
            }
        }
    }
}

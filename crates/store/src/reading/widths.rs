//! Estimates of the bytes of rows in memory, and the sizes of batches that follow from them.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{FieldRef, Schema};
use cenote_base::Result;
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use lance::dataset::scanner::RowAddrTreeMap;
use lance_core::datatypes::Schema as StoredSchema;
use roaring::RoaringBitmap;

use crate::base::row_widths::RowRun;
use crate::errors::lance_error;
use crate::reading::request::{BATCH_BYTES, BATCH_ROWS, ScanRequest};
use crate::reading::snapshot::Snapshot;
use crate::row_id::row_ids;
use crate::rows::schema::{fixed_bytes, is_blob, row_bytes_min, value_bytes};

/// Rows whose media are measured.
const MEDIA_ROWS: usize = 256;
/// Files of the base whose metadata is read at a time.
const FILES: usize = 16;
/// Maximum bytes of a batch before it is split, unless it is one row.
const READ_BYTES: u64 = 2 * BATCH_BYTES;
/// A stretch is read in batches of one size if that takes at most this many times the batches that its bytes and rows
/// need, and a few more.
const BATCHES_FACTOR: u64 = 4;
const BATCHES_MIN: u64 = 16;

/// Bytes of a row in memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RowBytes {
    /// Bytes of the columns whose values all have one size.
    pub(crate) fixed: u64,
    /// Average bytes of the other columns.
    pub(crate) varying: u64,
    /// Bytes of the widest row, approximately.
    pub(crate) widest: u64,
}

impl RowBytes {
    pub(crate) fn all(self) -> u64 {
        self.fixed + self.varying
    }
}

/// Rows of the base in succession, which are read in batches of the same number of rows.
#[derive(Debug)]
pub(crate) struct Stretch {
    /// Where the rows are; `None` for all rows of the base.
    pub(crate) rows: Option<RowAddrTreeMap>,
    pub(crate) batch_rows: usize,
}

/// The widths of the base's rows, in the order of its fragments.
struct Widths {
    /// The number of each fragment, and its rows.
    fragments: Vec<(u32, Range<u64>)>,
    runs: Vec<RowRun>,
    /// The bytes of the rows before each run.
    before: Vec<u64>,
}

/// Returns how many rows of `row_bytes` each make a batch of a scan.
pub fn batch_rows(row_bytes: u64) -> usize {
    (BATCH_BYTES / row_bytes.max(1)).clamp(1, BATCH_ROWS as u64) as usize
}

impl Snapshot {
    /// Estimates the bytes in memory of a row with the columns of `schema`.
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
        let fixed = row_bytes_min(schema);
        let Some(widths) = self.widths(schema).boxed().await? else {
            return Ok(RowBytes { fixed, varying: 0, widest: fixed });
        };
        let widest = widths.runs.iter().map(|run| run.row_bytes).max().unwrap_or(fixed);
        Ok(RowBytes { fixed, varying: (widths.bytes() / widths.rows().max(1)).saturating_sub(fixed), widest })
    }

    /// Divides the base into stretches, so that batches of the columns of `schema` hold about [`BATCH_BYTES`].
    pub(crate) async fn stretches(&self, schema: &Schema) -> Result<Vec<Stretch>> {
        let Some(widths) = self.widths(schema).boxed().await? else {
            return Ok(vec![Stretch { rows: None, batch_rows: batch_rows(row_bytes_min(schema)) }]);
        };
        let mut parts = Vec::new();
        widths.divide(0..widths.rows(), &mut parts);
        let is_whole = parts.len() == 1;
        let stretch = |(rows, batch_rows)| Stretch { rows: (!is_whole).then(|| widths.addresses(rows)), batch_rows };
        Ok(parts.into_iter().map(stretch).collect())
    }

    /// Returns the widths of the base's rows in the columns of `schema`, without media; `None` if all are equally wide.
    async fn widths(&self, schema: &Schema) -> Result<Option<Widths>> {
        let columns = &self.varying(schema)?;
        if columns.fields.is_empty() {
            return Ok(None);
        }
        let ids: Vec<u32> = self.base().fragments().iter().map(|fragment| fragment.id as u32).collect();
        let read = stream::iter(ids.clone()).map(|id| self.reader().widths(id, columns).boxed());
        let read: Vec<Arc<[RowRun]>> = read.buffered(FILES).try_collect().await?;
        Ok(Some(Widths::new(ids.into_iter().zip(read), row_bytes_min(schema))))
    }

    /// Returns those columns of `schema` in the base whose values vary in size, without media.
    pub(crate) fn varying(&self, schema: &Schema) -> Result<StoredSchema> {
        let varies = |field: &&FieldRef| !is_blob(field) && fixed_bytes(field.data_type()) == 0;
        let names = schema.fields().iter().filter(varies).map(|field| field.name());
        let names: Vec<&String> = names.filter(|name| self.base().schema().field(name).is_some()).collect();
        self.base().schema().project(&names).map_err(lance_error)
    }
}

impl Widths {
    /// Joins the runs of fragments, whose rows have `fixed` more bytes each.
    fn new(read: impl Iterator<Item = (u32, Arc<[RowRun]>)>, fixed: u64) -> Self {
        let (mut fragments, mut runs, mut first) = (Vec::new(), Vec::new(), 0);
        for (id, widths) in read {
            for run in widths.iter() {
                let rows = first + run.rows.start..first + run.rows.end;
                RowRun { rows, row_bytes: run.row_bytes + fixed }.append_to(&mut runs);
            }
            let end = first + widths.last().map_or(0, |run| run.rows.end);
            fragments.push((id, first..end));
            first = end;
        }
        let before = runs.iter().scan(0, |sum, run| Some(std::mem::replace(sum, *sum + run.bytes()))).collect();
        Self { fragments, runs, before }
    }

    fn rows(&self) -> u64 {
        self.runs.last().map_or(0, |run| run.rows.end)
    }

    fn bytes(&self) -> u64 {
        self.bytes_before(self.rows())
    }

    /// Returns the bytes of the rows before `row`.
    fn bytes_before(&self, row: u64) -> u64 {
        match self.runs.partition_point(|run| run.rows.start < row).checked_sub(1) {
            Some(at) => self.before[at] + (row - self.runs[at].rows.start) * self.runs[at].row_bytes,
            None => 0,
        }
    }

    /// Appends parts of `rows` to `parts`, each with the rows of its batches.
    fn divide(&self, rows: Range<u64>, parts: &mut Vec<(Range<u64>, usize)>) {
        let (count, bytes) = (rows.end - rows.start, self.bytes_before(rows.end) - self.bytes_before(rows.start));
        let fits = |batch_rows: u64| {
            let mut firsts = rows.clone().step_by(batch_rows as usize);
            firsts.all(|first| {
                let end = (first + batch_rows).min(rows.end);
                self.bytes_before(end) - self.bytes_before(first) <= READ_BYTES
            })
        };
        let mut batch_rows = batch_rows(bytes / count.max(1)) as u64;
        while batch_rows > 1 && !fits(batch_rows) {
            batch_rows /= 2;
        }
        let needed = bytes / BATCH_BYTES + count / BATCH_ROWS as u64;
        if count <= 1 || count / batch_rows <= BATCHES_FACTOR * needed + BATCHES_MIN {
            parts.push((rows, batch_rows as usize));
            return;
        }
        let middle = rows.start + count / 2;
        self.divide(rows.start..middle, parts);
        self.divide(middle..rows.end, parts);
    }

    /// Returns where `rows` are.
    fn addresses(&self, rows: Range<u64>) -> RowAddrTreeMap {
        let mut addresses = RowAddrTreeMap::new();
        for (id, all) in &self.fragments {
            let (start, end) = (rows.start.max(all.start), rows.end.min(all.end));
            if start < end {
                let mut offsets = RoaringBitmap::new();
                offsets.insert_range((start - all.start) as u32..(end - all.start) as u32);
                addresses.insert_bitmap(*id, offsets);
            }
        }
        addresses
    }
}

/// Splits `batch` into parts of at most `rows` rows and [`BATCH_BYTES`], or one row.
pub(crate) fn parts(batch: &RecordBatch, rows: usize) -> Vec<RecordBatch> {
    let mut parts = Vec::new();
    let mut left = vec![batch.clone()];
    while let Some(part) = left.pop() {
        let count = part.num_rows();
        if count > 1 && (count > rows || value_bytes(&part) > BATCH_BYTES) {
            let first = if count > rows { rows } else { count / 2 };
            left.push(part.slice(first, count - first));
            left.push(part.slice(0, first));
        } else if count > 0 {
            parts.push(part);
        }
    }
    parts
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

//! Scans of a snapshot's base, stretch by stretch.

use arrow::array::RecordBatch;
use arrow::compute::filter_record_batch;
use arrow::datatypes::SchemaRef;
use cenote_base::{Error, ErrorKind, Result};
use futures::{FutureExt, Stream, StreamExt, TryStreamExt, stream};
use lance::dataset::scanner::MaterializationStyle;

use super::Snapshot;
use crate::errors::{arrow_error, lance_error};
use crate::reading::batches::reshape;
use crate::reading::request::{BATCH_ROWS, RecordBatches};
use crate::reading::widths::{Stretch, parts};
use crate::row_id::{ROW_ID, row_ids};
use crate::rows::buffers::compact;
use crate::rows::filter::Filter;

/// Read-ahead of a scan, in bytes.
const READ_AHEAD_BYTES: u64 = 64 << 20;

/// A scan of the live rows of a snapshot's base.
#[derive(Debug, Clone)]
pub(super) struct BaseScan {
    pub(super) snapshot: Snapshot,
    pub(super) schema: SchemaRef,
    pub(super) filter: Option<Filter>,
    /// Maximum rows that are needed.
    pub(super) limit: Option<usize>,
    pub(super) batch_rows: Option<usize>,
    /// Whether to read all columns before the filter is evaluated.
    pub(super) is_loose: bool,
}

/// A scan of one stretch.
struct Opened {
    batches: RecordBatches,
    /// Whether superseded rows are filtered too, and dropped afterwards.
    masks_late: bool,
    /// Rows returned, and rows of `batches` that were returned before.
    returned: usize,
    skipped: usize,
}

impl BaseScan {
    /// Streams the rows of `stretches`, the first of which is opened at once.
    pub(super) async fn read(self, stretches: Vec<Stretch>) -> Result<RecordBatches> {
        let mut stretches = stretches.into_iter();
        let Some(first) = stretches.next() else { return Ok(stream::empty().boxed()) };
        let first = self.clone().read_stretch(first).await?;
        let others = stream::iter(stretches).then(move |stretch| self.clone().read_stretch(stretch));
        Ok(first.chain(others.try_flatten()).boxed())
    }

    /// Streams the rows of `stretch`.
    ///
    /// Under a mask, Lance evaluates a filter row by row and ignores scalar indexes. Superseded rows are therefore
    /// filtered too and dropped afterwards, unless the filter fails on one of them.
    async fn read_stretch(self, stretch: Stretch) -> Result<impl Stream<Item = Result<RecordBatch>> + Send + use<>> {
        let masks_late = self.filter.is_some() && self.snapshot.changes.masked() > 0;
        let batches = self.open(&stretch, masks_late).boxed().await?;
        let opened = Opened { batches, masks_late, returned: 0, skipped: 0 };
        Ok(stream::try_unfold((self, stretch, opened), |(scan, stretch, mut opened)| async move {
            let batch = scan.next(&stretch, &mut opened).await?;
            Ok(batch.map(|batch| (batch, (scan, stretch, opened))))
        }))
    }

    async fn next(&self, stretch: &Stretch, opened: &mut Opened) -> Result<Option<RecordBatch>> {
        loop {
            let batch = match opened.batches.next().await {
                None => return Ok(None),
                Some(Ok(batch)) => batch,
                Some(Err(error)) if opened.masks_late && error.kind() == ErrorKind::Internal => {
                    // Both scans return the same rows in the order of the base.
                    opened.batches = self.open(stretch, false).boxed().await?;
                    opened.masks_late = false;
                    opened.skipped = opened.returned;
                    continue;
                }
                Some(Err(error)) => return Err(self.failed(error)),
            };
            let skipped = opened.skipped.min(batch.num_rows());
            opened.skipped -= skipped;
            if skipped < batch.num_rows() {
                opened.returned += batch.num_rows() - skipped;
                return Ok(Some(batch.slice(skipped, batch.num_rows() - skipped)));
            }
        }
    }

    /// Opens a Lance scan of `stretch`, which filters superseded rows too if `masks_late`, and drops them afterwards.
    async fn open(&self, stretch: &Stretch, masks_late: bool) -> Result<RecordBatches> {
        let mut scanner = if masks_late { self.snapshot.base.scan() } else { self.snapshot.base_scanner() };
        let names = self.schema.fields().iter().map(|field| field.name().as_str());
        let names: Vec<&str> = names.filter(|name| *name != ROW_ID).collect();
        if names.is_empty() {
            scanner.empty_project().map_err(lance_error)?.with_row_id();
        } else {
            scanner.project(&names).map_err(lance_error)?;
        }
        if let Some(filter) = &self.filter {
            filter.apply(&mut scanner, self.snapshot.full_schema())?;
            if self.is_loose {
                scanner.materialization_style(MaterializationStyle::AllEarly);
            }
        }
        if let Some(limit) = self.limit.filter(|_| !masks_late) {
            scanner.limit(Some(limit as i64), None).map_err(lance_error)?;
        }
        if names.len() < self.schema.fields().len() || masks_late {
            scanner.with_row_id();
        }
        if let Some(rows) = &stretch.rows {
            scanner.with_physical_row_addr_prefilter(rows.clone());
        }
        // Bound batches by rows instead of Lance's own limit in bytes: that limit counts a whole page for each batch
        // that holds a part of it, and shrinks batches down to one row.
        scanner.batch_size(self.batch_rows.unwrap_or(BATCH_ROWS).min(stretch.batch_rows));
        scanner.io_buffer_size(READ_AHEAD_BYTES);
        let batches = scanner.try_into_stream().boxed().await.map_err(|source| match &self.filter {
            Some(filter) => lance_error(source).context(format!("filter `{filter}`")),
            None => lance_error(source),
        })?;
        let scan = self.clone();
        let batches = batches.map_err(lance_error).and_then(move |batch| {
            let live = if masks_late { scan.without_superseded(&batch) } else { Ok(batch) };
            futures::future::ready(live.and_then(|batch| reshape(&batch, &scan.schema)))
        });
        // Lance combines rows of several files into batches larger than the batch size.
        let rows_max = self.batch_rows.unwrap_or(usize::MAX).max(1);
        let batches = batches.map_ok(move |batch| stream::iter(parts(&batch, rows_max).into_iter().map(compact)));
        Ok(batches.try_flatten().boxed())
    }

    /// Returns the rows of `batch`, which has row ids, that are not superseded.
    fn without_superseded(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let live = row_ids(batch)?.iter().map(|row| Some(!self.snapshot.changes.is_masked(*row))).collect();
        filter_record_batch(batch, &live).map_err(arrow_error)
    }

    /// Returns the error of a scan, `error`, as the filter's if it is one: Lance does not say.
    fn failed(&self, error: Error) -> Error {
        match &self.filter {
            Some(filter) if error.kind() == ErrorKind::Internal => filter.failed(error),
            _ => error,
        }
    }
}

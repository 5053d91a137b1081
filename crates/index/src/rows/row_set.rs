//! Sets of rows by row id, and the reading of their rows.

use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Schema, UInt64Type};
use async_trait::async_trait;
use cenote_base::{Error, Result};
use cenote_store::{Filter, ROW_ID, RecordBatches, ScanRequest, Snapshot, lance_error};
use futures::{StreamExt, TryStreamExt, stream};
use lance::Dataset;
use lance::dataset::scanner::{RowAddrMask, RowAddrTreeMap, Scanner};
use lance_index::prefilter::PreFilter;

/// Returns the rows of the change store that satisfy `filter`.
pub(super) async fn satisfying_changes(snapshot: &Snapshot, filter: &Filter) -> Result<RowAddrTreeMap> {
    let mut rows = RowAddrTreeMap::new();
    let request = ScanRequest::default().columns([""; 0]).filter(filter.clone()).with_row_id();
    for batch in snapshot.changed(&request).await? {
        rows.extend(row_ids(&batch)?.iter().copied());
    }
    Ok(rows)
}

/// Returns the rows of `scanner`, of a table with the columns of `schema`, that satisfy `filter`, superseded ones
/// included: a scan under a mask would not use a scalar index.
pub(super) async fn satisfying(mut scanner: Scanner, schema: &Schema, filter: &Filter) -> Result<RowAddrTreeMap> {
    let mut rows = RowAddrTreeMap::new();
    scanner.empty_project().map_err(lance_error)?.with_row_id();
    let about = |source| lance_error(source).context(format!("search under filter `{filter}`"));
    filter.apply(&mut scanner, schema)?;
    let mut batches = scanner.try_into_stream().await.map_err(about)?;
    while let Some(batch) = batches.try_next().await.map_err(about)? {
        rows.extend(row_ids(&batch)?.iter().copied());
    }
    Ok(rows)
}

/// Returns the row ids of `batch`.
pub(crate) fn row_ids(batch: &RecordBatch) -> Result<&[u64]> {
    let row_ids = batch.column_by_name(ROW_ID).and_then(|ids| ids.as_primitive_opt::<UInt64Type>());
    Ok(row_ids.ok_or_else(|| Error::internal("a scan gave no row ids"))?.values())
}

/// Reads `column` of those of `rows` that the base has, with their row ids.
pub(crate) async fn read(base: &Dataset, column: &str, rows: RowAddrTreeMap) -> Result<RecordBatches> {
    if count(&rows) == 0 {
        return Ok(stream::empty().boxed());
    }
    let mut scanner = base.scan();
    scanner.with_row_id_prefilter(RowAddrMask::from_allowed(rows));
    scanner.project(&[column]).map_err(lance_error)?.with_row_id();
    let batches = scanner.try_into_stream().await.map_err(lance_error)?;
    Ok(batches.map_err(lance_error).boxed())
}

/// Returns whether `rows` are all among `others`.
pub(crate) fn are_among(rows: &RowAddrTreeMap, others: &RowAddrTreeMap) -> bool {
    count(&(rows.clone() - others)) == 0
}

/// Returns the number of `rows`.
pub(crate) fn count(rows: &RowAddrTreeMap) -> usize {
    let parts = rows.iter().filter_map(|(upper, _)| rows.get_fragment_bitmap(*upper));
    parts.map(|part| part.len() as usize).sum()
}

/// Returns the ids of `rows`, ascending.
pub(crate) fn ids(rows: &RowAddrTreeMap) -> Result<Vec<u64>> {
    let ids = rows.row_addrs().ok_or_else(|| Error::internal("rows are listed one by one"))?;
    Ok(ids.map(u64::from).collect())
}

/// The rows that Lance's search of an index may find.
pub(crate) struct MaskFilter(Arc<RowAddrMask>);

impl MaskFilter {
    pub(crate) fn new(mask: RowAddrMask) -> Self {
        Self(Arc::new(mask))
    }
}

#[async_trait]
impl PreFilter for MaskFilter {
    async fn wait_for_ready(&self) -> lance::Result<()> {
        Ok(())
    }

    fn is_empty(&self) -> bool {
        false
    }

    fn mask(&self) -> Arc<RowAddrMask> {
        Arc::clone(&self.0)
    }

    fn filter_row_ids<'a>(&self, row_ids: Box<dyn Iterator<Item = &'a u64> + 'a>) -> Vec<u64> {
        self.0.selected_indices(row_ids)
    }
}

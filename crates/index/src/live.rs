//! Which rows of the base are live in a snapshot, by row id.
//!
//! An index may hold rows that are not. Lance passes over those that the base has marked as deleted since, but not over those
//! that a compaction has removed from its files; and of the rows that the change store supersedes it knows nothing.

use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::UInt64Type;
use cenote_base::{Error, Result};
use cenote_store::{Filter, ROW_ID, RecordBatches, ScanRequest, Snapshot, lance_error};
use futures::{StreamExt, TryStreamExt, stream};
use lance::Dataset;
use lance::dataset::scanner::{RowAddrMask, RowAddrTreeMap};
use lance::index::prefilter::DatasetPreFilter;
use lance::table::format::IndexMetadata;
use roaring::RoaringBitmap;

/// No file of a table has this number.
const NO_FRAGMENT: u32 = u32::MAX;

/// The rows of the base that the base itself has not deleted: in the files that one of `segments` covers, and in the others.
pub(crate) async fn rows(base: &Arc<Dataset>, segments: &[IndexMetadata]) -> Result<(RowAddrTreeMap, RowAddrTreeMap)> {
    let all = base.fragment_bitmap();
    let mut late = all.as_ref().clone();
    for segment in segments {
        match &segment.fragment_bitmap {
            Some(covered) => late -= covered,
            None => late.clear(),
        }
    }
    let covered = all.as_ref() - &late;
    let (covered, late) = futures::future::try_join(rows_in(base, covered), rows_in(base, late)).await?;
    Ok((covered, late))
}

/// The rows that the base has not deleted in the files of each of `segments`.
pub(crate) async fn pieces(base: &Arc<Dataset>, segments: &[IndexMetadata]) -> Result<Vec<RowAddrTreeMap>> {
    let all = base.fragment_bitmap();
    let files = |segment: &IndexMetadata| {
        let covered = segment.fragment_bitmap.as_ref();
        covered.map_or_else(|| all.as_ref().clone(), |covered| all.as_ref() & covered)
    };
    let files: Vec<RoaringBitmap> = segments.iter().map(files).collect();
    let mut pieces = Vec::with_capacity(files.len());
    for files in files {
        pieces.push(rows_in(base, files).await?);
    }
    Ok(pieces)
}

/// The rows in `fragments` that the base has not deleted.
pub(crate) async fn rows_in(base: &Arc<Dataset>, mut fragments: RoaringBitmap) -> Result<RowAddrTreeMap> {
    // Lance keeps this list for each version of a table, but makes it only where it sees that a file is missing.
    fragments.insert(NO_FRAGMENT);
    let wrong = || Error::internal("the base does not list its rows");
    let mask = DatasetPreFilter::create_restricted_deletion_mask(Arc::clone(base), fragments).ok_or_else(wrong)?;
    let mask = mask.await.map_err(lance_error)?;
    mask.allow_list().cloned().ok_or_else(wrong)
}

/// The rows of the change store that satisfy `filter`.
pub(crate) async fn satisfying_changes(snapshot: &Snapshot, filter: &Filter) -> Result<RowAddrTreeMap> {
    let mut rows = RowAddrTreeMap::new();
    let request = ScanRequest::default().columns([""; 0]).filter(filter.clone()).with_row_id();
    for batch in snapshot.changed(&request).await? {
        rows.extend(row_ids(&batch)?.iter().copied());
    }
    Ok(rows)
}

/// The rows of the base that satisfy `filter`, superseded ones too.
pub(crate) async fn satisfying_base(base: &Dataset, filter: &Filter) -> Result<RowAddrTreeMap> {
    let mut rows = RowAddrTreeMap::new();
    // Superseded rows are not masked here: a scan under a mask uses no scalar index.
    let mut scanner = base.scan();
    scanner.empty_project().map_err(lance_error)?.with_row_id();
    let about = |source| lance_error(source).context(format!("search under filter `{filter}`"));
    match filter {
        Filter::Sql(text) => {
            scanner.filter(text).map_err(about)?;
        }
        Filter::Expr(expression) => {
            scanner.filter_expr(expression.as_ref().clone());
        }
    }
    let mut batches = scanner.try_into_stream().await.map_err(about)?;
    while let Some(batch) = batches.try_next().await.map_err(about)? {
        rows.extend(row_ids(&batch)?.iter().copied());
    }
    Ok(rows)
}

/// The row ids of a scan's batch.
pub(crate) fn row_ids(batch: &RecordBatch) -> Result<&[u64]> {
    let row_ids = batch.column_by_name(ROW_ID).and_then(|ids| ids.as_primitive_opt::<UInt64Type>());
    Ok(row_ids.ok_or_else(|| Error::internal("a scan gave no row ids"))?.values())
}

/// `column` of those of `rows` that the base has, with their row ids.
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

/// How many rows there are in `rows`.
pub(crate) fn count(rows: &RowAddrTreeMap) -> usize {
    let parts = rows.iter().filter_map(|(upper, _)| rows.get_fragment_bitmap(*upper));
    parts.map(|part| part.len() as usize).sum()
}

/// The ids of `rows`, ascending.
pub(crate) fn ids(rows: &RowAddrTreeMap) -> Result<Vec<u64>> {
    let ids = rows.row_addrs().ok_or_else(|| Error::internal("rows are listed one by one"))?;
    Ok(ids.map(u64::from).collect())
}

//! Which rows of the base are live in a snapshot, by row id.
//!
//! An index may hold rows that are not. Lance passes over those that the base has marked as deleted since, but not over those
//! that a compaction has removed from its files; and of the rows that the change store supersedes it knows nothing.

use std::any::Any;
use std::sync::Arc;

use cenote_base::{Error, Result};
use cenote_store::{Snapshot, lance_error};
use futures::TryStreamExt;
use lance::Dataset;
use lance::dataset::scanner::{RowAddrMask, RowAddrTreeMap};
use lance::deps::datafusion::execution::TaskContext;
use lance::deps::datafusion::physical_plan::ExecutionPlan;
use lance::index::prefilter::DatasetPreFilter;
use lance::io::exec::filtered_read::FilteredReadExec;
use lance::table::format::IndexMetadata;
use lance_select::IndexExprResult;
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

/// All rows that the base has not deleted.
pub(crate) async fn all_rows(base: &Arc<Dataset>) -> Result<RowAddrTreeMap> {
    rows_in(base, base.fragment_bitmap().as_ref().clone()).await
}

async fn rows_in(base: &Arc<Dataset>, mut fragments: RoaringBitmap) -> Result<RowAddrTreeMap> {
    // Lance keeps this list for each version of a table, but makes it only where it sees that a file is missing.
    fragments.insert(NO_FRAGMENT);
    let wrong = || Error::internal("the base does not list its rows");
    let mask = DatasetPreFilter::create_restricted_deletion_mask(Arc::clone(base), fragments).ok_or_else(wrong)?;
    let mask = mask.await.map_err(lance_error)?;
    mask.allow_list().cloned().ok_or_else(wrong)
}

/// The rows of the base that later writes supersede.
pub(crate) async fn superseded(snapshot: &Snapshot) -> Result<RowAddrTreeMap> {
    // A scan of the base takes these rows out, so its plan says which they are.
    let mut scanner = snapshot.base_scanner();
    scanner.empty_project().map_err(lance_error)?.with_row_id();
    let plan = scanner.create_plan().await.map_err(lance_error)?;
    let Some(mask) = mask_of(&plan) else { return Ok(RowAddrTreeMap::new()) };
    let failed = |source| Error::internal("read which rows are superseded").with_source(source);
    let mut batches = mask.execute(0, Arc::new(TaskContext::default())).map_err(failed)?;
    let wrong = || Error::internal("a scan does not say which rows are superseded");
    let batch = batches.try_next().await.map_err(failed)?.ok_or_else(wrong)?;
    let (mask, _) = IndexExprResult::deserialize(&batch).map_err(lance_error)?;
    match mask.upper {
        RowAddrMask::BlockList(rows) => Ok(rows),
        RowAddrMask::AllowList(_) => Err(wrong()),
    }
}

fn mask_of(plan: &Arc<dyn ExecutionPlan>) -> Option<Arc<dyn ExecutionPlan>> {
    let node: &dyn Any = plan.as_ref();
    match node.downcast_ref::<FilteredReadExec>() {
        Some(read) => read.index_input().cloned(),
        None => plan.children().into_iter().find_map(mask_of),
    }
}

/// How many rows there are in `rows`.
pub(crate) fn count(rows: &RowAddrTreeMap) -> usize {
    let parts = rows.iter().filter_map(|(upper, _)| rows.get_fragment_bitmap(*upper));
    parts.map(|part| part.len() as usize).sum()
}

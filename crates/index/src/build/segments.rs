//! The segments of an index on disk, each built from some fragments of the table.
//!
//! A segment is committed when it is built, so that searches use it while the next one is built, and an interrupted
//! build resumes after its last segment. The segments of a vector index share partitions that were trained on a sample
//! of the whole column.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use cenote_base::{Progress, Result};
use cenote_store::lance_error;
use futures::FutureExt;
use lance::Dataset;
use lance::index::DatasetIndexExt;
use lance::index::optimize::{commit_optimize_indices, plan_optimize_indices};
use lance::index::vector::VectorIndexParams;
use lance::table::format::IndexMetadata;
use lance_index::optimize::OptimizeOptions;
use lance_index::{IndexParams, IndexType};
use roaring::RoaringBitmap;

use super::params::LanceIndex;
use super::watch::LanceProgress;

/// Segments of a first build, at most: a search opens each of them, and upkeep adds more.
const BUILD_SEGMENTS_MAX: usize = 4;

/// Returns the rows of a segment in the first build of an index over `rows` rows; `None` for up to `rows_max`, which
/// make one segment.
pub(crate) fn segment_rows(rows: usize, rows_max: usize) -> Option<usize> {
    (rows > rows_max).then(|| rows_max.max(rows.div_ceil(BUILD_SEGMENTS_MAX)))
}

/// A segment that was added to an index.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AddedSegment {
    /// The number of its rows.
    pub(crate) rows: usize,
    /// Whether there are still fragments that no segment covers.
    pub(crate) is_unfinished: bool,
}

/// Creates vector index `name` over `column` without segments.
pub(super) async fn begin_vector_index(
    dataset: &mut Dataset,
    name: &str,
    column: &str,
    params: &VectorIndexParams,
) -> Result<()> {
    let columns = [column];
    let builder = dataset.create_index_builder(&columns, IndexType::Vector, params as &dyn IndexParams);
    builder.name(name.to_owned()).train(false).await.map(drop).map_err(lance_error)
}

/// Adds a segment to vector index `name`, from as many fragments as have up to `segment_rows` rows.
pub(crate) async fn add_vector_segment(dataset: &mut Dataset, name: &str, segment_rows: usize) -> Result<AddedSegment> {
    let mut options = OptimizeOptions::append().index_names(vec![name.to_owned()]);
    options.max_rows_per_task = Some(segment_rows as u64);
    options.max_rows_per_segment = options.max_rows_per_task;
    let plan = plan_optimize_indices(dataset, &options).boxed().await.map_err(lance_error)?;
    let (Some(task), Some(merge)) = (plan.tasks.first(), plan.merges.first()) else {
        return Ok(AddedSegment { rows: 0, is_unfinished: false });
    };
    let rows = count_rows(dataset, &task.fragments.iter().copied().collect());
    let built = task.execute(dataset).boxed().await.map_err(lance_error)?;
    let built: Vec<_> = built.into_iter().collect();
    let merged = merge.execute(dataset, &built).boxed().await.map_err(lance_error)?;
    commit_optimize_indices(dataset, merged.into_iter().collect(), &options).boxed().await.map_err(lance_error)?;
    Ok(AddedSegment { rows, is_unfinished: plan.tasks.len() > 1 })
}

/// Builds a segment of full-text or scalar index `name` from `fragments`. It replaces the segments that cover no other
/// fragments.
pub(crate) async fn build_segment(
    dataset: &mut Dataset,
    name: &str,
    column: &str,
    index: &LanceIndex,
    fragments: &RoaringBitmap,
    progress: &Arc<dyn Progress>,
) -> Result<()> {
    let columns = [column];
    let mut builder = dataset
        .create_index_builder(&columns, index.index_type, index.params.as_ref())
        .name(name.to_owned())
        .replace(true)
        .fragments(fragments.iter().collect())
        .progress(Arc::new(LanceProgress::new(progress, name)));
    let segment = builder.execute_uncommitted().await.map_err(lance_error)?;
    dataset.commit_existing_index_segments(name, column, vec![segment]).boxed().await.map_err(lance_error)
}

/// Returns the fragments of the table that one of `segments` covers.
pub(crate) fn covered(dataset: &Dataset, segments: &[IndexMetadata]) -> RoaringBitmap {
    let all = dataset.fragment_bitmap();
    let mut covered = RoaringBitmap::new();
    for segment in segments {
        match &segment.fragment_bitmap {
            Some(fragments) => covered |= fragments & all.as_ref(),
            None => return all.as_ref().clone(),
        }
    }
    covered
}

/// Returns a hash of `fragments`; 0 if there are none.
pub(crate) fn fingerprint(fragments: &RoaringBitmap) -> u64 {
    if fragments.is_empty() {
        return 0;
    }
    let mut hasher = DefaultHasher::new();
    fragments.iter().for_each(|fragment| fragment.hash(&mut hasher));
    hasher.finish()
}

/// Returns the first of `fragments` that have up to `rows` rows together, and at least one fragment.
pub(crate) fn first_fragments(dataset: &Dataset, fragments: &RoaringBitmap, rows: usize) -> RoaringBitmap {
    let (mut chosen, mut taken) = (RoaringBitmap::new(), 0);
    for fragment in dataset.fragments().iter().filter(|fragment| fragments.contains(fragment.id as u32)) {
        taken += fragment.num_rows().unwrap_or(0);
        if taken > rows && !chosen.is_empty() {
            break;
        }
        chosen.insert(fragment.id as u32);
    }
    chosen
}

/// Returns the number of rows in `fragments`.
pub(crate) fn count_rows(dataset: &Dataset, fragments: &RoaringBitmap) -> usize {
    let chosen = dataset.fragments().iter().filter(|fragment| fragments.contains(fragment.id as u32));
    chosen.filter_map(|fragment| fragment.num_rows()).sum()
}

/// Returns the number of rows whose `column` has a vector.
pub(crate) async fn count_vectors(dataset: &Dataset, column: &str) -> Result<usize> {
    dataset.count_rows(Some(format!("`{column}` IS NOT NULL"))).await.map_err(lance_error)
}

#[cfg(test)]
mod tests {
    use super::segment_rows;

    #[test]
    fn an_index_has_few_segments_however_large_the_table_is() {
        for (rows, expected) in [(0, None), (100, None), (101, Some(100)), (400, Some(100)), (1_001, Some(251))] {
            assert_eq!(segment_rows(rows, 100), expected, "{rows}");
        }
    }
}

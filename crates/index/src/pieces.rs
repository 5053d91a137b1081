//! Vector indexes on disk that are built piece by piece: a build that is cut off goes on after the last piece.
//!
//! All pieces share what was learned from a sample of the whole column. Each is committed when it is built, so that searches use
//! it while the next one is.

use cenote_base::Result;
use cenote_store::lance_error;
use futures::FutureExt;
use lance::Dataset;
use lance::index::DatasetIndexExt;
use lance::index::optimize::{commit_optimize_indices, plan_optimize_indices};
use lance::index::vector::VectorIndexParams;
use lance_index::optimize::OptimizeOptions;
use lance_index::{IndexParams, IndexType};
use roaring::RoaringBitmap;

/// So many pieces at most: a search opens each of them, and upkeep adds its own.
const PIECES_MAX: usize = 4;

/// Rows of a piece of an index over `rows` rows; `None` where it is built as one, because there are no more than `rows_max`.
pub(crate) fn piece_rows(rows: usize, rows_max: usize) -> Option<usize> {
    (rows > rows_max).then(|| rows_max.max(rows.div_ceil(PIECES_MAX)))
}

/// Makes index `name` of `column` without a piece.
pub(crate) async fn begin(dataset: &mut Dataset, name: &str, column: &str, params: &VectorIndexParams) -> Result<()> {
    let columns = [column];
    let builder = dataset.create_index_builder(&columns, IndexType::Vector, params as &dyn IndexParams);
    builder.name(name.to_owned()).train(false).await.map(drop).map_err(lance_error)
}

/// Adds a piece to index `name`, of as many whole files as have up to `piece_rows` rows; how many it has, and whether others are left.
pub(crate) async fn add(dataset: &mut Dataset, name: &str, piece_rows: usize) -> Result<(usize, bool)> {
    let mut options = OptimizeOptions::append().index_names(vec![name.to_owned()]);
    options.max_rows_per_task = Some(piece_rows as u64);
    options.max_rows_per_segment = options.max_rows_per_task;
    let plan = plan_optimize_indices(dataset, &options).boxed().await.map_err(lance_error)?;
    let (Some(task), Some(merge)) = (plan.tasks.first(), plan.merges.first()) else { return Ok((0, false)) };
    let files: RoaringBitmap = task.fragments.iter().copied().collect();
    let files = dataset.fragments().iter().filter(|file| files.contains(file.id as u32));
    let rows = files.filter_map(|file| file.num_rows()).sum();
    let piece = task.execute(dataset).boxed().await.map_err(lance_error)?;
    let piece: Vec<_> = piece.into_iter().collect();
    let piece = merge.execute(dataset, &piece).boxed().await.map_err(lance_error)?;
    commit_optimize_indices(dataset, piece.into_iter().collect(), &options).boxed().await.map_err(lance_error)?;
    Ok((rows, plan.tasks.len() > 1))
}

#[cfg(test)]
mod tests {
    use super::piece_rows;

    #[test]
    fn an_index_has_few_pieces_however_large_the_table_is() {
        for (rows, expected) in [(0, None), (100, None), (101, Some(100)), (400, Some(100)), (1_001, Some(251))] {
            assert_eq!(piece_rows(rows, 100), expected, "{rows}");
        }
    }
}

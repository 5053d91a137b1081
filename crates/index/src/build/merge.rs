//! The merging of new rows into indexes on disk.

use cenote_base::Result;
use cenote_store::lance_error;
use lance::Dataset;
use lance::index::DatasetIndexExt;
use lance::table::format::IndexMetadata;
use lance_index::optimize::OptimizeOptions;

use super::params::LanceIndex;
use super::segments::{build_segment, count_rows, count_vectors, covered};
use super::watch::silent;
use crate::catalog::Index;
use crate::kind::IndexKind;
use crate::options::IndexOptions;

/// Segments of an index, at most: an index with more is rebuilt, because a search opens every segment.
pub(crate) const SEGMENTS_MAX: usize = 8;
/// A segment with `SEGMENT_RATIO` times the rows of all newer ones is not merged with them.
const SEGMENT_RATIO: usize = 4;

/// Adds the new rows of the table to `indexes`. A vector or full-text index gets another segment, which may replace the
/// newest ones. All segments of a scalar index become one: after a patch, Lance would find the stale value of a row in
/// another segment.
pub(crate) async fn extend(dataset: &mut Dataset, indexes: Vec<&Index>, options: &IndexOptions) -> Result<()> {
    let mut scalar = Vec::new();
    for Index { name, column, definition, .. } in indexes {
        match &definition.kind {
            IndexKind::Vector(_) if count_vectors(dataset, column).await? == 0 => {}
            IndexKind::Vector(_) => {
                let merged = segments_to_merge(dataset, name).await?;
                let options = OptimizeOptions::merge(merged).index_names(vec![name.clone()]);
                dataset.optimize_indices(&options).await.map_err(lance_error)?;
            }
            kind @ IndexKind::FullText(_) => {
                // Texts are read again, since Lance's merge would include every segment that has lost a row.
                let merged = segments_to_merge(dataset, name).await?;
                let mut segments = dataset.load_indices_by_name(name).await.map_err(lance_error)?;
                segments.truncate(segments.len() - merged);
                let fragments = dataset.fragment_bitmap().as_ref() - &covered(dataset, &segments);
                let index = LanceIndex::new(kind, options)?;
                build_segment(dataset, name, column, &index, &fragments, &silent()).await?;
            }
            IndexKind::Scalar(_) => scalar.push(name.clone()),
        }
    }
    if scalar.is_empty() {
        return Ok(());
    }
    let options = OptimizeOptions::merge(SEGMENTS_MAX + 1).index_names(scalar);
    dataset.optimize_indices(&options).await.map_err(lance_error)
}

/// Returns the number of the newest segments of index `name` to merge with the new rows. It keeps each segment
/// [`SEGMENT_RATIO`] times as large as all newer ones together, like the levels of a log-structured merge tree (O'Neil
/// et al., 1996). A segment is searched and merged only for the fragments that it covers: another one covers a fragment
/// whose column has been patched.
async fn segments_to_merge(dataset: &Dataset, name: &str) -> Result<usize> {
    let mut segments = dataset.load_indices_by_name(name).await.map_err(lance_error)?;
    let covered = |segments: &[IndexMetadata]| covered(dataset, segments);
    let mut newer = count_rows(dataset, &(dataset.fragment_bitmap().as_ref() - &covered(&segments)));
    // Lance lists segments in the order in which they were built.
    segments.reverse();
    for (merged, segment) in segments.iter().enumerate() {
        let rows = count_rows(dataset, &covered(std::slice::from_ref(segment)));
        if rows >= newer.saturating_mul(SEGMENT_RATIO) && segments.len() - merged < SEGMENTS_MAX {
            return Ok(merged);
        }
        newer += rows;
    }
    Ok(segments.len())
}

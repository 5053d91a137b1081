//! Merges what is new into an index on disk.

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

/// An index of more pieces than this is merged into one: each search opens every piece.
pub(crate) const SEGMENTS_MAX: usize = 8;
/// A piece that is so many times as large as the newer ones together is left as it is.
const SEGMENT_RATIO: usize = 4;

/// Adds what is new to each of `indexes`. One of vectors or texts gets a piece more, or one that takes in the newest
/// pieces; others become one piece, since where a row was patched Lance would find its former number too.
pub(crate) async fn extend(dataset: &mut Dataset, indexes: Vec<&Index>, options: &IndexOptions) -> Result<()> {
    let mut whole = Vec::new();
    for Index { name, column, definition, .. } in indexes {
        match &definition.kind {
            IndexKind::Vector(_) if count_vectors(dataset, column).await? == 0 => {}
            IndexKind::Vector(_) => {
                let merged = segments_to_merge(dataset, name).await?;
                let options = OptimizeOptions::merge(merged).index_names(vec![name.clone()]);
                dataset.optimize_indices(&options).await.map_err(lance_error)?;
            }
            kind @ IndexKind::FullText(_) => {
                // Texts are read again: Lance's merge would take in all pieces that have lost a row.
                let merged = segments_to_merge(dataset, name).await?;
                let mut segments = dataset.load_indices_by_name(name).await.map_err(lance_error)?;
                segments.truncate(segments.len() - merged);
                let fragments = dataset.fragment_bitmap().as_ref() - &covered(dataset, &segments);
                let index = LanceIndex::new(kind, options)?;
                build_segment(dataset, name, column, &index, &fragments, &silent()).await?;
            }
            IndexKind::Scalar(_) => whole.push(name.clone()),
        }
    }
    if whole.is_empty() {
        return Ok(());
    }
    let options = OptimizeOptions::merge(SEGMENTS_MAX + 1).index_names(whole);
    dataset.optimize_indices(&options).await.map_err(lance_error)
}

/// How many of the newest pieces of index `name` are merged with what is new: as many as keep each piece
/// [`SEGMENT_RATIO`] times as large as all newer ones, as the levels of a log-structured merge tree (O'Neil et al.,
/// 1996). A piece is searched and merged for the files that it covers alone: a row whose column was patched since is in
/// another one.
async fn segments_to_merge(dataset: &Dataset, name: &str) -> Result<usize> {
    let mut segments = dataset.load_indices_by_name(name).await.map_err(lance_error)?;
    let covered = |segments: &[IndexMetadata]| covered(dataset, segments);
    let mut newer = count_rows(dataset, &(dataset.fragment_bitmap().as_ref() - &covered(&segments)));
    // Lance keeps them in the order in which they were built.
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

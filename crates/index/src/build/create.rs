//! The build of an index on disk from the rows of the table.

use std::sync::Arc;

use arrow::datatypes::DataType;
use cenote_base::{Error, Progress, Result};
use cenote_store::lance_error;
use lance::Dataset;
use lance::index::DatasetIndexExt;
use lance_index::IndexType;

use super::params::{LanceIndex, vector_params};
use super::segments::{begin_vector_index, count_vectors, segment_rows};
use super::train::train;
use super::watch::LanceProgress;
use crate::kind::IndexKind;
use crate::options::IndexOptions;

/// The outcome of a build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BuildOutcome {
    /// The index is built.
    Complete,
    /// The index has no segments yet: they are built one by one.
    Begun,
    /// The column has nothing to build an index from.
    Empty,
}

/// Builds index `name` of `kind` over `column`, and replaces what was built under that name. A new index over more rows
/// than a segment has is only begun.
pub(crate) async fn build_index(
    dataset: &mut Dataset,
    name: &str,
    column: &str,
    kind: &IndexKind,
    options: &IndexOptions,
    progress: &Arc<dyn Progress>,
) -> Result<BuildOutcome> {
    let is_new = dataset.load_indices_by_name(name).await.map_err(lance_error)?.is_empty();
    let is_begun = |rows: usize| is_new && segment_rows(rows, options.segment_rows).is_some();
    let LanceIndex { index_type, params } = match kind {
        IndexKind::Vector(vector) => {
            let rows = count_vectors(dataset, column).await?;
            if rows == 0 {
                return Ok(BuildOutcome::Empty);
            }
            let width = match dataset.schema().field(column).map(|field| field.data_type()) {
                Some(DataType::FixedSizeList(_, width)) => width as usize,
                _ => return Err(Error::internal(format!("column `{column}` holds no vectors"))),
            };
            let params = |in_segments| vector_params(vector, rows, width, in_segments, options.build_bytes_max);
            if is_begun(rows) {
                begin_vector_index(dataset, name, column, &params(true)?).await?;
                return Ok(BuildOutcome::Begun);
            }
            let mut params = params(false)?;
            if let Some(trainer) = &options.trainer {
                train(dataset, column, &mut params, trainer.as_ref()).await?;
            }
            LanceIndex { index_type: IndexType::Vector, params: Box::new(params) }
        }
        _ if is_begun(dataset.count_rows(None).await.map_err(lance_error)?) => return Ok(BuildOutcome::Begun),
        _ => LanceIndex::new(kind, options)?,
    };
    let columns = [column];
    let builder = dataset.create_index_builder(&columns, index_type, params.as_ref()).name(name.to_owned());
    let created = builder.replace(true).progress(Arc::new(LanceProgress::new(progress, name))).await;
    created.map(|_| BuildOutcome::Complete).map_err(lance_error)
}

//! The training of partition centres outside Lance.

use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, FixedSizeListArray, Float32Array};
use arrow::compute::filter;
use arrow::datatypes::{DataType, Float32Type};
use cenote_base::{Error, Result};
use cenote_store::{arrow_error, blocking, lance_error};
use futures::future::BoxFuture;
use lance::Dataset;
use lance::index::vector::{StageParams, VectorIndexParams};
use lance_linalg::distance::DistanceType;

/// A trainer of partition centres, for example on a GPU.
pub trait Trainer: fmt::Debug + Send + Sync {
    /// Clusters `points`, which are Float32 vectors without nulls, and returns `centres` cluster centres of the same
    /// type.
    fn centres(&self, points: FixedSizeListArray, centres: usize) -> BoxFuture<'_, Result<FixedSizeListArray>>;
}

/// Trains the centres that `params` requests with `trainer`, on as many vectors as Lance would. Leaves them to Lance
/// where the trainer cannot.
pub(super) async fn train(
    dataset: &Dataset,
    column: &str,
    params: &mut VectorIndexParams,
    trainer: &dyn Trainer,
) -> Result<()> {
    let metric = params.metric_type;
    // Other metrics have other clusters than the squared distance.
    let is_cosine = metric == DistanceType::Cosine;
    if !is_cosine && metric != DistanceType::L2 {
        return Ok(());
    }
    let Some(StageParams::Ivf(ivf)) = params.stages.first_mut() else { return Ok(()) };
    let Some(partitions) = ivf.num_partitions.filter(|partitions| *partitions > 1) else { return Ok(()) };
    let projection = dataset.schema().project(&[column]).map_err(lance_error)?;
    let rows = ivf.sample_rate.saturating_mul(partitions);
    let sample = dataset.sample(rows, &projection, None).await.map_err(lance_error)?;
    let Some(points) = points(sample.column(0), is_cosine).await? else { return Ok(()) };
    if points.len() < partitions {
        return Ok(());
    }
    match trainer.centres(points, partitions).await {
        Ok(centres) => ivf.centroids = Some(Arc::new(centres)),
        Err(error) => tracing::warn!(%error, column, "the trainer failed: partition centres are trained on the CPU"),
    }
    Ok(())
}

/// Returns the vectors of `column` that have only finite numbers, scaled to unit length if `is_cosine`; `None` if they
/// are not Float32.
async fn points(column: &ArrayRef, is_cosine: bool) -> Result<Option<FixedSizeListArray>> {
    let Some(lists) = column.as_fixed_size_list_opt().filter(|lists| lists.value_type() == DataType::Float32) else {
        return Ok(None);
    };
    let lists = lists.clone();
    let points = blocking(move || {
        let square = |list: &ArrayRef| {
            list.as_primitive::<Float32Type>().values().iter().map(|number| number * number).sum::<f32>()
        };
        let is_point = |at: usize| {
            let square = square(&lists.value(at));
            lists.is_valid(at) && square.is_finite() && (square > 0.0 || !is_cosine)
        };
        let kept = (0..lists.len()).map(|at| Some(is_point(at))).collect();
        let kept = filter(&lists, &kept).map_err(arrow_error)?;
        let kept = kept.as_fixed_size_list_opt().ok_or_else(|| Error::internal("filtered vectors are vectors"))?;
        if !is_cosine {
            return Ok(kept.clone());
        }
        let mut unit = Vec::with_capacity(kept.len() * kept.value_length() as usize);
        for list in kept.iter().flatten() {
            let length = square(&list).sqrt();
            unit.extend(list.as_primitive::<Float32Type>().values().iter().map(|number| number / length));
        }
        let DataType::FixedSizeList(item, width) = kept.data_type() else {
            return Err(Error::internal("vectors are lists of one size"));
        };
        let unit = Arc::new(Float32Array::from(unit));
        FixedSizeListArray::try_new(Arc::clone(item), *width, unit, None).map_err(arrow_error)
    });
    points.await.map(Some)
}

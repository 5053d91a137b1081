//! The centres of a vector index's partitions, learned on the device.

use std::sync::Arc;

use arrow::array::{Array, AsArray, FixedSizeListArray, Float32Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Float32Type, Schema};
use cenote_base::{Error, Resources, Result, Share};
use cenote_device::{Device, kmeans};
use cenote_index::Trainer;
use cenote_scheduler::{Placed, PlacedOptions, PlacementChoice, Scheduler, WorkOptions};
use futures::FutureExt;
use futures::future::BoxFuture;

/// The kernel's name on the device.
pub(crate) const KERNEL: &str = "cluster";
/// The schema metadata key of a batch of points under which the number of centres stands.
const CENTRES: &str = "centres";
const ITERATIONS_MAX: usize = 50;
const IMPROVEMENT_MIN: f64 = 1e-4;

/// A trainer that sends samples to the scheduler's device.
#[derive(Debug)]
pub(crate) struct DeviceTrainer {
    scheduler: Scheduler,
    placed: Placed,
}

impl DeviceTrainer {
    /// Makes a trainer for the device of `class`.
    pub(crate) fn new(scheduler: &Scheduler, class: &str) -> Result<Self> {
        let work = WorkOptions::new("learn centres").resources(Resources::cpu(1.0));
        let options = PlacedOptions {
            work,
            class: class.to_owned(),
            share: Share::Fraction(1.0),
            kernel: KERNEL.to_owned(),
            choice: PlacementChoice::Device,
        };
        let clusters = |batch: &RecordBatch| centres(batch, kmeans::on_cpu);
        Ok(Self { scheduler: scheduler.clone(), placed: scheduler.placed(options, clusters)? })
    }
}

impl Trainer for DeviceTrainer {
    fn centres(&self, points: FixedSizeListArray, centres: usize) -> BoxFuture<'_, Result<FixedSizeListArray>> {
        async move {
            let metadata = [(CENTRES.to_owned(), centres.to_string())].into();
            let field = Field::new("vector", points.data_type().clone(), true);
            let schema = Arc::new(Schema::new_with_metadata(vec![field], metadata));
            let count = points.len();
            let points = self.scheduler.put(batch(schema, points)?).await?;
            let centres = self.placed.run(&points, count).await?;
            Ok(lists(&centres)?.clone())
        }
        .boxed()
    }
}

/// Runs the kernel: a batch of points becomes a batch of centres.
pub(crate) fn on_device(device: &Device, batch: &RecordBatch) -> Result<RecordBatch> {
    centres(batch, |points, width, options| kmeans::on_device(device, points, width, options))
}

fn centres(
    points: &RecordBatch,
    clusters: impl FnOnce(&[f32], usize, &kmeans::KMeansOptions) -> Result<kmeans::Clusters>,
) -> Result<RecordBatch> {
    let lists = lists(points)?;
    let wanted = points.schema_ref().metadata().get(CENTRES).and_then(|text| text.parse().ok());
    let options = kmeans::KMeansOptions {
        centroids: wanted.ok_or_else(|| Error::internal("a batch of points lacks the number of its centres"))?,
        iterations_max: ITERATIONS_MAX,
        improvement_min: IMPROVEMENT_MIN,
        init: kmeans::CentroidInit::Random,
        seed: 1,
    };
    let width = lists.value_length();
    let numbers = lists.values().as_primitive_opt::<Float32Type>();
    let numbers = numbers.ok_or_else(|| Error::internal("points are not of Float32"))?.values();
    let numbers = &numbers[lists.value_offset(0) as usize..][..lists.len() * width as usize];
    let found = Arc::new(Float32Array::from(clusters(numbers, width as usize, &options)?.centroids));
    let DataType::FixedSizeList(item, _) = lists.data_type() else {
        return Err(Error::internal("points are not fixed-size lists"));
    };
    let found = FixedSizeListArray::try_new(Arc::clone(item), width, found, None);
    batch(points.schema(), found.map_err(|source| Error::internal("make centres").with_source(source))?)
}

fn batch(schema: Arc<Schema>, lists: FixedSizeListArray) -> Result<RecordBatch> {
    let batch = RecordBatch::try_new(schema, vec![Arc::new(lists)]);
    batch.map_err(|source| Error::internal("make a batch of vectors").with_source(source))
}

fn lists(batch: &RecordBatch) -> Result<&FixedSizeListArray> {
    batch.column(0).as_fixed_size_list_opt().ok_or_else(|| Error::internal("points are not fixed-size lists"))
}

//! K-means on a device.

use std::sync::Arc;

use cenote_base::Result;

use super::lloyd::{ClusterMembers, Clustering, Clusters, KMeansOptions, NearestCentroid, Reseed, Steps};
use crate::device::{Device, Shader};
use crate::kernels::grid;
use crate::matrix::Matrix;
use crate::pool::BufferLease;
use crate::work::Work;

/// Points per work group of the kernel `assign`; see the WGSL.
const ASSIGN_POINTS: usize = 64;
/// Columns per work group of the kernels `sum` and `shift`; see the WGSL.
const SUM_COLUMNS: usize = 64;

const SOURCE: &str = concat!(include_str!("../distance.wgsl"), include_str!("kmeans.wgsl"));

const fn shader(entry: &'static str) -> Shader {
    Shader { source: SOURCE, entry, constants: &[] }
}

const ASSIGN: Shader = shader("assign");
const SUM: Shader = shader("sum");
const SHIFT: Shader = shader("shift");

#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct Params {
    columns: u32,
    points: u32,
    centroids: u32,
    go_on: u32,
}

/// Runs [`on_cpu`](super::on_cpu) on a device, which holds the points meanwhile. Blocks the calling thread until the
/// last iteration.
///
/// Those of [`on_cpu`](super::on_cpu), `ResourceExhausted` when the points do not fit the device's memory bound, and
/// the errors of [`Pending::wait`](crate::Pending::wait).
pub fn on_device(device: &Device, points: &[f32], columns: usize, options: &KMeansOptions) -> Result<Clusters> {
    let clustering = Clustering::new(points, columns, options)?;
    let centroids = clustering.first_centroids();
    clustering.run(OnDevice::new(Matrix::upload(device, points, columns)?, points, &centroids)?)
}

pub(super) struct OnDevice<'a> {
    matrix: Matrix,
    points: &'a [f32],
    centroids: Arc<BufferLease>,
    count: usize,
}

impl<'a> OnDevice<'a> {
    pub(super) fn new(matrix: Matrix, points: &'a [f32], centroids: &[f32]) -> Result<Self> {
        let mut work = Work::new(matrix.device())?;
        let count = centroids.len() / matrix.columns();
        let centroids = work.upload(centroids)?;
        work.submit();
        Ok(Self { matrix, points, centroids, count })
    }

    fn params(&self, points: usize) -> Params {
        Params { columns: self.matrix.columns() as u32, points: points as u32, centroids: self.count as u32, go_on: 0 }
    }

    /// Returns the grid with a work group for each [`SUM_COLUMNS`] columns of each centroid.
    fn column_groups(&self) -> [u32; 3] {
        [self.matrix.columns().div_ceil(SUM_COLUMNS) as u32, self.count as u32, 1]
    }
}

impl Steps for OnDevice<'_> {
    fn assign(&mut self) -> Result<Vec<NearestCentroid>> {
        let mut pending = Vec::new();
        for part in self.matrix.parts() {
            let mut work = Work::new(self.matrix.device())?;
            let nearest = work.buffer::<NearestCentroid>(part.rows)?;
            let buffers = [&*part.buffer, &*self.centroids, &*nearest];
            work.dispatch(ASSIGN, &buffers, &self.params(part.rows), grid(part.rows.div_ceil(ASSIGN_POINTS)))?;
            pending.push(work.finish(&nearest, bytemuck::pod_collect_to_vec::<u8, NearestCentroid>)?);
        }
        let mut nearest = Vec::with_capacity(self.matrix.rows());
        for pending in pending {
            nearest.extend(pending.wait()?);
        }
        Ok(nearest)
    }

    fn update(&mut self, members: &ClusterMembers, reseeds: &[Reseed]) -> Result<()> {
        let device = self.matrix.device();
        let columns = self.matrix.columns();
        let mut work = Work::new(device)?;
        let sums = work.buffer::<f32>(self.count * columns)?;
        for part in self.matrix.parts() {
            let members = members.between(part.first_row, part.first_row + part.rows);
            let (starts, points) = (work.upload(&members.starts)?, work.upload(&members.points)?);
            let params = Params { go_on: u32::from(part.first_row > 0), ..self.params(part.rows) };
            let buffers = [&*part.buffer, &*starts, &*points, &*sums, &*self.centroids];
            work.dispatch(SUM, &buffers, &params, self.column_groups())?;
        }
        let counts: Vec<u32> = members.starts.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let counts = work.upload(&counts)?;
        work.dispatch(SHIFT, &[&counts, &sums, &self.centroids], &self.params(0), self.column_groups())?;
        work.submit();
        // Writes precede the kernels of their batch, and these must follow, so they are a batch of their own.
        let mut work = Work::new(device)?;
        for &Reseed { centroid, point } in reseeds {
            let point = &self.points[point as usize * columns..][..columns];
            let offset = centroid as usize * columns * size_of::<f32>();
            work.write(&self.centroids, offset as u64, bytemuck::cast_slice(point))?;
        }
        work.submit();
        Ok(())
    }

    fn centroids(self) -> Result<Vec<f32>> {
        let work = Work::new(self.matrix.device())?;
        work.finish(&self.centroids, bytemuck::pod_collect_to_vec)?.wait()
    }
}

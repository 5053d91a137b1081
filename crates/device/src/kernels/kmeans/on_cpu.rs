//! K-means on the calling thread.

use cenote_base::Result;

use super::lloyd::{ClusterMembers, Clustering, Clusters, KMeansOptions, NO_CLUSTER, NearestCentroid, Reseed, Steps};
use crate::kernels::distance::{KernelMetric, NONE, for_each_key};
use crate::simd::vectorised;

/// Clusters `points`, rows of `columns` numbers.
///
/// # Errors
/// `InvalidInput` when the length of `points` is not a multiple of `columns`, or fewer points than centroids have only
/// finite numbers.
pub fn on_cpu(points: &[f32], columns: usize, options: &KMeansOptions) -> Result<Clusters> {
    let clustering = Clustering::new(points, columns, options)?;
    let centroids = clustering.first_centroids();
    clustering.run(OnCpu { points, columns, centroids })
}

pub(super) struct OnCpu<'a> {
    pub(super) points: &'a [f32],
    pub(super) columns: usize,
    pub(super) centroids: Vec<f32>,
}

impl Steps for OnCpu<'_> {
    fn assign(&mut self) -> Result<Vec<NearestCentroid>> {
        let mut nearest = vec![NearestCentroid { key: NONE, centroid: NO_CLUSTER }; self.points.len() / self.columns];
        assign(self.points, &self.centroids, self.columns, &mut nearest);
        Ok(nearest)
    }

    fn update(&mut self, members: &ClusterMembers, reseeds: &[Reseed]) -> Result<()> {
        let columns = self.columns;
        let mut sums = vec![0.0f64; columns];
        for (centroid, mean) in self.centroids.chunks_exact_mut(columns).enumerate() {
            let members = members.of(centroid);
            if members.is_empty() {
                continue;
            }
            sums.fill(0.0);
            for &row in members {
                let point = &self.points[row as usize * columns..][..columns];
                sums.iter_mut().zip(point).for_each(|(sum, &number)| *sum += f64::from(number));
            }
            mean.iter_mut().zip(&sums).for_each(|(mean, sum)| *mean = (sum / members.len() as f64) as f32);
        }
        for &Reseed { centroid, point } in reseeds {
            let point = &self.points[point as usize * columns..][..columns];
            self.centroids[centroid as usize * columns..][..columns].copy_from_slice(point);
        }
        Ok(())
    }

    fn centroids(self) -> Result<Vec<f32>> {
        Ok(self.centroids)
    }
}

vectorised! {
    fn assign(points: &[f32], centroids: &[f32], columns: usize, nearest: &mut [NearestCentroid]) {
        for_each_key(KernelMetric::SquaredL2, points, centroids, columns, |point, centroid, key| {
            if key < nearest[point].key {
                nearest[point] = NearestCentroid { key, centroid: centroid as u32 };
            }
        });
    }
}

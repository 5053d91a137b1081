//! K-means clusters (Lloyd, "Least squares quantization in PCM", 1982): centroids such that every point is near one.
//!
//! A point with NaN or an infinite number belongs to no cluster. A cluster that loses all its points starts again at
//! the point farthest from its centroid, the lowest of equals; when every point is on its centroid, the cluster stays
//! where it is.
//!
//! After one step from the same centroids, CPU and device assign a point alike unless two centroids are equally near
//! within [`nearest::TOLERANCE`](super::nearest::TOLERANCE), and from the same assignment their centroids differ by at
//! most [`TOLERANCE`] of the largest coordinate. Over many steps, such differences may add up to other clusters that
//! are as good.

mod lloyd;
mod on_cpu;
mod on_device;

pub use lloyd::{CENTROIDS_MAX, CentroidInit, Clusters, KMeansOptions, NO_CLUSTER};
pub use on_cpu::on_cpu;
pub use on_device::on_device;

/// Bound on the difference between a centroid's coordinate on the device and on the CPU, as a fraction of the largest
/// coordinate of the points.
pub const TOLERANCE: f32 = 1e-5;

#[cfg(test)]
mod tests;

//! GPUs and the kernels that run on them, each with a twin for the CPU.

mod device;
mod discover;
mod kernels;
mod matrix;
mod pool;
mod simd;
mod work;

#[cfg(test)]
mod testing;

pub use device::{Device, DeviceUsage};
pub use discover::{DeviceInfo, DeviceKind, devices, gpu, gpu_or_software};
pub use kernels::distance::Metric;
pub use kernels::{kmeans, nearest, phash, resize, yuv};
pub use matrix::Matrix;
pub use work::Pending;

//! GPUs, and kernels that run on them and on the CPU.
//!
//! Each kernel is a module with `on_cpu` and `on_device`, which take the same input and give the same output, within
//! the tolerance that the module states. ([`resize`] has `on_device` alone, because libraries do the same on the CPU.)
//!
//! | module | result |
//! |---|---|
//! | [`resize`] | pictures of any size as frames of one size |
//! | [`phash`] | perceptual hashes |
//! | [`nearest`] | the nearest rows of a matrix, exactly |
//! | [`kmeans`] | k-means clusters |
//!
//! `on_cpu` runs on the calling thread alone; a caller with more threads splits the batch. `on_device` copies the
//! input, submits the work and returns a [`Pending`] result, so that a device can run the next batch while the last one
//! is fetched.
//!
//! Devices are Vulkan's, through wgpu. Without a GPU, Mesa's software Vulkan serves the tests; [`gpu`] does not return
//! it, because `on_cpu` is faster. Vulkan is not loaded before a device is requested.
//!
//! This crate does not know operators, tables or media files, and does not decide what runs where: that takes measured
//! rates, for which [`Device::usage`] has the figures.
//!
//! ```
//! use cenote_device::{Device, KernelMetric, Matrix, gpu, nearest};
//!
//! let matrix = [0.0, 0.0, 3.0, 4.0, 1.0, 1.0];
//! let found = match gpu() {
//!     Ok(info) => {
//!         let device = Device::open(&info, 256 << 20)?;
//!         let matrix = Matrix::upload(&device, &matrix, 2)?;
//!         nearest::on_device(KernelMetric::SquaredL2, &[0.0, 0.0], &matrix, 2)?.wait()?
//!     }
//!     // The error says what was found instead.
//!     Err(_reason) => nearest::on_cpu(KernelMetric::SquaredL2, &[0.0, 0.0], &matrix, 2, 2)?,
//! };
//! assert_eq!((found[0][0].row, found[0][1].row), (0, 2));
//! # Ok::<(), cenote_base::Error>(())
//! ```

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
pub use discover::{DeviceInfo, DeviceKind, devices, gpu, gpu_or_software, software};
pub use kernels::distance::KernelMetric;
pub use kernels::{kmeans, nearest, phash, resize};
pub use matrix::Matrix;
pub use work::Pending;

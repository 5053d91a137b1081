//! GPUs and the kernels that run on them, each with a twin for the CPU.

mod device;
mod discover;
mod kernels;
mod pool;
mod work;

#[cfg(test)]
mod testing;

pub use device::{Device, DeviceUsage};
pub use discover::{DeviceInfo, DeviceKind, devices, gpu, gpu_or_software};
pub use kernels::phash;
pub use work::Pending;

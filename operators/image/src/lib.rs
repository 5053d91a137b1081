//! Operators over images: decoding, resizing, thumbnails, hashes, metadata and scores.
//!
//! Every operator reads encoded bytes (JPEG, PNG, GIF, WebP, TIFF, BMP, ICO). A file that cannot be read is a null and
//! a reason; no file can make an operator panic or allocate more than its limits.

use std::sync::Arc;

use arrow::array::RecordBatch;
use cenote_base::Result;
use cenote_device::Device;
use cenote_models::ModelRegistry;
use cenote_operator::Registry;

mod container;
mod decode;
mod describe_image;
mod embed_image;
mod frame;
mod hash_image;
mod jpeg;
mod resize_image;
mod rows;
mod scale;
mod score_sharpness;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::print_stderr)]
mod testing;
mod thumbnail_image;

pub use frame::{Framer, Part};

/// A kernel of an operator on a device.
pub type DeviceKernel = fn(&Device, &RecordBatch) -> Result<RecordBatch>;

/// The kernels that devices have: what [`Kernel::name`](cenote_operator::Kernel) calls them, and how they run there.
pub const KERNELS: [(&str, DeviceKernel); 2] =
    [(hash_image::KERNEL, hash_image::on_device), (resize_image::KERNEL, resize_image::on_device)];

/// Adds every image operator to `registry`; those that run a model take it from `models`.
pub fn register(registry: &mut Registry, models: &Arc<ModelRegistry>) {
    registry.register(describe_image::definition());
    registry.register(embed_image::definition(Arc::clone(models)));
    registry.register(hash_image::definition());
    registry.register(resize_image::definition());
    registry.register(score_sharpness::definition());
    registry.register(thumbnail_image::definition());
}

//! Operators over images: decoding, resizing, thumbnails, hashes, metadata and scores.
//!
//! Every operator reads encoded bytes (JPEG, PNG, GIF, WebP, TIFF, BMP, ICO). A file that cannot be read becomes a null
//! with a reason; no file can make an operator panic or allocate more than its limits. This crate does not know the
//! scheduler or the store.
//!
//! ```
//! use std::sync::Arc;
//! use arrow::array::{ArrayRef, LargeBinaryArray};
//! use cenote_models::{ModelOptions, ModelRegistry};
//! use cenote_operator::{OperatorSpec, Registry, Rows};
//!
//! let mut registry = Registry::default();
//! cenote_operators_image::register(&mut registry, &Arc::new(ModelRegistry::new(ModelOptions::default()).unwrap()));
//! let operator = registry.bind(&OperatorSpec::new("hash_image")).unwrap();
//! let images: ArrayRef = Arc::new(LargeBinaryArray::from_vec(vec![b"not an image".as_slice()]));
//! let output = operator.worker().unwrap().process(&Rows::new(&[images])).unwrap();
//! assert!(output.errors[0].reason.contains("not an image"));
//! ```

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
mod geometry;
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

pub use frame::Framer;
pub use geometry::{Crop, ImageSize};

/// A kernel of an operator on a device.
pub type DeviceKernel = fn(&Device, &RecordBatch) -> Result<RecordBatch>;

/// The kernels that devices have, by [`Kernel::name`](cenote_operator::Kernel).
pub const KERNELS: [(&str, DeviceKernel); 2] =
    [(hash_image::KERNEL, hash_image::on_device), (resize_image::KERNEL, resize_image::on_device)];

/// Adds every image operator to `registry`. Operators that run a model take it from `models`.
pub fn register(registry: &mut Registry, models: &Arc<ModelRegistry>) {
    registry.register(describe_image::definition());
    registry.register(embed_image::definition(Arc::clone(models)));
    registry.register(hash_image::definition());
    registry.register(resize_image::definition());
    registry.register(score_sharpness::definition());
    registry.register(thumbnail_image::definition());
}

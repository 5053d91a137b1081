//! Operators over videos: metadata and keyframes; and clips, for training on videos.
//!
//! Videos are read from memory, through FFmpeg. A file that cannot be read is a row error with a reason. This crate
//! does not know the scheduler or the store.
//!
//! ```
//! use std::sync::Arc;
//! use arrow::array::{ArrayRef, LargeBinaryArray};
//! use cenote_operator::{OperatorSpec, Registry, Rows};
//!
//! let mut registry = Registry::default();
//! cenote_operators_video::register(&mut registry);
//! let operator = registry.bind(&OperatorSpec::new("describe_video")).unwrap();
//! let videos: ArrayRef = Arc::new(LargeBinaryArray::from_vec(vec![b"plain words".as_slice()]));
//! let output = operator.worker().unwrap().process(&Rows::new(&[videos])).unwrap();
//! assert!(output.errors[0].reason.contains("not a video"));
//! ```

use cenote_operator::Registry;

mod clip;
mod describe_video;
mod extract_keyframes;
mod frame;
mod media;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::print_stderr)]
mod testing;

pub use clip::{ClipFrames, read_clip};
pub use media::row_bytes;

/// Adds every video operator to `registry`.
pub fn register(registry: &mut Registry) {
    registry.register(describe_video::definition());
    registry.register(extract_keyframes::definition());
}

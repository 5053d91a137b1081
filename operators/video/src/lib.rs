//! Operators over videos: metadata and keyframes. And clips, for whoever trains on videos.
//!
//! Videos are read from memory, through FFmpeg. A file that cannot be read is a row error with a reason.

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

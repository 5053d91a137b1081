//! Operators over videos: metadata and keyframes.
//!
//! Videos are read from memory, through FFmpeg. A file that cannot be read is a row error with a reason.

use cenote_operator::Registry;

mod describe_video;
mod extract_keyframes;
mod frame;
mod media;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::print_stderr)]
mod testing;

/// Adds every video operator to `registry`.
pub fn register(registry: &mut Registry) {
    registry.register(describe_video::definition());
    registry.register(extract_keyframes::definition());
}

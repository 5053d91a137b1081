//! Indexes on disk, which Lance builds: their parameters, their segments, and the merging of segments.
//!
//! This part does not know searches, nor what is cached for them.

pub(crate) mod check;
pub(crate) mod create;
pub(crate) mod merge;
pub(crate) mod params;
pub(crate) mod segments;
pub(crate) mod train;
pub(crate) mod watch;

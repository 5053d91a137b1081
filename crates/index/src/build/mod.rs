//! The indexes that Lance builds on disk: their parameters, their segments and the merging of those.
//!
//! Knows nothing of searches.

pub(crate) mod check;
pub(crate) mod create;
pub(crate) mod merge;
pub(crate) mod params;
pub(crate) mod segments;
pub(crate) mod train;
pub(crate) mod watch;

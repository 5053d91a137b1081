//! What Lance builds: its parameters, the segments of an index and their merging, the training of partitions.
//!
//! Knows nothing of searches.

pub(crate) mod params;
pub(crate) mod segments;
pub(crate) mod train;
pub(crate) mod watch;

//! A vector index in memory, and its copy on disk.
//!
//! Knows nothing of the indexes that Lance builds, nor of searches: it finds the rows that its caller allows.

pub(crate) mod graph;
pub(crate) mod saved;

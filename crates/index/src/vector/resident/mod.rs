//! A vector index in memory, and its saved copy on disk.
//!
//! This part does not know the indexes that Lance builds, nor how a search is put together: it finds the nearest of the
//! rows that its caller allows.

pub(crate) mod graph;
pub(crate) mod saved;

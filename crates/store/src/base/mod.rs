//! The base: a table's Lance dataset, how it is read by position, and how it is committed to.
//!
//! Knows Lance, fragments and row ids. Must not know the change store, snapshots or who may write.

pub(crate) mod addresses;
pub(crate) mod dataset;
pub(crate) mod deletions;
pub(crate) mod fence;
pub(crate) mod file_bytes;
pub(crate) mod key_build;
pub(crate) mod media;
pub(crate) mod media_files;
pub(crate) mod pages;
pub(crate) mod readers;
pub(crate) mod row_widths;
pub(crate) mod sessions;
pub(crate) mod staging;
pub(crate) mod version_files;

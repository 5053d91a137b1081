//! Files out of packages of public registries, in a local cache.
//!
//! This part does not know models.

pub(crate) mod cache;
pub(crate) mod command;
pub(crate) mod digest;
pub(crate) mod package;

mod archive;

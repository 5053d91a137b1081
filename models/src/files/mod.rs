//! The files of a model: the manifest that names them, and how each is found, fetched or built.
//!
//! This part does not know how a model is run.

pub(crate) mod embedded;
pub(crate) mod locate;
pub(crate) mod manifest;
pub(crate) mod source;

mod build;

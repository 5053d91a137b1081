//! The files of a model: the manifest that names them, and how each is found, fetched or built. Nothing here runs a
//! model.

pub(crate) mod embedded;
pub(crate) mod locate;
pub(crate) mod manifest;
pub(crate) mod source;

mod build;

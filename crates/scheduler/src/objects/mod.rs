//! Objects as values: rows or bytes, and their form on disk and between processes.
//!
//! This part does not know who refers to an object, or when an object is written and read.

pub(crate) mod ipc;
pub(crate) mod spill;
pub(crate) mod value;

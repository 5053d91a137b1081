//! Files and objects: how they get onto the disk for good, and how remote ones are read and cached.
//!
//! Knows paths and bytes. Must not know tables.

pub(crate) mod block_cache;
pub(crate) mod durable;
pub(crate) mod objects;
pub(crate) mod os_cache;
pub(crate) mod store_params;

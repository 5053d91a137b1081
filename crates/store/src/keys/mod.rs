//! Where in the base each key is: the key index and its files.
//!
//! Knows hashes and row ids. Must not know what a key or a row consists of, or what is not in the base.

pub(crate) mod key_files;
pub(crate) mod key_index;

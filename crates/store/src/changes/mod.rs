//! What a process holds in memory of a table's newest version: above all the writes that the base lacks.
//!
//! Knows rows, key hashes and the base that they lie over. Must not know where writes come from, or who may write.

pub(crate) mod change_store;
pub(crate) mod newest;
pub(crate) mod view;

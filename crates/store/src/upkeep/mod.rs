//! Keeping a table in shape: folding writes into the base, joining its files, removing the past.
//!
//! Knows when each is due and does it. Must not know indexes, which are its caller's.

pub(crate) mod collect;
pub(crate) mod compaction;
pub(crate) mod fold;
pub(crate) mod levels;
pub(crate) mod schedule;

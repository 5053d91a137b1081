//! Nearest vectors: exact, through an index on disk or through a graph in memory, and the tuning of both.
//!
//! Knows nothing of text. Which rows satisfy a filter it asks `rows`.

pub(crate) mod exact;
pub(crate) mod partition;
pub(crate) mod resident;
pub(crate) mod search;
pub(crate) mod tune;
pub(crate) mod unindexed;
mod walk;

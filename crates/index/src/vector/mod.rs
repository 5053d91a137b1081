//! Nearest vectors: by exact comparison, by an index on disk or by a graph in memory, and the tuning of the latter two.
//!
//! This part does not know texts. `rows` tells it which rows satisfy a filter and which are live.

pub(crate) mod exact;
pub(crate) mod partition;
pub(crate) mod resident;
pub(crate) mod search;
pub(crate) mod tune;
pub(crate) mod unindexed;
mod walk;

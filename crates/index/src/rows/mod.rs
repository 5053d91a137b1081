//! The rows that a search may find: which are live, which an index covers, which satisfy a filter. The caches that keep
//! such sets from one search to the next.
//!
//! This part does not know vectors, texts or indexes.

pub(crate) mod cache;
pub(crate) mod coverage;
pub(crate) mod filtered;
pub(crate) mod fragments;
pub(crate) mod row_set;
pub(crate) mod runs;

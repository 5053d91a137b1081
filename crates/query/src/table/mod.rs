//! Stored tables as DataFusion sees them: pinned to a version, listed in a catalog and scanned under the filters that
//! the store evaluates.
//!
//! This part does not know searches.

pub(crate) mod catalog;
pub(crate) mod pinned;
pub(crate) mod pushdown;
pub(crate) mod scan;
pub(crate) mod stored;

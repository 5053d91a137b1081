//! Snapshots: reading a table as it was at one version.
//!
//! Knows the base and the change store, and lays one over the other. Must not know the log, leases or how anything is
//! written.

mod batches;
mod late;
pub(crate) mod request;
mod selectivity;
pub(crate) mod snapshot;
pub(crate) mod widths;

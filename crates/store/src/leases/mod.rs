//! Who may do what only one may do at a time, over all processes: write, change the base, have the turn.
//!
//! Knows lock files and lease objects. Must not know what is done under a lease.

pub(crate) mod lease;
pub(crate) mod turn;

//! Writes: the turn to write, groups of rows in the log, and commits to the base.
//!
//! Knows the order in which locks, log, base and memory change. Must not know when upkeep is due.

pub(crate) mod commit;
pub(crate) mod direct;
pub(crate) mod gate;
pub(crate) mod log_base;
pub(crate) mod patch;
pub(crate) mod predicate;
pub(crate) mod update;

//! The parts of the core's state. Each one keeps its own invariants.
//!
//! A part may know the parts that it is made of. It does not know the core, does no I/O, reads no clock, and does not
//! decide what happens next.

pub(crate) mod actor_table;
pub(crate) mod arena;
pub(crate) mod counters;
pub(crate) mod fair;
pub(crate) mod ledger;
pub(crate) mod memory_budget;
pub(crate) mod object_table;
pub(crate) mod task_failure;
pub(crate) mod task_spec;
pub(crate) mod timers;
pub(crate) mod trace;

//! The parts of the core's state. Each keeps its own invariants, and none of them decides what happens next.
//!
//! A part knows the parts below it and neither the core, nor threads, clocks or files.

pub(crate) mod arena;
pub(crate) mod counters;
pub(crate) mod fair;
pub(crate) mod ledger;
pub(crate) mod object_table;
pub(crate) mod task;
pub(crate) mod timers;
pub(crate) mod trace;

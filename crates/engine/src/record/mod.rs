//! What runs write beside the values: failed rows, and which fingerprints a change voids. Runs over one table, in any
//! process, write it one at a time, in the table's turn.
//!
//! Records do not know passes: they hold what they are given and never read an input or an output of a step.

pub(crate) mod dependents;
pub(crate) mod error_table;
pub(crate) mod in_turn;
pub(crate) mod keys;

//! The records that runs keep beside the values: failed rows, and the fingerprints that a change of a column voids.
//! Runs over one table, in any process, write them one at a time, each while it holds the table's turn.
//!
//! This part does not know passes: it stores what it is given, and never reads an input or an output of a step.

pub(crate) mod dependents;
pub(crate) mod derivation;
pub(crate) mod error_table;
pub(crate) mod in_turn;
pub(crate) mod keys;

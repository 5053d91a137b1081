//! Searches of a table's indexes as steps of a plan: from a table function, or from a sort with a limit.
//!
//! This part does not know how an index is built.

pub(crate) mod nearest_rule;
pub(crate) mod table_function;

mod constant;
mod plan;
mod table;

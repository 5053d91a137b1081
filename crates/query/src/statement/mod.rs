//! Statements as syntax trees, before they are planned: parameters are bound, statements that read are told from those
//! that write, and statements about indexes are run as they stand.
//!
//! This part does not know plans.

pub(crate) mod depth;
pub(crate) mod index;
mod literal;
pub(crate) mod parameter;
pub(crate) mod reading;

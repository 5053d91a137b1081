//! Statements as syntax trees, before they are planned: parameters bound, reads told from writes, and the statements
//! about indexes, which are run as they stand. Nothing here knows plans.

pub(crate) mod index;
pub(crate) mod parameter;
pub(crate) mod reading;

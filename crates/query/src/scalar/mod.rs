//! Scalar functions of SQL: distances between vectors, and row-wise operators.
//!
//! This part does not know tables.

pub(crate) mod distance;
pub(crate) mod operator;

mod arguments;

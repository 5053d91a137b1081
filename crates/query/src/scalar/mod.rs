//! Scalar functions of SQL: distances between vectors, row-wise operators, and the order of floats.
//!
//! This part does not know tables.

pub(crate) mod canonical;
pub(crate) mod distance;
pub(crate) mod float_order;
pub(crate) mod operator;

mod arguments;

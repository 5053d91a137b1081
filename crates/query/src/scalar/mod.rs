//! Scalar functions of SQL: distances between vectors, and row-wise operators. Nothing here knows tables.

pub(crate) mod distance;
pub(crate) mod operator;

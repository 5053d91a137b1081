//! Python's values as Arrow's and Arrow's as Python's, one by one: for keys, parameters, and rows that people look at.
//!
//! A value that the other side cannot hold exactly is refused. This part does not know lakes, tables or streams.

pub(crate) mod from_python;
pub(crate) mod parameter;
pub(crate) mod to_python;

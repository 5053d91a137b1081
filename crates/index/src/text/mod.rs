//! Full-text search: the query language, the segments that Lance has built, and the texts that no segment covers.
//!
//! This part does not know vectors. The part `rows` tells it which rows satisfy a filter and which are live.

mod fuzzy;
mod parse;
mod plan;
pub(crate) mod search;
mod segment;
mod segment_search;
mod texts;
pub(crate) mod unindexed;

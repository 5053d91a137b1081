//! Full-text search: the query language, the segments that Lance has built, and the texts that none of them covers.
//!
//! Knows nothing of vectors. Which rows satisfy a filter it asks `rows`.

mod fuzzy;
mod matches;
mod parse;
mod plan;
pub(crate) mod search;
mod segment;
pub(crate) mod texts;
pub(crate) mod unindexed;

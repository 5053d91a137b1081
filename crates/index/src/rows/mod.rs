//! Which rows a search may find: sets of them, by fragment and by filter, and what is kept of them between searches.
//!
//! Knows neither vectors nor texts, nor what indexes there are.

pub(crate) mod cache;
pub(crate) mod filtered;
pub(crate) mod fragments;
pub(crate) mod row_set;
pub(crate) mod runs;

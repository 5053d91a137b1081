//! The shape of rows: columns and their types, the primary key, filters.
//!
//! Knows Arrow and how Lance stores its types. Must not know tables or files.

pub(crate) mod buffers;
pub(crate) mod cast;
pub(crate) mod column;
pub(crate) mod filter;
pub(crate) mod primary_key;
pub(crate) mod schema;
mod sql;

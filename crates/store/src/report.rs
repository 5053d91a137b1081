//! The report of a write to its caller.

use crate::version::Version;

/// The version and the row counts of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct WriteReport {
    /// The version of the write.
    pub version: Version,
    /// Rows that did not exist before.
    pub inserted: usize,
    /// Rows that existed and have new values.
    pub updated: usize,
    /// Rows that existed and were deleted.
    pub deleted: usize,
}

impl WriteReport {
    /// Returns the report of a write that changed nothing in a table at `version`.
    pub(crate) fn unchanged(version: Version) -> Self {
        Self { version, inserted: 0, updated: 0, deleted: 0 }
    }
}

//! What writes report to their callers.

use crate::version::Version;

/// The outcome of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WriteReport {
    /// The version that holds it.
    pub version: Version,
    /// Rows that were not there before.
    pub inserted: usize,
    /// Rows that were there and have new values.
    pub updated: usize,
    /// Rows that were there and are gone.
    pub deleted: usize,
}

impl WriteReport {
    /// Returns the report of a write that changed nothing, of a table at `version`.
    pub(crate) fn unchanged(version: Version) -> Self {
        Self { version, inserted: 0, updated: 0, deleted: 0 }
    }
}

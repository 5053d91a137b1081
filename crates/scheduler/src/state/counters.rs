//! Totals since the scheduler was made.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Totals since the scheduler was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Tasks and actor calls that were accepted.
    pub submitted: u64,
    /// Tries that began.
    pub started: u64,
    /// Tasks that ended well.
    pub completed: u64,
    /// Tasks that ended with an error.
    pub failed: u64,
    /// Tries after the first.
    pub retried: u64,
    /// Objects made again because they were lost.
    pub made_again: u64,
    /// Objects written to disk.
    pub spilled: u64,
    /// Objects read back from disk.
    pub restored: u64,
    /// Time between being ready and being started, over all tries.
    pub waited: Duration,
    /// Run time, over all tries.
    pub service: Duration,
}

//! The expected work of placed batches that have not ended, by the queue in which they wait.

use std::collections::HashMap;

use cenote_base::sync::Mutex;

/// The expected seconds of placed work that has not ended, by queue: a device class, or the CPU.
#[derive(Debug, Default)]
pub(crate) struct Backlog(Mutex<HashMap<String, f64>>);

impl Backlog {
    /// Returns the expected seconds of work in `queue`.
    pub(crate) fn seconds(&self, queue: &str) -> f64 {
        self.0.lock().get(queue).copied().unwrap_or(0.0)
    }

    /// Adds `seconds` of work to `queue`; a negative number removes work that has ended.
    pub(crate) fn add(&self, queue: &str, seconds: f64) {
        *self.0.lock().entry(queue.to_owned()).or_default() += seconds;
    }
}

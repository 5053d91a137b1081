//! Jobs: streams of work that share the scheduler fairly.

use std::fmt;
use std::sync::Arc;

use crate::driver::Driver;
use crate::state::arena::Key;
use crate::state::fair::Priority;

/// The settings of a job.
#[derive(Debug, Clone)]
pub struct JobOptions {
    /// The name of the job in the status.
    pub name: String,
    /// The urgency of the job's work.
    pub priority: Priority,
}

impl JobOptions {
    /// Returns the settings of a job of normal priority.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), priority: Priority::Normal }
    }

    /// Sets the priority.
    pub fn priority(mut self, priority: Priority) -> Self {
        self.priority = priority;
        self
    }
}

/// A stream of work that gets an equal share beside other jobs, however much work each of them submits. Clones are the
/// same job.
#[derive(Clone)]
pub struct Job {
    handle: Arc<JobHandle>,
}

struct JobHandle {
    driver: Arc<Driver>,
    key: Key,
}

impl Job {
    pub(super) fn new(driver: &Arc<Driver>, options: JobOptions) -> Self {
        let key = driver.with(|core| core.add_job(options.name, options.priority));
        Self { handle: Arc::new(JobHandle { driver: Arc::clone(driver), key }) }
    }

    /// Returns the key of the job, or `None` if it belongs to another scheduler.
    pub(super) fn key_in(&self, driver: &Arc<Driver>) -> Option<Key> {
        Arc::ptr_eq(&self.handle.driver, driver).then_some(self.handle.key)
    }
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Job").field(&self.handle.key).finish()
    }
}

impl Drop for JobHandle {
    fn drop(&mut self) {
        self.driver.with(|core| core.close_job(self.key));
    }
}

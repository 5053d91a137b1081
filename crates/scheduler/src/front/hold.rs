//! Memory that is held for work outside the scheduler, so that all memory is one account.

use std::fmt;
use std::sync::Arc;

use cenote_base::{Resources, Result};

use super::options::WorkOptions;
use super::reply;
use super::scheduler::Scheduler;
use crate::driver::Driver;
use crate::state::arena::Key;
use crate::state::task_spec::NewTask;

/// A part of the memory budget, held until it is dropped.
pub struct Hold {
    driver: Arc<Driver>,
    key: Key,
}

impl Scheduler {
    /// Holds `bytes` of the memory budget for work outside the scheduler that `options` name. Waits for them as a task
    /// would.
    ///
    /// If that work waits for tasks, `largest_task_bytes` is the memory of the largest one: all memory that is held in
    /// this way leaves room for it.
    ///
    /// # Errors
    /// See [`run`](Self::run).
    pub async fn hold(&self, options: &WorkOptions, bytes: u64, largest_task_bytes: u64) -> Result<Hold> {
        let whole = Resources::cpu(0.0).with_memory_bytes(bytes.saturating_add(largest_task_bytes));
        let mut spec = self.task_spec(&options.clone().resources(whole))?;
        spec.request.set_aside(bytes, largest_task_bytes);
        let driver = self.driver();
        let key = driver.with(|core| core.add_hold());
        let hold = Hold { driver: Arc::clone(driver), key };
        spec.hold = Some(key);
        let (body, result) = reply::replying(|_| Ok(()));
        reply::submit_and_wait(driver, NewTask::new(Arc::new(spec), body), result).await?;
        Ok(hold)
    }
}

impl fmt::Debug for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Hold").field(&self.key).finish()
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.driver.with(|core| core.release_hold(self.key));
    }
}

//! Objects as callers put and get them.

use std::sync::Arc;

use cenote_base::{Error, Resources, Result};
use tokio::time::Instant;

use super::options::WorkOptions;
use super::reference::{ObjectRef, PinnedValue};
use super::reply;
use super::scheduler::Scheduler;
use crate::objects::value::Value;
use crate::state::task_spec::{NewTask, TaskSpec};

impl Scheduler {
    /// Keeps `value` as an object. Waits while memory has no room for it and nothing can be evicted.
    ///
    /// # Errors
    /// `ResourceExhausted` when the value is larger than the whole budget, or when objects that should make room do not
    /// fit into the spill directory.
    pub async fn put(&self, value: impl Into<Value>) -> Result<ObjectRef> {
        let value = value.into();
        let resources = Resources::cpu(0.0).with_memory_bytes(value.size_bytes());
        let spec = Arc::new(self.task_spec(&WorkOptions::new("put").resources(resources))?);
        let key = self.driver().with(|core| core.put(value, spec, Instant::now()))?;
        let object = ObjectRef::new(self.driver(), key);
        self.wait(&object).await?;
        Ok(object)
    }

    /// Waits until an object has been made, whether it is in memory or on disk.
    ///
    /// # Errors
    /// The error that the object's task failed with.
    pub async fn wait(&self, object: &ObjectRef) -> Result<()> {
        // An object that was made may have to be made again meanwhile, so every wake-up leads to another look.
        while let Some(wake_up) = self.driver().with(|core| core.listen(object.key()))? {
            // A dropped sender says no more than a sent message.
            let _ = wake_up.await;
        }
        Ok(())
    }

    /// Waits for an object and returns it, pinned in memory until the returned guard is dropped. An object in memory is
    /// not copied.
    ///
    /// # Errors
    /// The error that the object's task failed with; `Corrupt` or `NotFound` when the object was lost on disk and
    /// cannot be made again.
    pub async fn get(&self, object: &ObjectRef) -> Result<PinnedValue> {
        let key = object.key();
        loop {
            if let Some(value) = self.driver().with(|core| core.pin_in_memory(key)) {
                return Ok(PinnedValue::new(self.driver(), key, value));
            }
            self.wait(object).await?;
            if self.driver().look(|core| core.is_in_memory(key)) {
                continue;
            }
            // The object is on disk. A task reads it, because this thread must not block, and waits for room as any
            // other.
            let spec = Arc::new(self.read_spec()?);
            let driver = Arc::clone(self.driver());
            let (body, result) = reply::replying(move |environment| {
                let value = environment.inputs.first().cloned();
                let value = value.ok_or_else(|| Error::internal("a read came without its object"))?;
                // The input is pinned for the task alone. It is in memory, so this pin is granted.
                driver.with(|core| core.pin_in_memory(key));
                Ok(PinnedValue::new(&driver, key, value))
            });
            let new = NewTask { inputs: vec![key], ..NewTask::new(spec, body) };
            let task = self.driver().with(|core| core.submit_read(new, Instant::now()));
            return reply::wait_for(self.driver(), task, result).await;
        }
    }

    fn read_spec(&self) -> Result<TaskSpec> {
        self.task_spec(&WorkOptions::new("get").resources(Resources::cpu(0.0)))
    }
}

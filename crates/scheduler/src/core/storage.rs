//! Objects as callers put, get and release them, and as workers spill and restore them.

use std::sync::Arc;

use cenote_base::Result;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::Core;
use crate::objects::spill::SpillFile;
use crate::objects::value::Value;
use crate::state::arena::Key;
use crate::state::object_table::PinnedContent;
use crate::state::task_spec::{Environment, NewTask, TaskBody, TaskSpec};

impl Core {
    /// Keeps `value` as a new object: at once if memory has room for it, else by a task of `spec`, because a worker may
    /// have to write other objects to disk first.
    ///
    /// # Errors
    /// See [`submit`](Self::submit).
    pub(crate) fn put(&mut self, value: Value, spec: Arc<TaskSpec>, now: Instant) -> Result<Key> {
        let output = self.objects.create(None);
        let memory = self.ledger.memory_mut();
        if memory.has_room(value.size_bytes()) {
            self.objects.admit(output, value, memory);
            return Ok(output);
        }
        let body = Box::new(PutBody(Some(value)));
        self.submit_output(NewTask { output: Some(output), ..NewTask::new(spec, body) }, output, now)
    }

    /// Returns a receiver that is woken when a pending object has been made or has failed; `None` if it is there.
    ///
    /// # Errors
    /// The error that the object's task failed with.
    pub(crate) fn listen(&mut self, object: Key) -> Result<Option<oneshot::Receiver<()>>> {
        self.objects.listen(object)
    }

    pub(crate) fn is_in_memory(&self, object: Key) -> bool {
        self.objects.is_in_memory(object)
    }

    /// Pins an object and returns it, if it is in memory.
    pub(crate) fn pin_in_memory(&mut self, object: Key) -> Option<Value> {
        if !self.objects.is_in_memory(object) {
            return None;
        }
        match self.objects.pin(object, self.ledger.memory_mut()) {
            Some(PinnedContent::InMemory(value)) => Some(value),
            _ => None,
        }
    }

    pub(crate) fn unpin(&mut self, object: Key) {
        self.objects.unpin(object, self.ledger.memory_mut());
    }

    /// Removes a user of an object.
    pub(crate) fn release_object(&mut self, object: Key) {
        self.objects.release(object, self.ledger.memory_mut());
    }

    /// Records that a victim was written to `file`.
    pub(crate) fn spilled(&mut self, object: Key, file: SpillFile) {
        self.counters.spilled += 1;
        self.objects.spilled(object, Arc::new(file));
    }

    /// Records that a victim could not be written. It stays in memory.
    pub(crate) fn spill_failed(&mut self, object: Key) {
        self.objects.spill_failed(object, self.ledger.memory_mut());
    }

    /// Records that a pinned object was read back from disk.
    pub(crate) fn restored(&mut self, object: Key, value: Value) {
        self.counters.restored += 1;
        self.objects.restored(object, value);
    }

    /// Records that a pinned object is not going to be read back from disk.
    pub(crate) fn restore_skipped(&mut self, object: Key) {
        self.objects.restore_skipped(object);
    }
}

/// The body of a task that keeps a value for which room has to be made.
struct PutBody(Option<Value>);

impl TaskBody for PutBody {
    fn run(&mut self, _environment: &mut Environment<'_>) -> Result<Option<Value>> {
        Ok(self.0.take())
    }
}

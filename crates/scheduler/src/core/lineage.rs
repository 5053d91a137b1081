//! Objects that are made again: those that were lost, and those that were dropped and are needed to make others again.

use std::time::Duration;

use cenote_base::Error;
use tokio::time::Instant;

use super::Core;
use super::running::GrantKeeper;
use super::task::{Task, TaskState};
use crate::state::arena::Key;
use crate::state::task_spec::TaskBody;

/// An input that could not be read back from disk.
pub(crate) struct LostInput {
    pub(crate) object: Key,
    pub(crate) error: Error,
}

impl Core {
    /// Runs the task of a lost or dropped object once more.
    pub(super) fn make_again(&mut self, key: Key, now: Instant) {
        let Some(lineage) = self.objects.make_again(key) else {
            let error = Error::not_found("the object was dropped, and nothing is known to make it again");
            return self.objects.fail(key, error.into(), self.ledger.memory_mut());
        };
        self.counters.made_again += 1;
        self.admit(lineage.task(key), now);
    }

    /// Takes back a task that was started and whose inputs turned out to be lost. They are made again, and the task
    /// waits for them.
    pub(crate) fn restart(&mut self, key: Key, body: Box<dyn TaskBody>, lost: Vec<LostInput>, now: Instant) {
        let Some(task) = self.tasks.get_mut(key) else { return };
        task.body = Some(body);
        // The lost inputs are unpinned by `lost` below, the others by `stop_running`.
        task.distinct_inputs.retain(|input| lost.iter().all(|lost| lost.object != *input));
        self.stop_running(key, Duration::ZERO, GrantKeeper::Nobody);
        for LostInput { object, error } in &lost {
            self.objects.lost(*object, error, self.ledger.memory_mut());
        }
        if let Some(task) = self.tasks.get_mut(key) {
            task.distinct_inputs.extend(lost.iter().map(|lost| lost.object));
            task.distinct_inputs.sort_unstable();
        }
        self.leave_replica(key, false, now);
        self.await_inputs(key, now);
        // Other tasks may have been ready to use the same objects.
        let uses_lost = |task: &Task| lost.iter().any(|lost| task.distinct_inputs.binary_search(&lost.object).is_ok());
        let is_queued = |task: &Task| matches!(task.state, TaskState::Ready | TaskState::Mailbox);
        let others = self.tasks.iter().filter(|(_, task)| is_queued(task) && uses_lost(task));
        for other in others.map(|(other, _)| other).collect::<Vec<_>>() {
            self.unqueue(other);
            self.leave_replica(other, false, now);
            self.await_inputs(other, now);
        }
        self.end_failed(now);
    }
}

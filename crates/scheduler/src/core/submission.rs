//! Tasks on their way from submission to being ready.

use std::sync::Arc;
use std::time::Duration;

use cenote_base::{Error, Result};
use tokio::time::Instant;

use super::effect::Effect;
use super::task::{Task, TaskState};
use super::{Core, FailedTask};
use crate::state::arena::Key;
use crate::state::object_table::Availability;
use crate::state::task_spec::{Lineage, NewTask};

impl Core {
    /// Accepts a task.
    ///
    /// # Errors
    /// `Cancelled` when the scheduler is draining or the task's flag is raised; `ResourceExhausted` when too many tasks
    /// wait. The task's body is settled with the same error.
    pub(crate) fn submit(&mut self, new: NewTask, now: Instant) -> Result<Key> {
        match self.check_admission(&new) {
            Ok(()) => Ok(self.submit_read(new, now)),
            Err(error) => {
                if let Some(output) = new.output {
                    self.objects.fail(output, error.clone().into(), self.ledger.memory_mut());
                }
                self.effects.push(Effect::Settle {
                    body: new.body,
                    outcome: Err(error.clone()),
                    service: Duration::ZERO,
                });
                Err(error)
            }
        }
    }

    fn check_admission(&self, new: &NewTask) -> Result<()> {
        if self.is_draining {
            return Err(Error::cancelled("the scheduler is shutting down and takes no new work"));
        }
        if self.tasks.len() >= self.tasks_max {
            let limit = self.tasks_max;
            return Err(Error::resource_exhausted(format!(
                "{limit} tasks are waiting, which is the limit: await some of them first"
            )));
        }
        new.spec.cancel.check()
    }

    /// Accepts a task that reads an object back, even while the scheduler is draining: objects that have been made
    /// remain readable.
    pub(crate) fn submit_read(&mut self, new: NewTask, now: Instant) -> Key {
        let key = self.admit(new, now);
        self.end_failed(now);
        key
    }

    /// Accepts the task that `lineage` describes and returns the object that it will make.
    ///
    /// # Errors
    /// See [`submit`](Self::submit).
    pub(crate) fn submit_lineage(&mut self, lineage: Lineage, now: Instant) -> Result<Key> {
        let lineage = Arc::new(lineage);
        let output = self.objects.create(Some(Arc::clone(&lineage)));
        self.submit_output(lineage.task(output), output, now)
    }

    /// Accepts a task that makes the new object `output`, and returns the object.
    pub(super) fn submit_output(&mut self, new: NewTask, output: Key, now: Instant) -> Result<Key> {
        match self.submit(new, now) {
            Ok(_) => Ok(output),
            Err(error) => {
                self.release_object(output);
                Err(error)
            }
        }
    }

    pub(super) fn admit(&mut self, new: NewTask, now: Instant) -> Key {
        self.counters.submitted += 1;
        let task = Task::new(new, now);
        self.fair.task_submitted(task.spec.job);
        for input in &task.distinct_inputs {
            self.objects.retain(*input);
        }
        if let Some(call) = task.call {
            self.actors.call_submitted(call.actor);
        }
        let key = self.tasks.insert(task);
        self.await_inputs(key, now);
        key
    }

    /// Has a task wait for those of its inputs that are still to be made, or makes it ready.
    pub(super) fn await_inputs(&mut self, key: Key, now: Instant) {
        let Some(task) = self.tasks.get(key) else { return };
        let inputs = task.distinct_inputs.clone();
        let mut missing = 0;
        for input in inputs {
            if self.objects.is_dropped(input) {
                self.make_again(input, now);
            }
            match self.objects.require(input, key) {
                Availability::Available => {}
                Availability::Pending => missing += 1,
                Availability::Failed(failure) => {
                    self.failed.push(FailedTask { task: key, failure: failure.inherit() });
                }
            }
        }
        if let Some(task) = self.tasks.get_mut(key) {
            task.state = TaskState::Inputs(missing);
            if missing == 0 {
                self.make_ready(key, now);
            }
        }
    }

    /// Queues a task whose inputs are all there: for resources, or behind the other calls of its actor.
    fn make_ready(&mut self, key: Key, now: Instant) {
        let Some(task) = self.tasks.get_mut(key) else { return };
        let inputs_bytes: u64 = task.distinct_inputs.iter().map(|input| self.objects.bytes(*input)).sum();
        let needed = task.spec.request.memory_bytes() + inputs_bytes;
        let budget = self.ledger.memory().total();
        if needed > budget {
            let name = &task.spec.name;
            let message =
                format!("`{name}` needs {needed} bytes for its inputs and itself at once; the budget is {budget}");
            let failure = Error::resource_exhausted(message).into();
            return self.failed.push(FailedTask { task: key, failure });
        }
        task.since = now;
        if let Some(call) = task.call {
            task.state = TaskState::Mailbox;
            self.actors.queue(call.actor, key);
            return self.assign_calls(call.actor, now);
        }
        task.state = TaskState::Ready;
        self.fair.push(task.spec.job, &task.spec.request, key);
    }
}

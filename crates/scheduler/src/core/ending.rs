//! Tasks that end: completed, failed without running, withdrawn or cancelled.

use cenote_base::Error;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::effect::Effect;
use super::task::{Task, TaskState};
use super::{Core, FailedTask};
use crate::objects::value::Value;
use crate::state::arena::Key;
use crate::state::object_table::Listeners;
use crate::state::task_failure::TaskFailure;
use crate::state::timers::Event;

impl Core {
    /// Ends the tasks that failed without running, and those that wait for them.
    pub(super) fn end_failed(&mut self, now: Instant) {
        while let Some(FailedTask { task, failure }) = self.failed.pop() {
            self.stop(task, failure, now);
        }
    }

    /// Ends a task that waits. A running task is left alone: it has to look at its cancellation flag.
    fn stop(&mut self, key: Key, failure: TaskFailure, now: Instant) {
        if self.tasks.get(key).is_none_or(Task::is_running) {
            return;
        }
        self.unqueue(key);
        self.complete(key, Err(failure), now);
    }

    /// Ends a task whose result is not wanted any more; if it runs, after this try.
    pub(crate) fn withdraw(&mut self, key: Key, now: Instant) {
        if let Some(task) = self.tasks.get_mut(key) {
            task.retries_left = 0;
        }
        self.stop(key, Error::cancelled("nobody waits for the result any more").into(), now);
        self.end_failed(now);
    }

    /// Ends all waiting tasks whose cancellation flag is raised.
    pub(crate) fn sweep_cancelled(&mut self, now: Instant) {
        let cancelled = |task: &Task| task.spec.cancel.is_cancelled();
        self.stop_all(cancelled, &Error::cancelled("the work was cancelled while it waited"), now);
    }

    /// Refuses new work and ends all waiting tasks.
    pub(crate) fn close(&mut self, now: Instant) {
        (self.is_draining, self.is_closed) = (true, true);
        self.stop_all(|_| true, &Error::cancelled("the scheduler was shut down"), now);
    }

    fn stop_all(&mut self, which: impl Fn(&Task) -> bool, error: &Error, now: Instant) {
        let tasks: Vec<Key> = self.tasks.iter().filter(|(_, task)| which(task)).map(|(key, _)| key).collect();
        for key in tasks {
            self.stop(key, error.clone().into(), now);
        }
        self.end_failed(now);
    }

    /// Refuses new work. Returns a receiver that is woken when the last task has ended; `None` without tasks.
    pub(crate) fn drain(&mut self) -> Option<oneshot::Receiver<()>> {
        self.is_draining = true;
        if self.tasks.len() == 0 {
            return None;
        }
        let (sender, receiver) = oneshot::channel();
        self.drain_waiters.push(sender);
        Some(receiver)
    }

    /// Handles the timers that are due at `now`.
    pub(crate) fn advance(&mut self, now: Instant) {
        while let Some(event) = self.timers.pop_due(now) {
            match event {
                Event::Retry(key) => {
                    if self.tasks.get(key).is_some_and(|task| matches!(task.state, TaskState::Backoff)) {
                        self.await_inputs(key, now);
                    }
                }
                Event::Idle(actor) => {
                    self.actors.timer_fired(actor);
                    self.retire_idle_states(actor, now);
                }
            }
        }
        self.end_failed(now);
    }

    /// Removes a waiting task from the queue that it is in.
    pub(super) fn unqueue(&mut self, key: Key) {
        let Some(task) = self.tasks.get(key) else { return };
        if matches!(task.state, TaskState::Ready) {
            self.fair.remove(task.spec.job, key);
        }
        if let Some(call) = task.call {
            self.actors.unqueue(call.actor, key);
        }
    }

    /// Ends a task that does not run, for good.
    pub(super) fn complete(&mut self, key: Key, outcome: Result<Option<Value>, TaskFailure>, now: Instant) {
        self.leave_replica(key, false, now);
        let Some(task) = self.tasks.remove(key) else { return };
        self.last_progress = now;
        match &outcome {
            Ok(_) => self.counters.completed += 1,
            Err(_) => self.counters.failed += 1,
        }
        let outcome = match (outcome, task.output) {
            (Ok(value), Some(output)) => {
                let value = value.unwrap_or_else(|| Value::from(Vec::new()));
                self.objects.admit(output, value, self.ledger.memory_mut());
                self.object_made(output, now);
                Ok(())
            }
            (Err(failure), Some(output)) => {
                self.object_failed(output, failure.clone());
                Err(failure.into_error())
            }
            (outcome, None) => outcome.map(drop).map_err(TaskFailure::into_error),
        };
        for input in &task.distinct_inputs {
            self.objects.release(*input, self.ledger.memory_mut());
        }
        self.fair.task_ended(task.spec.job);
        if let Some(body) = task.body {
            self.effects.push(Effect::Settle { body, outcome, service: task.service });
        }
        if let Some(call) = task.call {
            self.actors.call_ended(call.actor);
            self.retire_idle_states(call.actor, now);
        }
        if self.tasks.len() == 0 {
            self.effects.extend(self.drain_waiters.drain(..).map(Effect::Wake));
        }
    }

    /// Wakes those who wait for an object that has been made.
    fn object_made(&mut self, object: Key, now: Instant) {
        let Listeners { tasks, callers } = self.objects.take_listeners(object);
        self.effects.extend(callers.into_iter().map(Effect::Wake));
        for key in tasks {
            if let Some(Task { state: TaskState::Inputs(missing), .. }) = self.tasks.get_mut(key) {
                *missing -= 1;
                if *missing == 0 {
                    // An input that was there may have been lost meanwhile.
                    self.await_inputs(key, now);
                }
            }
        }
    }

    /// Fails those who wait for an object that could not be made.
    fn object_failed(&mut self, object: Key, failure: TaskFailure) {
        let Listeners { tasks, callers } = self.objects.take_listeners(object);
        self.effects.extend(callers.into_iter().map(Effect::Wake));
        self.failed.extend(tasks.into_iter().map(|task| FailedTask { task, failure: failure.inherit() }));
        self.objects.fail(object, failure, self.ledger.memory_mut());
    }
}

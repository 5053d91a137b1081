//! Tasks that end before they would by themselves: withdrawn, cancelled, or without their inputs.

use cenote_base::Error;
use tokio::time::Instant;

use crate::core::Core;
use crate::state::arena::Key;
use crate::state::task::TaskState;
use crate::state::timers::Event;

impl Core {
    /// Ends tasks that failed without running, and those that wait for them.
    pub(crate) fn end_failed(&mut self, now: Instant) {
        while let Some((key, error)) = self.failed.pop() {
            self.stop(key, error, now);
        }
    }

    /// Ends a task that waits; one that runs is left to its flag.
    fn stop(&mut self, key: Key, error: Error, now: Instant) {
        let Some(task) = self.tasks.get(key) else { return };
        if matches!(task.state, TaskState::Running(_)) {
            return;
        }
        self.unqueue(key);
        self.complete(key, Err(error), now);
    }

    /// Ends a task that nobody wants any more; if it runs, with this try.
    pub(crate) fn withdraw(&mut self, key: Key, now: Instant) {
        if let Some(task) = self.tasks.get_mut(key) {
            task.retries_left = 0;
        }
        self.stop(key, Error::cancelled("nobody waits for the result any more"), now);
        self.end_failed(now);
    }

    /// Ends all waiting tasks whose flag is raised.
    pub(crate) fn sweep_cancelled(&mut self, now: Instant) {
        let cancelled = self.tasks.iter().filter(|(_, task)| task.spec.cancel.is_cancelled());
        let cancelled: Vec<Key> = cancelled.map(|(key, _)| key).collect();
        for key in cancelled {
            self.stop(key, Error::cancelled("the work was cancelled while it waited"), now);
        }
        self.end_failed(now);
    }

    /// Takes no more work and ends what waits.
    pub(crate) fn close(&mut self, now: Instant) {
        (self.draining, self.closed) = (true, true);
        let all: Vec<Key> = self.tasks.iter().map(|(key, _)| key).collect();
        for key in all {
            self.stop(key, Error::cancelled("the scheduler was shut down"), now);
        }
        self.end_failed(now);
    }

    /// Does what is due at `now`.
    pub(crate) fn advance(&mut self, now: Instant) {
        while let Some(event) = self.timers.due(now) {
            match event {
                Event::Retry(key) => {
                    if self.tasks.get(key).is_some_and(|task| matches!(task.state, TaskState::Backoff)) {
                        self.await_inputs(key, now);
                    }
                }
                Event::Idle(actor) => self.wake_actor(actor, now),
            }
        }
        self.end_failed(now);
    }

    /// Takes a waiting task out of whatever queue it is in.
    pub(crate) fn unqueue(&mut self, key: Key) {
        let Some(task) = self.tasks.get(key) else { return };
        if matches!(task.state, TaskState::Ready) {
            self.fair.remove(task.spec.job, key);
        }
        if let Some(call) = task.actor {
            self.actors.unqueue(call.actor, key);
        }
    }
}

//! Tasks that have not ended.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::state::actor_table::ActorTable;
use crate::state::arena::Key;
use crate::state::ledger::{Grant, ResourceRequest};
use crate::state::task_spec::{ActorCall, NewTask, TaskBody, TaskSpec};

/// A task that has not ended.
pub(super) struct Task {
    pub(super) spec: Arc<TaskSpec>,
    /// The inputs in the order of the function's arguments.
    pub(super) inputs: Vec<Key>,
    /// The inputs in the order of their keys, without duplicates.
    pub(super) distinct_inputs: Vec<Key>,
    pub(super) output: Option<Key>,
    pub(super) call: Option<ActorCall>,
    /// `None` while the task runs.
    pub(super) body: Option<Box<dyn TaskBody>>,
    pub(super) state: TaskState,
    pub(super) attempt: u32,
    pub(super) retries_left: u32,
    /// The run time of the last try.
    pub(super) service: Duration,
    /// The time at which the task last became ready, or began to run.
    pub(super) since: Instant,
}

#[derive(Debug)]
pub(super) enum TaskState {
    /// Waits for this many inputs that are still to be made.
    Inputs(usize),
    /// Waits behind other calls of its actor.
    Mailbox,
    /// Waits for resources and a thread.
    Ready,
    Running(RunningTask),
    /// Waits for the pause before the next try to end.
    Backoff,
}

#[derive(Debug)]
pub(super) struct RunningTask {
    pub(super) grant: Grant,
    /// The virtual time that the task's job was charged in advance.
    pub(super) charged_s: f64,
    /// The number of the thread.
    pub(super) thread: usize,
}

impl Task {
    pub(super) fn new(new: NewTask, now: Instant) -> Self {
        let mut distinct_inputs = new.inputs.clone();
        distinct_inputs.sort_unstable();
        distinct_inputs.dedup();
        Self {
            retries_left: new.spec.retries_max,
            spec: new.spec,
            inputs: new.inputs,
            distinct_inputs,
            output: new.output,
            call: new.actor.map(|actor| ActorCall { actor, replica: None, builds: false }),
            body: Some(new.body),
            state: TaskState::Inputs(0),
            attempt: 0,
            service: Duration::ZERO,
            since: now,
        }
    }

    /// Returns the resources that the task takes when it starts.
    pub(super) fn request<'a>(&'a self, actors: &'a ActorTable) -> &'a ResourceRequest {
        self.call.and_then(|call| actors.request(call)).unwrap_or(&self.spec.request)
    }

    pub(super) fn is_running(&self) -> bool {
        matches!(self.state, TaskState::Running(_))
    }
}

impl fmt::Debug for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Task").field("name", &self.spec.name).field("state", &self.state).finish_non_exhaustive()
    }
}

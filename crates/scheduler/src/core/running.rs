//! Tasks that start and come to the end of a try.

use std::sync::Arc;
use std::time::Duration;

use cenote_base::Result;
use tokio::time::Instant;

use super::Core;
use super::task::{RunningTask, TaskState};
use crate::objects::value::Value;
use crate::state::arena::Key;
use crate::state::object_table::{PinnedContent, Victim};
use crate::state::task_spec::{ActorCall, TaskBody, TaskContext, TaskSpec};
use crate::state::timers::Event;
use crate::state::trace::Try;

/// The pause after a failed try: `FIRST_BACKOFF · 2^attempt`, at most [`BACKOFF_MAX`], times a jitter from 0.5 to 1.5.
const FIRST_BACKOFF: Duration = Duration::from_millis(20);
/// The longest pause before the jitter.
const BACKOFF_MAX: Duration = Duration::from_secs(2);

/// A thread that asks for work.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WorkerThread {
    /// The index of the thread.
    pub(crate) thread: usize,
    /// The index of the device that the thread drives; `None` for a CPU thread.
    pub(crate) device: Option<usize>,
}

/// A task that was started, to be run by the thread that asked for it.
pub(crate) struct StartedTask {
    pub(crate) task: Key,
    pub(crate) spec: Arc<TaskSpec>,
    pub(crate) body: Box<dyn TaskBody>,
    pub(crate) context: TaskContext,
    /// The replica whose state the task uses.
    pub(crate) replica: usize,
    pub(crate) arguments: Vec<Key>,
    /// The distinct inputs, in the order of their keys.
    pub(crate) inputs: Vec<PinnedInput>,
    /// Objects to be written to disk before the task runs.
    pub(crate) victims: Vec<Victim>,
}

/// An input of a task that was started.
pub(crate) struct PinnedInput {
    pub(crate) object: Key,
    pub(crate) content: PinnedContent,
}

/// The owner of a task's grant after the task has run.
pub(super) enum GrantKeeper {
    Nobody,
    /// The state that the call built.
    State(ActorCall),
    /// The hold that the task was submitted for.
    Hold(Key),
}

impl Core {
    /// Starts the next task for `worker`: takes its resources and pins its inputs.
    pub(crate) fn next(&mut self, worker: WorkerThread, now: Instant) -> Option<StartedTask> {
        let (tasks, objects) = (&self.tasks, &self.objects);
        let inputs_bytes = |key: Key| tasks.get(key).and_then(|task| objects.pin_bytes(&task.distinct_inputs));
        let picked = self.fair.pick(worker.device, &self.ledger, inputs_bytes);
        if self.fair.waiting() > 0 {
            self.make_room();
        }
        let picked = picked?;
        let task = self.tasks.get_mut(picked.task)?;
        let grant = self.ledger.take(task.request(&self.actors), worker.device);
        let mut inputs = Vec::with_capacity(task.distinct_inputs.len());
        for object in &task.distinct_inputs {
            let content = self.objects.pin(*object, self.ledger.memory_mut())?;
            inputs.push(PinnedInput { object: *object, content });
        }
        task.state = TaskState::Running(RunningTask { grant, charged_s: picked.charged_s, thread: worker.thread });
        if let Some(ActorCall { actor, builds: true, .. }) = task.call {
            self.actors.unqueue(actor, picked.task);
        }
        self.counters.waited += now - task.since;
        task.since = now;
        self.counters.started += 1;
        self.last_progress = now;
        Some(StartedTask {
            task: picked.task,
            spec: Arc::clone(&task.spec),
            body: task.body.take()?,
            context: TaskContext { cancel: task.spec.cancel.clone(), attempt: task.attempt },
            replica: task.call.and_then(|call| call.replica).unwrap_or(0),
            arguments: task.inputs.clone(),
            inputs,
            victims: self.objects.evict(self.ledger.memory_mut()),
        })
    }

    /// Ends one try of a task: the task is completed, or tried again after a pause. Returns the objects that have to be
    /// written to disk to make room for the output.
    pub(crate) fn finish(
        &mut self,
        key: Key,
        body: Box<dyn TaskBody>,
        outcome: Result<Option<Value>>,
        now: Instant,
    ) -> Vec<Victim> {
        let Some(task) = self.tasks.get_mut(key) else { return Vec::new() };
        task.body = Some(body);
        let service = now - task.since;
        task.service = service;
        self.counters.service += service;
        if let TaskState::Running(RunningTask { thread, .. }) = task.state {
            self.trace.add(Try {
                name: Arc::clone(&task.spec.name),
                thread,
                began: task.since,
                service,
                attempt: task.attempt,
                ended_well: outcome.is_ok(),
            });
        }
        let keeper = match (task.call, task.spec.hold) {
            // Also after a failure: the state may exist, and is dropped before its grant is given back.
            (Some(call), _) if call.builds => GrantKeeper::State(call),
            (_, Some(hold)) if outcome.is_ok() => GrantKeeper::Hold(hold),
            _ => GrantKeeper::Nobody,
        };
        self.stop_running(key, service, keeper);
        let Some(task) = self.tasks.get_mut(key) else { return Vec::new() };
        match outcome {
            Err(error) if error.kind().is_retryable() && task.retries_left > 0 && !task.spec.cancel.is_cancelled() => {
                let backoff = FIRST_BACKOFF.saturating_mul(1 << task.attempt.min(16)).min(BACKOFF_MAX);
                task.attempt += 1;
                task.retries_left -= 1;
                task.state = TaskState::Backoff;
                self.counters.retried += 1;
                let pause = backoff.mul_f64(0.5 + self.random.unit());
                self.timers.add(now + pause, Event::Retry(key));
                self.leave_replica(key, true, now);
            }
            outcome => {
                self.leave_replica(key, outcome.is_err(), now);
                self.complete(key, outcome.map_err(Into::into), now);
            }
        }
        self.end_failed(now);
        self.objects.evict(self.ledger.memory_mut())
    }

    /// Unpins the inputs of a running task and hands its grant to `keeper`.
    pub(super) fn stop_running(&mut self, key: Key, service: Duration, keeper: GrantKeeper) {
        let Some(task) = self.tasks.get_mut(key) else { return };
        let running = std::mem::replace(&mut task.state, TaskState::Ready);
        let TaskState::Running(RunningTask { grant, charged_s, .. }) = running else { return };
        let share = self.ledger.dominant_share(grant.request());
        self.fair.ran(task.spec.job, charged_s, share, service);
        for input in &task.distinct_inputs {
            self.objects.unpin(*input, self.ledger.memory_mut());
        }
        match keeper {
            GrantKeeper::Nobody => self.ledger.give(grant),
            GrantKeeper::State(call) => {
                let kept = self.ledger.give_call(grant);
                self.actors.built(call, kept);
            }
            GrantKeeper::Hold(hold) => self.keep_in(hold, grant),
        }
    }
}

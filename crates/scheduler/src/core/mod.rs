//! All that the scheduler decides, as plain state: no threads, no clock, no files.
//!
//! Whoever drives it hands in tasks, asks for the next one to run, says how it went, and says what time it is. Threads
//! do so in a process, and a seeded driver in the simulation test. What has to happen outside the lock is left in
//! [`Core::effects`].

pub(crate) mod actors;
#[cfg(test)]
pub(crate) mod audit;
mod ending;
mod lineage;
pub(crate) mod status;

use std::sync::Arc;
use std::time::Duration;

use cenote_base::{Error, Random, Result};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::core::actors::{Actors, States};
use crate::objects::value::Value;
use crate::state::arena::{Arena, Key};
use crate::state::counters::Counters;
use crate::state::fair::{Fair, Place, Priority};
use crate::state::ledger::{Grant, Ledger};
use crate::state::object_table::{Found, Objects, State, Victim};
use crate::state::task::{ActorCall, Context, NewTask, Running, Spec, Task, TaskState, Work};
use crate::state::timers::{Event, Timers};
use crate::state::trace::{Trace, Try};

const BACKOFF_FIRST: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_secs(2);
const INPUT_FAILED: &str = "an input failed";

/// What is done once the lock is released, because it runs or drops what others wrote.
pub(crate) enum Effect {
    Wake(oneshot::Sender<()>),
    Settle(Box<dyn Work>, Result<()>, Duration),
    /// Drops a state of an actor, then says so with [`Core::state_dropped`].
    DropState {
        actor: Key,
        states: Arc<dyn States>,
        number: usize,
    },
}

/// A task that is to run now, by whoever asked.
pub(crate) struct Start {
    pub(crate) task: Key,
    pub(crate) spec: Arc<Spec>,
    pub(crate) work: Box<dyn Work>,
    pub(crate) context: Context,
    pub(crate) replica: usize,
    /// The task's arguments, and where its distinct inputs are, in the order of their keys.
    pub(crate) arguments: Vec<Key>,
    pub(crate) inputs: Vec<(Key, Found)>,
    /// To be written to disk first.
    pub(crate) victims: Vec<Victim>,
}

/// What keeps the grant of a task that has run.
pub(crate) enum Keep {
    Nothing,
    /// The state that the call built.
    State(ActorCall),
    /// A [`Hold`](crate::Hold).
    Hold(Key),
}

pub(crate) struct Core {
    pub(crate) ledger: Ledger,
    pub(crate) fair: Fair,
    pub(crate) objects: Objects,
    pub(crate) tasks: Arena<Task>,
    pub(crate) actors: Actors,
    pub(crate) holds: Arena<Grant>,
    pub(crate) timers: Timers,
    pub(crate) effects: Vec<Effect>,
    pub(crate) counters: Counters,
    pub(crate) trace: Trace,
    /// The job of work that names none.
    pub(crate) job: Key,
    /// When something last began or ended, for the watchdog.
    pub(crate) moved: Instant,
    /// No new work is taken.
    pub(crate) draining: bool,
    /// Nobody refers to the scheduler any more: its threads end.
    pub(crate) closed: bool,
    pub(crate) drained: Vec<oneshot::Sender<()>>,
    tasks_max: usize,
    random: Random,
    /// Tasks that failed without running, and are to be ended before the lock is released.
    pub(crate) failed: Vec<(Key, Error)>,
}

impl Core {
    pub(crate) fn new(ledger: Ledger, trace: Trace, tasks_max: usize, seed: u64, now: Instant) -> Self {
        let mut fair = Fair::new();
        let job = fair.add_job("default".to_owned(), Priority::Normal);
        Self {
            ledger,
            fair,
            objects: Objects::default(),
            tasks: Arena::default(),
            actors: Actors::default(),
            holds: Arena::default(),
            timers: Timers::default(),
            effects: Vec::new(),
            counters: Counters::default(),
            trace,
            job,
            moved: now,
            draining: false,
            closed: false,
            drained: Vec::new(),
            tasks_max,
            random: Random::new(seed),
            failed: Vec::new(),
        }
    }

    /// Takes a task in. On error the task's work comes back in [`Effect::Settle`] all the same.
    pub(crate) fn submit(&mut self, new: NewTask, now: Instant) -> Result<Key> {
        let refusal = if self.draining {
            Some(Error::cancelled("the scheduler is shutting down and takes no new work"))
        } else if self.tasks.len() >= self.tasks_max {
            let text = format!("{} tasks are waiting, which is the limit: await some of them first", self.tasks_max);
            Some(Error::resource_exhausted(text))
        } else {
            new.spec.cancel.check().err()
        };
        if let Some(error) = refusal {
            if let Some(output) = new.output {
                self.objects.fail(output, &error, &mut self.ledger.memory);
            }
            self.effects.push(Effect::Settle(new.work, Err(error.clone()), Duration::ZERO));
            return Err(error);
        }
        Ok(self.submit_read(new, now))
    }

    /// Takes in a task that brings an object back: even while the scheduler drains, what was made can be had.
    pub(crate) fn submit_read(&mut self, new: NewTask, now: Instant) -> Key {
        let key = self.admit(new, now);
        self.end_failed(now);
        key
    }

    pub(crate) fn admit(&mut self, new: NewTask, now: Instant) -> Key {
        self.counters.submitted += 1;
        let task = Task::new(new, now);
        if let Some(job) = self.fair.jobs.get_mut(task.spec.job) {
            job.live += 1;
        }
        for input in &task.distinct {
            self.objects.retain(*input);
        }
        if let Some(call) = task.actor {
            self.actors.joined(call.actor);
        }
        let key = self.tasks.insert(task);
        self.await_inputs(key, now);
        key
    }

    /// Has a task wait for those of its inputs that are still to be made, or makes it ready.
    pub(crate) fn await_inputs(&mut self, key: Key, now: Instant) {
        let Some(task) = self.tasks.get(key) else { return };
        let inputs = task.distinct.clone();
        let mut missing = 0;
        for input in inputs {
            if self.objects.arena.get(input).is_some_and(|object| matches!(object.state, State::Dropped)) {
                self.make_again(input, now);
            }
            let Some(object) = self.objects.arena.get_mut(input) else { continue };
            match &object.state {
                State::Pending => {
                    object.dependents.push(key);
                    missing += 1;
                }
                State::Failed(error) => self.failed.push((key, input_failed(error))),
                _ => {}
            }
        }
        if let Some(task) = self.tasks.get_mut(key) {
            task.state = TaskState::Inputs(missing);
            if missing == 0 {
                self.make_ready(key, now);
            }
        }
    }

    /// All inputs are there: the task queues for resources, or behind the other calls of its actor.
    fn make_ready(&mut self, key: Key, now: Instant) {
        let Some(task) = self.tasks.get_mut(key) else { return };
        let inputs = task.distinct.iter().filter_map(|input| self.objects.arena.get(*input));
        let needed = task.spec.request.memory_bytes + inputs.map(|object| object.bytes).sum::<u64>();
        if needed > self.ledger.memory.total {
            let text = format!(
                "`{}` needs {needed} bytes for its inputs and itself at once; the budget is {}",
                task.spec.name, self.ledger.memory.total
            );
            return self.failed.push((key, Error::resource_exhausted(text)));
        }
        task.since = now;
        if let Some(call) = task.actor {
            task.state = TaskState::Mailbox;
            self.actors.queue(call.actor, key);
            return self.promote(call.actor, now);
        }
        task.state = TaskState::Ready;
        let spec = &task.spec;
        self.fair.push(spec.job, spec.place, &spec.request, key);
    }

    /// The task to run next on a thread of `place`, which is number `thread`, with its resources taken and its inputs
    /// held.
    pub(crate) fn next(&mut self, place: Place, thread: usize, now: Instant) -> Option<Start> {
        let (tasks, objects) = (&self.tasks, &self.objects);
        let inputs_bytes =
            |key: Key| -> Option<u64> { tasks.get(key)?.distinct.iter().map(|input| objects.pin_bytes(*input)).sum() };
        let picked = self.fair.pick(place, &self.ledger, inputs_bytes);
        if self.fair.waiting() > 0 {
            self.make_room();
        }
        let picked = picked?;
        let device = if let Place::Device(number) = place { Some(number) } else { None };
        let task = self.tasks.get_mut(picked.task)?;
        let grant = self.ledger.take(self.actors.request(task), device);
        let mut inputs = Vec::with_capacity(task.distinct.len());
        for input in &task.distinct {
            inputs.push((*input, self.objects.pin(*input, &mut self.ledger.memory)?));
        }
        task.state = TaskState::Running(Running { grant, charged_s: picked.charged_s, thread });
        if let Some(ActorCall { actor, grows: true, .. }) = task.actor {
            self.actors.unqueue(actor, picked.task);
        }
        self.counters.waited += now - task.since;
        task.since = now;
        self.counters.started += 1;
        self.moved = now;
        let context = Context { cancel: task.spec.cancel.clone(), attempt: task.attempt };
        let replica = task.actor.and_then(|call| call.replica).unwrap_or(0);
        let work = task.work.take()?;
        let victims = self.objects.shrink(&mut self.ledger.memory);
        let (spec, arguments) = (Arc::clone(&task.spec), task.inputs.clone());
        Some(Start { task: picked.task, spec, work, context, replica, arguments, inputs, victims })
    }

    /// A task that was started has come to the end of one try.
    /// Returns what has to be written to disk to make room for the output.
    pub(crate) fn finish(
        &mut self,
        key: Key,
        work: Box<dyn Work>,
        outcome: Result<Option<Value>>,
        now: Instant,
    ) -> Vec<Victim> {
        let Some(task) = self.tasks.get_mut(key) else { return Vec::new() };
        task.work = Some(work);
        let service = now - task.since;
        task.service = service;
        self.counters.service += service;
        if let TaskState::Running(Running { thread, .. }) = task.state {
            self.trace.add(|| Try {
                spec: Arc::clone(&task.spec),
                thread,
                began: task.since,
                service,
                attempt: task.attempt,
                ended_well: outcome.is_ok(),
            });
        }
        // What a call built is dropped first where it failed.
        let keep = match (task.actor, task.spec.hold) {
            (Some(call), _) if call.grows => Keep::State(call),
            (_, Some(hold)) if outcome.is_ok() => Keep::Hold(hold),
            _ => Keep::Nothing,
        };
        self.stop_running(key, service, keep);
        let Some(task) = self.tasks.get_mut(key) else { return Vec::new() };
        match outcome {
            Err(error) if error.kind().is_retryable() && task.retries_left > 0 && !task.spec.cancel.is_cancelled() => {
                let backoff = BACKOFF_FIRST.saturating_mul(1 << task.attempt.min(16)).min(BACKOFF_MAX);
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
                self.complete(key, outcome, now);
            }
        }
        self.end_failed(now);
        self.objects.shrink(&mut self.ledger.memory)
    }

    /// Gives back what a running task holds, but what is kept.
    pub(crate) fn stop_running(&mut self, key: Key, service: Duration, keep: Keep) {
        let Some(task) = self.tasks.get_mut(key) else { return };
        let TaskState::Running(running) = std::mem::replace(&mut task.state, TaskState::Ready) else { return };
        let share = self.ledger.dominant_share(&running.grant.request);
        self.fair.ran(task.spec.job, running.charged_s, share, service);
        for input in &task.distinct {
            self.objects.unpin(*input, &mut self.ledger.memory);
        }
        match keep {
            Keep::Nothing => self.ledger.give(&running.grant),
            Keep::State(call) => {
                let (lifetime, of_call) = running.grant.request.split_for_actor();
                self.ledger.give(&Grant { request: of_call, device: None });
                self.actors.grown(call, Grant { request: lifetime, device: running.grant.device });
            }
            Keep::Hold(hold) => self.keep_in(hold, running.grant),
        }
    }

    /// Ends a task that does not run, for good.
    pub(crate) fn complete(&mut self, key: Key, outcome: Result<Option<Value>>, now: Instant) {
        self.leave_replica(key, false, now);
        let Some(mut task) = self.tasks.remove(key) else { return };
        self.moved = now;
        let counter = match &outcome {
            Ok(_) => &mut self.counters.completed,
            Err(_) => &mut self.counters.failed,
        };
        *counter += 1;
        let settled = match (outcome, task.output) {
            (Ok(value), Some(output)) => {
                let value = value.unwrap_or_else(|| Value::from(Vec::new()));
                self.objects.admit(output, value, &mut self.ledger.memory);
                self.resolve(output, now);
                Ok(())
            }
            (Err(error), Some(output)) => {
                self.resolve_failed(output, &error);
                Err(error)
            }
            (outcome, None) => outcome.map(drop),
        };
        for input in &task.distinct {
            self.objects.release(*input, &mut self.ledger.memory);
        }
        if let Some(job) = self.fair.jobs.get_mut(task.spec.job) {
            job.live -= 1;
        }
        self.fair.forget_if_done(task.spec.job);
        if let Some(work) = task.work.take() {
            self.effects.push(Effect::Settle(work, settled, task.service));
        }
        if let Some(call) = task.actor {
            self.actors.left(call.actor);
            self.rest_actor(call.actor, now);
        }
        if self.tasks.len() == 0 {
            self.effects.extend(self.drained.drain(..).map(Effect::Wake));
        }
    }

    /// An object is there: whoever waits for it goes on.
    fn resolve(&mut self, object: Key, now: Instant) {
        let Some(object) = self.objects.arena.get_mut(object) else { return };
        self.effects.extend(object.waiters.drain(..).map(Effect::Wake));
        for dependent in std::mem::take(&mut object.dependents) {
            if let Some(Task { state: TaskState::Inputs(missing), .. }) = self.tasks.get_mut(dependent) {
                *missing -= 1;
                if *missing == 0 {
                    // Meanwhile an input that was there may have been lost.
                    self.await_inputs(dependent, now);
                }
            }
        }
    }

    /// An object will not be there: whoever waits for it fails.
    fn resolve_failed(&mut self, key: Key, error: &Error) {
        if let Some(object) = self.objects.arena.get_mut(key) {
            self.effects.extend(object.waiters.drain(..).map(Effect::Wake));
            for dependent in std::mem::take(&mut object.dependents) {
                self.failed.push((dependent, input_failed(error)));
            }
        }
        self.objects.fail(key, error, &mut self.ledger.memory);
    }
}

/// What becomes of a task when an input cannot be had, however far back the reason lies.
fn input_failed(error: &Error) -> Error {
    let error = error.clone();
    if error.message().starts_with(INPUT_FAILED) { error } else { error.context(INPUT_FAILED) }
}

//! All decisions of the scheduler, as transitions of plain state.
//!
//! The driver of the core hands in tasks, asks for the next one to run, reports how it went, and tells the time: from
//! threads in a process, from a seeded loop in the simulation. Everything that has to happen without the lock, because
//! it runs or drops code of the caller's, is left as an [`Effect`].
//!
//! The core does no I/O, reads no clock and starts no thread, and it does not know the types that callers hold.

#[cfg(test)]
mod audit;
mod calls;
pub(crate) mod effect;
mod ending;
mod holds;
pub(crate) mod lineage;
pub(crate) mod running;
pub(crate) mod status;
mod storage;
mod submission;
mod task;

use cenote_base::{Random, Resources, Result};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::state::actor_table::ActorTable;
use crate::state::arena::{Arena, Key};
use crate::state::counters::Counters;
use crate::state::fair::{FairQueue, Priority};
use crate::state::ledger::{Grant, Ledger, ResourceRequest};
use crate::state::object_table::{Garbage, ObjectTable};
use crate::state::task_failure::TaskFailure;
use crate::state::timers::Timers;
use crate::state::trace::{Trace, TraceSnapshot};
use effect::Effect;
use task::Task;

/// The state of a scheduler.
pub(crate) struct Core {
    ledger: Ledger,
    fair: FairQueue,
    objects: ObjectTable,
    tasks: Arena<Task>,
    actors: ActorTable,
    /// The grants of [`Hold`](crate::Hold)s; empty while the hold waits.
    holds: Arena<Grant>,
    timers: Timers,
    effects: Vec<Effect>,
    counters: Counters,
    trace: Trace,
    /// The job of work that names none.
    default_job: Key,
    /// The time at which something last began or ended.
    last_progress: Instant,
    /// Whether new work is refused.
    is_draining: bool,
    /// Whether the last handle of the scheduler was dropped, so that the threads end.
    is_closed: bool,
    drain_waiters: Vec<oneshot::Sender<()>>,
    tasks_max: usize,
    random: Random,
    /// Tasks that failed without running. They are ended before the lock is released.
    failed: Vec<FailedTask>,
}

struct FailedTask {
    task: Key,
    failure: TaskFailure,
}

impl Core {
    pub(crate) fn new(ledger: Ledger, trace: Trace, tasks_max: usize, seed: u64, now: Instant) -> Self {
        let mut fair = FairQueue::new();
        let default_job = fair.add_job("default".to_owned(), Priority::Normal);
        Self {
            ledger,
            fair,
            objects: ObjectTable::default(),
            tasks: Arena::default(),
            actors: ActorTable::default(),
            holds: Arena::default(),
            timers: Timers::default(),
            effects: Vec::new(),
            counters: Counters::default(),
            trace,
            default_job,
            last_progress: now,
            is_draining: false,
            is_closed: false,
            drain_waiters: Vec::new(),
            tasks_max,
            random: Random::new(seed),
            failed: Vec::new(),
        }
    }

    /// Converts `resources` to a request.
    ///
    /// # Errors
    /// See [`Ledger::request`].
    pub(crate) fn request(&self, resources: &Resources) -> Result<ResourceRequest> {
        self.ledger.request(resources)
    }

    pub(crate) fn default_job(&self) -> Key {
        self.default_job
    }

    pub(crate) fn add_job(&mut self, name: String, priority: Priority) -> Key {
        self.fair.add_job(name, priority)
    }

    /// Forgets a job whose handle was dropped, once its last task has ended.
    pub(crate) fn close_job(&mut self, job: Key) {
        self.fair.close_job(job);
    }

    /// Returns the classes of the devices, by number.
    pub(crate) fn device_classes(&self) -> Vec<String> {
        self.ledger.devices().iter().map(|device| device.class().to_owned()).collect()
    }

    pub(crate) fn trace(&self) -> TraceSnapshot {
        self.trace.snapshot()
    }

    /// Returns the time of the first timer.
    pub(crate) fn next_timer(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// Returns whether tasks wait for resources or a thread.
    pub(crate) fn has_ready_tasks(&self) -> bool {
        self.fair.waiting() > 0
    }

    pub(crate) fn has_effects(&self) -> bool {
        !self.effects.is_empty()
    }

    /// Returns whether the last handle of the scheduler was dropped.
    pub(crate) fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// Returns when something last began or ended.
    pub(crate) fn last_progress(&self) -> Instant {
        self.last_progress
    }

    /// Returns what is to be done without the lock.
    pub(crate) fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// Returns what is to be dropped without the lock.
    pub(crate) fn take_garbage(&mut self) -> Vec<Garbage> {
        self.objects.take_garbage()
    }
}

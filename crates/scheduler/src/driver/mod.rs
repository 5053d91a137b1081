//! The core under its lock, and the threads that drive it.
//!
//! This part knows when to wake whom, and what must happen without the lock. It makes no decisions about tasks, and
//! does not know the types that callers hold.

pub(crate) mod backlog;
pub(crate) mod threads;
mod timer;
pub(crate) mod worker;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use backlog::Backlog;
use cenote_base::panic_message;
use cenote_base::sync::{Condvar, Mutex, MutexGuard};
use tokio::time::Instant;

use crate::cancel::OnCancel;
use crate::core::Core;
use crate::core::effect::Effect;
use crate::objects::spill::SpillDirectory;

/// The core under its lock, and the conditions that its threads wait for.
pub(crate) struct Driver {
    locked: Mutex<Locked>,
    /// The number of times that there was work for a CPU thread. Spinning threads watch it.
    work_signal: AtomicU64,
    cpu_threads: Condvar,
    device_threads: Vec<Condvar>,
    timer_thread: Condvar,
    spill: Arc<SpillDirectory>,
    stall_after: Duration,
    backlog: Backlog,
}

struct Locked {
    core: Core,
    /// CPU threads that sleep.
    cpu_threads_asleep: usize,
    /// Whether a CPU thread spins for work. One is enough: it wakes the next when there is more.
    is_spinning: bool,
    device_threads_asleep: Vec<bool>,
    /// The time at which the timer thread wakes up; `None` while it is awake.
    timer_until: Option<Instant>,
}

impl Driver {
    pub(crate) fn new(core: Core, spill: SpillDirectory, stall_after: Duration) -> Self {
        let devices = core.device_classes().len();
        let locked = Locked {
            core,
            cpu_threads_asleep: 0,
            is_spinning: false,
            device_threads_asleep: vec![false; devices],
            timer_until: None,
        };
        Self {
            locked: Mutex::new(locked),
            work_signal: AtomicU64::new(0),
            cpu_threads: Condvar::new(),
            device_threads: (0..devices).map(|_| Condvar::new()).collect(),
            timer_thread: Condvar::new(),
            spill: Arc::new(spill),
            stall_after,
            backlog: Backlog::default(),
        }
    }

    pub(crate) fn backlog(&self) -> &Backlog {
        &self.backlog
    }

    /// Returns the bytes of objects on disk.
    pub(crate) fn spilled_bytes(&self) -> u64 {
        self.spill.used_bytes()
    }

    /// Reads the core.
    pub(crate) fn look<R>(&self, look: impl FnOnce(&Core) -> R) -> R {
        look(&self.locked.lock().core)
    }

    /// Changes the core, wakes the threads that the change concerns, and then does what must be done without the lock.
    pub(crate) fn with<R>(&self, change: impl FnOnce(&mut Core) -> R) -> R {
        let mut locked = self.locked.lock();
        let result = change(&mut locked.core);
        self.release(locked);
        result
    }

    fn release(&self, mut locked: MutexGuard<'_, Locked>) {
        let effects = locked.core.take_effects();
        let garbage = locked.core.take_garbage();
        self.wake(&locked);
        drop(locked);
        garbage.into_iter().for_each(|garbage| contain("the drop of an object", || drop(garbage)));
        for effect in effects {
            match effect {
                // The caller may have gone: then there is nobody to wake.
                Effect::Wake(caller) => drop(caller.send(())),
                Effect::Settle { body, outcome, service } => {
                    contain("the drop of a task", || body.settle(outcome, service));
                }
                Effect::DropState(state) => {
                    contain("the drop of an actor's state", || state.states.drop_state(state.replica));
                    self.with(|core| core.state_dropped(state.actor, state.replica, Instant::now()));
                }
            }
        }
    }

    fn wake(&self, locked: &Locked) {
        let is_closed = locked.core.is_closed();
        if locked.core.has_ready_tasks() || is_closed {
            self.work_signal.fetch_add(1, Ordering::Release);
            if is_closed {
                self.cpu_threads.notify_all();
            } else if locked.cpu_threads_asleep > 0 && !locked.is_spinning {
                self.cpu_threads.notify_one();
            }
            for (device, is_asleep) in self.device_threads.iter().zip(&locked.device_threads_asleep) {
                if *is_asleep {
                    device.notify_one();
                }
            }
        }
        let is_earlier = |until| locked.core.next_timer().is_some_and(|next| next < until);
        if locked.timer_until.is_some_and(is_earlier) || is_closed {
            self.timer_thread.notify_one();
        }
    }
}

/// Runs code of a caller's. A panic in it is logged: it must not end the thread, which others' work needs too.
fn contain(what: &str, run: impl FnOnce()) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(run)) {
        tracing::error!("{what} panicked: {}", panic_message(panic.as_ref()));
    }
}

impl OnCancel for Driver {
    fn cancelled(&self) {
        self.with(|core| core.sweep_cancelled(Instant::now()));
    }
}

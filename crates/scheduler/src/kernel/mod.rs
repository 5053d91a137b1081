//! The core under its lock, and the threads that drive it.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cenote_base::sync::{Condvar, Mutex, MutexGuard};
use cenote_base::{Error, Result};
use tokio::time::Instant;

use crate::accelerator::Accelerator;
use crate::cancel::OnCancel;
use crate::core::{Core, Effect, Start};
use crate::front::placement::Backlog;
use crate::objects::spill::SpillDirectory;
use crate::objects::value::Value;
use crate::state::arena::Key;
use crate::state::fair::Place;
use crate::state::object_table::{Found, Victim};
use crate::state::task::{Environment, Work};

/// How long a thread looks out for what it waits for before it sleeps: longer than the operating system takes to wake
/// it.
const LOOK_OUT: Duration = Duration::from_micros(50);

pub(crate) struct Kernel {
    locked: Mutex<Locked>,
    /// Counts the times when there was work for somebody, for threads that look out.
    signal: AtomicU64,
    pool: Condvar,
    devices: Vec<Condvar>,
    timer: Condvar,
    spill: Arc<SpillDirectory>,
    stall_after: Duration,
    pub(crate) backlog: Backlog,
}

struct Locked {
    core: Core,
    /// CPU threads that sleep.
    asleep: usize,
    /// Whether a CPU thread looks out for work.
    looking_out: bool,
    devices_asleep: Vec<bool>,
    /// Until when the timer thread sleeps; `None` while it is awake.
    timer_until: Option<Instant>,
}

/// A try that is over, and what came of it.
pub(crate) struct Ended {
    pub(crate) task: Key,
    work: Box<dyn Work>,
    outcome: Result<Option<Value>>,
}

impl Kernel {
    pub(crate) fn new(core: Core, spill: SpillDirectory, stall_after: Duration) -> Self {
        let devices = core.ledger.devices.len();
        let locked =
            Locked { core, asleep: 0, looking_out: false, devices_asleep: vec![false; devices], timer_until: None };
        Self {
            locked: Mutex::new(locked),
            signal: AtomicU64::new(0),
            pool: Condvar::new(),
            devices: (0..devices).map(|_| Condvar::new()).collect(),
            timer: Condvar::new(),
            spill: Arc::new(spill),
            stall_after,
            backlog: Backlog::default(),
        }
    }

    pub(crate) fn spilled_bytes(&self) -> u64 {
        self.spill.used()
    }

    /// Looks at the core, which stays as it is.
    pub(crate) fn look<R>(&self, look: impl FnOnce(&Core) -> R) -> R {
        look(&self.locked.lock().core)
    }

    /// Changes the core, wakes whom that concerns, and then does what must be done without the lock.
    pub(crate) fn with<R>(&self, change: impl FnOnce(&mut Core) -> R) -> R {
        let mut locked = self.locked.lock();
        let result = change(&mut locked.core);
        self.release(locked);
        result
    }

    fn release(&self, mut locked: MutexGuard<'_, Locked>) {
        let effects = std::mem::take(&mut locked.core.effects);
        let garbage = std::mem::take(&mut locked.core.objects.garbage);
        self.wake(&locked);
        drop(locked);
        drop(garbage);
        for effect in effects {
            match effect {
                // Who waited may have gone; then nobody is to be woken.
                Effect::Wake(waiter) => drop(waiter.send(())),
                Effect::Settle(work, outcome, service) => work.settle(outcome, service),
                Effect::DropState { actor, states, number } => {
                    states.drop_state(number);
                    self.with(|core| core.state_dropped(actor, number, Instant::now()));
                }
            }
        }
    }

    fn wake(&self, locked: &Locked) {
        let closed = locked.core.closed;
        if locked.core.fair.waiting() > 0 || closed {
            self.signal.fetch_add(1, Ordering::Release);
            if closed {
                self.pool.notify_all();
            } else if locked.asleep > 0 && !locked.looking_out {
                self.pool.notify_one();
            }
            for (device, asleep) in self.devices.iter().zip(&locked.devices_asleep) {
                if *asleep {
                    device.notify_one();
                }
            }
        }
        let earlier = |until| locked.core.timers.next().is_some_and(|next| next < until);
        if locked.timer_until.is_some_and(earlier) || closed {
            self.timer.notify_one();
        }
    }

    /// What a thread of `place` does until the scheduler is dropped.
    pub(crate) fn work(&self, place: Place, thread: usize, mut device: Option<Box<dyn Accelerator>>) {
        let mut locked = self.locked.lock();
        let mut ended: Option<Ended> = None;
        loop {
            let finish = |ended: Ended| locked.core.finish(ended.task, ended.work, ended.outcome, Instant::now());
            let finished = ended.take().map(finish);
            let start = locked.core.next(place, thread, Instant::now());
            if start.is_none() && finished.is_none() && locked.core.effects.is_empty() {
                if locked.core.closed {
                    return;
                }
                locked = self.wait_for_work(locked, place);
                continue;
            }
            // What a task's end brought about concerns others, so the lock is let go in the proper way before waiting.
            self.release(locked);
            if let Err(error) = self.write_out(finished.unwrap_or_default()) {
                tracing::warn!("memory is over its budget by one output: {error:#}");
            }
            ended = start.and_then(|start| self.execute(start, &mut device));
            locked = self.locked.lock();
        }
    }

    fn wait_for_work<'a>(&'a self, mut locked: MutexGuard<'a, Locked>, place: Place) -> MutexGuard<'a, Locked> {
        if let Place::Device(number) = place {
            locked.devices_asleep[number] = true;
            locked = self.devices[number].wait(locked);
            locked.devices_asleep[number] = false;
            return locked;
        }
        if !locked.looking_out {
            locked.looking_out = true;
            let seen = self.signal.load(Ordering::Acquire);
            drop(locked);
            let signalled = look_out(|| (self.signal.load(Ordering::Acquire) != seen).then_some(())).is_some();
            locked = self.locked.lock();
            locked.looking_out = false;
            if signalled || self.signal.load(Ordering::Acquire) != seen {
                return locked;
            }
        }
        locked.asleep += 1;
        locked = self.pool.wait(locked);
        locked.asleep -= 1;
        locked
    }

    /// Starts the next task of `place` and runs its try, for a driver without threads, which then says when it ends.
    #[cfg(test)]
    pub(crate) fn begin(
        &self,
        place: Place,
        thread: usize,
        device: &mut Option<Box<dyn Accelerator>>,
    ) -> Option<Option<Ended>> {
        loop {
            let (start, has_made_room) = self.with(|core| {
                let start = core.next(place, thread, Instant::now());
                (start, !core.effects.is_empty())
            });
            match start {
                Some(start) => return Some(self.execute(start, device)),
                None if has_made_room => {}
                None => return None,
            }
        }
    }

    /// Ends what [`begin`](Self::begin) started.
    #[cfg(test)]
    pub(crate) fn end(&self, ended: Ended) {
        let victims = self.with(|core| core.finish(ended.task, ended.work, ended.outcome, Instant::now()));
        self.write_out(victims).unwrap_or_else(|error| panic!("{error}"));
    }

    /// Makes room, brings the inputs in and runs one try. `None` when an input was lost: the task then waits again.
    fn execute(&self, start: Start, device: &mut Option<Box<dyn Accelerator>>) -> Option<Ended> {
        let Start { task, spec, mut work, context, replica, arguments, inputs, victims } = start;
        if let Err(error) = self.write_out(victims) {
            let doing = format!("make room for `{}`", spec.name);
            // Inputs that were to be read back are on disk still.
            let unread = inputs.into_iter().filter(|(_, found)| matches!(found, Found::File(_)));
            let unread: Vec<Key> = unread.map(|(key, _)| key).collect();
            self.with(|core| unread.into_iter().for_each(|key| core.objects.unread(key)));
            return Some(Ended { task, work, outcome: Err(error.context(doing)) });
        }
        let mut values: Vec<(Key, Value)> = Vec::with_capacity(inputs.len());
        let mut lost = Vec::new();
        for (key, found) in inputs {
            match found {
                Found::Value(value) => values.push((key, value)),
                Found::File(file) => match file.read() {
                    Ok(value) => {
                        self.with(|core| {
                            core.counters.restored += 1;
                            core.objects.restored(key, value.clone());
                        });
                        values.push((key, value));
                    }
                    Err(error) => lost.push((key, error)),
                },
            }
        }
        if !lost.is_empty() {
            for (_, error) in &lost {
                tracing::warn!("an input of `{}` was lost: {error:#}", spec.name);
            }
            self.with(|core| core.restart(task, work, lost, Instant::now()));
            return None;
        }
        // The arguments are among the inputs, which are sorted by key.
        let value_of = |key: &Key| values.binary_search_by_key(key, |(of, _)| *of).ok().map(|at| values[at].1.clone());
        let arguments: Vec<Value> = arguments.iter().filter_map(value_of).collect();
        let mut environment = Environment { context, inputs: &arguments, device: device.as_deref_mut(), replica };
        let outcome = match catch_unwind(AssertUnwindSafe(|| work.run(&mut environment))) {
            Ok(outcome) => outcome,
            Err(panic) => Err(Error::internal(format!("`{}` panicked: {}", spec.name, panic_text(panic.as_ref())))),
        };
        Some(Ended { task, work, outcome })
    }

    /// Writes objects to disk. One that cannot be written stays in memory.
    fn write_out(&self, victims: Vec<Victim>) -> Result<()> {
        let mut result = Ok(());
        for Victim { object, value } in victims {
            let written = self.spill.write(&value);
            drop(value);
            self.with(|core| match written {
                Ok(file) => {
                    core.counters.spilled += 1;
                    core.objects.spilled(object, Arc::new(file));
                }
                Err(error) => {
                    core.objects.kept(object, &mut core.ledger.memory);
                    result = Err(error);
                }
            });
        }
        result
    }

    /// What the timer thread does until the scheduler is dropped: timers, and a word when nothing moves.
    pub(crate) fn keep_time(&self) {
        let mut locked = self.locked.lock();
        let mut reported = None;
        loop {
            let now = Instant::now();
            locked.core.advance(now);
            let stall = locked.core.stall(now, self.stall_after).filter(|_| reported != Some(locked.core.moved));
            if stall.is_some() {
                reported = Some(locked.core.moved);
            }
            if locked.core.closed {
                return self.release(locked);
            }
            self.release(locked);
            if let Some(stall) = stall {
                tracing::warn!("{stall}");
            }
            locked = self.locked.lock();
            let until = locked.core.timers.next().unwrap_or(now + self.stall_after).min(now + self.stall_after);
            if until > Instant::now() && !locked.core.closed {
                locked.timer_until = Some(until);
                (locked, _) = self.timer.wait_timeout(locked, until.saturating_duration_since(Instant::now()));
                locked.timer_until = None;
            }
        }
    }
}

impl OnCancel for Kernel {
    fn cancelled(&self) {
        self.with(|core| core.sweep_cancelled(Instant::now()));
    }
}

/// What `look` finds within [`LOOK_OUT`]. Gives way in between: who is to bring it may need this very core.
pub(crate) fn look_out<T>(mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let until = std::time::Instant::now() + LOOK_OUT;
    loop {
        for _ in 0..32 {
            if let Some(found) = look() {
                return Some(found);
            }
            std::hint::spin_loop();
        }
        if std::time::Instant::now() >= until {
            return None;
        }
        std::thread::yield_now();
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("without a message")
}

//! The threads that run tasks.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::time::Duration;

use cenote_base::sync::MutexGuard;
use cenote_base::{Error, Result, panic_message};
use tokio::time::Instant;

use super::{Driver, Locked, contain};
use crate::accelerator::Accelerator;
use crate::core::Core;
use crate::core::lineage::LostInput;
use crate::core::running::{PinnedInput, StartedTask, WorkerThread};
use crate::objects::value::Value;
use crate::state::arena::Key;
use crate::state::object_table::{PinnedContent, Victim};
use crate::state::task_spec::{Environment, TaskBody};

/// How long a thread spins for work before it sleeps: longer than the operating system takes to wake it.
const SPIN: Duration = Duration::from_micros(50);

/// A try that is over, and its outcome.
pub(crate) struct EndedTry {
    task: Key,
    body: Box<dyn TaskBody>,
    outcome: Result<Option<Value>>,
}

impl EndedTry {
    /// Reports the try to the core. Returns the objects that have to be written to disk.
    fn finish(self, core: &mut Core) -> Vec<Victim> {
        core.finish(self.task, self.body, self.outcome, Instant::now())
    }
}

/// The result of an attempt to begin a try.
#[cfg(test)]
pub(crate) enum Begun {
    /// The try has run; its end is to be reported with [`Driver::end`].
    Ran(EndedTry),
    /// An input was lost: the task waits again.
    Restarted,
    NoTask,
}

impl Driver {
    /// Runs tasks on this thread until the scheduler is dropped.
    pub(super) fn work(&self, worker: WorkerThread, mut device: Option<Box<dyn Accelerator>>) {
        let mut locked = self.locked.lock();
        let mut ended: Option<EndedTry> = None;
        loop {
            let victims = ended.take().map(|ended| ended.finish(&mut locked.core));
            let started = locked.core.next(worker, Instant::now());
            if started.is_none() && victims.is_none() && !locked.core.has_effects() {
                if locked.core.is_closed() {
                    return;
                }
                locked = self.wait_for_work(locked, worker.device);
                continue;
            }
            // The end of a task concerns other threads, which are woken before this one waits.
            self.release(locked);
            if let Err(error) = self.write_out(victims.unwrap_or_default()) {
                tracing::warn!("memory is over its budget by one output: {error:#}");
            }
            ended = started.and_then(|started| self.execute(started, &mut device));
            locked = self.locked.lock();
        }
    }

    fn wait_for_work<'a>(
        &'a self,
        mut locked: MutexGuard<'a, Locked>,
        device: Option<usize>,
    ) -> MutexGuard<'a, Locked> {
        if let Some(number) = device {
            locked.device_threads_asleep[number] = true;
            locked = self.device_threads[number].wait(locked);
            locked.device_threads_asleep[number] = false;
            return locked;
        }
        if !locked.is_spinning {
            locked.is_spinning = true;
            let seen = self.work_signal.load(Ordering::Acquire);
            drop(locked);
            spin_until(|| self.work_signal.load(Ordering::Acquire) != seen);
            locked = self.locked.lock();
            locked.is_spinning = false;
            if self.work_signal.load(Ordering::Acquire) != seen {
                return locked;
            }
        }
        locked.cpu_threads_asleep += 1;
        locked = self.cpu_threads.wait(locked);
        locked.cpu_threads_asleep -= 1;
        locked
    }

    /// Starts the next task of `worker` and runs its try, for a simulation, which has no threads.
    #[cfg(test)]
    pub(crate) fn begin(&self, worker: WorkerThread, device: &mut Option<Box<dyn Accelerator>>) -> Begun {
        loop {
            let (started, has_made_room) = self.with(|core| {
                let started = core.next(worker, Instant::now());
                (started, core.has_effects())
            });
            match started {
                Some(started) => return self.execute(started, device).map_or(Begun::Restarted, Begun::Ran),
                None if has_made_room => {}
                None => return Begun::NoTask,
            }
        }
    }

    /// Reports the end of a try that [`begin`](Self::begin) ran.
    #[cfg(test)]
    pub(crate) fn end(&self, ended: EndedTry) {
        let victims = self.with(|core| ended.finish(core));
        self.write_out(victims).unwrap_or_else(|error| panic!("{error}"));
    }

    /// Makes room, reads the inputs and runs one try. Returns `None` when an input was lost: the task then waits again.
    fn execute(&self, started: StartedTask, device: &mut Option<Box<dyn Accelerator>>) -> Option<EndedTry> {
        let StartedTask { task, spec, mut body, context, replica, arguments, inputs, victims } = started;
        if let Err(error) = self.write_out(victims) {
            let unread = inputs.iter().filter(|input| matches!(input.content, PinnedContent::OnDisk(_)));
            self.with(|core| unread.for_each(|input| core.restore_skipped(input.object)));
            let error = error.context(format!("make room for `{}`", spec.name));
            return Some(EndedTry { task, body, outcome: Err(error) });
        }
        let mut values: Vec<(Key, Value)> = Vec::with_capacity(inputs.len());
        let mut lost = Vec::new();
        for PinnedInput { object, content } in inputs {
            match content {
                PinnedContent::InMemory(value) => values.push((object, value)),
                PinnedContent::OnDisk(file) => match file.read() {
                    Ok(value) => {
                        self.with(|core| core.restored(object, value.clone()));
                        values.push((object, value));
                    }
                    Err(error) => {
                        tracing::warn!("an input of `{}` was lost: {error:#}", spec.name);
                        lost.push(LostInput { object, error });
                    }
                },
            }
        }
        if !lost.is_empty() {
            self.with(|core| core.restart(task, body, lost, Instant::now()));
            return None;
        }
        // The arguments are among the inputs, which are sorted by key.
        let value_of = |key: &Key| values.binary_search_by_key(key, |(of, _)| *of).ok().map(|at| values[at].1.clone());
        let arguments: Vec<Value> = arguments.iter().filter_map(value_of).collect();
        let mut environment = Environment { context, inputs: &arguments, device: device.as_deref_mut(), replica };
        let outcome = match catch_unwind(AssertUnwindSafe(|| body.run(&mut environment))) {
            Ok(outcome) => outcome,
            Err(panic) => Err(Error::internal(format!("`{}` panicked: {}", spec.name, panic_message(panic.as_ref())))),
        };
        Some(EndedTry { task, body, outcome })
    }

    /// Writes evicted objects to disk. An object that cannot be written stays in memory; the first error is returned.
    fn write_out(&self, victims: Vec<Victim>) -> Result<()> {
        let mut result = Ok(());
        for Victim { object, value } in victims {
            let written = self.spill.write(&value);
            contain("the drop of an object", || drop(value));
            let kept = self.with(|core| match written {
                Ok(file) => {
                    core.spilled(object, file);
                    Ok(())
                }
                Err(error) => {
                    core.spill_failed(object);
                    Err(error)
                }
            });
            result = result.and(kept);
        }
        result
    }
}

/// Spins until `is_done`, for [`SPIN`] at most. Yields in between: the thread that brings the work may need this core.
fn spin_until(is_done: impl Fn() -> bool) {
    let until = std::time::Instant::now() + SPIN;
    while std::time::Instant::now() < until {
        for _ in 0..32 {
            if is_done() {
                return;
            }
            std::hint::spin_loop();
        }
        std::thread::yield_now();
    }
}

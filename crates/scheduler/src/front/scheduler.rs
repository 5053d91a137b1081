//! The scheduler that callers hold: tasks, reports and shutdown.

use std::fmt;
use std::sync::Arc;

use cenote_base::{Error, Resources, Result};
use tokio::time::Instant;

use super::job::{Job, JobOptions};
use super::options::{SchedulerOptions, WorkOptions};
use super::reference::ObjectRef;
use super::reply;
use crate::accelerator::DeviceOptions;
use crate::cancel::OnCancel;
use crate::core::Core;
use crate::core::status::{SchedulerStatus, Usage};
use crate::driver::Driver;
use crate::driver::threads::thread_names;
use crate::objects::spill::SpillDirectory;
use crate::objects::value::Value;
use crate::state::arena::Key;
use crate::state::ledger::{DeviceAccount, Ledger};
use crate::state::task_spec::{Lineage, NewTask, TaskContext, TaskSpec};
use crate::state::trace::Trace;

/// A scheduler: it hands out resources, runs work on threads of its own, and keeps objects. Clones are the same
/// scheduler.
///
/// When the last clone is dropped, waiting work is cancelled, and running work goes on to its end.
#[derive(Clone)]
pub struct Scheduler {
    handle: Arc<SchedulerHandle>,
}

struct SchedulerHandle {
    driver: Arc<Driver>,
}

impl fmt::Debug for Scheduler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scheduler").field("usage", &self.usage()).finish()
    }
}

impl Drop for SchedulerHandle {
    fn drop(&mut self) {
        self.driver.with(|core| core.close(Instant::now()));
    }
}

impl Scheduler {
    /// Starts a scheduler with a thread for each of `options.cpu_cores`, rounded up, and one for each device.
    ///
    /// # Errors
    /// `InvalidInput` when `cpu_cores` is out of range; `ResourceExhausted` when a thread cannot be
    /// started; the error that opening a device failed with.
    pub fn new(options: SchedulerOptions) -> Result<Self> {
        let cpu_threads = options.cpu_cores.ceil() as usize;
        let devices = options.devices.clone();
        let scheduler = Self::without_threads(options)?;
        scheduler.driver().start_threads(cpu_threads, devices)?;
        Ok(scheduler)
    }

    /// Returns a scheduler that runs nothing by itself, for a caller who takes the place of its threads.
    pub(crate) fn without_threads(options: SchedulerOptions) -> Result<Self> {
        if !SchedulerOptions::CPU_CORES.contains(&options.cpu_cores) {
            let (least, most) = SchedulerOptions::CPU_CORES.into_inner();
            let what = format!("cpu_cores must be from {least} to {most}, found {}", options.cpu_cores);
            return Err(Error::invalid_input(what));
        }
        let total = Resources {
            cpu: options.cpu_cores,
            memory_bytes: options.memory_max.0,
            named: options.named,
            device: None,
        };
        let devices = options.devices.into_iter();
        let account = |device: DeviceOptions| DeviceAccount::new(device.class, device.memory_bytes);
        let ledger = Ledger::new(&total, devices.map(account).collect());
        let now = Instant::now();
        let core = Core::new(ledger, Trace::new(options.trace_max, now), options.tasks_max, options.seed, now);
        let spill = SpillDirectory::new(&options.spill_directory, options.spill_max);
        let driver = Arc::new(Driver::new(core, spill, options.stall_after));
        Ok(Self { handle: Arc::new(SchedulerHandle { driver }) })
    }

    pub(crate) fn driver(&self) -> &Arc<Driver> {
        &self.handle.driver
    }

    /// Returns the resources, and how much of them is held.
    pub fn usage(&self) -> Usage {
        self.driver().look(Core::usage)
    }

    /// Returns what runs, what waits, and for what.
    pub fn status(&self) -> SchedulerStatus {
        let spilled_bytes = self.driver().spilled_bytes();
        self.driver().look(|core| core.status(spilled_bytes, Instant::now()))
    }

    /// Writes the newest tries as a timeline in Chrome's Trace Event Format, as many as `trace_max` has room for.
    ///
    /// # Errors
    /// The error that writing fails with.
    pub fn write_trace(&self, to: &mut dyn std::io::Write) -> Result<()> {
        let (usage, classes, trace) = self.driver().look(|core| (core.usage(), core.device_classes(), core.trace()));
        trace.write(&thread_names(usage.total.cpu.ceil() as usize, &classes), to)
    }

    /// Adds a job: a stream of work with a fair share of its own, which lives as long as its handle or its work.
    pub fn job(&self, options: JobOptions) -> Job {
        Job::new(self.driver(), options)
    }

    /// Submits a task and returns a reference to the object that it will make. The task runs once its `inputs` are
    /// there and its resources are free; `function` gets the inputs in the order given.
    ///
    /// The function is called again after an error that may pass, and when its object was lost and is still wanted. Its
    /// result must not depend on the number of calls.
    ///
    /// If an input fails, so does the task's object, with the input's error.
    ///
    /// # Errors
    /// `ResourceExhausted` for a request that can never be met, or when too many tasks wait; `InvalidInput` for a
    /// request with an amount out of range; `Cancelled`.
    pub fn submit<F>(&self, options: &WorkOptions, inputs: &[ObjectRef], function: F) -> Result<ObjectRef>
    where
        F: Fn(&TaskContext, &[Value]) -> Result<Value> + Send + Sync + 'static,
    {
        let spec = Arc::new(self.task_spec(options)?);
        let lineage = Lineage { spec, inputs: self.object_keys(inputs)?, function: Arc::new(function) };
        let object = self.driver().with(|core| core.submit_lineage(lineage, Instant::now()))?;
        Ok(ObjectRef::new(self.driver(), object))
    }

    /// Waits for the resources, runs `work` on a CPU thread, and tries again as `options` allow.
    ///
    /// Dropping the future withdraws work that has not started; work that has started runs to its end.
    ///
    /// # Errors
    /// `ResourceExhausted` at once for a request that can never be met; `Cancelled`; `Internal` when the work panics;
    /// else the work's own error.
    pub async fn run<T, F>(&self, options: &WorkOptions, mut work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnMut(&TaskContext) -> Result<T> + Send + 'static,
    {
        let spec = Arc::new(self.task_spec(options)?);
        let (body, result) = reply::replying(move |environment| work(&environment.context));
        reply::submit_and_wait(self.driver(), NewTask::new(spec, body), result).await
    }

    /// Refuses new work, and waits until all work that was submitted has ended.
    pub async fn drain(&self) {
        if let Some(last_task_ended) = self.driver().with(Core::drain) {
            // The sender is dropped only after the last task has ended.
            let _ = last_task_ended.await;
        }
    }

    /// Converts `options` to the core's terms, and has their cancellation flag reach the waiting tasks.
    pub(super) fn task_spec(&self, options: &WorkOptions) -> Result<TaskSpec> {
        let listener: Arc<dyn OnCancel> = Arc::clone(self.driver()) as _;
        options.cancel.tell(&listener);
        let (request, default_job) = self.driver().look(|core| (core.request(&options.resources), core.default_job()));
        let request = request?;
        let job = options.job.as_ref().map_or(Some(default_job), |job| job.key_in(self.driver())).ok_or_else(|| {
            Error::invalid_input(format!("the job of `{}` belongs to another scheduler", options.name))
        })?;
        Ok(TaskSpec {
            name: options.name.as_str().into(),
            job,
            request,
            retries_max: options.retries_max,
            cancel: options.cancel.clone(),
            hold: None,
        })
    }

    pub(super) fn object_keys(&self, objects: &[ObjectRef]) -> Result<Vec<Key>> {
        let foreign = || Error::invalid_input("an input belongs to another scheduler");
        objects.iter().map(|object| object.key_in(self.driver()).ok_or_else(foreign)).collect()
    }
}

//! How a scheduler, a job and a piece of work are set up.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cenote_base::{ByteSize, Resources, memory_available_bytes};

use crate::accelerator::DeviceOptions;
use crate::cancel::Cancel;
use crate::kernel::Kernel;
use crate::state::arena::Key;
use crate::state::fair::Priority;

/// What a [`Scheduler`](crate::Scheduler) may hand out.
#[derive(Debug, Clone)]
pub struct SchedulerOptions {
    /// CPU cores, at least one thread each.
    pub cpu_cores: f32,
    /// Bytes of memory over all work and objects. By default half of what the container or the machine has.
    pub memory_max: ByteSize,
    /// Units of named resources.
    pub named: BTreeMap<String, u32>,
    /// Devices, each with a thread of its own.
    pub devices: Vec<DeviceOptions>,
    /// Where objects go that memory has no room for, in a directory of their own. By default the system's for temporary
    /// files.
    pub spill_directory: PathBuf,
    /// Bytes of such objects.
    pub spill_max: ByteSize,
    /// Tasks that may wait at once; more are refused.
    pub tasks_max: usize,
    /// After how long without any movement waiting work is reported in the log.
    pub stall_after: Duration,
    /// Memory for the newest tries, which [`write_trace`](crate::Scheduler::write_trace) writes; none by default.
    pub trace_max: ByteSize,
    /// Seeds the jitter of retries.
    pub seed: u64,
}

impl Default for SchedulerOptions {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let read = |path| std::fs::read_to_string(path).ok();
        let (cgroup, machine) = (read("/sys/fs/cgroup/memory.max"), read("/proc/meminfo"));
        let memory = memory_available_bytes(cgroup.as_deref(), machine.as_deref());
        Self {
            cpu_cores: cores as f32,
            memory_max: memory.map_or(ByteSize::mib(1024), |bytes| ByteSize(bytes / 2)),
            named: BTreeMap::new(),
            devices: Vec::new(),
            spill_directory: std::env::temp_dir(),
            spill_max: ByteSize::mib(64 << 10),
            tasks_max: 1 << 20,
            stall_after: Duration::from_secs(30),
            trace_max: ByteSize(0),
            seed: 0,
        }
    }
}

/// How a piece of work is run.
#[derive(Debug, Clone)]
pub struct WorkOptions {
    /// Names the work in errors.
    pub name: String,
    /// What it holds: a task while it runs; an actor all but CPU while a state of it lives, and CPU while a call runs.
    pub resources: Resources,
    /// How often it is tried again after an error that [may pass](cenote_base::ErrorKind::is_retryable).
    pub retries_max: u32,
    /// Stops it.
    pub cancel: Cancel,
    /// Whose work it is; by default that of a job called `default`.
    pub job: Option<Job>,
}

impl WorkOptions {
    /// Work on one core, without retries.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            resources: Resources::default(),
            retries_max: 0,
            cancel: Cancel::default(),
            job: None,
        }
    }

    /// The same with `resources`.
    pub fn resources(mut self, resources: Resources) -> Self {
        self.resources = resources;
        self
    }

    /// The same with at most `retries` retries.
    pub fn retries(mut self, retries: u32) -> Self {
        self.retries_max = retries;
        self
    }

    /// The same, stopped by `cancel`.
    pub fn cancel(mut self, cancel: &Cancel) -> Self {
        self.cancel = cancel.clone();
        self
    }

    /// The same as work of `job`.
    pub fn job(mut self, job: &Job) -> Self {
        self.job = Some(job.clone());
        self
    }
}

/// How a job shares with others.
#[derive(Debug, Clone)]
pub struct JobOptions {
    /// Names it in the status.
    pub name: String,
    /// What goes first.
    pub priority: Priority,
}

impl JobOptions {
    /// A job of normal priority.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), priority: Priority::Normal }
    }

    /// The same with `priority`.
    pub fn priority(mut self, priority: Priority) -> Self {
        self.priority = priority;
        self
    }
}

/// Work that shares what there is with other jobs, however much each of them hands in. Clones are the same job.
#[derive(Clone)]
pub struct Job {
    pub(crate) inner: Arc<JobHandle>,
}

pub(crate) struct JobHandle {
    pub(crate) kernel: Arc<Kernel>,
    pub(crate) key: Key,
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Job").field(&self.inner.key).finish()
    }
}

impl Drop for JobHandle {
    fn drop(&mut self) {
        self.kernel.with(|core| {
            if let Some(job) = core.fair.jobs.get_mut(self.key) {
                job.has_handle = false;
            }
            core.fair.forget_if_done(self.key);
        });
    }
}

//! The settings of a scheduler and of a piece of work.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use cenote_base::{ByteSize, Resources, memory_available_bytes};

use super::job::Job;
use crate::accelerator::DeviceOptions;
use crate::cancel::Cancel;

/// The resources and limits of a [`Scheduler`](crate::Scheduler).
#[derive(Debug, Clone)]
pub struct SchedulerOptions {
    /// CPU cores, within [`CPU_CORES`](Self::CPU_CORES). A thread is started for each, rounded up.
    pub cpu_cores: f32,
    /// Bytes of memory for all work and objects. By default half of what the container or the machine has.
    pub memory_max: ByteSize,
    /// Units of named resources, by name.
    pub named: BTreeMap<String, u32>,
    /// Devices, each with a thread of its own.
    pub devices: Vec<DeviceOptions>,
    /// Parent of the directory that objects are evicted to. By default the system's directory for temporary files.
    pub spill_directory: PathBuf,
    /// Bytes of objects on disk, at most.
    pub spill_max: ByteSize,
    /// Tasks that may wait at once; more are refused.
    pub tasks_max: usize,
    /// A stall is logged when tasks wait and nothing has begun or ended for this time.
    pub stall_after: Duration,
    /// Bytes of memory for the newest tries, which [`write_trace`](crate::Scheduler::write_trace) writes; 0,
    /// the default, keeps none.
    pub trace_max: ByteSize,
    /// The seed of the jitter of retries.
    pub seed: u64,
}

impl SchedulerOptions {
    /// The range of [`cpu_cores`](Self::cpu_cores).
    pub const CPU_CORES: RangeInclusive<f32> = 0.001..=4096.0;
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

/// The settings of a piece of work.
#[derive(Debug, Clone)]
pub struct WorkOptions {
    /// The name of the work in errors and in the status.
    pub name: String,
    /// The resources that the work holds. A task holds them while it runs. A state of an actor holds all but the CPU
    /// for as long as it lives, and a call holds the CPU while it runs.
    pub resources: Resources,
    /// Retries after an error that [may pass](cenote_base::ErrorKind::is_retryable).
    pub retries_max: u32,
    /// The flag that cancels the work.
    pub cancel: Cancel,
    /// The job that the work belongs to; by default one called `default`.
    pub job: Option<Job>,
}

impl WorkOptions {
    /// Returns the settings of work on one core, without retries.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            resources: Resources::default(),
            retries_max: 0,
            cancel: Cancel::default(),
            job: None,
        }
    }

    /// Sets the resources.
    pub fn resources(mut self, resources: Resources) -> Self {
        self.resources = resources;
        self
    }

    /// Sets the number of retries.
    pub fn retries(mut self, retries: u32) -> Self {
        self.retries_max = retries;
        self
    }

    /// Sets the flag that cancels the work.
    pub fn cancel(mut self, cancel: &Cancel) -> Self {
        self.cancel = cancel.clone();
        self
    }

    /// Sets the job.
    pub fn job(mut self, job: &Job) -> Self {
        self.job = Some(job.clone());
        self
    }
}

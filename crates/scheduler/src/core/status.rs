//! Reports: what runs, what waits and for what, and a watchdog for stalls.

use std::fmt;
use std::time::Duration;

use cenote_base::{ByteSize, Resources};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::Core;
use super::task::{Task, TaskState};
use crate::state::arena::Key;
use crate::state::counters::Counters;
use crate::state::fair::QueueHead;
use crate::state::ledger::Demand;

/// Running tasks, and waiting ones, that a [`SchedulerStatus`] names, at most.
const NAMED_MAX: usize = 32;

/// A snapshot of the resources.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Usage {
    /// The resources that the scheduler hands out.
    pub total: Resources,
    /// The resources that are held.
    pub used: Resources,
}

/// A snapshot of a [`Scheduler`](crate::Scheduler). `Display` writes a report for people.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SchedulerStatus {
    /// The resources, and how much of them is held.
    pub usage: Usage,
    /// Bytes of objects in memory that can be evicted.
    pub idle_bytes: u64,
    /// Bytes of objects on disk.
    pub spilled_bytes: u64,
    /// The memory of each device.
    pub devices: Vec<DeviceMemory>,
    /// The number of states of all actors.
    pub replicas: usize,
    /// Tasks that run; at most 32 are named.
    pub running: Vec<Activity>,
    /// Tasks that wait, those of one queue under the name of the oldest; at most 32 are named.
    pub waiting: Vec<Waiting>,
    /// The number of tasks that wait for resources or a thread.
    pub ready: usize,
    /// The number of tasks that have not ended.
    pub live: usize,
    /// Totals since the scheduler was made.
    pub counters: Counters,
}

/// The memory of one device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceMemory {
    /// The class of the device, such as `gpu`.
    pub class: String,
    /// Bytes of its memory.
    pub total_bytes: u64,
    /// Bytes that are held.
    pub used_bytes: u64,
}

/// A task that runs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Activity {
    /// The name of the work.
    pub name: String,
    /// The time since the try began.
    pub elapsed: Duration,
}

/// Tasks that wait for the same thing.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Waiting {
    /// The name of the oldest task.
    pub name: String,
    /// The name of the job.
    pub job: String,
    /// The number of tasks.
    pub count: usize,
    /// How long the oldest task has waited.
    pub elapsed: Duration,
    /// What the oldest task waits for.
    pub reason: String,
}

impl Core {
    pub(crate) fn usage(&self) -> Usage {
        Usage { total: self.ledger.total(), used: self.ledger.used() }
    }

    pub(crate) fn status(&self, spilled_bytes: u64, now: Instant) -> SchedulerStatus {
        let devices = self.ledger.devices().iter();
        let devices = devices.map(|device| DeviceMemory {
            class: device.class().to_owned(),
            total_bytes: device.memory_bytes(),
            used_bytes: device.used_bytes(),
        });
        let running = self.tasks.iter().map(|(_, task)| task).filter(|task| task.is_running());
        let activity = |task: &Task| Activity { name: task.spec.name.to_string(), elapsed: now - task.since };
        SchedulerStatus {
            usage: self.usage(),
            idle_bytes: self.ledger.memory().idle(),
            spilled_bytes,
            devices: devices.collect(),
            replicas: self.actors.state_count(),
            running: running.take(NAMED_MAX).map(activity).collect(),
            waiting: self.waiting(now),
            ready: self.fair.waiting(),
            live: self.tasks.len(),
            counters: self.counters,
        }
    }

    fn waiting(&self, now: Instant) -> Vec<Waiting> {
        let in_queues = self.fair.heads().map(|QueueHead { oldest, tasks, .. }| (oldest, tasks));
        let is_elsewhere =
            |task: &Task| matches!(task.state, TaskState::Inputs(_) | TaskState::Mailbox | TaskState::Backoff);
        let elsewhere = self.tasks.iter().filter(|(_, task)| is_elsewhere(task)).map(|(key, _)| (key, 1));
        let waiting = in_queues.chain(elsewhere).take(NAMED_MAX).filter_map(|(key, count)| {
            let task = self.tasks.get(key)?;
            Some(Waiting {
                name: task.spec.name.to_string(),
                job: self.fair.job_name(task.spec.job).to_owned(),
                count,
                elapsed: now - task.since,
                reason: self.waits_for(key).unwrap_or_else(|| "a thread".to_owned()),
            })
        });
        waiting.collect()
    }

    /// Describes what a task that does not run waits for; `None` if only for a thread.
    fn waits_for(&self, key: Key) -> Option<String> {
        let task = self.tasks.get(key)?;
        match &task.state {
            TaskState::Running(_) => None,
            TaskState::Inputs(missing) => Some(format!("{missing} inputs that are still to be made")),
            TaskState::Mailbox => Some("its turn on the actor".to_owned()),
            TaskState::Backoff => Some(format!("try {} after a pause", task.attempt + 1)),
            TaskState::Ready => match self.objects.pin_bytes(&task.distinct_inputs) {
                None => Some("an input that is being read back from disk".to_owned()),
                Some(inputs_bytes) => self.ledger.lacks(Demand { request: task.request(&self.actors), inputs_bytes }),
            },
        }
    }

    /// Returns a report when tasks wait and nothing has begun or ended for `limit`.
    pub(crate) fn stall(&self, now: Instant, limit: Duration) -> Option<String> {
        let still = now - self.last_progress;
        if still < limit || self.tasks.iter().all(|(_, task)| task.is_running()) {
            return None;
        }
        let status = self.status(0, now);
        Some(format!("nothing has begun or ended for {still:.0?}\n{status}"))
    }
}

impl SchedulerStatus {
    /// Writes the numbers in the Prometheus text format, version 0.0.4.
    pub fn to_prometheus(&self) -> String {
        let mut text = String::new();
        let mut write = |name: &str, kind: &str, help: &str, samples: &[(String, f64)]| {
            text += &format!("# HELP cenote_scheduler_{name} {help}\n# TYPE cenote_scheduler_{name} {kind}\n");
            for (labels, value) in samples {
                text += &format!("cenote_scheduler_{name}{labels} {value}\n");
            }
        };
        let one = |value: f64| vec![(String::new(), value)];
        let counters = &self.counters;
        for (name, help, value) in [
            ("tasks_submitted_total", "Tasks and calls accepted", counters.submitted),
            ("tasks_completed_total", "Tasks and calls that ended well", counters.completed),
            ("tasks_failed_total", "Tasks and calls that ended with an error", counters.failed),
            ("tries_total", "Tries that began", counters.started),
            ("retries_total", "Tries after the first", counters.retried),
            ("objects_made_again_total", "Lost objects made again", counters.made_again),
            ("objects_spilled_total", "Objects written to disk", counters.spilled),
            ("objects_restored_total", "Objects read back from disk", counters.restored),
        ] {
            write(name, "counter", help, &one(value as f64));
        }
        for (name, help, value) in [
            ("waited_seconds_total", "Time between being ready and being started", counters.waited),
            ("service_seconds_total", "Run time", counters.service),
        ] {
            write(name, "counter", help, &one(value.as_secs_f64()));
        }
        for (name, help, value) in [
            ("tasks_ready", "Tasks that wait for resources or a thread", self.ready as f64),
            ("tasks_live", "Tasks that have not ended", self.live as f64),
            ("actor_states", "States of actors", self.replicas as f64),
            ("memory_idle_bytes", "Objects in memory that can be evicted", self.idle_bytes as f64),
            ("spilled_bytes", "Objects on disk", self.spilled_bytes as f64),
        ] {
            write(name, "gauge", help, &one(value));
        }
        for (name, help, resources) in [
            ("resource_total", "Resources that the scheduler hands out", &self.usage.total),
            ("resource_used", "Resources that are held", &self.usage.used),
        ] {
            let mut samples = vec![
                (label("resource", "cpu"), f64::from(resources.cpu)),
                (label("resource", "memory_bytes"), resources.memory_bytes as f64),
            ];
            let named = resources.named.iter();
            samples.extend(named.map(|(name, units)| (label("resource", name), f64::from(*units))));
            write(name, "gauge", help, &samples);
        }
        text
    }
}

fn label(name: &str, value: &str) -> String {
    let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    format!("{{{name}=\"{value}\"}}")
}

impl fmt::Display for SchedulerStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (total, used) = (&self.usage.total, &self.usage.used);
        write!(f, "cpu {}/{}", used.cpu, total.cpu)?;
        write!(f, ", memory {}/{}", ByteSize(used.memory_bytes), ByteSize(total.memory_bytes))?;
        write!(f, " and {} idle, {} on disk", ByteSize(self.idle_bytes), ByteSize(self.spilled_bytes))?;
        for (name, units) in &total.named {
            write!(f, ", {name} {}/{units}", used.named.get(name).copied().unwrap_or_default())?;
        }
        for DeviceMemory { class, total_bytes, used_bytes } in &self.devices {
            write!(f, ", {class} {}/{}", ByteSize(*used_bytes), ByteSize(*total_bytes))?;
        }
        for Activity { name, elapsed } in &self.running {
            write!(f, "\n  `{name}` has run for {elapsed:.1?}")?;
        }
        for Waiting { name, job, count, elapsed, reason } in &self.waiting {
            write!(f, "\n  {count} `{name}` of job `{job}` wait for {reason}, the oldest for {elapsed:.1?}")?;
        }
        Ok(())
    }
}

//! What runs, what waits, and for what.

use std::fmt;
use std::time::Duration;

use cenote_base::{ByteSize, Resources};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::core::Core;
use crate::state::arena::Key;
use crate::state::counters::Counters;
use crate::state::task::{Task, TaskState};

/// Tasks named in a [`Status`] at most, of each kind; the rest are counted.
const NAMED_MAX: usize = 32;

/// A moment's view of what is held.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    /// What there is.
    pub total: Resources,
    /// What is held.
    pub used: Resources,
}

/// A moment's view of a [`Scheduler`](crate::Scheduler). Its text is for people.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    /// What there is and what is held.
    pub usage: Usage,
    /// Bytes of objects in memory that can make room.
    pub idle_bytes: u64,
    /// Bytes of objects on disk.
    pub spilled_bytes: u64,
    /// Class, bytes shared out and bytes in all of each device.
    pub devices: Vec<(String, u64, u64)>,
    /// States of actors.
    pub replicas: usize,
    /// Tasks on workers; at most 32.
    pub running: Vec<Activity>,
    /// The oldest task of each queue, and others that wait; at most 32.
    pub waiting: Vec<Waiting>,
    /// Tasks that wait for resources or a thread.
    pub ready: usize,
    /// Tasks that have not ended.
    pub live: usize,
    /// Sums since the start.
    pub counters: Counters,
}

/// A task that runs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Activity {
    /// What it calls itself.
    pub name: String,
    /// Since it was started.
    pub elapsed: Duration,
}

/// Tasks that wait for the same.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Waiting {
    /// What the oldest calls itself.
    pub name: String,
    /// Whose work it is.
    pub job: String,
    /// How many there are.
    pub count: usize,
    /// Since the oldest waits.
    pub elapsed: Duration,
    /// What it waits for.
    pub reason: String,
}

impl Core {
    pub(crate) fn usage(&self) -> Usage {
        Usage { total: self.ledger.total(), used: self.ledger.used() }
    }

    pub(crate) fn status(&self, spilled_bytes: u64, now: Instant) -> Status {
        let devices = self.ledger.devices.iter();
        let running = self.tasks.iter().filter(|(_, task)| matches!(task.state, TaskState::Running(_)));
        let activity = |task: &Task| Activity { name: task.spec.name.clone(), elapsed: now - task.since };
        Status {
            usage: self.usage(),
            idle_bytes: self.ledger.memory.idle,
            spilled_bytes,
            devices: devices.map(|device| (device.class.clone(), device.used_bytes, device.memory_bytes)).collect(),
            replicas: self.actors.replicas(),
            running: running.take(NAMED_MAX).map(|(_, task)| activity(task)).collect(),
            waiting: self.waiting(now),
            ready: self.fair.waiting(),
            live: self.tasks.len(),
            counters: self.counters,
        }
    }

    fn waiting(&self, now: Instant) -> Vec<Waiting> {
        let queues = self.fair.queues().map(|(_, _, count, oldest)| (oldest, count));
        let elsewhere = self
            .tasks
            .iter()
            .filter(|(_, task)| matches!(task.state, TaskState::Inputs(_) | TaskState::Mailbox | TaskState::Backoff));
        let tasks = queues.chain(elsewhere.map(|(key, _)| (key, 1))).take(NAMED_MAX);
        let waiting = tasks.filter_map(|(key, count)| {
            let task = self.tasks.get(key)?;
            let job = self.fair.jobs.get(task.spec.job).map_or_else(String::new, |job| job.name.clone());
            let reason = self.waits_for(key).unwrap_or_else(|| "a thread".to_owned());
            Some(Waiting { name: task.spec.name.clone(), job, count, elapsed: now - task.since, reason })
        });
        waiting.collect()
    }

    /// What a task that does not run waits for, for people.
    pub(crate) fn waits_for(&self, key: Key) -> Option<String> {
        let task = self.tasks.get(key)?;
        match &task.state {
            TaskState::Running(_) => None,
            TaskState::Inputs(missing) => Some(format!("{missing} inputs that are still to be made")),
            TaskState::Mailbox => Some("its turn on the actor".to_owned()),
            TaskState::Backoff => Some(format!("try {} after a pause", task.attempt + 1)),
            TaskState::Ready => {
                let bytes: Option<u64> = task.distinct.iter().map(|input| self.objects.pin_bytes(*input)).sum();
                match bytes {
                    None => Some("an input that is being read back from disk".to_owned()),
                    Some(bytes) => self.ledger.lacks(self.actors.request(task), bytes),
                }
            }
        }
    }

    /// A report, when tasks wait and nothing has begun or ended for `limit`.
    pub(crate) fn stall(&self, now: Instant, limit: Duration) -> Option<String> {
        let still = now - self.moved;
        let waits = |task: &Task| !matches!(task.state, TaskState::Running(_));
        if still < limit || !self.tasks.iter().any(|(_, task)| waits(task)) {
            return None;
        }
        let status = self.status(0, now);
        Some(format!("nothing has begun or ended for {still:.0?}\n{status}"))
    }
}

impl Status {
    /// The numbers as Prometheus' text format, version 0.0.4.
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
            ("tasks_submitted_total", "Tasks and calls taken in", counters.submitted),
            ("tasks_completed_total", "Tasks and calls that ended well", counters.completed),
            ("tasks_failed_total", "Tasks and calls that ended with an error", counters.failed),
            ("tries_total", "Tries begun", counters.started),
            ("retries_total", "Tries after the first", counters.retried),
            ("objects_made_again_total", "Lost objects made again", counters.made_again),
            ("objects_spilled_total", "Objects written to disk", counters.spilled),
            ("objects_restored_total", "Objects read back from disk", counters.restored),
        ] {
            write(name, "counter", help, &one(value as f64));
        }
        for (name, help, value) in [
            ("waited_seconds_total", "Time tasks were ready and not begun", counters.waited),
            ("service_seconds_total", "Time on workers", counters.service),
        ] {
            write(name, "counter", help, &one(value.as_secs_f64()));
        }
        for (name, help, value) in [
            ("tasks_ready", "Tasks that wait for resources", self.ready as f64),
            ("tasks_live", "Tasks that have not ended", self.live as f64),
            ("actor_states", "States of actors", self.replicas as f64),
            ("memory_idle_bytes", "Objects in memory that can make room", self.idle_bytes as f64),
            ("spilled_bytes", "Objects on disk", self.spilled_bytes as f64),
        ] {
            write(name, "gauge", help, &one(value));
        }
        for (name, help, resources) in [
            ("resource_total", "What there is to hand out", &self.usage.total),
            ("resource_used", "What is held", &self.usage.used),
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

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (total, used) = (&self.usage.total, &self.usage.used);
        write!(f, "cpu {}/{}", used.cpu, total.cpu)?;
        write!(f, ", memory {}/{}", ByteSize(used.memory_bytes), ByteSize(total.memory_bytes))?;
        write!(f, " and {} idle, {} on disk", ByteSize(self.idle_bytes), ByteSize(self.spilled_bytes))?;
        for (name, units) in &total.named {
            write!(f, ", {name} {}/{units}", used.named.get(name).copied().unwrap_or_default())?;
        }
        for (class, used, total) in &self.devices {
            write!(f, ", {class} {}/{}", ByteSize(*used), ByteSize(*total))?;
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

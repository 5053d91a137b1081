//! The order of waiting tasks: by priority, then by what each job has used, then by age.
//!
//! Jobs of one priority share by start-time fair queueing (Goyal, Vin, Cheng, IEEE/ACM ToN 1997). Each has a virtual
//! time that grows by the seconds that its work ran, times the dominant share that the work held; the job that lags
//! furthest is next. Work that does not fit at the moment is passed over, but not for ever: after [`PASSED_OVER_MAX`]
//! times, work that would take what it lacks waits behind it.

use std::collections::VecDeque;
use std::time::Duration;

use super::arena::{Arena, Key};
use super::ledger::{Demand, Ledger, ResourceRequest};

/// Contending tasks that may start ahead of a request that does not fit.
pub(crate) const PASSED_OVER_MAX: u32 = 32;
/// The expected run time of a job's tasks before any of them has ended.
const FIRST_SERVICE: Duration = Duration::from_millis(1);
/// Weight of the newest run time in a job's expected run time.
const SERVICE_WEIGHT: f64 = 1.0 / 8.0;

/// The urgency of a job. Work of a higher priority always goes first; lower priorities wait for as long as there is
/// any.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Priority {
    /// Work that nobody waits for, such as filling a column.
    Backfill,
    /// Everything else.
    #[default]
    Normal,
    /// Work that somebody waits for, such as a query.
    Interactive,
}

/// The queues of all jobs.
#[derive(Debug)]
pub(crate) struct FairQueue {
    jobs: Arena<JobQueues>,
    /// The virtual time of the newest start, by priority: a job that was idle resumes there.
    virtual_now_s: [f64; 3],
    arrivals: u64,
    waiting: usize,
    /// Jobs that have waiting tasks, in the order of their turn. Kept to reuse its memory.
    turns: Vec<JobTurn>,
}

/// The queues of one job, and what the job has used.
#[derive(Debug)]
struct JobQueues {
    name: String,
    priority: Priority,
    virtual_s: f64,
    /// The expected run time of a task: the moving average of those that ended.
    service_s: f64,
    queues: Vec<RequestQueue>,
    waiting: usize,
    running: usize,
    /// Tasks that have not ended, in whatever state.
    live: usize,
    has_handle: bool,
}

/// The waiting tasks of one job that make the same request, oldest first.
#[derive(Debug)]
struct RequestQueue {
    request: ResourceRequest,
    tasks: VecDeque<QueuedTask>,
    passed_over: u32,
}

#[derive(Debug)]
struct QueuedTask {
    arrival: u64,
    task: Key,
}

#[derive(Debug)]
struct JobTurn {
    priority: Priority,
    virtual_s: f64,
    job: Key,
}

/// The oldest task of a queue while [`FairQueue::pick`] looks for the next one to start.
struct Candidate {
    job: Key,
    queue: usize,
    inputs_bytes: u64,
}

/// A task that was taken out of its queue, and the virtual time that its job was charged in advance.
#[derive(Debug)]
pub(crate) struct Picked {
    pub(crate) task: Key,
    pub(crate) charged_s: f64,
}

/// A view of one queue.
pub(crate) struct QueueHead<'a> {
    pub(crate) request: &'a ResourceRequest,
    pub(crate) oldest: Key,
    pub(crate) tasks: usize,
}

impl RequestQueue {
    fn demand(&self, inputs_bytes: u64) -> Demand<'_> {
        Demand { request: &self.request, inputs_bytes }
    }
}

impl FairQueue {
    pub(crate) fn new() -> Self {
        Self { jobs: Arena::default(), virtual_now_s: [0.0; 3], arrivals: 0, waiting: 0, turns: Vec::new() }
    }

    /// Adds a job, which is kept until its handle is dropped and its last task has ended.
    pub(crate) fn add_job(&mut self, name: String, priority: Priority) -> Key {
        self.jobs.insert(JobQueues {
            name,
            priority,
            virtual_s: 0.0,
            service_s: FIRST_SERVICE.as_secs_f64(),
            queues: Vec::new(),
            waiting: 0,
            running: 0,
            live: 0,
            has_handle: true,
        })
    }

    pub(crate) fn job_name(&self, job: Key) -> &str {
        self.jobs.get(job).map_or("", |job| &job.name)
    }

    /// Marks that the handle of a job was dropped.
    pub(crate) fn close_job(&mut self, key: Key) {
        if let Some(job) = self.jobs.get_mut(key) {
            job.has_handle = false;
            self.forget_if_done(key);
        }
    }

    /// Counts a task that was submitted for `job`.
    pub(crate) fn task_submitted(&mut self, job: Key) {
        if let Some(job) = self.jobs.get_mut(job) {
            job.live += 1;
        }
    }

    /// Discounts a task of job `key` that has ended.
    pub(crate) fn task_ended(&mut self, key: Key) {
        if let Some(job) = self.jobs.get_mut(key) {
            job.live -= 1;
            self.forget_if_done(key);
        }
    }

    fn forget_if_done(&mut self, key: Key) {
        if self.jobs.get(key).is_some_and(|job| job.live == 0 && !job.has_handle) {
            self.jobs.remove(key);
        }
    }

    pub(crate) fn push(&mut self, job: Key, request: &ResourceRequest, task: Key) {
        let Some(job) = self.jobs.get_mut(job) else { return };
        if job.waiting == 0 && job.running == 0 {
            job.virtual_s = job.virtual_s.max(self.virtual_now_s[job.priority as usize]);
        }
        job.waiting += 1;
        self.waiting += 1;
        self.arrivals += 1;
        let task = QueuedTask { arrival: self.arrivals, task };
        match job.queues.iter_mut().find(|queue| queue.request == *request) {
            Some(queue) => queue.tasks.push_back(task),
            None => {
                let tasks = VecDeque::from([task]);
                job.queues.push(RequestQueue { request: request.clone(), tasks, passed_over: 0 });
            }
        }
    }

    /// Removes a task that is not to start any more.
    pub(crate) fn remove(&mut self, job: Key, task: Key) {
        let Some(job) = self.jobs.get_mut(job) else { return };
        for queue in &mut job.queues {
            if let Some(position) = queue.tasks.iter().position(|waiting| waiting.task == task) {
                queue.tasks.remove(position);
                queue.passed_over = if position == 0 { 0 } else { queue.passed_over };
                job.waiting -= 1;
                self.waiting -= 1;
            }
        }
        job.queues.retain(|queue| !queue.tasks.is_empty());
    }

    /// Takes out the task that starts next on a CPU thread, or on the thread of the device with number `device`.
    /// `inputs_bytes` returns the memory that pinning a task's inputs adds, or `None` if they cannot be pinned now
    /// because one is being read.
    pub(crate) fn pick(
        &mut self,
        device: Option<usize>,
        ledger: &Ledger,
        inputs_bytes: impl Fn(Key) -> Option<u64>,
    ) -> Option<Picked> {
        self.sort_turns();
        let mut chosen = None;
        // Heads that do not fit now, in the order of their turn. Those passed over too often hold back what contends.
        let mut misfits: Vec<Candidate> = Vec::new();
        'search: for turn in &self.turns {
            let job = self.jobs.get(turn.job)?;
            for number in by_age(&job.queues) {
                let queue = &job.queues[number];
                let Some(inputs_bytes) = queue.tasks.front().and_then(|oldest| inputs_bytes(oldest.task)) else {
                    continue;
                };
                let candidate = Candidate { job: turn.job, queue: number, inputs_bytes };
                let demand = queue.demand(inputs_bytes);
                if queue.request.is_for_device() == device.is_some() && ledger.fits(demand, device) {
                    let is_held_back = misfits.iter().any(|misfit| {
                        self.queue(misfit).is_some_and(|ahead| {
                            ahead.passed_over >= PASSED_OVER_MAX
                                && ledger.contend(ahead.demand(misfit.inputs_bytes), demand)
                        })
                    });
                    if !is_held_back {
                        chosen = Some(candidate);
                        break 'search;
                    }
                } else if ledger.lacks(demand).is_some() {
                    misfits.push(candidate);
                }
            }
        }
        let chosen = chosen?;
        let request = self.queue(&chosen)?.request.clone();
        let demand = Demand { request: &request, inputs_bytes: chosen.inputs_bytes };
        for misfit in misfits {
            if let Some(queue) = self.jobs.get_mut(misfit.job).map(|job| &mut job.queues[misfit.queue])
                && ledger.contend(queue.demand(misfit.inputs_bytes), demand)
            {
                queue.passed_over += 1;
            }
        }
        let job = self.jobs.get_mut(chosen.job)?;
        let queue = &mut job.queues[chosen.queue];
        let QueuedTask { task, .. } = queue.tasks.pop_front()?;
        queue.passed_over = 0;
        if queue.tasks.is_empty() {
            job.queues.remove(chosen.queue);
        }
        job.waiting -= 1;
        self.waiting -= 1;
        job.running += 1;
        let now = &mut self.virtual_now_s[job.priority as usize];
        *now = now.max(job.virtual_s);
        let charged_s = ledger.dominant_share(&request) * job.service_s;
        job.virtual_s += charged_s;
        Some(Picked { task, charged_s })
    }

    fn queue(&self, candidate: &Candidate) -> Option<&RequestQueue> {
        self.jobs.get(candidate.job).map(|job| &job.queues[candidate.queue])
    }

    /// Replaces what a job was charged in advance for a task by what the task used: `share` for the time `service`.
    pub(crate) fn ran(&mut self, job: Key, charged_s: f64, share: f64, service: Duration) {
        let Some(job) = self.jobs.get_mut(job) else { return };
        job.running -= 1;
        let service_s = service.as_secs_f64();
        job.virtual_s += share * service_s - charged_s;
        job.service_s += (service_s - job.service_s) * SERVICE_WEIGHT;
    }

    fn sort_turns(&mut self) {
        self.turns.clear();
        let waiting = self.jobs.iter().filter(|(_, job)| job.waiting > 0);
        let turn =
            |(key, job): (Key, &JobQueues)| JobTurn { priority: job.priority, virtual_s: job.virtual_s, job: key };
        self.turns.extend(waiting.map(turn));
        self.turns.sort_unstable_by(|a, b| {
            b.priority.cmp(&a.priority).then(a.virtual_s.total_cmp(&b.virtual_s)).then(a.job.cmp(&b.job))
        });
    }

    /// Returns the number of tasks in queues.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting
    }

    /// Returns a view of each queue.
    pub(crate) fn heads(&self) -> impl Iterator<Item = QueueHead<'_>> {
        let queues = self.jobs.iter().flat_map(|(_, job)| &job.queues);
        queues.filter_map(|RequestQueue { request, tasks, .. }| {
            tasks.front().map(|oldest| QueueHead { request, oldest: oldest.task, tasks: tasks.len() })
        })
    }

    /// Panics unless the counts agree with the queues, `running` tasks run, and no queue was passed over too often.
    #[cfg(test)]
    pub(crate) fn audit(&self, running: usize) {
        let mut waiting = 0;
        for (_, job) in self.jobs.iter() {
            assert_eq!(job.waiting, job.queues.iter().map(|queue| queue.tasks.len()).sum::<usize>());
            assert!(job.queues.iter().all(|queue| !queue.tasks.is_empty() && queue.passed_over <= PASSED_OVER_MAX));
            assert!(job.live >= job.waiting + job.running);
            waiting += job.waiting;
        }
        assert_eq!(self.waiting, waiting);
        assert_eq!(self.jobs.iter().map(|(_, job)| job.running).sum::<usize>(), running);
    }
}

/// Returns the indices of the queues, the one with the oldest head first.
fn by_age(queues: &[RequestQueue]) -> Vec<usize> {
    let mut numbers: Vec<usize> = (0..queues.len()).collect();
    numbers.sort_unstable_by_key(|number| queues[*number].tasks.front().map(|oldest| oldest.arrival));
    numbers
}

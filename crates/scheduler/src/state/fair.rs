//! Whose turn it is: priorities first, then jobs by what they have had, then tasks by age.
//!
//! Jobs of one priority share by start-time fair queueing (Goyal, Vin, Cheng, IEEE/ACM ToN 1997): each has a virtual
//! time that grows by the seconds of its work times the dominant share it held, and the job furthest behind is next.
//! What does not fit at the moment is passed over, but not for ever: after [`PASSED_OVER_MAX`] times, work that would
//! take what it lacks waits behind it.

use std::collections::VecDeque;
use std::time::Duration;

use crate::state::arena::{Arena, Key};
use crate::state::ledger::{Ledger, Request};

/// How often other work may start in front of a request that does not fit.
pub(crate) const PASSED_OVER_MAX: u32 = 32;
/// What a job's work is taken to last before any of it has ended.
const SERVICE_FIRST: Duration = Duration::from_millis(1);

/// Which waiting work goes first. Higher ones always go before lower ones, which then wait as long as it takes.
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

/// On which threads a task may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Place {
    /// Any CPU thread.
    Pool,
    /// The thread of any device of the class that the request names.
    DeviceOfClass,
    /// The thread of one device.
    Device(usize),
}

/// A stream of work with a share of its own.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) name: String,
    priority: Priority,
    virtual_s: f64,
    service_s: f64,
    queues: Vec<Queue>,
    pub(crate) waiting: usize,
    pub(crate) running: usize,
    /// Tasks that are not finished, in whatever state.
    pub(crate) live: usize,
    pub(crate) has_handle: bool,
}

/// Tasks of one job that ask for the same, oldest first.
#[derive(Debug)]
struct Queue {
    place: Place,
    request: Request,
    tasks: VecDeque<(u64, Key)>,
    passed_over: u32,
}

/// A task that was taken out of its queue, and what it was charged in advance.
#[derive(Debug)]
pub(crate) struct Picked {
    pub(crate) task: Key,
    pub(crate) charged_s: f64,
}

#[derive(Debug)]
pub(crate) struct Fair {
    pub(crate) jobs: Arena<Job>,
    /// Virtual time of the newest start, by priority: where a job that was idle begins.
    virtual_now_s: [f64; 3],
    arrivals: u64,
    waiting: usize,
    order: Vec<(Priority, f64, Key)>,
}

impl Fair {
    pub(crate) fn new() -> Self {
        Self { jobs: Arena::default(), virtual_now_s: [0.0; 3], arrivals: 0, waiting: 0, order: Vec::new() }
    }

    pub(crate) fn add_job(&mut self, name: String, priority: Priority) -> Key {
        self.jobs.insert(Job {
            name,
            priority,
            virtual_s: 0.0,
            service_s: SERVICE_FIRST.as_secs_f64(),
            queues: Vec::new(),
            waiting: 0,
            running: 0,
            live: 0,
            has_handle: true,
        })
    }

    /// Forgets a job that has neither work nor handle.
    pub(crate) fn forget_if_done(&mut self, key: Key) {
        if self.jobs.get(key).is_some_and(|job| job.live == 0 && !job.has_handle) {
            self.jobs.remove(key);
        }
    }

    pub(crate) fn push(&mut self, job: Key, place: Place, request: &Request, task: Key) {
        let Some(job) = self.jobs.get_mut(job) else { return };
        if job.waiting == 0 && job.running == 0 {
            job.virtual_s = job.virtual_s.max(self.virtual_now_s[job.priority as usize]);
        }
        job.waiting += 1;
        self.waiting += 1;
        self.arrivals += 1;
        let same = |queue: &&mut Queue| queue.place == place && queue.request == *request;
        match job.queues.iter_mut().find(same) {
            Some(queue) => queue.tasks.push_back((self.arrivals, task)),
            None => {
                let tasks = VecDeque::from([(self.arrivals, task)]);
                job.queues.push(Queue { place, request: request.clone(), tasks, passed_over: 0 });
            }
        }
    }

    /// Takes a task out that is not to start any more.
    pub(crate) fn remove(&mut self, job: Key, task: Key) {
        let Some(job) = self.jobs.get_mut(job) else { return };
        for queue in &mut job.queues {
            if let Some(position) = queue.tasks.iter().position(|(_, waiting)| *waiting == task) {
                queue.tasks.remove(position);
                queue.passed_over = if position == 0 { 0 } else { queue.passed_over };
                job.waiting -= 1;
                self.waiting -= 1;
            }
        }
        job.queues.retain(|queue| !queue.tasks.is_empty());
    }

    /// The task that starts next on a thread of `place`. `inputs_bytes` says what a task's inputs add to the memory
    /// that is held, or `None` if it cannot start because they are being read.
    pub(crate) fn pick(
        &mut self,
        place: Place,
        ledger: &Ledger,
        inputs_bytes: impl Fn(Key) -> Option<u64>,
    ) -> Option<Picked> {
        self.sort_jobs();
        let device = if let Place::Device(number) = place { Some(number) } else { None };
        let mut chosen = None;
        // Heads that do not fit now, in order of their turn; those passed over too often hold back what contends.
        let mut misfits: Vec<(Key, usize, u64)> = Vec::new();
        'search: for &(_, _, key) in &self.order {
            let job = self.jobs.get(key)?;
            for number in by_age(&job.queues) {
                let queue = &job.queues[number];
                let Some(&(_, task)) = queue.tasks.front() else { continue };
                let Some(inputs) = inputs_bytes(task) else { continue };
                let here = queue.place == place || (queue.place == Place::DeviceOfClass && device.is_some());
                if here && ledger.fits(&queue.request, device, inputs) {
                    let held_back = misfits.iter().any(|&(owner, misfit, misfit_inputs)| {
                        let ahead = self.jobs.get(owner).map(|job| &job.queues[misfit]);
                        ahead.is_some_and(|ahead| {
                            ahead.passed_over >= PASSED_OVER_MAX
                                && ledger.contend(&ahead.request, misfit_inputs, &queue.request, inputs)
                        })
                    });
                    if !held_back {
                        chosen = Some((key, number, inputs));
                        break 'search;
                    }
                } else if ledger.lacks(&queue.request, inputs).is_some() {
                    misfits.push((key, number, inputs));
                }
            }
        }
        let (key, number, inputs) = chosen?;
        let request = self.jobs.get(key)?.queues[number].request.clone();
        for (owner, misfit, misfit_inputs) in misfits {
            if let Some(queue) = self.jobs.get_mut(owner).map(|job| &mut job.queues[misfit])
                && ledger.contend(&queue.request, misfit_inputs, &request, inputs)
            {
                queue.passed_over += 1;
            }
        }
        let job = self.jobs.get_mut(key)?;
        let queue = &mut job.queues[number];
        let (_, task) = queue.tasks.pop_front()?;
        queue.passed_over = 0;
        if queue.tasks.is_empty() {
            job.queues.remove(number);
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

    /// A task that was picked has run for `service`: what it was charged becomes what it used.
    pub(crate) fn ran(&mut self, job: Key, charged_s: f64, share: f64, service: Duration) {
        let Some(job) = self.jobs.get_mut(job) else { return };
        job.running -= 1;
        let service_s = service.as_secs_f64();
        job.virtual_s += share * service_s - charged_s;
        job.service_s += (service_s - job.service_s) / 8.0;
    }

    fn sort_jobs(&mut self) {
        self.order.clear();
        let waiting = self.jobs.iter().filter(|(_, job)| job.waiting > 0);
        self.order.extend(waiting.map(|(key, job)| (job.priority, job.virtual_s, key)));
        if self.order.len() > 1 {
            self.order.sort_unstable_by(|a, b| b.0.cmp(&a.0).then(a.1.total_cmp(&b.1)).then(a.2.cmp(&b.2)));
        }
    }

    /// Tasks in queues.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting
    }

    /// Panics unless the counts agree with the queues, `running` tasks run, and nothing was passed over beyond its due.
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

    /// Each queue's job, request, length and oldest task.
    pub(crate) fn queues(&self) -> impl Iterator<Item = (&Job, &Request, usize, Key)> {
        self.jobs.iter().flat_map(|(_, job)| {
            job.queues.iter().filter_map(move |queue| {
                queue.tasks.front().map(|(_, oldest)| (job, &queue.request, queue.tasks.len(), *oldest))
            })
        })
    }
}

/// The queues' numbers, the one with the oldest head first.
fn by_age(queues: &[Queue]) -> Vec<usize> {
    let mut numbers: Vec<usize> = (0..queues.len()).collect();
    numbers.sort_unstable_by_key(|number| queues[*number].tasks.front().map(|(arrival, _)| *arrival));
    numbers
}

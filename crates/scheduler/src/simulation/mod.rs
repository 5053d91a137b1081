//! The scheduler without its threads: a paused clock, and a seed that decides what happens next.
//!
//! The tests see what callers see, and begin and end tries in place of threads. Apart from the bounds that they check,
//! they do not know how the core decides.
//!
//! `CENOTE_SEED=n` replays one seed; `CENOTE_LONG=1` runs thousands.

mod chaos;
mod fairness;
mod makespan;
mod placing;
mod stall;

use std::time::Duration;

use cenote_base::Random;
use tokio::time::Instant;

use crate::accelerator::Accelerator;
use crate::core::running::WorkerThread;
use crate::driver::worker::{Begun, EndedTry};
use crate::front::options::SchedulerOptions;
use crate::front::scheduler::Scheduler;

/// Runs `test` for every seed, each on a paused clock of its own.
fn for_seeds<F: Future<Output = ()>>(normally: u64, in_long_runs: u64, test: impl Fn(u64) -> F) {
    let chosen = |name| std::env::var(name).ok();
    let seeds = match chosen("CENOTE_SEED") {
        Some(text) => {
            let seed = text.parse().unwrap_or_else(|error| panic!("CENOTE_SEED={text}: {error}"));
            seed..seed + 1
        }
        None if chosen("CENOTE_LONG").is_some() => 0..in_long_runs,
        None => 0..normally,
    };
    for seed in seeds {
        let hint = ReplayHint(seed);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.unwrap_or_else(|error| panic!("{error}")).block_on(test(seed));
        std::mem::forget(hint);
    }
}

/// Prints how to replay a seed when a test panics.
struct ReplayHint(u64);

impl Drop for ReplayHint {
    fn drop(&mut self) {
        eprintln!("replay with CENOTE_SEED={}", self.0);
    }
}

/// A try on a simulated thread. It has run already, and ends at a later time.
struct InFlight {
    until: Instant,
    ended: EndedTry,
}

struct SimulatedThread {
    worker: WorkerThread,
    device: Option<Box<dyn Accelerator>>,
    in_flight: Option<InFlight>,
}

/// Simulated threads, whose tries take as long as they are told.
struct SimulatedThreads {
    scheduler: Scheduler,
    threads: Vec<SimulatedThread>,
}

impl SimulatedThreads {
    fn new(options: SchedulerOptions) -> Self {
        let cpu_threads = (0..options.cpu_cores.ceil() as usize).map(|_| (None, None));
        let devices = options.devices.iter().enumerate();
        let devices = devices.map(|(number, device)| (Some(number), (device.open)().ok()));
        let thread = |(thread, (device_number, device))| SimulatedThread {
            worker: WorkerThread { thread, device: device_number },
            device,
            in_flight: None,
        };
        let threads = cpu_threads.chain(devices).enumerate().map(thread).collect();
        let scheduler = Scheduler::without_threads(options).unwrap_or_else(|error| panic!("{error}"));
        Self { scheduler, threads }
    }

    fn count(&self) -> usize {
        self.threads.len()
    }

    /// Has an idle thread, chosen at random, start the next task, which then takes as long as `lasts` returns. Returns
    /// whether a task was started.
    async fn begin(&mut self, random: &mut Random, mut lasts: impl FnMut(&mut Random) -> Duration) -> bool {
        let is_idle = |number: &usize| self.threads[*number].in_flight.is_none();
        let mut idle: Vec<usize> = (0..self.threads.len()).filter(is_idle).collect();
        while !idle.is_empty() {
            let number = idle.swap_remove(random.below(idle.len() as u64) as usize);
            let thread = &mut self.threads[number];
            match self.scheduler.driver().begin(thread.worker, &mut thread.device) {
                Begun::Ran(ended) => {
                    thread.in_flight = Some(InFlight { until: Instant::now() + lasts(random), ended });
                    return true;
                }
                Begun::Restarted => return true,
                Begun::NoTask => {}
            }
        }
        false
    }

    /// Moves the clock to the next time at which a try ends or a timer is due. Returns whether there is one.
    async fn advance(&mut self) -> bool {
        let ends = self.threads.iter().filter_map(|thread| thread.in_flight.as_ref()).map(|flight| flight.until);
        let timer = self.scheduler.driver().look(|core| core.next_timer());
        let Some(next) = ends.chain(timer).min() else { return false };
        // The clock moves in steps of a millisecond.
        let wait = next.saturating_duration_since(Instant::now());
        tokio::time::advance(wait).await;
        let now = Instant::now();
        self.scheduler.driver().with(|core| core.advance(now));
        for thread in &mut self.threads {
            if let Some(flight) = thread.in_flight.take_if(|flight| flight.until <= now) {
                self.scheduler.driver().end(flight.ended);
            }
        }
        true
    }
}

/// Lets everything that waits for the simulated scheduler run.
async fn settle() {
    for _ in 0..8 {
        tokio::task::yield_now().await;
    }
}

//! The scheduler without its threads: a paused clock, and one seed that decides who does what next.
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

use crate::kernel::Ended;
use crate::state::fair::Place;
use crate::{Accelerator, Scheduler, SchedulerOptions};

/// Runs `test` for every seed, each on a paused clock of its own.
fn for_seeds<F: Future<Output = ()>>(normally: u64, in_long_runs: u64, test: impl Fn(u64) -> F) {
    let chosen = |name| std::env::var(name).ok();
    let seeds = match chosen("CENOTE_SEED").and_then(|seed| seed.parse().ok()) {
        Some(seed) => seed..seed + 1,
        None if chosen("CENOTE_LONG").is_some() => 0..in_long_runs,
        None => 0..normally,
    };
    for seed in seeds {
        let guard = Replay(seed);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.unwrap_or_else(|error| panic!("{error}")).block_on(test(seed));
        std::mem::forget(guard);
    }
}

/// Says how to replay a seed that failed.
struct Replay(u64);

impl Drop for Replay {
    fn drop(&mut self) {
        eprintln!("replay with CENOTE_SEED={}", self.0);
    }
}

/// A try on a simulated thread, until it is over.
struct InFlight {
    until: Instant,
    ended: Ended,
}

/// Threads that take as long as they are told.
struct Threads {
    scheduler: Scheduler,
    places: Vec<Place>,
    devices: Vec<Option<Box<dyn Accelerator>>>,
    in_flight: Vec<Option<InFlight>>,
}

impl Threads {
    fn new(options: SchedulerOptions) -> Self {
        let mut places = vec![Place::Pool; options.cpu_cores.ceil() as usize];
        let mut devices: Vec<_> = places.iter().map(|_| None).collect();
        places.extend((0..options.devices.len()).map(Place::Device));
        devices.extend(options.devices.iter().map(|device| (device.open)().ok()));
        let scheduler = Scheduler::without_threads(options).unwrap_or_else(|error| panic!("{error}"));
        Self { scheduler, in_flight: places.iter().map(|_| None).collect(), devices, places }
    }

    /// Has an idle thread, chosen by chance, start the next task, which then takes what `lasts` says. False when none can.
    async fn begin(&mut self, random: &mut Random, mut lasts: impl FnMut(&mut Random) -> Duration) -> bool {
        let mut idle: Vec<usize> = (0..self.places.len()).filter(|number| self.in_flight[*number].is_none()).collect();
        while !idle.is_empty() {
            let number = idle.swap_remove(random.below(idle.len() as u64) as usize);
            if let Some(began) = self.begin_on(number) {
                self.in_flight[number] = began.map(|ended| InFlight { until: Instant::now() + lasts(random), ended });
                return true;
            }
        }
        false
    }

    fn begin_on(&mut self, number: usize) -> Option<Option<Ended>> {
        let (kernel, place) = (self.scheduler.kernel(), self.places[number]);
        kernel.begin(place, number, &mut self.devices[number])
    }

    /// Moves the clock to the next moment when something ends or is due. False when nothing ever will.
    async fn advance(&mut self) -> bool {
        let ends = self.in_flight.iter().flatten().map(|flight| flight.until);
        let timer = self.scheduler.kernel().with(|core| core.timers.next());
        let Some(next) = ends.chain(timer).min() else { return false };
        // The clock moves in steps of a millisecond.
        let wait = next.saturating_duration_since(Instant::now());
        tokio::time::advance(wait).await;
        let now = Instant::now();
        self.scheduler.kernel().with(|core| core.advance(now));
        for flight in &mut self.in_flight {
            if let Some(flight) = flight.take_if(|flight| flight.until <= now) {
                self.scheduler.kernel().end(flight.ended);
            }
        }
        true
    }
}

/// Lets everything that waits on the simulated scheduler look.
async fn settle() {
    for _ in 0..8 {
        tokio::task::yield_now().await;
    }
}

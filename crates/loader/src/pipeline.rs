//! Batches made ahead by threads, given out in order, bounded in bytes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use cenote_base::sync::{Condvar, Mutex};
use cenote_base::{Error, Result};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use crate::batch::Batch;
use crate::batch::maker::{Maker, Scratch};
use crate::order::Order;
use crate::order::sample::Sample;
use crate::shard::Shard;

/// What batches cost, and what waiting for them cost.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Stats {
    /// Batches given.
    pub batches: u64,
    /// Rows given.
    pub rows: u64,
    /// Rows that could not be decoded.
    pub errors: u64,
    /// Bytes of the batches given.
    pub bytes: u64,
    /// How long the consumer waited: if it is long, the loader starves it.
    pub wait: Duration,
    /// How long rows were read, all batches together; others were decoded meanwhile.
    pub read: Duration,
    /// How long threads decoded and transformed, all together.
    pub decode: Duration,
    /// Bytes of batches that are ready now.
    pub ready_bytes: u64,
}

/// What asking for a batch may give.
#[derive(Debug)]
pub enum Next {
    /// The next batch, for whoever accepts it first.
    Batch(Box<Offer>),
    /// The epoch is over.
    End,
    /// There is none yet.
    NotYet,
}

/// A batch that does not count as given until it is [accepted](crate::Loader::accept): whoever is interrupted before,
/// or cannot use it, leaves it to the next one who asks.
#[derive(Debug)]
pub struct Offer {
    /// The batch.
    pub batch: Batch,
    pub(crate) pipeline: Arc<Pipeline>,
    pub(crate) number: u64,
}

/// What one epoch is made of.
pub(crate) struct Plan {
    pub(crate) maker: Maker,
    pub(crate) order: Order,
    pub(crate) shard: Shard,
    /// Positions that were taken before this plan begins.
    pub(crate) consumed: u64,
    /// Batches of this worker that are given already.
    pub(crate) given: u64,
}

impl Plan {
    /// Batches that this worker gives, those given already too.
    pub(crate) fn batches(&self) -> u64 {
        let steps = self.shard.steps(self.order.len(), self.consumed);
        steps.saturating_sub(self.shard.worker).div_ceil(self.shard.workers)
    }
}

/// Time that a batch took.
struct Spent {
    read: Duration,
    decode: Duration,
}

struct State {
    /// The batch that a thread makes next.
    next: u64,
    /// The batch that the consumer gets next.
    given: u64,
    ready: BTreeMap<u64, Result<Batch>>,
    making: u64,
    /// Bytes of the largest batch so far: what one that is being made is taken to need.
    largest: u64,
    stopped: bool,
    stats: Stats,
}

struct Shared {
    plan: Plan,
    batches: u64,
    bytes_max: u64,
    state: Mutex<State>,
    /// Rung when a batch is ready.
    made: Condvar,
    /// Rung when there is room for another one.
    room: Condvar,
}

/// A batch whose rows are being read.
struct Reading {
    number: u64,
    step: u64,
    samples: Arc<[Sample]>,
    /// How many of the last samples fill up.
    repeated: usize,
    rows: AbortOnDrop<Result<(RecordBatch, Duration)>>,
}

/// A task that is wanted only as long as somebody waits for it.
struct AbortOnDrop<T>(JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Threads at work on an epoch. Dropping it stops them after the batch in hand.
pub(crate) struct Pipeline {
    shared: Arc<Shared>,
}

impl Pipeline {
    /// Starts `threads` on `plan`. Ready batches and those being made hold about `bytes_max`, and one batch whatever it
    /// holds.
    pub(crate) fn start(plan: Plan, threads: usize, bytes_max: u64, handle: &Handle) -> Result<Self> {
        let batches = plan.batches();
        let tensors: usize =
            plan.maker.chains.iter().map(|(_, chain)| chain.numbers() * if chain.is_float() { 4 } else { 1 }).sum();
        let given = plan.given;
        let state = State {
            next: given,
            given,
            ready: BTreeMap::new(),
            making: 0,
            largest: tensors as u64 * plan.shard.batch_rows,
            stopped: false,
            stats: Stats::default(),
        };
        let state = Mutex::new(state);
        let shared = Arc::new(Shared { plan, batches, bytes_max, state, made: Condvar::new(), room: Condvar::new() });
        // A thread that has nothing to do is not started.
        for number in 0..threads.min(usize::try_from(batches - given.min(batches)).unwrap_or(threads)) {
            let (shared, handle) = (Arc::clone(&shared), handle.clone());
            std::thread::Builder::new()
                .name(format!("cenote-load-{number}"))
                .spawn(move || shared.work(&handle))
                .map_err(|source| Error::from(source).context("start a loader thread"))?;
        }
        Ok(Self { shared })
    }

    /// The next batch, if it is ready within `wait`; it stays the next one until it is taken.
    pub(crate) fn next_within(self: &Arc<Self>, wait: Duration) -> Result<Next> {
        let start = Instant::now();
        let mut state = self.shared.state.lock();
        let outcome = loop {
            if state.given >= self.shared.batches {
                break Ok(Next::End);
            }
            let number = state.given;
            if let Some(batch) = state.ready.get(&number) {
                let batch = batch.clone()?;
                break Ok(Next::Batch(Box::new(Offer { batch, pipeline: Arc::clone(self), number })));
            }
            let left = wait.saturating_sub(start.elapsed());
            if left.is_zero() {
                break Ok(Next::NotYet);
            }
            (state, _) = self.shared.made.wait_timeout(state, left);
        };
        state.stats.wait += start.elapsed();
        outcome
    }

    /// Takes the batch with this number, if it is still the next one.
    pub(crate) fn take(&self, number: u64) -> bool {
        let mut state = self.shared.state.lock();
        if state.given != number {
            return false;
        }
        let Some(Ok(batch)) = state.ready.remove(&number) else { return false };
        state.given += 1;
        state.stats.batches += 1;
        state.stats.rows += batch.len() as u64;
        state.stats.errors += batch.errors.len() as u64;
        state.stats.bytes += batch.bytes();
        state.stats.ready_bytes -= batch.bytes();
        self.shared.room.notify_all();
        true
    }

    /// Whether all batches were taken.
    pub(crate) fn is_over(&self) -> bool {
        self.shared.state.lock().given >= self.shared.batches
    }

    pub(crate) fn stats(&self) -> Stats {
        self.shared.state.lock().stats
    }
}

impl std::fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pipeline").field("batches", &self.shared.batches).finish_non_exhaustive()
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        state.stopped = true;
        state.ready.clear();
        self.shared.room.notify_all();
    }
}

impl Shared {
    /// Makes batches until there are no more. The rows of the next one are read meanwhile.
    fn work(self: &Arc<Self>, handle: &Handle) {
        let mut scratch = Scratch::default();
        let mut ahead = None;
        while let Some(mut reading) = ahead.take().or_else(|| self.begin(true, handle)) {
            ahead = self.begin(false, handle);
            let rows = handle.block_on(&mut reading.rows.0);
            let made = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                let lost = |source| Error::internal("read rows for a batch").with_source(source);
                let (rows, read) = rows.map_err(lost)??;
                let start = Instant::now();
                let maker = &self.plan.maker;
                let finished = maker.finish(&rows, &reading.samples, reading.step, reading.repeated, &mut scratch);
                Ok((handle.block_on(finished)?, Spent { read, decode: start.elapsed() }))
            }));
            let made = made.unwrap_or_else(|_| Err(Error::internal("a loader thread panicked while it made a batch")));
            if !self.hand_in(reading.number, made) {
                return;
            }
        }
    }

    /// Begins to read the next batch, if there is one and room for it, which may be waited for.
    fn begin(self: &Arc<Self>, wait: bool, handle: &Handle) -> Option<Reading> {
        let number = self.claim(wait)?;
        let plan = &self.plan;
        let step = number * plan.shard.workers + plan.shard.worker;
        let positions = plan.shard.positions(plan.order.len(), plan.consumed, step);
        let repeated = positions.repeated.len();
        let samples: Arc<[Sample]> =
            positions.fresh.chain(positions.repeated).map(|position| plan.order.at(position)).collect();
        let (shared, wanted) = (Arc::clone(self), Arc::clone(&samples));
        let rows = handle.spawn(async move {
            let start = Instant::now();
            let rows = shared.plan.maker.read(&wanted).await?;
            Ok((rows, start.elapsed()))
        });
        Some(Reading { number, step, samples, repeated, rows: AbortOnDrop(rows) })
    }

    /// The number of the next batch to make, once there is room for it, or at once.
    fn claim(&self, wait: bool) -> Option<u64> {
        let mut state = self.state.lock();
        loop {
            if state.stopped || state.next >= self.batches {
                return None;
            }
            let held = state.stats.ready_bytes + (state.making + 1) * state.largest;
            // Whoever waits gets the batch that it waits for, whatever it holds.
            if held <= self.bytes_max || state.next == state.given {
                state.making += 1;
                state.next += 1;
                return Some(state.next - 1);
            }
            if !wait {
                return None;
            }
            state = self.room.wait(state);
        }
    }

    /// Whether anybody wants another one.
    fn hand_in(&self, number: u64, made: Result<(Batch, Spent)>) -> bool {
        let mut state = self.state.lock();
        state.making -= 1;
        if state.stopped {
            return false;
        }
        let batch = made.map(|(batch, spent)| {
            state.stats.read += spent.read;
            state.stats.decode += spent.decode;
            state.stats.ready_bytes += batch.bytes();
            state.largest = state.largest.max(batch.bytes());
            batch
        });
        state.ready.insert(number, batch);
        self.made.notify_all();
        self.room.notify_all();
        true
    }
}

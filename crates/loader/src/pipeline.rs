//! The pipeline of an epoch: threads make batches ahead, up to a limit of bytes, and the consumer takes them in order.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use cenote_base::sync::{Condvar, Mutex};
use cenote_base::{Error, Result, panic_message};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use crate::batch::maker::{BatchMaker, DecodeScratch};
use crate::batch::{Batch, BatchPlan};
use crate::order::Order;
use crate::shard::{BatchPositions, Shard};

/// Totals of the batches given so far, and what they cost.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
#[non_exhaustive]
pub struct Stats {
    /// Batches given to the consumer.
    pub batches: u64,
    /// Rows of these batches.
    pub rows: u64,
    /// Rows of these batches that could not be decoded.
    pub errors: u64,
    /// Bytes of these batches.
    pub bytes: u64,
    /// Time that the consumer waited. If it is long, the loader starves training.
    pub wait: Duration,
    /// Time spent reading rows, over all batches. It overlaps with the decoding of other batches.
    pub read: Duration,
    /// Time spent decoding and transforming, over all threads.
    pub decode: Duration,
    /// Bytes of the batches that are ready and not given yet.
    pub ready_bytes: u64,
}

impl Stats {
    /// Adds the totals of a later pipeline, whose ready batches replace those of this one.
    pub(crate) fn plus(self, later: Self) -> Self {
        Self {
            batches: self.batches + later.batches,
            rows: self.rows + later.rows,
            errors: self.errors + later.errors,
            bytes: self.bytes + later.bytes,
            wait: self.wait + later.wait,
            read: self.read + later.read,
            decode: self.decode + later.decode,
            ready_bytes: later.ready_bytes,
        }
    }
}

/// The outcome of a wait for the next batch.
#[derive(Debug)]
pub enum Next {
    /// The next batch, which goes to the first caller that accepts it.
    Batch(Box<Offer>),
    /// The epoch is over.
    End,
    /// No batch became ready in time.
    NotYet,
}

/// A batch that counts as given only once it is [accepted](crate::Loader::accept). If the caller is interrupted first
/// or cannot use the batch, the next caller gets it.
#[derive(Debug)]
pub struct Offer {
    /// The batch.
    pub batch: Batch,
    pub(crate) pipeline: Arc<Pipeline>,
    pub(crate) number: u64,
}

/// The plan of an epoch: what makes its batches, in which order, and which of them this worker makes.
pub(crate) struct EpochPlan {
    pub(crate) maker: BatchMaker,
    pub(crate) order: Order,
    pub(crate) shard: Shard,
    /// Positions of the order that were consumed before this plan.
    pub(crate) consumed: u64,
    /// Batches of this plan that this worker has given already.
    pub(crate) given: u64,
}

impl EpochPlan {
    /// Returns the batches that this worker gives, including those given already.
    fn batches(&self) -> u64 {
        self.shard.batches(self.order.len(), self.consumed)
    }

    /// Returns the plan of this worker's batch `number`.
    fn batch(&self, number: u64) -> BatchPlan {
        let step = number * self.shard.workers + self.shard.worker;
        let BatchPositions { fresh, repeated } = self.shard.positions(self.order.len(), self.consumed, step);
        let repeats = repeated.len();
        let samples = fresh.chain(repeated).map(|position| self.order.at(position)).collect();
        BatchPlan { step, samples, repeated: repeats }
    }
}

/// The time spent on one batch.
struct BatchTimes {
    read: Duration,
    decode: Duration,
}

/// The progress of an epoch, guarded by the pipeline's lock.
struct PipelineState {
    /// The number of the next batch that a thread makes.
    next: u64,
    /// The number of the next batch that the consumer takes.
    given: u64,
    /// Finished batches that the consumer has not taken, by number.
    ready: BTreeMap<u64, Result<Batch>>,
    /// The count of batches that are being made.
    making: u64,
    /// Bytes of the largest batch so far: the estimate for each batch that is being made.
    largest: u64,
    stopped: bool,
    stats: Stats,
}

/// The part of a pipeline that its threads share.
struct PipelineShared {
    plan: EpochPlan,
    batches: u64,
    bytes_max: u64,
    state: Mutex<PipelineState>,
    /// Notified when a batch becomes ready.
    made: Condvar,
    /// Notified when there may be room for another batch.
    room: Condvar,
}

/// A batch whose rows are being read.
struct PendingBatch {
    number: u64,
    plan: Arc<BatchPlan>,
    rows: AbortOnDrop<Result<(RecordBatch, Duration)>>,
}

/// A task that is aborted when its handle is dropped.
struct AbortOnDrop<T>(JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The threads that make the batches of an epoch. When the pipeline is dropped, each thread stops after its current
/// batch.
pub(crate) struct Pipeline {
    shared: Arc<PipelineShared>,
}

impl Pipeline {
    /// Starts at most `threads` threads on `plan`. Batches that are ready or being made take about `bytes_max` in
    /// total; a batch that exceeds it alone is made all the same.
    pub(crate) fn start(plan: EpochPlan, threads: usize, bytes_max: u64, handle: &Handle) -> Result<Self> {
        let batches = plan.batches();
        let given = plan.given;
        let state = PipelineState {
            next: given,
            given,
            ready: BTreeMap::new(),
            making: 0,
            largest: plan.maker.tensor_bytes().saturating_mul(plan.shard.batch_rows),
            stopped: false,
            stats: Stats::default(),
        };
        let state = Mutex::new(state);
        let shared =
            Arc::new(PipelineShared { plan, batches, bytes_max, state, made: Condvar::new(), room: Condvar::new() });
        // More threads than batches would have nothing to do.
        for number in 0..threads.min(usize::try_from(batches - given.min(batches)).unwrap_or(threads)) {
            let (shared, handle) = (Arc::clone(&shared), handle.clone());
            std::thread::Builder::new()
                .name(format!("cenote-load-{number}"))
                .spawn(move || shared.work(&handle))
                .map_err(|source| Error::from(source).context("start a loader thread"))?;
        }
        Ok(Self { shared })
    }

    /// Returns the next batch if it becomes ready within `wait`. It remains the next one until it is taken.
    pub(crate) fn next_within(self: &Arc<Self>, start: Instant, wait: Duration) -> Result<Next> {
        let mut state = self.shared.state.lock();
        let outcome = loop {
            if state.given >= self.shared.batches {
                break Ok(Next::End);
            }
            let number = state.given;
            if let Some(batch) = state.ready.get(&number) {
                let offer = |batch| Next::Batch(Box::new(Offer { batch, pipeline: Arc::clone(self), number }));
                break batch.clone().map(offer);
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

    /// Takes batch `number` off the pipeline if it is still the next one, and returns whether it was.
    pub(crate) fn take(&self, number: u64) -> bool {
        let mut state = self.shared.state.lock();
        if state.given != number {
            return false;
        }
        let Some(Ok(batch)) = state.ready.remove(&number) else { return false };
        state.given += 1;
        state.stats.batches += 1;
        state.stats.rows += batch.len() as u64;
        state.stats.errors += batch.failures.len() as u64;
        state.stats.bytes += batch.bytes();
        state.stats.ready_bytes -= batch.bytes();
        self.shared.room.notify_all();
        true
    }

    /// Returns whether every batch was taken.
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

impl PipelineShared {
    /// Makes batches until the epoch ends. While a batch is decoded, the rows of the following one are read.
    fn work(self: &Arc<Self>, handle: &Handle) {
        let mut scratch = DecodeScratch::default();
        let mut ahead = None;
        while let Some(mut reading) = ahead.take().or_else(|| self.begin(true, handle)) {
            ahead = self.begin(false, handle);
            let rows = handle.block_on(&mut reading.rows.0);
            let made = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                let failed = |source| Error::internal("read rows for a batch").with_source(source);
                let (rows, read) = rows.map_err(failed)??;
                let start = Instant::now();
                let maker = &self.plan.maker;
                let finished = maker.finish(&rows, &reading.plan, &mut scratch);
                Ok((handle.block_on(finished)?, BatchTimes { read, decode: start.elapsed() }))
            }));
            let made = made.unwrap_or_else(|panic| {
                let message = panic_message(panic.as_ref());
                Err(Error::internal(format!("a loader thread panicked while it made a batch: {message}")))
            });
            if !self.hand_in(reading.number, made) {
                return;
            }
        }
    }

    /// Begins to read the next batch. Returns `None` at the end of the epoch, and also if `wait` is false and the batch
    /// does not fit yet.
    fn begin(self: &Arc<Self>, wait: bool, handle: &Handle) -> Option<PendingBatch> {
        let number = self.claim(wait)?;
        let plan = Arc::new(self.plan.batch(number));
        let (shared, wanted) = (Arc::clone(self), Arc::clone(&plan));
        let rows = handle.spawn(async move {
            let start = Instant::now();
            let rows = shared.plan.maker.read(&wanted.samples).await?;
            Ok((rows, start.elapsed()))
        });
        Some(PendingBatch { number, plan, rows: AbortOnDrop(rows) })
    }

    /// Claims the next batch once it fits, and returns its number. Returns `None` at the end of the epoch, and also if
    /// `wait` is false and the batch does not fit yet.
    fn claim(&self, wait: bool) -> Option<u64> {
        let mut state = self.state.lock();
        loop {
            if state.stopped || state.next >= self.batches {
                return None;
            }
            let making_bytes = (state.making + 1).saturating_mul(state.largest);
            let held = state.stats.ready_bytes.saturating_add(making_bytes);
            // The batch that the consumer waits for is made whatever its size: otherwise both would wait forever.
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

    /// Adds the batch with this number to the ready ones, and returns whether more batches are wanted.
    fn hand_in(&self, number: u64, made: Result<(Batch, BatchTimes)>) -> bool {
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

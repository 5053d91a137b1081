//! Many small calls as few large ones.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use cenote_base::{ByteSize, Error, ErrorKind, Result};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::Instant;

use crate::actor::Actor;
use crate::object::{Value, batch_bytes};
use crate::task::{Context, Environment, Work};
use crate::timers::Event;

/// Batches that end well before the next may be larger again, after one was too large.
const GROW_AFTER: u32 = 8;
/// How many batches' bytes may wait; callers beyond wait for room.
const QUEUED_BATCHES_MAX: u64 = 4;

/// When a batch is full, or has waited for long enough.
#[derive(Debug, Clone)]
pub struct BatchOptions {
    /// Rows at most. Fewer, for a while, after a batch that was too large for memory.
    pub rows_max: usize,
    /// Bytes at most; one call's rows that are more go alone.
    pub bytes_max: ByteSize,
    /// How long the first call of a batch waits for others.
    pub wait_max: Duration,
}

type Process<S> = dyn Fn(&mut S, &Context, &RecordBatch) -> Result<RecordBatch> + Send + Sync;

/// Gathers the rows of calls into batches for an [`Actor`]. Clones share it.
///
/// The actor's function gets rows of several callers at once and returns as many, in the same order. When it runs out of
/// memory, the batch is done again in halves, and batches stay smaller until several have ended well. When it fails otherwise,
/// the callers are told apart: only the calls that fail by themselves fail.
pub struct Batcher<S> {
    inner: Arc<Inner<S>>,
}

struct Inner<S> {
    actor: Actor<S>,
    options: BatchOptions,
    process: Box<Process<S>>,
    queue: Mutex<Queue>,
    room: Arc<Semaphore>,
}

struct Queue {
    calls: VecDeque<Call>,
    rows: usize,
    bytes: u64,
    /// How many batches left; a timer that finds another number came too late.
    generation: u64,
    size: BatchSize,
}

/// How many rows a batch may have at the moment.
#[derive(Debug)]
struct BatchSize {
    rows: usize,
    rows_max: usize,
    went_well: u32,
}

struct Call {
    rows: RecordBatch,
    bytes: u64,
    sender: oneshot::Sender<Result<RecordBatch>>,
    _room: OwnedSemaphorePermit,
}

impl BatchSize {
    fn too_large(&mut self, rows: usize) {
        self.rows = (rows / 2).clamp(1, self.rows);
        self.went_well = 0;
    }

    fn went_well(&mut self) {
        self.went_well += 1;
        if self.went_well >= GROW_AFTER {
            self.went_well = 0;
            self.rows = (self.rows + self.rows / 4 + 1).min(self.rows_max);
        }
    }
}

impl<S> Clone for Batcher<S> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

impl<S> fmt::Debug for Batcher<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batcher").field("options", &self.inner.options).finish_non_exhaustive()
    }
}

impl<S: Send + 'static> Actor<S> {
    /// Calls of this actor in batches.
    ///
    /// # Errors
    /// `InvalidInput` when a batch may have no rows or no bytes.
    pub fn batched<F>(&self, options: BatchOptions, process: F) -> Result<Batcher<S>>
    where
        F: Fn(&mut S, &Context, &RecordBatch) -> Result<RecordBatch> + Send + Sync + 'static,
    {
        if options.rows_max == 0 || options.bytes_max.0 == 0 {
            return Err(Error::invalid_input("a batch must be allowed at least one row and one byte"));
        }
        let size = BatchSize { rows: options.rows_max, rows_max: options.rows_max, went_well: 0 };
        let queue = Queue { calls: VecDeque::new(), rows: 0, bytes: 0, generation: 0, size };
        let room = Arc::new(Semaphore::new(room_max(&options) as usize));
        let (actor, process, queue) = (self.clone(), Box::new(process) as _, Mutex::new(queue));
        Ok(Batcher { inner: Arc::new(Inner { actor, options, process, queue, room }) })
    }
}

fn room_max(options: &BatchOptions) -> u32 {
    u32::try_from(options.bytes_max.0.saturating_mul(QUEUED_BATCHES_MAX)).unwrap_or(u32::MAX)
}

impl<S: Send + 'static> Batcher<S> {
    /// The output for `rows`, which are processed with those of other calls of the same columns. Waits while too many bytes wait.
    ///
    /// # Errors
    /// As [`Actor::call`].
    pub async fn call(&self, rows: RecordBatch) -> Result<RecordBatch> {
        let inner = &self.inner;
        let bytes = batch_bytes(&rows);
        let amount = u32::try_from(bytes).unwrap_or(u32::MAX).clamp(1, room_max(&inner.options));
        let room = Arc::clone(&inner.room).acquire_many_owned(amount).await;
        let room = room.map_err(|_| Error::internal("the batch queue was closed"))?;
        let (sender, receiver) = oneshot::channel();
        inner.push(Call { rows, bytes, sender, _room: room });
        receiver.await.unwrap_or_else(|_| Err(Error::internal("a batch was lost with its worker")))
    }

    /// Rows that a batch may have at the moment.
    pub fn batch_rows(&self) -> usize {
        self.inner.queue.lock().size.rows
    }
}

impl<S: Send + 'static> Inner<S> {
    fn push(self: &Arc<Self>, call: Call) {
        let mut queue = self.queue.lock();
        let other_columns = queue.calls.back().is_some_and(|last| last.rows.schema_ref() != call.rows.schema_ref());
        if other_columns || queue.bytes + call.bytes > self.options.bytes_max.0 {
            self.send(&mut queue);
        }
        queue.rows += call.rows.num_rows();
        queue.bytes += call.bytes;
        queue.calls.push_back(call);
        if queue.rows >= queue.size.rows || queue.bytes >= self.options.bytes_max.0 {
            self.send(&mut queue);
        } else if queue.calls.len() == 1 {
            let (inner, generation) = (Arc::clone(self), queue.generation);
            let flush = move || {
                let mut queue = inner.queue.lock();
                if queue.generation == generation {
                    inner.send(&mut queue);
                }
            };
            let at = Instant::now() + self.options.wait_max;
            self.actor.kernel().with(|core| core.timers.add(at, Event::Call(Box::new(flush))));
        }
    }

    /// Hands what has gathered to the actor.
    fn send(self: &Arc<Self>, queue: &mut Queue) {
        queue.generation += 1;
        (queue.rows, queue.bytes) = (0, 0);
        let calls: Vec<Call> = queue.calls.drain(..).filter(|call| !call.sender.is_closed()).collect();
        if !calls.is_empty() {
            // Refused work is settled like any other that failed, so the callers hear of it.
            let _ = self.actor.hand_in_once(Box::new(Batch { inner: Arc::clone(self), calls }));
        }
    }

    /// The outputs for `calls`, told apart where they fail.
    fn process(&self, state: &mut S, context: &Context, calls: Vec<Call>) {
        let mut left = vec![calls];
        while let Some(mut calls) = left.pop() {
            match self.process_together(state, context, &calls) {
                Ok(outputs) => {
                    for (call, output) in calls.into_iter().zip(outputs) {
                        let _ = call.sender.send(Ok(output));
                    }
                }
                Err(error) if calls.len() > 1 && error.kind() != ErrorKind::Cancelled => {
                    left.push(calls.split_off(calls.len() / 2));
                    left.push(calls);
                }
                Err(error) => {
                    for call in calls {
                        let _ = call.sender.send(Err(error.clone()));
                    }
                }
            }
        }
    }

    fn process_together(&self, state: &mut S, context: &Context, calls: &[Call]) -> Result<Vec<RecordBatch>> {
        let Some(first) = calls.first() else { return Ok(Vec::new()) };
        let arrow = |source| Error::invalid_input("put the rows of calls together").with_source(source);
        let rows = concat_batches(first.rows.schema_ref(), calls.iter().map(|call| &call.rows)).map_err(arrow)?;
        let mut outputs = Vec::new();
        let mut at = 0;
        while at < rows.num_rows() || outputs.is_empty() {
            context.cancel.check()?;
            let count = self.queue.lock().size.rows.min(rows.num_rows() - at);
            match (self.process)(state, context, &rows.slice(at, count)) {
                Ok(output) if output.num_rows() == count => {
                    self.queue.lock().size.went_well();
                    outputs.push(output);
                    at += count;
                }
                Ok(output) => {
                    let made = output.num_rows();
                    return Err(Error::internal(format!("a batch of {count} rows came back as {made}")));
                }
                Err(error) if error.kind() == ErrorKind::ResourceExhausted && count > 1 => {
                    self.queue.lock().size.too_large(count);
                }
                Err(error) => return Err(error),
            }
        }
        let output = concat_batches(outputs[0].schema_ref(), &outputs).map_err(arrow)?;
        let mut from = 0;
        let slices = calls.iter().map(|call| {
            from += call.rows.num_rows();
            output.slice(from - call.rows.num_rows(), call.rows.num_rows())
        });
        Ok(slices.collect())
    }
}

/// One call of the actor for several of the batcher.
struct Batch<S> {
    inner: Arc<Inner<S>>,
    calls: Vec<Call>,
}

impl<S: Send + 'static> Work for Batch<S> {
    fn run(&mut self, environment: &mut Environment<'_>) -> Result<Option<Value>> {
        let context = environment.context.clone();
        self.inner.actor.with_state(environment.replica, |state| {
            // Out of `self` only now: whatever keeps the state from being built is told to the callers.
            self.inner.process(state, &context, std::mem::take(&mut self.calls));
            Ok(None)
        })
    }

    fn settle(self: Box<Self>, outcome: Result<()>, _service: Duration) {
        if let Err(error) = outcome {
            for call in self.calls {
                let _ = call.sender.send(Err(error.clone()));
            }
        }
    }
}

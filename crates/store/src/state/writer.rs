//! The writer of a table in this process: the turn to write the log, the queue of writes, and the end of the log.

use std::collections::VecDeque;
use std::sync::Arc;

use cenote_base::Result;
use cenote_base::sync::Mutex;
use lance::Dataset;
use tokio::sync::{OwnedMutexGuard, oneshot, watch};

use crate::log::{Log, Record};
use crate::report::WriteReport;

/// Bytes of writes at which a group is committed without taking more.
const GROUP_BYTES_MAX: usize = 8 << 20;

/// The turn to write the log in this process, the log's end, and the queue of writes.
#[derive(Debug)]
pub(crate) struct Writer {
    turn: Arc<tokio::sync::Mutex<()>>,
    tail: Arc<tokio::sync::Mutex<Tail>>,
    /// Whether this process has the right to write and has applied everything that others wrote before. While it is
    /// true, nobody else can write, and memory holds everything that was acknowledged in any process.
    is_writing: Arc<watch::Sender<bool>>,
    queue: Mutex<Queue>,
}

/// The position in the log up to which this process has read.
#[derive(Debug)]
pub(crate) struct Tail {
    pub(crate) log: Log,
    /// Whether this process wrote the newest frame.
    pub(super) ours: bool,
    /// Whether frames were read and not applied, because that failed or was cancelled.
    pub(super) behind: bool,
}

/// The writes that wait for a commit.
#[derive(Debug, Default)]
struct Queue {
    requests: VecDeque<Request>,
    /// Whether a commit is being led; a writer that finds none leads the next one.
    led: bool,
}

/// A write that waits for its group to be committed.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) write: RowWrite,
    pub(crate) reply: oneshot::Sender<Result<WriteReport>>,
}

/// Rows to upsert or keys to delete, with the hashes of their keys.
#[derive(Debug, Clone)]
pub(crate) struct RowWrite {
    pub(crate) record: Record,
    pub(crate) hashes: Vec<u128>,
    /// The base with whose schema the rows were checked; `None` for keys, whose columns never change.
    pub(crate) base: Option<Arc<Dataset>>,
}

/// The handle of a queued write.
pub(crate) struct Queued {
    pub(crate) answer: oneshot::Receiver<Result<WriteReport>>,
    /// Whether no commit is being led, so that the caller has to lead one.
    pub(crate) must_lead: bool,
}

/// A guard that marks memory as current with the log, while this process has the right to write.
#[derive(Debug)]
pub(crate) struct SaidWriting(Arc<watch::Sender<bool>>);

impl Writer {
    pub(super) fn new(log: Log) -> Self {
        Self {
            turn: Arc::default(),
            tail: Arc::new(tokio::sync::Mutex::new(Tail::new(log))),
            is_writing: Arc::new(watch::Sender::new(false)),
            queue: Mutex::default(),
        }
    }

    /// Waits for the turn to write in this process.
    pub(crate) async fn turn(&self) -> OwnedMutexGuard<()> {
        Arc::clone(&self.turn).lock_owned().await
    }

    /// Waits for the end of the log, which readers use too.
    pub(crate) async fn tail(&self) -> OwnedMutexGuard<Tail> {
        Arc::clone(&self.tail).lock_owned().await
    }

    /// Marks memory as current with the log, while this process has the right to write, until the guard is dropped.
    pub(crate) fn say_writing(&self) -> SaidWriting {
        self.is_writing.send_replace(true);
        SaidWriting(Arc::clone(&self.is_writing))
    }

    pub(super) fn is_writing(&self) -> watch::Receiver<bool> {
        self.is_writing.subscribe()
    }

    /// Adds a write to the queue.
    pub(crate) fn enqueue(&self, write: RowWrite) -> Queued {
        let (reply, answer) = oneshot::channel();
        let mut queue = self.queue.lock();
        queue.requests.push_back(Request { write, reply });
        Queued { answer, must_lead: !std::mem::replace(&mut queue.led, true) }
    }

    /// Takes the requests of the next group. If there are none, no commit is being led any more.
    pub(crate) fn take_group(&self) -> Vec<Request> {
        let mut queue = self.queue.lock();
        let mut group = Vec::new();
        let mut bytes = 0;
        while let Some(request) =
            queue.requests.pop_front_if(|next| bytes == 0 || bytes + next.write.record.bytes() <= GROUP_BYTES_MAX)
        {
            bytes += request.write.record.bytes().max(1);
            group.push(request);
        }
        queue.led = !group.is_empty();
        group
    }
}

impl Drop for SaidWriting {
    fn drop(&mut self) {
        self.0.send_replace(false);
    }
}

impl Tail {
    pub(super) fn new(log: Log) -> Self {
        Self { log, ours: false, behind: false }
    }

    /// Begins an epoch of this process, unless the newest frame is its own.
    pub(crate) fn claim(&mut self) {
        if !std::mem::replace(&mut self.ours, true) {
            self.log.next_epoch();
        }
    }
}

//! Writing the log, within this process: one writer at a time, the writes that wait for it, and the end of the log.

use std::collections::VecDeque;
use std::sync::Arc;

use cenote_base::Result;
use cenote_base::sync::Mutex;
use tokio::sync::{OwnedMutexGuard, oneshot, watch};

use crate::log::{Log, Record};
use crate::report::WriteReport;

/// Bytes of a group of writes at which it is synced although more writes wait.
const GROUP_BYTES_MAX: usize = 8 << 20;

/// The turn to write the log in this process, the log's end, and the queue of writes.
#[derive(Debug)]
pub(crate) struct Writer {
    turn: Arc<tokio::sync::Mutex<()>>,
    tail: Arc<tokio::sync::Mutex<Tail>>,
    /// Whether this process has the right to write and has taken in what others wrote before: then nobody else can
    /// write, and memory holds everything that was acknowledged anywhere.
    is_writing: Arc<watch::Sender<bool>>,
    queue: Mutex<Queue>,
}

/// The end of the log.
#[derive(Debug)]
pub(crate) struct Tail {
    pub(crate) log: Log,
    /// Whether the newest frame is one of ours.
    pub(super) ours: bool,
    /// Whether frames were read and not taken in, because that failed or its caller gave up.
    pub(super) behind: bool,
}

/// The writes that wait for a group.
#[derive(Debug, Default)]
struct Queue {
    requests: VecDeque<Request>,
    /// Whether somebody is committing: who finds nobody has to.
    led: bool,
}

/// A write that waits for its group.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) write: RowWrite,
    pub(crate) reply: oneshot::Sender<Result<WriteReport>>,
}

/// Rows to put or keys to delete, with the hashes of their keys.
#[derive(Debug, Clone)]
pub(crate) struct RowWrite {
    pub(crate) record: Record,
    pub(crate) hashes: Vec<u128>,
}

/// A write that was queued.
pub(crate) struct Queued {
    pub(crate) answer: oneshot::Receiver<Result<WriteReport>>,
    /// Whether nobody commits what is queued: then the caller has to.
    pub(crate) must_lead: bool,
}

/// Says that memory is as new as the log, as long as this process has the right to write it.
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

    /// Waits for the end of the log, which readers take too.
    pub(crate) async fn tail(&self) -> OwnedMutexGuard<Tail> {
        Arc::clone(&self.tail).lock_owned().await
    }

    /// Says that this process has the right to write, and everything in memory.
    pub(crate) fn say_writing(&self) -> SaidWriting {
        self.is_writing.send_replace(true);
        SaidWriting(Arc::clone(&self.is_writing))
    }

    pub(super) fn is_writing(&self) -> watch::Receiver<bool> {
        self.is_writing.subscribe()
    }

    /// Adds a write to those that wait.
    pub(crate) fn enqueue(&self, write: RowWrite) -> Queued {
        let (reply, answer) = oneshot::channel();
        let mut queue = self.queue.lock();
        queue.requests.push_back(Request { write, reply });
        Queued { answer, must_lead: !std::mem::replace(&mut queue.led, true) }
    }

    /// Takes the requests of the next group; without any, nobody leads.
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

    /// Makes what follows in the log ours.
    pub(crate) fn claim(&mut self) {
        if !std::mem::replace(&mut self.ours, true) {
            self.log.next_epoch();
        }
    }
}

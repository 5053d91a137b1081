//! Writing the log: the turn to write, and group commit.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use cenote_base::{Error, ErrorKind, Result, Timestamp};
use futures::FutureExt;
use tokio::sync::{OwnedMutexGuard, oneshot};

use crate::WriteReport;
use crate::leases::lease::Lease;
use crate::log::history::{Checkpoint, Note};
use crate::log::{Frame, Log, Record, Unseen};
use crate::state::table_state::{SHORT_ROWS, State, Tail, blocking_unless};
use crate::table::DURABILITY_PROPERTY;

/// Bytes of writes at which a group is committed without taking more.
const GROUP_BYTES_MAX: usize = 8 << 20;
/// A writer waits for a fold when the change store holds `BACKPRESSURE` times the bytes that start one.
const BACKPRESSURE: u64 = 4;

/// Attempts to commit a group when another writer has taken its place in the log.
const TRIES: usize = 3;

/// The writes that wait for a commit.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    requests: VecDeque<Request>,
    /// Whether a commit is being led; a writer that finds none leads the next one.
    led: bool,
}

/// A write that waits for its group to be committed.
#[derive(Debug)]
struct Request {
    write: RowWrite,
    reply: oneshot::Sender<Result<WriteReport>>,
}

/// Rows to upsert or keys to delete, with the hashes of their keys.
#[derive(Debug, Clone)]
pub(crate) struct RowWrite {
    pub(crate) record: Record,
    pub(crate) hashes: Vec<u128>,
}

/// The right to write the log. The fields are released in their order.
#[derive(Debug)]
pub(crate) struct Writing {
    _said: Said,
    tail: OwnedMutexGuard<Tail>,
    state: Arc<State>,
    _lease: Lease,
    _turn: OwnedMutexGuard<()>,
}

/// A guard that marks memory as current with the log, while this process has the right to write.
#[derive(Debug)]
struct Said(Arc<State>);

impl Said {
    fn new(state: &Arc<State>) -> Self {
        state.is_writing.send_replace(true);
        Self(Arc::clone(state))
    }
}

impl Drop for Said {
    fn drop(&mut self) {
        self.0.is_writing.send_replace(false);
    }
}

impl State {
    /// Waits for the right to write the log, and applies everything that others wrote.
    pub(crate) async fn writing(self: &Arc<Self>) -> Result<Writing> {
        let turn = Arc::clone(&self.write_turn).lock_owned().await;
        let lease = self.place.leases.writer(self.options.writer_wait_max).await?;
        // Taken last, so that readers can apply what others write while this process waits.
        let mut tail = Arc::clone(&self.log).lock_owned().await;
        if !self.place.leases.is_sole() {
            if self.place.leases.is_new(&lease) {
                self.check_presence().await?;
            }
            if self.catch_up(&mut tail).boxed().await? {
                let torn = tail.log.repair().await?;
                if torn > 0 {
                    tracing::warn!(bytes = torn, log = tail.log.name(), "cut off a write that was never acknowledged");
                }
            }
            self.place.leases.settle(&lease);
        }
        let said = Said::new(self);
        let mut writing = Writing { _said: said, tail, state: Arc::clone(self), _lease: lease, _turn: turn };
        if writing.tail.log.lacks_beginning() {
            let (version, time) = self.now();
            writing.claim();
            let checkpoint = Checkpoint::new(version, self.history().as_ref().clone());
            writing.tail.log.begin(checkpoint, time).await?;
        }
        // Adopt unlogged base versions before the caller reads rows that it will write, because they are older. If
        // another process holds the base, it is alive and logs its own commits.
        if self.suspect.load(Ordering::Acquire)
            && let Ok(_turn) = Arc::clone(&self.base_turn).try_lock_owned()
            && let Some(_lease) = self.place.leases.try_base().await?
        {
            self.adopt(&mut writing).boxed().await?;
            self.suspect.store(false, Ordering::Release);
        }
        Ok(writing)
    }

    /// Waits until the change store has room for another write.
    pub(crate) async fn make_room(self: &Arc<Self>) -> Result<()> {
        let room = self.options.fold_bytes.0 * BACKPRESSURE;
        while self.inner.lock().changes.bytes() as u64 > room {
            self.fold().boxed().await?;
        }
        Ok(())
    }

    /// Writes rows or deletions; durable when it returns. Waiting writes are committed as a group.
    pub(crate) async fn write(self: &Arc<Self>, write: RowWrite) -> Result<WriteReport> {
        self.make_room().await?;
        let (reply, answer) = oneshot::channel();
        let lead = {
            let mut queue = self.queue.lock();
            queue.requests.push_back(Request { write, reply });
            !std::mem::replace(&mut queue.led, true)
        };
        if lead {
            // A separate task: a caller that is cancelled must not leave a group half committed.
            tokio::spawn(Arc::clone(self).lead().boxed());
        }
        let report = answer.await.map_err(|_| Error::internal("a write was dropped before it was done"))??;
        self.keep_up();
        Ok(report)
    }

    async fn lead(self: Arc<Self>) {
        loop {
            let writing = self.writing().await;
            let group = self.queue.lock().take_group();
            if group.is_empty() {
                return;
            }
            let (writes, replies): (Vec<RowWrite>, Vec<_>) =
                group.into_iter().map(|request| (request.write, request.reply)).unzip();
            let mut outcome = match writing {
                Ok(writing) => self.commit(writing, writes.clone()).await,
                Err(error) => Err(error),
            };
            for _ in 1..TRIES {
                match &outcome {
                    Err(error) if error.kind() == ErrorKind::Conflict => {}
                    _ => break,
                }
                outcome = match self.writing().await {
                    Ok(writing) => self.commit(writing, writes.clone()).await,
                    Err(error) => Err(error),
                };
            }
            // A closed receiver belongs to a cancelled caller, whose write is done all the same.
            match outcome {
                Ok(reports) => {
                    replies.into_iter().zip(reports).for_each(|(reply, report)| drop(reply.send(Ok(report))))
                }
                Err(error) => {
                    let each = || Error::new(error.kind(), error.to_string());
                    replies.into_iter().for_each(|reply| drop(reply.send(Err(each()))));
                }
            }
        }
    }

    /// Logs `writes` as one group and applies them, each as a version of its own. Must not be cancelled.
    pub(crate) async fn commit(
        self: &Arc<Self>,
        mut writing: Writing,
        writes: Vec<RowWrite>,
    ) -> Result<Vec<WriteReport>> {
        let (mut version, time) = self.next();
        let sync = self.inner.lock().base.config().get(DURABILITY_PROPERTY).is_none_or(|value| value != "relaxed");
        let rows: usize = writes.iter().map(|write| write.hashes.len()).sum();
        let (mut resolved, mut frames) = (Vec::with_capacity(writes.len()), Vec::with_capacity(writes.len()));
        for write in writes {
            resolved.push((self.resolve(&write.hashes).await?, write.hashes));
            frames.push(Frame { version, time, record: write.record });
            version += 1;
        }
        let (frames, unseen) = writing.append(frames, sync).await?;
        let state = Arc::clone(self);
        blocking_unless(rows <= SHORT_ROWS, move || {
            let mut inner = state.inner.lock();
            let applied = frames.into_iter().zip(resolved).map(|(frame, (bases, hashes))| {
                let counts = inner.apply(frame.version, frame.time, frame.record, hashes, &bases);
                counts.report(frame.version)
            });
            let reports = applied.collect();
            // Readers here and in other processes see the group at the same moment.
            drop(unseen);
            drop(inner);
            // Held until memory agrees with the log.
            drop(writing);
            Ok(reports)
        })
        .await
    }
}

impl Writing {
    pub(crate) async fn append(&mut self, frames: Vec<Frame>, sync: bool) -> Result<(Vec<Frame>, Unseen)> {
        self.claim();
        let appended = self.tail.log.append(frames, sync).await;
        self.judge(appended)
    }

    /// Logs `note` and applies it to the history.
    pub(crate) async fn note(&mut self, note: Note) -> Result<()> {
        let (version, time) = self.state.now();
        let (_, unseen) = self.append(vec![Frame { version, time, record: Record::Note(note.clone()) }], true).await?;
        let mut inner = self.state.inner.lock();
        Arc::make_mut(&mut inner.history).note(&note);
        drop(unseen);
        Ok(())
    }

    /// Ends the log's current segment.
    pub(crate) async fn roll(&mut self, version: u64, time: Timestamp) -> Result<()> {
        self.claim();
        let checkpoint = Checkpoint::new(version, self.state.history().as_ref().clone());
        let rolled = self.tail.log.roll(checkpoint, time).await;
        self.judge(rolled)
    }

    /// Handles the outcome of a write to the log: a failed write may still be in the log.
    fn judge<T>(&self, outcome: Result<T>) -> Result<T> {
        if let Err(error) = &outcome {
            self.state.place.leases.unsettle(error.kind() == ErrorKind::Conflict);
        }
        outcome
    }

    /// Begins an epoch of this process, unless the newest frame is its own.
    fn claim(&mut self) {
        if !std::mem::replace(&mut self.tail.ours, true) {
            self.tail.log.next_epoch();
        }
    }

    pub(crate) fn log(&self) -> &Log {
        &self.tail.log
    }
}

impl Queue {
    /// Takes the requests of the next group. If there are none, nobody leads any more.
    fn take_group(&mut self) -> Vec<Request> {
        let mut group = Vec::new();
        let mut bytes = 0;
        while let Some(request) =
            self.requests.pop_front_if(|next| bytes == 0 || bytes + next.write.record.bytes() <= GROUP_BYTES_MAX)
        {
            bytes += request.write.record.bytes().max(1);
            group.push(request);
        }
        self.led = !group.is_empty();
        group
    }
}

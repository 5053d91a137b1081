//! Writing the log: the turn to write, and group commit.

use std::sync::Arc;

use cenote_base::{Error, ErrorKind, Result, Timestamp};
use futures::FutureExt;
use tokio::sync::OwnedMutexGuard;

use crate::base::dataset;
use crate::blocking::{SHORT_ROWS, blocking_unless};
use crate::leases::lease::Lease;
use crate::log::history::{Checkpoint, Note};
use crate::log::{Frame, Log, Record, Unseen};
use crate::properties::DURABILITY_PROPERTY;
use crate::report::WriteReport;
use crate::state::table_state::TableState;
use crate::state::writer::{Queued, RowWrite, SaidWriting, Tail};

/// Attempts to commit a group when another writer has taken its place in the log.
const TRIES: usize = 3;

/// The right to write the log. The fields are released in their order.
#[derive(Debug)]
pub(crate) struct Writing {
    _said: SaidWriting,
    tail: OwnedMutexGuard<Tail>,
    state: Arc<TableState>,
    _lease: Lease,
    _turn: OwnedMutexGuard<()>,
}

impl TableState {
    /// Waits for the right to write the log, and applies everything that others wrote.
    pub(crate) async fn writing(self: &Arc<Self>) -> Result<Writing> {
        let turn = self.writer().turn().await;
        let lease = self.location().leases.writer(self.options().writer_wait_max).await?;
        // Taken last, so that readers can apply what others write while this process waits.
        let mut tail = self.writer().tail().await;
        if !self.location().leases.is_sole() {
            if self.location().leases.is_new(&lease) {
                self.check_presence().await?;
            }
            if self.catch_up(&mut tail).boxed().await? {
                let torn = tail.log.repair().await?;
                if torn > 0 {
                    tracing::warn!(bytes = torn, log = tail.log.name(), "cut off a write that was never acknowledged");
                }
            }
            self.location().leases.settle(&lease);
        }
        let said = self.writer().say_writing();
        let mut writing = Writing { _said: said, tail, state: Arc::clone(self), _lease: lease, _turn: turn };
        if writing.tail.log.lacks_beginning() {
            let (version, time) = self.now();
            writing.tail.claim();
            let checkpoint = Checkpoint::new(version, self.history().as_ref().clone());
            writing.tail.log.begin(checkpoint, time).await?;
        }
        // Adopt unlogged base versions before the caller reads rows that it will write, because they are older. If
        // another process holds the base, it is alive and logs its own commits.
        if self.base_turn().is_suspect()
            && let Some(_turn) = self.base_turn().try_take()
            && let Some(_lease) = self.location().leases.try_base().await?
        {
            self.adopt(&mut writing).boxed().await?;
            self.base_turn().set_suspect(false);
        }
        Ok(writing)
    }

    /// Writes rows or deletions; durable when it returns. Waiting writes are committed as a group.
    pub(crate) async fn write(self: &Arc<Self>, write: RowWrite) -> Result<WriteReport> {
        let Queued { answer, must_lead } = self.writer().enqueue(write);
        if must_lead {
            // A separate task: a caller that is cancelled must not leave a group half committed.
            tokio::spawn(Arc::clone(self).lead().boxed());
        }
        answer.await.map_err(|source| Error::internal("a write was dropped before it was done").with_source(source))?
    }

    async fn lead(self: Arc<Self>) {
        loop {
            let writing = self.writing().await;
            let group = self.writer().take_group();
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
                Ok(reports) => replies.into_iter().zip(reports).for_each(|(reply, report)| drop(reply.send(report))),
                Err(error) => replies.into_iter().for_each(|reply| drop(reply.send(Err(error.clone())))),
            }
        }
    }

    /// Logs `writes` as one group and applies them, each as a version of its own, except for those that were checked
    /// with another schema than the table has now. Must not be cancelled.
    pub(crate) async fn commit(
        self: &Arc<Self>,
        mut writing: Writing,
        writes: Vec<RowWrite>,
    ) -> Result<Vec<Result<WriteReport>>> {
        let (mut version, time) = self.next();
        let sync = self.newest().base().config().get(DURABILITY_PROPERTY).is_none_or(|value| value != "relaxed");
        let base = Arc::clone(self.newest().base());
        let rows: usize = writes.iter().map(|write| write.hashes.len()).sum();
        let is_current =
            |write: &RowWrite| write.base.as_ref().is_none_or(|checked| dataset::has_schema(&base, checked));
        let is_current: Vec<bool> = writes.iter().map(is_current).collect();
        let (mut resolved, mut frames) = (Vec::with_capacity(writes.len()), Vec::with_capacity(writes.len()));
        for (write, _) in writes.into_iter().zip(&is_current).filter(|(_, is_current)| **is_current) {
            resolved.push((self.resolve(&write.hashes).await?, write.hashes));
            frames.push(Frame { version, time, record: write.record });
            version += 1;
        }
        if frames.is_empty() {
            return Ok(in_order(is_current, []));
        }
        let (frames, unseen) = writing.append(frames, sync).await?;
        let state = Arc::clone(self);
        blocking_unless(rows <= SHORT_ROWS, move || {
            let mut newest = state.newest();
            let applied = frames.into_iter().zip(resolved).map(|(frame, (bases, hashes))| {
                let version = frame.version;
                newest.apply(frame, hashes, &bases).report(version)
            });
            let reports = in_order(is_current, applied);
            // Readers here and in other processes see the group at the same moment.
            drop(unseen);
            drop(newest);
            // Held until memory agrees with the log.
            drop(writing);
            Ok(reports)
        })
        .await
    }
}

/// Returns for each write its report if it `is_current`, otherwise the error that says why it was not written.
fn in_order(is_current: Vec<bool>, reports: impl IntoIterator<Item = WriteReport>) -> Vec<Result<WriteReport>> {
    let mut reports = reports.into_iter();
    let outcome = |is_current: bool| {
        let outdated = "the table's schema has changed since the rows were checked: write them again";
        is_current.then(|| reports.next()).flatten().ok_or_else(|| Error::conflict(outdated))
    };
    is_current.into_iter().map(outcome).collect()
}

impl Writing {
    pub(crate) async fn append(&mut self, frames: Vec<Frame>, sync: bool) -> Result<(Vec<Frame>, Unseen)> {
        self.tail.claim();
        let appended = self.tail.log.append(frames, sync).await;
        self.judge(appended)
    }

    /// Logs `note` and applies it to the history.
    pub(crate) async fn note(&mut self, note: Note) -> Result<()> {
        let (version, time) = self.state.now();
        let (_, unseen) = self.append(vec![Frame { version, time, record: Record::Note(note.clone()) }], true).await?;
        let mut newest = self.state.newest();
        newest.note(&note);
        drop(unseen);
        Ok(())
    }

    /// Ends the log's current segment.
    pub(crate) async fn roll(&mut self, version: u64, time: Timestamp) -> Result<()> {
        self.tail.claim();
        let checkpoint = Checkpoint::new(version, self.state.history().as_ref().clone());
        let rolled = self.tail.log.roll(checkpoint, time).await;
        self.judge(rolled)
    }

    /// Handles the outcome of a write to the log: a failed write may still be in the log.
    fn judge<T>(&self, outcome: Result<T>) -> Result<T> {
        if let Err(error) = &outcome {
            self.state.location().leases.unsettle(error.kind() == ErrorKind::Conflict);
        }
        outcome
    }

    pub(crate) fn log(&self) -> &Log {
        &self.tail.log
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use arrow::array::{ArrayRef, Int64Array, RecordBatch};
    use arrow::datatypes::{DataType, Field, Schema};

    use super::*;
    use crate::{Store, StoreOptions, TableSpec};

    /// Commits one group with a write from before and one from after a column was dropped and added again.
    #[tokio::test]
    async fn rows_that_were_checked_with_another_schema_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path(), StoreOptions::default()).await.unwrap();
        let fields = ["id", "x"].map(|name| Field::new(name, DataType::Int64, name == "x"));
        let spec = TableSpec::new(Arc::new(Schema::new(fields.to_vec())), ["id"]);
        let table = store.create_table("t", spec).await.unwrap();
        let rows = |id: i64| {
            let column = || Arc::new(Int64Array::from(vec![id])) as ArrayRef;
            RecordBatch::try_from_iter([("id", column()), ("x", column())]).unwrap()
        };
        table.upsert(rows(0)).await.unwrap();
        table.fold().await.unwrap();
        let state = table.state().await.unwrap();
        let write = |id: i64| {
            let hashes = state.key().hash(&state.key().project(&rows(id)).unwrap(), state.hash_key()).unwrap();
            RowWrite { record: Record::Upsert(rows(id)), hashes, base: Some(Arc::clone(state.newest().base())) }
        };
        let early = write(1);
        table.drop_columns(&["x"]).await.unwrap();
        table.add_columns(&[Field::new("x", DataType::Int64, true)]).await.unwrap();
        let late = write(2);
        let writing = state.writing().await.unwrap();
        let outcomes = state.commit(writing, vec![early.clone(), late]).await.unwrap();
        let kinds: Vec<_> = outcomes.iter().map(|outcome| outcome.as_ref().map_err(Error::kind).err()).collect();
        assert_eq!(kinds, [Some(ErrorKind::Conflict), None]);
        assert_eq!(state.write(early).await.unwrap_err().kind(), ErrorKind::Conflict);
        table.fold().await.unwrap();
        assert_eq!(table.snapshot().await.unwrap().count(None).await.unwrap(), 2);
    }
}

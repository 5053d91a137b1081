//! Upkeep of a table while it is written: when to fold, and what follows a fold.
//!
//! Upkeep runs in the background of every process that writes, and never delays a write, unless the change store is
//! four times as full as what starts a fold.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cenote_base::sync::Mutex;
use cenote_base::{Result, Timestamp};
use futures::FutureExt;
use futures::future::BoxFuture;

use crate::Table;
use crate::base::file_bytes::FileBytes;
use crate::state::table_state::State;
use crate::upkeep::{collect, compaction};

/// Rows of a change store from which it is folded once more than half of them are superseded.
const DUPLICATE_ROWS_MIN: usize = 4096;

/// A hook for work on a table after a fold that this crate does not know, such as bringing its indexes up to date.
pub trait AfterFold: std::fmt::Debug + Send + Sync {
    /// Does the work, in the background; an error is logged.
    fn after_fold(&self, table: Table) -> BoxFuture<'static, Result<()>>;
}

/// The lag of a table's base behind its writes, and the state of upkeep.
#[derive(Debug, Clone, PartialEq)]
pub struct UpkeepStatus {
    /// Unfolded keys, summed over all runs.
    pub keys: usize,
    /// Bytes of their rows in memory.
    pub bytes: usize,
    /// Runs: parts of the change store that a fold merges.
    pub runs: usize,
    /// Time of the oldest unfolded write.
    pub since: Option<Timestamp>,
    /// Data files of the base.
    pub files: usize,
    /// Bytes written to log and base for each byte written to the table, since it was created; without indexes.
    pub amplification: f64,
    /// What upkeep is doing, in this process or another, and why.
    pub doing: Option<String>,
    /// Why the last upkeep in this process failed.
    pub failure: Option<String>,
}

/// The state of upkeep in this process. Folds are short, and writers wait for them; other work is long, and they do
/// not.
#[derive(Debug, Default)]
pub(crate) struct Upkeep {
    is_folding: AtomicBool,
    is_waiting: AtomicBool,
    /// The turn to do long work, and whether somebody waits for it.
    tending: tokio::sync::Mutex<()>,
    is_tending_due: AtomicBool,
    /// The turn to join files.
    pub(crate) joining: tokio::sync::Mutex<()>,
    pub(crate) file_bytes: FileBytes,
    folding: Mutex<Option<String>>,
    doing: Mutex<Option<String>>,
    failure: Mutex<Option<String>>,
}

impl Upkeep {
    /// Records the long work that has begun.
    pub(crate) fn say(&self, what: impl Into<String>) {
        *self.doing.lock() = Some(what.into());
    }

    /// Records that it has ended.
    pub(crate) fn done(&self) {
        *self.doing.lock() = None;
    }

    /// Returns what is being done; short work takes precedence.
    pub(crate) fn doing(&self) -> Option<String> {
        self.folding.lock().clone().or_else(|| self.doing.lock().clone())
    }
}

impl State {
    /// Starts a fold in the background if there is a reason and none is running; otherwise schedules another check.
    pub(crate) fn keep_up(self: &Arc<Self>) {
        if let Some(reason) = self.reason_to_fold() {
            if !self.upkeep.is_folding.swap(true, Ordering::AcqRel) {
                tokio::spawn(Arc::clone(self).run_fold(reason).boxed());
            }
        } else if !self.inner.lock().changes.is_empty() && !self.upkeep.is_waiting.swap(true, Ordering::AcqRel) {
            let (state, pause) = (Arc::downgrade(self), self.options.fold_age);
            tokio::spawn(async move {
                tokio::time::sleep(pause).await;
                if let Some(state) = state.upgrade() {
                    state.upkeep.is_waiting.store(false, Ordering::Release);
                    state.keep_up();
                }
            });
        }
    }

    /// Returns whether there are writes that the base does not hold.
    pub(crate) fn has_changes(&self) -> bool {
        !self.inner.lock().changes.is_empty()
    }

    fn reason_to_fold(&self) -> Option<String> {
        let inner = self.inner.lock();
        let (changes, options) = (&inner.changes, &self.options);
        let age = inner.since.map_or(0, |since| options.clock.now().0.saturating_sub(since.0));
        match () {
            () if changes.bytes() as u64 >= options.fold_bytes.0 => {
                Some(format!("{} are unfolded", options.fold_bytes))
            }
            () if changes.entries() >= options.fold_rows => Some(format!("{} rows are unfolded", options.fold_rows)),
            () if !changes.is_empty() && u128::try_from(age).unwrap_or(0) >= options.fold_age.as_micros() => {
                Some(format!("the oldest write is {} s old", age / 1_000_000))
            }
            () if changes.rows >= DUPLICATE_ROWS_MIN && changes.live * 2 < changes.rows => {
                Some(format!("{} of {} rows are superseded", changes.rows - changes.live, changes.rows))
            }
            () => None,
        }
    }

    /// Runs upkeep in the foreground if there is a reason to, and returns the reason.
    pub(crate) async fn tend(self: &Arc<Self>) -> Result<Option<String>> {
        self.snapshot().boxed().await?;
        let Some(reason) = self.reason_to_fold() else { return Ok(None) };
        self.fold_because(&reason).boxed().await?;
        self.follow_up().boxed().await?;
        Ok(Some(reason))
    }

    async fn run_fold(self: Arc<Self>, reason: String) {
        let outcome = self.fold_because(&reason).await;
        self.upkeep.is_folding.store(false, Ordering::Release);
        match outcome {
            // A task that already waits for the turn covers this fold too.
            Ok(()) if self.upkeep.is_tending_due.swap(true, Ordering::AcqRel) => {}
            Ok(()) => drop(tokio::spawn(self.run_follow_up().boxed())),
            Err(error) => {
                // Nothing is lost: the next write tries again, and once the change store is full, writers wait and see
                // the error.
                tracing::warn!(%error, table = self.name, "a fold failed");
                *self.upkeep.failure.lock() = Some(error.to_string());
            }
        }
    }

    async fn fold_because(self: &Arc<Self>, reason: &str) -> Result<()> {
        *self.upkeep.folding.lock() = Some(format!("folding, because {reason}"));
        let outcome = self.fold().await;
        *self.upkeep.folding.lock() = None;
        outcome
    }

    async fn run_follow_up(self: Arc<Self>) {
        let outcome = self.follow_up().await;
        if let Err(error) = &outcome {
            // The next fold tries again.
            tracing::warn!(%error, table = self.name, "upkeep failed");
        }
        *self.upkeep.failure.lock() = outcome.err().map(|error| error.to_string());
    }

    /// Does what is due after a fold, once no other task does it.
    async fn follow_up(self: &Arc<Self>) -> Result<()> {
        let _turn = self.upkeep.tending.lock().await;
        self.upkeep.is_tending_due.store(false, Ordering::Release);
        let outcome = self.work().await;
        self.upkeep.done();
        outcome
    }

    async fn work(self: &Arc<Self>) -> Result<()> {
        // First, because indexes that hold addresses lag for joined files.
        compaction::join_due(self).boxed().await?;
        // Indexes need no update once the store was dropped.
        if let Some(hook) = &self.options.after_fold
            && let Some(table) = self.table()
        {
            self.upkeep.say("bringing indexes up to date");
            hook.after_fold(table).await?;
        }
        self.upkeep.say("removing unneeded history");
        collect::collect(self, collect::retention(self.view()?.properties())?).boxed().await.map(drop)
    }

    /// Returns how far the base lags and what is being done: see [`UpkeepStatus`].
    pub(crate) fn upkeep_status(&self) -> Result<UpkeepStatus> {
        let doing = self.upkeep.doing();
        // Skipped while this process changes the base: its own lock would look like another process's.
        let doing = match (doing, self.base_turn.try_lock()) {
            (None, Ok(_turn)) => self.place.leases.elsewhere()?,
            (doing, _) => doing,
        };
        let inner = self.inner.lock();
        let mark = inner.history.current()?;
        let (accepted, stored) = (mark.accepted + inner.accepted, mark.stored + inner.accepted);
        Ok(UpkeepStatus {
            keys: inner.changes.entries(),
            bytes: inner.changes.bytes(),
            runs: inner.changes.runs(),
            since: inner.since,
            files: inner.base.fragments().len(),
            amplification: if accepted == 0 { 1.0 } else { stored as f64 / accepted as f64 },
            doing,
            failure: self.upkeep.failure.lock().clone(),
        })
    }
}

//! Upkeep of a table while it is written: when to fold, and what follows a fold.
//!
//! Upkeep runs in the background of every process that writes, and never delays a write, unless the change store is
//! four times as full as what starts a fold.

use std::sync::Arc;

use cenote_base::{Result, Timestamp};
use futures::FutureExt;

use crate::properties::retention;
use crate::state::table_state::TableState;
use crate::upkeep::{collect, compaction};

/// Rows of a change store from which it is folded once more than half of them are superseded.
const DUPLICATE_ROWS_MIN: usize = 4096;

/// The lag of a table's base behind its writes, and the state of upkeep.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
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

impl TableState {
    /// Starts a fold in the background if there is a reason and none is running; otherwise schedules another check.
    pub(crate) fn keep_up(self: &Arc<Self>) {
        if let Some(reason) = self.reason_to_fold() {
            if self.upkeep().begin_fold() {
                tokio::spawn(Arc::clone(self).run_fold(reason).boxed());
            }
        } else if self.has_changes() && self.upkeep().begin_wait() {
            let (state, pause) = (Arc::downgrade(self), self.options().fold_age);
            tokio::spawn(async move {
                tokio::time::sleep(pause).await;
                if let Some(state) = state.upgrade() {
                    state.upkeep().end_wait();
                    state.keep_up();
                }
            });
        }
    }

    fn reason_to_fold(&self) -> Option<String> {
        let newest = self.newest();
        let (changes, options) = (newest.changes(), self.options());
        let age = newest.since().map_or(0, |since| options.clock.now().0.saturating_sub(since.0));
        match () {
            () if changes.bytes() as u64 >= options.fold_bytes.0 => {
                Some(format!("{} are unfolded", options.fold_bytes))
            }
            () if changes.entries() >= options.fold_rows => Some(format!("{} rows are unfolded", options.fold_rows)),
            () if !changes.is_empty() && u128::try_from(age).unwrap_or(0) >= options.fold_age.as_micros() => {
                Some(format!("the oldest write is {} s old", age / 1_000_000))
            }
            () if changes.rows() >= DUPLICATE_ROWS_MIN && changes.superseded() * 2 > changes.rows() => {
                Some(format!("{} of {} rows are superseded", changes.superseded(), changes.rows()))
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
        self.upkeep().end_fold();
        match outcome {
            // A task that already waits for the turn covers this fold too.
            Ok(()) if !self.upkeep().is_newly_due() => {}
            Ok(()) => drop(tokio::spawn(self.run_follow_up().boxed())),
            Err(error) => {
                // Nothing is lost: the next write tries again, and once the change store is full, writers wait and see
                // the error.
                tracing::warn!(%error, table = self.name(), "a fold failed");
                self.upkeep().set_failure(Some(error.to_string()));
            }
        }
    }

    async fn fold_because(self: &Arc<Self>, reason: &str) -> Result<()> {
        self.upkeep().say_folding(Some(format!("folding, because {reason}")));
        let outcome = self.fold().await;
        self.upkeep().say_folding(None);
        outcome
    }

    async fn run_follow_up(self: Arc<Self>) {
        let outcome = self.follow_up().await;
        if let Err(error) = &outcome {
            // The next fold tries again.
            tracing::warn!(%error, table = self.name(), "upkeep failed");
        }
        self.upkeep().set_failure(outcome.err().map(|error| error.to_string()));
    }

    /// Does what is due after a fold, once no other task does it.
    async fn follow_up(self: &Arc<Self>) -> Result<()> {
        let _turn = self.upkeep().tend().await;
        let outcome = self.work().await;
        self.upkeep().done();
        outcome
    }

    async fn work(self: &Arc<Self>) -> Result<()> {
        // First, because indexes that hold addresses lag for joined files.
        compaction::join_due(self).boxed().await?;
        // Indexes need no update once the store was dropped.
        if let Some(work) = self.follow_fold() {
            self.upkeep().say("bringing indexes up to date");
            work.await?;
        }
        self.upkeep().say("removing unneeded history");
        collect::collect(self, retention(self.view()?.properties())?).boxed().await.map(drop)
    }

    /// Returns how far the base lags and what is being done: see [`UpkeepStatus`].
    pub(crate) fn upkeep_status(&self) -> Result<UpkeepStatus> {
        let doing = self.upkeep().doing();
        // Skipped while this process changes the base: its own lock would look like another process's.
        let doing = match (doing, self.base_turn().try_take()) {
            (None, Some(_turn)) => self.location().leases.elsewhere()?,
            (doing, _) => doing,
        };
        let newest = self.newest();
        let mark = newest.history().current()?;
        let (accepted, stored) = (mark.accepted + newest.accepted(), mark.stored + newest.accepted());
        Ok(UpkeepStatus {
            keys: newest.changes().entries(),
            bytes: newest.changes().bytes(),
            runs: newest.changes().runs(),
            since: newest.since(),
            files: newest.base().fragments().len(),
            amplification: if accepted == 0 { 1.0 } else { stored as f64 / accepted as f64 },
            doing,
            failure: self.upkeep().failure(),
        })
    }
}

//! Keeping a table in shape while it is written: when to fold, when to join small files, and what of the past to remove.
//!
//! Upkeep runs in the background of whatever process writes, one task a table, and never makes a write wait, but for one that
//! finds the change store four times as full as what starts a fold.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cenote_base::{Result, Timestamp};
use futures::FutureExt;
use futures::future::BoxFuture;
use lance::Dataset;
use lance::dataset::optimize::{CompactionOptions, compact_files};
use parking_lot::Mutex;

use crate::fault::lance_error;
use crate::state::State;
use crate::{Table, collect, direct};

/// A file is full with so many rows.
const FILE_ROWS: usize = 1 << 20;
/// At most so many bytes of a file are read and written at a time.
const FILE_BYTES_MAX: usize = 1 << 30;
/// So many small files are joined into one: a row is written anew once for each time that the table grows by this factor.
const FILES_JOINED: usize = 32;
/// A file that has lost so many of its rows is written anew: when somebody asks for it, and when nobody does.
const DELETED_SHARE: f32 = 0.1;
const DELETED_SHARE_UNASKED: f32 = 0.5;
/// A change store of so many rows is folded when more than half of them are superseded.
const DUPLICATE_ROWS_MIN: usize = 4096;

/// What is to be done for a table after its writes were folded, by who knows more of it than this crate: its indexes.
pub trait AfterFold: std::fmt::Debug + Send + Sync {
    /// Called in the background; an error is logged.
    fn after_fold(&self, table: Table) -> BoxFuture<'static, Result<()>>;
}

/// How far a table's base is behind its writes, and what is done about it.
#[derive(Debug, Clone, PartialEq)]
pub struct UpkeepStatus {
    /// Keys that were written since, over all runs.
    pub keys: usize,
    /// Bytes of their rows in memory.
    pub bytes: usize,
    /// Runs: parts of the change store that a fold takes as one.
    pub runs: usize,
    /// When the oldest of these writes came.
    pub since: Option<Timestamp>,
    /// Data files of the base.
    pub files: usize,
    /// Bytes written to log and base for each byte that was written to the table, since it was made; indexes apart.
    pub amplification: f64,
    /// What upkeep does now, in this process or another, and why.
    pub doing: Option<String>,
    /// Why the last upkeep in this process failed.
    pub failure: Option<String>,
}

/// What upkeep in this process does.
#[derive(Debug, Default)]
pub(crate) struct Upkeep {
    is_running: AtomicBool,
    is_waiting: AtomicBool,
    pub(crate) doing: Mutex<Option<String>>,
    failure: Mutex<Option<String>>,
}

impl State {
    /// Starts upkeep in the background when there is a reason and none runs, or has somebody look again later.
    pub(crate) fn keep_up(self: &Arc<Self>) {
        if let Some(reason) = self.reason_to_fold() {
            if !self.upkeep.is_running.swap(true, Ordering::AcqRel) {
                tokio::spawn(Arc::clone(self).run_upkeep(reason).boxed());
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

    /// Whether there are writes that the base does not hold.
    pub(crate) fn has_changes(&self) -> bool {
        !self.inner.lock().changes.is_empty()
    }

    fn reason_to_fold(&self) -> Option<String> {
        let inner = self.inner.lock();
        let (changes, options) = (&inner.changes, &self.options);
        let age = inner.since.map_or(0, |since| options.clock.now().0.saturating_sub(since.0));
        match () {
            () if changes.bytes() as u64 >= options.fold_bytes.0 => Some(format!("{} are full", options.fold_bytes)),
            () if changes.entries() >= options.fold_rows => Some(format!("{} rows are full", options.fold_rows)),
            () if !changes.is_empty() && u128::try_from(age).unwrap_or(0) >= options.fold_age.as_micros() => {
                Some(format!("the oldest write is {} s old", age / 1_000_000))
            }
            () if changes.rows >= DUPLICATE_ROWS_MIN && changes.live * 2 < changes.rows => {
                Some(format!("{} of {} rows are superseded", changes.rows - changes.live, changes.rows))
            }
            () => None,
        }
    }

    /// Does now, and in the foreground, what upkeep would do by itself; why it did, or `None` when there was no reason.
    pub(crate) async fn tend(self: &Arc<Self>) -> Result<Option<String>> {
        self.snapshot().boxed().await?;
        let Some(reason) = self.reason_to_fold() else { return Ok(None) };
        let outcome = self.work(&reason).boxed().await;
        *self.upkeep.doing.lock() = None;
        outcome.map(|()| Some(reason))
    }

    async fn run_upkeep(self: Arc<Self>, reason: String) {
        let outcome = self.work(&reason).await;
        *self.upkeep.doing.lock() = None;
        self.upkeep.is_running.store(false, Ordering::Release);
        if let Err(error) = &outcome {
            // Nothing is lost: the next write tries again, and a full change store makes writers wait and see it.
            tracing::warn!(%error, table = self.name, "upkeep failed");
        }
        *self.upkeep.failure.lock() = outcome.err().map(|error| error.to_string());
    }

    async fn work(self: &Arc<Self>, reason: &str) -> Result<()> {
        let doing = |what: String| *self.upkeep.doing.lock() = Some(what);
        doing(format!("folding, because {reason}"));
        self.fold().boxed().await?;
        // Who drops the store wants no more of it.
        if let Some(hook) = &self.options.after_fold
            && let Some(table) = self.table()
        {
            doing("indexing what was folded".to_owned());
            hook.after_fold(table).await?;
        }
        let base = Arc::clone(&self.inner.lock().base);
        // What is built from files would not fit those that they are joined to.
        let is_building = self.place.staging.claims().await?.is_building();
        if let Some(options) = compaction_due(&base).filter(|_| !is_building) {
            doing("joining files, because there are many small or half-deleted ones".to_owned());
            compact_with(self, options).await?;
        }
        doing("removing what nobody needs any more".to_owned());
        collect::collect(self, collect::retention(self.view()?.properties())?).boxed().await.map(drop)
    }

    /// See [`UpkeepStatus`].
    pub(crate) fn upkeep_status(&self) -> Result<UpkeepStatus> {
        let doing = self.upkeep.doing.lock().clone();
        // Not while this process changes the base: its own lock would look like another's.
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

/// Joins the base's small files and writes those anew that have lost rows: a tenth of them, or with `purge` any.
pub(crate) async fn compact(state: &Arc<State>, purge: bool) -> Result<()> {
    state.fold().await?;
    compact_with(state, compaction(FILE_ROWS, if purge { 0.0 } else { DELETED_SHARE })).await
}

async fn compact_with(state: &Arc<State>, options: CompactionOptions) -> Result<()> {
    let compact = async |dataset: &mut Dataset| {
        state.options.faults.check("base.commit")?;
        compact_files(dataset, options, None).boxed().await.map(drop).map_err(lance_error)
    };
    Box::pin(direct::rearrange(state, compact)).await
}

fn compaction(rows: usize, deleted_share: f32) -> CompactionOptions {
    CompactionOptions {
        target_rows_per_fragment: rows,
        max_bytes_per_file: Some(FILE_BYTES_MAX),
        materialize_deletions: true,
        materialize_deletions_threshold: deleted_share,
        num_threads: Some(1),
        ..CompactionOptions::default()
    }
}

/// How to compact `base` when nobody asked for it, if at all. Files that are larger than the small ones together are left
/// alone: a row is then written anew a bounded number of times, however large the table grows.
fn compaction_due(base: &Dataset) -> Option<CompactionOptions> {
    let rows = |fragment: &lance_table::format::Fragment| fragment.physical_rows.unwrap_or(0);
    let mut sizes: Vec<usize> = base.fragments().iter().map(rows).collect();
    sizes.sort_unstable();
    let together: usize = sizes.iter().take(FILES_JOINED).sum();
    let is_many = sizes.get(FILES_JOINED).is_some_and(|next| *next < FILE_ROWS);
    let half_deleted = base.fragments().iter().any(|fragment| {
        let deleted = fragment.deletion_file.as_ref().and_then(|file| file.num_deleted_rows).unwrap_or(0);
        deleted as f32 > rows(fragment) as f32 * DELETED_SHARE_UNASKED
    });
    let target = if is_many { together.min(FILE_ROWS) } else { 0 };
    (is_many || half_deleted).then(|| compaction(target, DELETED_SHARE_UNASKED))
}

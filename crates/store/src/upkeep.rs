//! Keeping a table in shape while it is written: when to fold, when to join small files, and what of the past to remove.
//!
//! Upkeep runs in the background of whatever process writes, one task a table, and never makes a write wait, but for one that
//! finds the change store four times as full as what starts a fold.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cenote_base::{Error, Result, Timestamp};
use futures::FutureExt;
use futures::future::BoxFuture;
use lance::Dataset;
use lance::dataset::cleanup::CleanupPolicy;
use lance::dataset::optimize::{CompactionOptions, compact_files};
use parking_lot::Mutex;

use crate::fault::lance_error;
use crate::history::Note;
use crate::state::{State, detached};
use crate::{Table, Version, base, direct};

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

/// The property that says for how many seconds the past can be read; by default a day.
pub const RETENTION_PROPERTY: &str = "cenote.retention_seconds";
/// The property that says how many bytes of the log are kept at most, whatever its age and whoever reads it; by default any
/// number. Tags keep what they name all the same.
pub const RETENTION_BYTES_PROPERTY: &str = "cenote.retention_bytes";
const RETENTION_DEFAULT: Duration = Duration::from_secs(24 * 60 * 60);

/// What is to be done for a table after its writes were folded, by who knows more of it than this crate: its indexes.
pub trait AfterFold: std::fmt::Debug + Send + Sync {
    /// Called in the background; an error is logged.
    fn after_fold(&self, table: Table) -> BoxFuture<'static, Result<()>>;
}

/// What a collection removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Collected {
    /// Versions of the base.
    pub bases: u64,
    /// Segments of the log.
    pub segments: usize,
    /// Bytes of the base's files.
    pub bytes: u64,
    /// The oldest version that can still be read, tagged ones apart.
    pub oldest: Version,
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
        if let Some(options) = compaction_due(&base) {
            doing("joining files, because there are many small or half-deleted ones".to_owned());
            compact_with(self, options).await?;
        }
        doing("removing what nobody needs any more".to_owned());
        collect(self, retention(self.view()?.properties())?).boxed().await.map(drop)
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
    Box::pin(direct::maintain(state, compact)).await
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

/// For how long the past of a table with `properties` can be read.
pub(crate) fn retention(properties: &HashMap<String, String>) -> Result<Duration> {
    let seconds = properties.get(RETENTION_PROPERTY).map(|text| parse_limit(RETENTION_PROPERTY, text)).transpose()?;
    Ok(seconds.map_or(RETENTION_DEFAULT, Duration::from_secs))
}

/// The number that `text` gives for the limit `property`.
pub(crate) fn parse_limit(property: &str, text: &str) -> Result<u64> {
    let unit = if property == RETENTION_PROPERTY { "seconds" } else { "bytes" };
    text.parse()
        .map_err(|_| Error::invalid_input(format!("property `{property}` is `{text}`: it is a number of {unit}")))
}

/// Removes what only versions before `keep` ago need.
pub(crate) async fn collect(state: &Arc<State>, keep: Duration) -> Result<Collected> {
    let state = Arc::clone(state);
    detached(async move {
        let _changing = state.changing().await?;
        let mut writing = state.writing().await?;
        state.adopt(&mut writing).boxed().await?;
        let history = state.history();
        let cutoff = state.now().1.0.saturating_sub(i64::try_from(keep.as_micros()).unwrap_or(i64::MAX));
        let versions = state.versions().await?;
        let aged =
            versions.iter().rev().find(|(_, time)| *time <= cutoff).map_or(history.oldest(), |(version, _)| version.0);
        let followed = history.consumers.values().copied().chain([aged]).min().unwrap_or(aged);
        let limit = state.inner.lock().base.config().get(RETENTION_BYTES_PROPERTY).cloned();
        let large = match limit {
            Some(text) => writing.log().version_before(parse_limit(RETENTION_BYTES_PROPERTY, &text)?).await?,
            None => 0,
        };
        // What was collected before is gone, whatever is wanted now.
        let wanted = followed.max(large).max(history.oldest());
        let Some(oldest) = history.at(Version(wanted)) else { return Ok(Collected::default()) };
        // Another base with the same rows, or with more of the log's, may have been made since: processes that this one does
        // not know of may read the one before.
        let lately = history.current_at(cutoff).map_or(0, |mark| mark.base);
        let tagged = history.tagged_before(oldest.version);
        let bases: BTreeSet<u64> = tagged.values().map(|mark| mark.base).collect();
        let base = Arc::clone(state.view()?.base());
        base::protect(&base, &bases).await?;
        // Said before it is done: a version that is said to be there must be.
        writing.note(Note::Collected { base: oldest.base, tagged: bases.clone() }).await?;
        state.roll_if_folded(&mut writing).await?;
        let history = state.history();
        let kept_keys: BTreeSet<u64> = history.marks.iter().map(|mark| mark.keys).collect();
        let tagged = tagged.iter().map(|(version, mark)| mark.folded + 1..=*version);
        let needed: Vec<_> = tagged.chain([oldest.folded + 1..=u64::MAX]).collect();
        let segments = writing.log().collect(&needed).await?;
        state.place.keys.collect(kept_keys).await?;
        drop(writing);
        base::unprotect(&base, &bases).await?;
        let in_use = state.bases_in_use().into_iter().filter(|base| !bases.contains(base));
        let policy = CleanupPolicy {
            before_version: in_use.chain([oldest.base, lately]).min(),
            // What no version names is what a crash left, or somebody staged lately.
            delete_unverified: keep.is_zero(),
            error_if_tagged_old_versions: false,
            ..CleanupPolicy::default()
        };
        let removed = base.cleanup(policy).execute().boxed().await.map_err(lance_error)?;
        Ok(Collected {
            bases: removed.old_versions,
            segments,
            bytes: removed.bytes_removed,
            oldest: Version(history.oldest()),
        })
    })
    .await
}

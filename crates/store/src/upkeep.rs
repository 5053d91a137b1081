//! Keeping a base small and its past short: compaction of small and half-deleted files, and collection of what no reader, tag,
//! consumer or retention needs.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use cenote_base::{Error, Result};
use futures::FutureExt;
use lance::dataset::cleanup::CleanupPolicy;
use lance::dataset::optimize::{CompactionOptions, compact_files};

use crate::fault::lance_error;
use crate::history::Note;
use crate::key_index::KeyIndex;
use crate::state::{State, blocking, detached};
use crate::{Version, direct};

/// Files of fewer rows are joined.
const FILE_ROWS: usize = 1 << 20;
/// At most so many bytes of a file are read and written at a time.
const FILE_BYTES_MAX: usize = 1 << 30;
/// A file that has lost so many of its rows is written anew.
const DELETED_SHARE: f32 = 0.1;

/// The property that says for how many seconds the past can be read; by default a day.
pub const RETENTION_PROPERTY: &str = "cenote.retention_seconds";
const RETENTION_DEFAULT: Duration = Duration::from_secs(24 * 60 * 60);

/// What a collection removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Collected {
    /// Versions of the base.
    pub bases: u64,
    /// Segments of the log.
    pub segments: usize,
    /// Bytes of the base's files.
    pub bytes: u64,
    /// The oldest version that can still be read.
    pub oldest: Version,
}

/// Joins the base's small files and writes those anew that have lost rows: a tenth of them, or with `purge` any.
pub(crate) async fn compact(state: &Arc<State>, purge: bool) -> Result<()> {
    state.fold().await?;
    let options = CompactionOptions {
        target_rows_per_fragment: FILE_ROWS,
        max_bytes_per_file: Some(FILE_BYTES_MAX),
        materialize_deletions: true,
        materialize_deletions_threshold: if purge { 0.0 } else { DELETED_SHARE },
        num_threads: Some(1),
        ..CompactionOptions::default()
    };
    let compact = async |dataset: &mut lance::Dataset| {
        state.options.faults.check("base.commit")?;
        compact_files(dataset, options, None).boxed().await.map(drop).map_err(lance_error)
    };
    Box::pin(direct::maintain(state, compact)).await
}

/// For how long the past of a table with `properties` can be read.
pub(crate) fn retention(properties: &std::collections::HashMap<String, String>) -> Result<Duration> {
    properties.get(RETENTION_PROPERTY).map_or(Ok(RETENTION_DEFAULT), |text| parse_retention(text))
}

pub(crate) fn parse_retention(text: &str) -> Result<Duration> {
    let seconds = text.parse().map_err(|_| {
        Error::invalid_input(format!("property `{RETENTION_PROPERTY}` is `{text}`: it is a number of seconds"))
    })?;
    Ok(Duration::from_secs(seconds))
}

/// Removes what only versions before `keep` ago need.
pub(crate) async fn collect(state: &Arc<State>, keep: Duration) -> Result<Collected> {
    let state = Arc::clone(state);
    detached(async move {
        let _changing = state.changing().await?;
        let mut writing = state.writing().await?;
        state.adopt(&mut writing).boxed().await?;
        let history = state.history();
        let cutoff = state.options.clock.now().0.saturating_sub(i64::try_from(keep.as_micros()).unwrap_or(i64::MAX));
        let versions = state.versions().await?;
        let aged =
            versions.iter().rev().find(|(_, time)| *time <= cutoff).map_or(history.oldest(), |(version, _)| version.0);
        let named = history.tags.values().chain(history.consumers.values()).copied();
        let wanted = named.chain([aged]).min().unwrap_or(aged);
        let Some(oldest) = history.at(Version(wanted)).or(history.marks.first().copied()) else {
            return Ok(Collected::default());
        };
        // Said before it is done: a version that is said to be there must be.
        state.note(&mut writing, Note::Collected { base: oldest.base }).await?;
        state.roll_if_folded(&mut writing)?;
        let history = state.history();
        let kept_keys: BTreeSet<u64> = history.marks.iter().map(|mark| mark.keys).collect();
        let keys = state.paths.keys.clone();
        let (writing, segments) = blocking(move || {
            let segments = writing.log().collect(oldest.folded)?;
            KeyIndex::collect(&keys, &kept_keys)?;
            Ok((writing, segments))
        })
        .await?;
        let base = Arc::clone(state.view_while(&writing)?.base());
        drop(writing);
        let policy = CleanupPolicy {
            before_version: Some(state.oldest_base_in_use().map_or(oldest.base, |read| read.min(oldest.base))),
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

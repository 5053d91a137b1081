//! Collection: removing versions of the base, segments of the log, and files that belong to nobody.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use cenote_base::Result;
use futures::FutureExt;
use lance::Dataset;
use lance::dataset::cleanup::CleanupPolicy;
use lance::index::DatasetIndexExt;
use lance_table::io::deletion::deletion_file_path;
use object_store::path::Path;

use crate::base::dataset;
use crate::blocking::{blocking, detached};
use crate::errors::lance_error;
use crate::files::objects::Objects;
use crate::log::history::Note;
use crate::properties::{RETENTION_BYTES_PROPERTY, parse_limit};
use crate::state::table_state::TableState;
use crate::version::Version;

/// The folders of a base with files that versions name.
const FOLDERS: [&str; 4] = ["data", "_deletions", "_indices", "_transactions"];

/// The result of a collection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Collected {
    /// Removed versions of the base.
    pub bases: u64,
    /// Removed segments of the log.
    pub segments: usize,
    /// Bytes of removed files of the base.
    pub bytes: u64,
    /// Versions of the base that were due for removal and were left, with all later ones, because they are being read.
    /// A later collection removes them once nobody reads them.
    pub held: usize,
    /// The oldest version that can still be read, apart from tagged ones.
    pub oldest: Version,
}

/// Removes what only versions before `keep` ago need. If `keep` is zero, also removes what crashes left.
pub(crate) async fn collect(state: &Arc<TableState>, keep: Duration) -> Result<Collected> {
    let state = Arc::clone(state);
    detached(async move {
        state.location().staging.bury(state.options().clock.now()).await?;
        let _changing = state.changing().await?;
        // Listed before the claims are read: see `staging`.
        let found = if keep.is_zero() { files(&state.location().files).await? } else { HashSet::new() };
        let claims = state.location().staging.claims().await?;
        let mut writing = state.writing().await?;
        state.adopt(&mut writing).boxed().await?;
        let history = state.history();
        let cutoff = state.now().1.0.saturating_sub(i64::try_from(keep.as_micros()).unwrap_or(i64::MAX));
        // The retained past can begin only at a base.
        let aged = history.marks.iter().rev().find(|mark| mark.time <= cutoff);
        let aged = aged.map_or(history.oldest(), |mark| mark.version);
        let followed = history.consumers.values().copied().chain([aged]).min().unwrap_or(aged);
        let limit = state.newest().base().config().get(RETENTION_BYTES_PROPERTY).cloned();
        let large = match limit {
            Some(text) => writing.log().version_before(parse_limit(RETENTION_BYTES_PROPERTY, &text)?).await?,
            None => 0,
        };
        // What was collected earlier cannot come back.
        let wanted = followed.max(large).max(history.oldest());
        let Some(oldest) = history.at(Version(wanted)) else { return Ok(Collected::default()) };
        // A base with the same rows, or with more of the log's, may have replaced `oldest.base` since. Processes that
        // this one does not know of may still read the earlier bases.
        let lately = history.current_at(cutoff).map_or(0, |mark| mark.base);
        let tagged = history.tagged_before(oldest.version);
        let bases: BTreeSet<u64> = tagged.values().map(|mark| mark.base).collect();
        let base = Arc::clone(state.view()?.base());
        dataset::protect(&base, &bases).await?;
        // Logged before it is done: a version that the log lists must exist.
        writing.note(Note::Collected { base: oldest.base, tagged: bases.clone() }).await?;
        state.roll_if_folded(&mut writing).await?;
        let past = writing.log().past();
        drop(writing);
        let history = state.history();
        let kept_keys: BTreeSet<u64> = history.marks.iter().map(|mark| mark.keys).collect();
        let tagged = tagged.iter().map(|(version, mark)| mark.folded + 1..=*version);
        let needed: Vec<_> = tagged.chain([oldest.folded + 1..=u64::MAX]).collect();
        let segments = past.collect(&needed).await?;
        state.location().keys.collect(kept_keys).await?;
        dataset::unprotect(&base, &bases).await?;
        let end = claims.oldest_base().into_iter().chain([oldest.base, lately]).fold(u64::MAX, u64::min);
        // Checked after the removals were logged: see `readers`.
        let readers = Arc::clone(state.readers());
        let mut held = blocking(move || readers.versions_before(end)).await?;
        held.retain(|base| !bases.contains(base));
        let policy = CleanupPolicy {
            before_version: Some(held.first().copied().unwrap_or(end)),
            error_if_tagged_old_versions: false,
            ..CleanupPolicy::default()
        };
        let removed = base.cleanup(policy).execute().boxed().await.map_err(lance_error)?;
        // While files are being written that are not known yet, unclaimed files are left for the next collection.
        let swept = if claims.is_writing() { 0 } else { sweep(&state, &base, found, &claims.files).boxed().await? };
        Ok(Collected {
            bases: removed.old_versions,
            segments,
            bytes: removed.bytes_removed + swept,
            held: held.len(),
            oldest: Version(history.oldest()),
        })
    })
    .await
}

/// Lists the files that versions may name.
async fn files(base: &Objects) -> Result<HashSet<String>> {
    let mut found = HashSet::new();
    for folder in FOLDERS {
        found.extend(base.under(folder).list().await?.into_iter().map(|name| format!("{folder}/{name}")));
    }
    Ok(found)
}

/// Removes those of `found` that no version of the base names and that are not `claimed`. Returns their bytes.
async fn sweep(state: &TableState, base: &Dataset, found: HashSet<String>, claimed: &HashSet<String>) -> Result<u64> {
    if found.is_empty() {
        return Ok(0);
    }
    let mut needed: HashSet<String> = claimed.iter().map(|file| unit(&format!("data/{file}"))).collect();
    for version in base.versions().await.map_err(lance_error)? {
        let version = base.checkout_version(version.version).boxed().await.map_err(lance_error)?;
        for fragment in version.fragments().iter() {
            needed.extend(fragment.files.iter().map(|file| unit(&format!("data/{}", file.path))));
            let deletions = fragment.deletion_file.as_ref();
            needed.extend(deletions.map(|file| deletion_file_path(&Path::default(), fragment.id, file).to_string()));
        }
        let indexes = version.load_indices().await.map_err(lance_error)?;
        needed.extend(indexes.iter().map(|index| format!("_indices/{}", index.uuid)));
        needed.extend(version.manifest().transaction_file.iter().map(|file| format!("_transactions/{file}")));
    }
    let mut bytes = 0;
    for file in found.into_iter().filter(|file| !needed.contains(&unit(file))) {
        // Lance's cleanup removed some already.
        if let Some(size) = state.location().files.size(&file).await? {
            state.location().files.delete(&file).await?;
            bytes += size;
        }
    }
    Ok(bytes)
}

/// Returns the unit in which a file of the base is kept or removed: an index is a folder, and media are in a folder
/// named after their data file.
fn unit(file: &str) -> String {
    match file.split('/').collect::<Vec<_>>()[..] {
        [folder @ "data", name, ..] => format!("{folder}/{}", name.strip_suffix(".lance").unwrap_or(name)),
        [folder @ "_indices", name, ..] => format!("{folder}/{name}"),
        _ => file.to_owned(),
    }
}

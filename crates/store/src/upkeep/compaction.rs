//! Joins of files of a base: their rows are rewritten to one file, which replaces them.
//!
//! Nobody waits for a join. It reads the rows of a pinned version of the base while writers and folds go on, and takes
//! the right to change the base only for its commit. Rows that were deleted meanwhile are deleted in the new file too.
//! If one of the files was changed otherwise or removed, the new file is discarded. Rows keep their row ids, so indexes
//! that hold row ids continue to cover them; indexes that hold addresses lag for the new file.
//!
//! Media are copied with their rows.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cenote_base::{Error, Result};
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use lance::Dataset;
use lance::dataset::fragment::FileFragment;
use lance::dataset::optimize::{CompactionOptions, CompactionTask, RewriteResult, TaskData};
use lance::dataset::transaction::{Operation, RewriteGroup};
use lance::index::DatasetIndexExt;
use lance_table::format::{Fragment, IndexMetadata};

use crate::base::staging::{Claim, ClaimedWork};
use crate::base::version_files::{flushing, sync_staged};
use crate::base::{dataset, deletions};
use crate::errors::lance_error;
use crate::reading::snapshot::Snapshot;
use crate::state::table_state::TableState;
use crate::upkeep::levels::{self, File, Group, Limits};
use crate::writing::direct;

/// A requested compaction rewrites a file that has lost this share of its rows.
const DELETED_SHARE: f64 = 0.1;
/// Rows are read and written in steps of about `STEP_BYTES`, media included, and at most `STEP_ROWS_MAX` rows.
const STEP_BYTES: u64 = 8 << 20;
const STEP_ROWS_MAX: usize = 8192;
/// Bytes that are read ahead of the writer.
const READ_AHEAD_BYTES: u64 = 64 << 20;
/// Attempts of a requested compaction while others change the files.
const TRIES: usize = 3;
/// Files measured in parallel.
const PARALLEL: usize = 16;
/// Interval of checks whether something is still being built from the files.
const POLL: Duration = Duration::from_millis(100);

/// Joins files where there are enough of them, and rewrites those that have lost most of their rows.
pub(crate) async fn join_due(state: &Arc<TableState>) -> Result<()> {
    // A requested compaction does all of this.
    let Some(_turn) = state.upkeep().try_join_files() else { return Ok(()) };
    join(state, levels::due).boxed().await.map(drop)
}

/// Joins all small files, and rewrites those that have lost a tenth of their rows, or with `purge` any row.
///
/// # Errors
/// `Conflict` when the files keep changing, or something is being built from them all the time.
pub(crate) async fn compact(state: &Arc<TableState>, purge: bool) -> Result<()> {
    state.fold().await?;
    let _turn = state.upkeep().join_files().await;
    let deleted_share = if purge { 0.0 } else { DELETED_SHARE };
    for _ in 0..TRIES {
        wait_for_builds(state).boxed().await?;
        let joined = join(state, |files, limits| levels::all(files, limits, deleted_share)).boxed().await;
        state.upkeep().done();
        if joined? {
            return Ok(());
        }
    }
    Err(Error::conflict(format!(
        "the files of table `{}` changed {TRIES} times while they were joined: compact when less is written",
        state.name()
    )))
}

async fn wait_for_builds(state: &TableState) -> Result<()> {
    let start = Instant::now();
    state.location().staging.bury(state.options().clock.now()).await?;
    while state.location().staging.claims().await?.is_building() {
        if start.elapsed() >= state.options().writer_wait_max {
            return Err(Error::conflict(format!(
                "something is being built from the files of table `{}`, such as an index: compact when it is done",
                state.name()
            )));
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

fn limits(state: &TableState) -> Limits {
    Limits { bytes: state.options().file_bytes.0, rows: state.options().file_rows }
}

/// Returns the files of `base`, oldest first.
async fn files(state: &TableState, base: &Dataset) -> Result<Vec<File>> {
    let indexes = following(base).await?;
    let sizes = base.fragments().iter().map(|fragment| state.upkeep().file_bytes().of(base, fragment));
    let sizes: Vec<_> = sizes.collect();
    let sizes: Vec<u64> = stream::iter(sizes).buffered(PARALLEL).try_collect().await?;
    let file = |(fragment, bytes): (&Fragment, u64)| {
        let rows = fragment.physical_rows.unwrap_or(0);
        let deleted = rows - fragment.num_rows().unwrap_or(rows);
        let covering = indexes.iter().enumerate().filter(|(_, index)| covers(index, fragment));
        File { fragment: fragment.id, rows, deleted, bytes, indexes: covering.map(|(number, _)| number).collect() }
    };
    Ok(base.fragments().iter().zip(sizes).map(file).collect())
}

/// Returns the indexes whose coverage follows rows to another file, which requires that they cover all joined files or
/// none.
async fn following(base: &Dataset) -> Result<Vec<IndexMetadata>> {
    let indexes = base.load_indices().await.map_err(lance_error)?;
    Ok(indexes.iter().filter(|index| !index.results_are_row_addrs()).cloned().collect())
}

fn covers(index: &IndexMetadata, fragment: &Fragment) -> bool {
    index.fragment_bitmap.as_ref().is_some_and(|files| files.contains(fragment.id as u32))
}

/// Joins the groups that `plan` selects. Returns false when files were changed meanwhile, other than by deletions, or
/// something is being built from them.
async fn join(state: &Arc<TableState>, plan: impl Fn(&[File], Limits) -> Vec<Group>) -> Result<bool> {
    let plan = async |snapshot: &Snapshot| Ok::<_, Error>(plan(&files(state, snapshot.base()).await?, limits(state)));
    let snapshot = state.snapshot().boxed().await?;
    if plan(&snapshot).await?.is_empty() {
        return Ok(true);
    }
    let work = async |claim: Arc<Claim>| {
        // Taken after the claim, which keeps other processes from removing what the snapshot reads, and held to the
        // end.
        let snapshot = state.snapshot().boxed().await?;
        let mut all_joined = true;
        for group in plan(&snapshot).await? {
            state.upkeep().say(format!("joining {} files of {} rows", group.len(), levels::live_rows(&group)));
            all_joined &= join_group(state, &snapshot, &group, &claim).boxed().await?;
        }
        Ok(all_joined)
    };
    state.claimed(ClaimedWork::Join, snapshot.base().version().version, work).await
}

/// Joins `group` into one file. Returns whether its files were as in `snapshot`, except for deletions.
async fn join_group(state: &Arc<TableState>, snapshot: &Snapshot, group: &[File], claim: &Claim) -> Result<bool> {
    // A build from files that are replaced would be in vain, and may have taken long.
    if state.location().staging.claims().await?.is_building() {
        return Ok(false);
    }
    let faults = &state.options().faults;
    faults.check("join.write")?;
    let joined = flushing(snapshot.base(), rewrite(snapshot, group, limits(state))).boxed().await?;
    // Synced here, where no right is held.
    sync_staged(snapshot.base(), &joined.new_fragments).await?;
    faults.check("join.written")?;
    let commit = async |newest: &mut Dataset| {
        claim.check().await?;
        if state.location().staging.claims().await?.is_building() {
            return Ok(false);
        }
        let dataset = Arc::new(newest.clone());
        let Some(operation) = carried_over(snapshot.base(), &dataset, joined).boxed().await? else { return Ok(false) };
        *newest = dataset::commit(&dataset, operation, faults).boxed().await?;
        Ok(true)
    };
    Box::pin(direct::rearrange(state, commit)).await
}

/// Writes the rows of `group` to files that no version of the base names yet: one file, unless it would be much larger
/// than the target.
async fn rewrite(snapshot: &Snapshot, group: &[File], limits: Limits) -> Result<RewriteResult> {
    let base = snapshot.base();
    let (rows, bytes) = (levels::live_rows(group), levels::live_bytes(group));
    let in_memory = snapshot.plain_row_bytes(snapshot.full_schema()).await?.all();
    let row_bytes = (bytes / rows.max(1) as u64).max(in_memory).max(1);
    let files = (rows / limits.rows.max(1)).max((bytes / limits.bytes.max(1)) as usize).max(1);
    let options = CompactionOptions {
        target_rows_per_fragment: (rows / files).max(1),
        batch_size: Some(((STEP_BYTES / row_bytes) as usize).clamp(1, STEP_ROWS_MAX)),
        io_buffer_size: Some(READ_AHEAD_BYTES),
        // Carrying such an index over would take as long as reading all of it.
        has_eager_remappable_index: Some(false),
        ..CompactionOptions::default()
    };
    let fragments = base.fragments().iter().filter(|fragment| group.iter().any(|file| file.fragment == fragment.id));
    let task = TaskData { fragments: fragments.cloned().collect() };
    let task = CompactionTask { task, read_version: base.version().version, options };
    task.execute(base).await.map_err(lance_error)
}

/// Returns `joined`, which was written from `base`, as a change of `newest`; `None` when one of its files was changed
/// other than by deletions, or removed.
async fn carried_over(base: &Arc<Dataset>, newest: &Arc<Dataset>, joined: RewriteResult) -> Result<Option<Operation>> {
    let mut old_fragments = Vec::with_capacity(joined.original_fragments.len());
    // Rows that were deleted meanwhile, as positions in the sequence of joined rows.
    let (mut deleted, mut start): (Vec<usize>, usize) = (Vec::new(), 0);
    for old in joined.original_fragments {
        let Some(now) = newest.get_fragment(old.id as usize) else { return Ok(None) };
        if now.metadata().files != old.files {
            return Ok(None);
        }
        let before = deletions::read(&FileFragment::new(Arc::clone(base), old.clone())).await?;
        let since = deletions::read(&now).await? - &before;
        deleted.extend(since.iter().map(|offset| start + offset as usize - before.rank(offset) as usize));
        start += old.physical_rows.unwrap_or(0) - before.len() as usize;
        old_fragments.push(now.metadata().clone());
    }
    for index in following(newest).await? {
        let covered = old_fragments.iter().filter(|fragment| covers(&index, fragment)).count();
        if covered > 0 && covered < old_fragments.len() {
            return Ok(None);
        }
    }
    let mut new_fragments = Vec::with_capacity(joined.new_fragments.len());
    // Nobody else makes fragments while this process has the right to change the base.
    let ids = newest.manifest().max_fragment_id().map_or(0, |id| id + 1)..;
    let mut start = 0;
    for (id, fragment) in ids.zip(joined.new_fragments) {
        let end = start + fragment.physical_rows.unwrap_or(0);
        let lost = &deleted[deleted.partition_point(|row| *row < start)..deleted.partition_point(|row| *row < end)];
        let lost: Vec<u32> = lost.iter().map(|row| (row - start) as u32).collect();
        let fragment = Fragment { id, ..fragment };
        match lost.is_empty() {
            true => new_fragments.push(fragment),
            false => {
                let file = FileFragment::new(Arc::clone(newest), fragment);
                new_fragments.extend(deletions::extend(&file, lost).await?);
            }
        }
        start = end;
    }
    let groups = vec![RewriteGroup { old_fragments, new_fragments }];
    Ok(Some(Operation::Rewrite { groups, rewritten_indices: Vec::new(), frag_reuse_index: None }))
}

//! Direct writes, which go straight to the base: large loads, large updates and deletions, and changes of the table
//! itself.
//!
//! Each is one Lance commit followed by one log record, which names the keys it concerned. A crash between the two
//! leaves a base version that the log does not mention; the next process that changes the base adopts it. If the change
//! store has one of the keys, it is folded first, so that an older write never hides a newer one.

use std::hash::BuildHasherDefault;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use cenote_base::{Error, Result};
use futures::FutureExt;
use lance::Dataset;
use lance_table::format::Fragment;
use serde::{Deserialize, Serialize};

use crate::base::dataset::{self, schemas};
use crate::base::staging::{Claim, ClaimedWork};
use crate::base::version_files::{flushing, sync_staged};
use crate::blocking::detached;
use crate::changes::change_store::ByHash;
use crate::errors::arrow_error;
use crate::log::concerned::Concerned;
use crate::report::WriteReport;
use crate::rows::{buffers, schema};
use crate::state::table_state::TableState;
use crate::version::Version;
use crate::writing::commit::Writing;
use crate::writing::log_base::{Changing, Direct};
use crate::writing::patch;
use crate::writing::update::Update;

/// Rows in files that no version of the table names yet: see [`Table::stage`](crate::Table::stage).
#[derive(Debug, Clone)]
pub struct Staged {
    /// The claim that protects the files from collection; `None` while their writer holds it.
    claim: Option<String>,
    fragments: Vec<Fragment>,
    /// The keys of the rows, in several batches: together they may exceed Arrow's offsets.
    keys: Vec<RecordBatch>,
    /// The logical schema with which the rows were written.
    schema: SchemaRef,
}

/// The parts of [`Staged`] that are not stored as Arrow.
#[derive(Debug, Serialize, Deserialize)]
struct StagedHeader {
    format: u32,
    #[serde(default)]
    claim: Option<String>,
    fragments: Vec<Fragment>,
}

/// Since format 2, the keys are several batches.
const STAGED_FORMAT: u32 = 2;
impl Staged {
    /// Returns the number of rows.
    pub fn rows(&self) -> usize {
        self.keys.iter().map(RecordBatch::num_rows).sum()
    }

    /// Makes the rows durable: they may be committed after this machine has lost power.
    pub(crate) async fn sync(&self, dataset: &Dataset) -> Result<()> {
        sync_staged(dataset, &self.fragments).await
    }

    /// Serialises the rows, for [`from_bytes`](Self::from_bytes) in any process.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let header =
            StagedHeader { format: STAGED_FORMAT, claim: self.claim.clone(), fragments: self.fragments.clone() };
        let header = serde_json::to_vec(&header).map_err(|e| Error::internal("write staged rows").with_source(e))?;
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header);
        let keys = self.keys.first().map_or_else(|| Arc::clone(&self.schema), RecordBatch::schema);
        for (schema, batches) in [(&self.schema, [].as_slice()), (&keys, &self.keys)] {
            let mut part = Vec::new();
            let mut writer = StreamWriter::try_new(&mut part, schema).map_err(arrow_error)?;
            batches.iter().try_for_each(|batch| writer.write(batch)).map_err(arrow_error)?;
            writer.finish().map_err(arrow_error)?;
            bytes.extend((part.len() as u64).to_le_bytes());
            bytes.extend(part);
        }
        Ok(bytes)
    }

    /// # Errors
    /// `InvalidInput` when `bytes` are not those of [`to_bytes`](Self::to_bytes).
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let wrong = || Error::invalid_input("these bytes are not staged rows");
        let mut rest = bytes;
        let mut part = || -> Result<&[u8]> {
            let (length, tail) = rest.split_first_chunk::<8>().ok_or_else(wrong)?;
            let length = usize::try_from(u64::from_le_bytes(*length)).map_err(|source| wrong().with_source(source))?;
            let (part, tail) = tail.split_at_checked(length).ok_or_else(wrong)?;
            rest = tail;
            Ok(part)
        };
        let header: StagedHeader = serde_json::from_slice(part()?).map_err(|source| wrong().with_source(source))?;
        if header.format > STAGED_FORMAT {
            return Err(Error::unsupported("these rows were staged by a newer version of Cenote: commit them with it"));
        }
        let reader = |bytes| StreamReader::try_new(bytes, None).map_err(|source| wrong().with_source(source));
        let (schema, keys) = (reader(part()?)?.schema(), reader(part()?)?);
        let keys = keys.collect::<std::result::Result<Vec<_>, _>>().map_err(|source| wrong().with_source(source))?;
        if header.claim.is_none() {
            let what =
                "these rows were staged by an early version of Cenote, and may have been removed: stage them again";
            return Err(Error::unsupported(what));
        }
        Ok(Self { claim: header.claim, fragments: header.fragments, keys, schema })
    }
}

/// Writes rows, checked and in the logical schema, to files. A claim protects the files until they are committed or too
/// old.
pub(crate) async fn stage(state: &TableState, dataset: &Arc<Dataset>, batches: Vec<RecordBatch>) -> Result<Staged> {
    let work = async |claim: Arc<Claim>| {
        let staged = write(state, dataset, batches).await?;
        let files = staged.fragments.iter().flat_map(|fragment| &fragment.files).map(|file| file.path.clone());
        let claim = claim.keep(files.collect(), state.options().clock.now()).await?;
        Ok(Staged { claim: Some(claim), ..staged })
    };
    state.claimed(ClaimedWork::Rows, dataset.version().version, work).await
}

async fn write(state: &TableState, dataset: &Arc<Dataset>, batches: Vec<RecordBatch>) -> Result<Staged> {
    let (logical, stored) = schemas(dataset);
    let keys = batches.iter().map(|batch| buffers::owned(&state.key().project(batch)?)).collect::<Result<Vec<_>>>()?;
    let rows = batches.iter().map(|batch| schema::to_stored_batch(batch, &stored)).collect::<Result<Vec<_>>>()?;
    drop(batches);
    let fragments = flushing(dataset, dataset::stage(dataset, rows, &state.options().faults)).await?;
    Ok(Staged { claim: None, fragments, keys, schema: Arc::new(logical) })
}

/// Upserts rows, one per key, in the logical schema. The files are written before any turn is taken.
pub(crate) async fn upsert(state: &Arc<TableState>, batches: Vec<RecordBatch>) -> Result<WriteReport> {
    let state = Arc::clone(state);
    detached(async move {
        let dataset = Arc::clone(state.snapshot().await?.base());
        let work = async |claim: Arc<Claim>| {
            let staged = write(&state, &dataset, batches).await?;
            staged.sync(&dataset).await?;
            let changing = state.changing().await?;
            claim.check().await?;
            commit_while(&state, &changing, vec![staged]).await
        };
        state.claimed(ClaimedWork::Rows, dataset.version().version, work).await
    })
    .await
}

/// Commits staged rows, wherever they were staged, as one version of the table.
pub(crate) async fn commit(state: &Arc<TableState>, staged: Vec<Staged>) -> Result<WriteReport> {
    let state = Arc::clone(state);
    detached(async move {
        let claims: Vec<String> = staged.iter().filter_map(|staged| staged.claim.clone()).collect();
        let report = {
            let changing = state.changing().await?;
            for claim in &claims {
                state.location().staging.check_kept(claim).await?;
            }
            commit_while(&state, &changing, staged).await?
        };
        for claim in claims {
            state.location().staging.forget(&claim).await;
        }
        Ok(report)
    })
    .await
}

async fn commit_while(state: &Arc<TableState>, changing: &Changing, staged: Vec<Staged>) -> Result<WriteReport> {
    let keys: Vec<RecordBatch> = staged.iter().flat_map(|staged| staged.keys.iter().cloned()).collect();
    let hashes = keys.iter().map(|keys| state.key().hash(keys, state.hash_key())).collect::<Result<Vec<_>>>()?.concat();
    let rows = hashes.len();
    let mut seen: ByHash<()> = ByHash::with_capacity_and_hasher(rows, BuildHasherDefault::default());
    if hashes.iter().any(|hash| seen.insert(*hash, ()).is_some()) {
        return Err(Error::invalid_input("a key was staged twice: stage each key in one place"));
    }
    drop(seen);
    let mut writing = state.writing().await?;
    state.adopt(&mut writing).boxed().await?;
    if state.knows_any(&hashes) {
        state.fold_all(changing, &mut writing).boxed().await?;
    }
    let snapshot = state.view()?;
    if staged.iter().any(|staged| staged.schema != *snapshot.full_schema()) {
        return Err(Error::conflict("the table's schema has changed since the rows were staged: stage them again"));
    }
    let superseded: Vec<u64> = snapshot.locate_hashes(hashes).await?.into_iter().flatten().collect();
    let fragments = staged.into_iter().flat_map(|staged| staged.fragments).collect();
    let old = snapshot.base();
    let new = dataset::replace(snapshot.reader(), &superseded, fragments, &state.options().faults).await?;
    let entries = dataset::all_keys(&new, Some(old), state.key(), state.hash_key()).await?;
    let concerned = keys.into_iter().map(Concerned::written).collect();
    let direct = Direct { base: new, entries, concerned, is_write: true };
    let version = state.finish_direct(changing, &mut writing, direct).boxed().await?;
    let updated = superseded.len();
    Ok(WriteReport { version, inserted: rows - updated, updated, deleted: 0 })
}

/// Sets columns of existing rows.
pub(crate) async fn update(state: &Arc<TableState>, update: Update) -> Result<WriteReport> {
    let state = Arc::clone(state);
    detached(async move {
        let changing = state.changing().await?;
        let mut writing = state.writing().await?;
        state.adopt(&mut writing).boxed().await?;
        let hashes = state.key().hash(&state.key().project(&update.batch)?, state.hash_key())?;
        if state.knows_any(&hashes) {
            state.fold_all(&changing, &mut writing).boxed().await?;
        }
        let snapshot = state.view()?;
        let (batch, row_ids) = update.at(&snapshot).await?;
        let mut report = WriteReport { version: snapshot.version(), inserted: 0, updated: 0, deleted: 0 };
        if row_ids.is_empty() {
            return Ok(report);
        }
        let keys = state.key().project(&batch)?;
        let new = patch::patch(&snapshot, state.key(), batch, &row_ids, &state.options().faults).await?;
        let entries = dataset::all_keys(&new, Some(snapshot.base()), state.key(), state.hash_key()).await?;
        let direct = Direct { base: new, entries, concerned: vec![Concerned::written(keys)], is_write: true };
        report.version = state.finish_direct(&changing, &mut writing, direct).boxed().await?;
        report.updated = row_ids.len();
        Ok(report)
    })
    .await
}

/// Deletes the rows of `keys`.
pub(crate) async fn delete(state: &Arc<TableState>, keys: RecordBatch, hashes: Vec<u128>) -> Result<WriteReport> {
    let state = Arc::clone(state);
    detached(async move {
        let changing = state.changing().await?;
        let writing = state.writing().await?;
        delete_while(&state, &changing, writing, keys, hashes).await
    })
    .await
}

/// Deletes rows as [`delete`] does, with rights that the caller holds.
pub(crate) async fn delete_while(
    state: &Arc<TableState>,
    changing: &Changing,
    mut writing: Writing,
    keys: RecordBatch,
    hashes: Vec<u128>,
) -> Result<WriteReport> {
    state.adopt(&mut writing).boxed().await?;
    if state.knows_any(&hashes) {
        state.fold_all(changing, &mut writing).boxed().await?;
    }
    let snapshot = state.view()?;
    let superseded: Vec<u64> = snapshot.locate(&keys).await?.into_iter().flatten().collect();
    let mut report = WriteReport { version: snapshot.version(), inserted: 0, updated: 0, deleted: 0 };
    if superseded.is_empty() {
        return Ok(report);
    }
    let new = dataset::replace(snapshot.reader(), &superseded, Vec::new(), &state.options().faults).await?;
    let entries = hashes.into_iter().map(|hash| (hash, None)).collect();
    let direct = Direct { base: new, entries, concerned: vec![Concerned::deleted(keys)], is_write: true };
    report.version = state.finish_direct(changing, &mut writing, direct).boxed().await?;
    report.deleted = superseded.len();
    Ok(report)
}

/// Changes the schema or the properties. Everything is folded first, because rows in the change store have the schema
/// they were written with.
pub(crate) async fn alter(
    state: &Arc<TableState>,
    change: impl AsyncFnOnce(&mut Dataset) -> Result<()>,
) -> Result<Version> {
    let changing = state.changing().await?;
    let mut writing = state.writing().await?;
    state.fold_all(&changing, &mut writing).boxed().await?;
    let before = state.view()?;
    let mut dataset = before.base().as_ref().clone();
    state.options().faults.check("base.commit")?;
    Box::pin(change(&mut dataset)).await?;
    if dataset.version().version == before.base().version().version {
        return Ok(before.version());
    }
    state.options().faults.check("base.committed")?;
    let direct = Direct { base: dataset, entries: Vec::new(), concerned: Vec::new(), is_write: true };
    log_direct(state, changing, writing, direct).await
}

/// Logs a base version that was committed, even when the caller is cancelled.
async fn log_direct(
    state: &Arc<TableState>,
    changing: Changing,
    mut writing: Writing,
    direct: Direct,
) -> Result<Version> {
    let state = Arc::clone(state);
    detached(async move { state.finish_direct(&changing, &mut writing, direct).await }).await
}

/// Changes the base without changing its rows, holding the right to change it throughout.
pub(crate) async fn rearrange<T>(
    state: &Arc<TableState>,
    change: impl AsyncFnOnce(&mut Dataset) -> Result<T>,
) -> Result<T> {
    let changing = state.changing().await?;
    let mut writing = state.writing().await?;
    state.adopt(&mut writing).boxed().await?;
    let mut dataset = state.view()?.base().as_ref().clone();
    drop(writing);
    let before = dataset.version().version;
    let done = Box::pin(change(&mut dataset)).await;
    // Even a failed change may have committed a part.
    if dataset.version().version != before {
        let writing = state.writing().await?;
        let direct = Direct { base: dataset, entries: Vec::new(), concerned: Vec::new(), is_write: false };
        log_direct(state, changing, writing, direct).await?;
    }
    done
}

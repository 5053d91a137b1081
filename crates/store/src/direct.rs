//! Writes that go straight to the base: large loads, columns of tables with media, and changes of the table itself.
//!
//! Each is one Lance commit and then one record in the log, which names the keys it concerned. A crash between the two leaves
//! a base version that nobody was told of; the next one who changes the base takes it over. Where the change store has a
//! word on a key of the write, it is folded first, so that the newest word on a key is never below an older one.

use std::sync::Arc;

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, take_record_batch};
use cenote_base::Result;
use futures::FutureExt;
use lance::Dataset;

use crate::fault::arrow_error;
use crate::fold::Direct;
use crate::schema;
use crate::state::{State, detached};
use crate::store::schemas;
use crate::{Version, WriteReport, base};

/// Puts rows, one a key, in the logical schema. The files are written before the turn to write is taken.
pub(crate) async fn upsert(state: &Arc<State>, batches: Vec<RecordBatch>, hashes: Vec<u128>) -> Result<WriteReport> {
    let state = Arc::clone(state);
    detached(async move {
        let changing = state.changing().await?;
        let dataset = Arc::clone(state.snapshot().await?.base());
        let (_, stored) = schemas(&dataset);
        let (keys, rows) = {
            let keys = batches.iter().map(|batch| state.key.project(batch)).collect::<Result<Vec<_>>>()?;
            let keys = concat_batches(state.key.schema(), &keys).map_err(arrow_error)?;
            let rows = batches.iter().map(|batch| schema::to_stored_batch(batch, &stored));
            (keys, rows.collect::<Result<Vec<_>>>()?)
        };
        drop(batches);
        let fragments = base::stage(&dataset, rows, &state.options.faults).await?;

        let mut writing = state.writing().await?;
        state.adopt(&mut writing).boxed().await?;
        if state.knows_any(&hashes) {
            state.fold_all(&changing, &mut writing).boxed().await?;
        }
        let snapshot = state.view_while(&writing)?;
        let superseded: Vec<u64> = snapshot.locate(&keys).await?.into_iter().flatten().collect();
        let old = snapshot.base();
        let new = base::replace(old, &superseded, fragments, &state.options.faults).await?;
        let entries = base::keys(&new, Some(old), &state.key, state.hash_key()).await?;
        let direct = Direct { base: new, entries, written: Some(keys), deleted: None, is_write: true };
        let version = state.finish_direct(&changing, &mut writing, direct).boxed().await?;
        let updated = superseded.len();
        Ok(WriteReport { version, inserted: hashes.len() - updated, updated, deleted: 0 })
    })
    .await
}

/// Sets the columns of `batch` (logical, one row a key) where its keys are.
pub(crate) async fn update(state: &Arc<State>, batch: RecordBatch) -> Result<WriteReport> {
    let state = Arc::clone(state);
    detached(async move {
        let changing = state.changing().await?;
        let mut writing = state.writing().await?;
        state.adopt(&mut writing).boxed().await?;
        let hashes = state.key.hash(&state.key.project(&batch)?, state.hash_key())?;
        if state.knows_any(&hashes) {
            state.fold_all(&changing, &mut writing).boxed().await?;
        }
        let snapshot = state.view_while(&writing)?;
        let found = snapshot.locate(&state.key.project(&batch)?).await?;
        let rows = (0u32..).zip(found).filter_map(|(row, id)| Some((row, id?)));
        let (rows, row_ids): (Vec<u32>, Vec<u64>) = rows.unzip();
        let mut report = WriteReport { version: snapshot.version(), inserted: 0, updated: 0, deleted: 0 };
        if rows.is_empty() {
            return Ok(report);
        }
        let batch = take_record_batch(&batch, &UInt32Array::from(rows)).map_err(arrow_error)?;
        let keys = state.key.project(&batch)?;
        let old = snapshot.base();
        let batch = schema::to_stored_batch(&batch, &schemas(old).1)?;
        let new = base::patch(old, &state.key, batch, &row_ids, &state.options.faults).await?;
        let entries = base::keys(&new, Some(old), &state.key, state.hash_key()).await?;
        let direct = Direct { base: new, entries, written: Some(keys), deleted: None, is_write: true };
        report.version = state.finish_direct(&changing, &mut writing, direct).boxed().await?;
        report.updated = row_ids.len();
        Ok(report)
    })
    .await
}

/// Takes out the rows of `keys`.
pub(crate) async fn delete(state: &Arc<State>, keys: RecordBatch, hashes: Vec<u128>) -> Result<WriteReport> {
    let state = Arc::clone(state);
    detached(async move {
        let changing = state.changing().await?;
        let mut writing = state.writing().await?;
        state.adopt(&mut writing).boxed().await?;
        if state.knows_any(&hashes) {
            state.fold_all(&changing, &mut writing).boxed().await?;
        }
        let snapshot = state.view_while(&writing)?;
        let superseded: Vec<u64> = snapshot.locate(&keys).await?.into_iter().flatten().collect();
        let mut report = WriteReport { version: snapshot.version(), inserted: 0, updated: 0, deleted: 0 };
        if superseded.is_empty() {
            return Ok(report);
        }
        let new = base::replace(snapshot.base(), &superseded, Vec::new(), &state.options.faults).await?;
        let entries = hashes.into_iter().map(|hash| (hash, None)).collect();
        let direct = Direct { base: new, entries, written: None, deleted: Some(keys), is_write: true };
        report.version = state.finish_direct(&changing, &mut writing, direct).boxed().await?;
        report.deleted = superseded.len();
        Ok(report)
    })
    .await
}

/// Changes the schema or the properties. Everything is folded first: rows in the change store are of the schema that they
/// were written with.
pub(crate) async fn alter(state: &Arc<State>, change: impl AsyncFnOnce(&mut Dataset) -> Result<()>) -> Result<Version> {
    let changing = state.changing().await?;
    let mut writing = state.writing().await?;
    state.fold_all(&changing, &mut writing).boxed().await?;
    let mut dataset = state.view_while(&writing)?.base().as_ref().clone();
    state.options.faults.check("base.commit")?;
    Box::pin(change(&mut dataset)).await?;
    state.options.faults.check("base.committed")?;
    let direct = Direct { base: dataset, entries: Vec::new(), written: None, deleted: None, is_write: true };
    state.finish_direct(&changing, &mut writing, direct).boxed().await
}

/// Changes the base without changing its rows.
pub(crate) async fn maintain<T>(state: &Arc<State>, change: impl AsyncFnOnce(&mut Dataset) -> Result<T>) -> Result<T> {
    let changing = state.changing().await?;
    let mut writing = state.writing().await?;
    state.adopt(&mut writing).boxed().await?;
    let mut dataset = state.view_while(&writing)?.base().as_ref().clone();
    drop(writing);
    let before = dataset.version().version;
    let done = Box::pin(change(&mut dataset)).await;
    // Even a change that failed may have committed a part.
    if dataset.version().version != before {
        let mut writing = state.writing().await?;
        let direct = Direct { base: dataset, entries: Vec::new(), written: None, deleted: None, is_write: false };
        state.finish_direct(&changing, &mut writing, direct).boxed().await?;
    }
    done
}

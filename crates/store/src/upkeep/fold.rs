//! Folds: the writes of a sealed change store become one commit to the base.
//!
//! A fold reads nothing but memory, writes each row once, and changes no row that the log does not hold too. If it is
//! interrupted at any point, repeating it gives the same rows.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::interleave_record_batch;
use cenote_base::{Result, Timestamp};

use crate::Version;
use crate::base::dataset;
use crate::base::pages::RowReader;
use crate::changes::change_store::{Chunk, ToFold};
use crate::errors::arrow_error;
use crate::keys::key_index::KeyIndex;
use crate::rows::schema;
use crate::state::table_state::{State, blocking, detached};
use crate::store::schemas;
use crate::writing::commit::Writing;
use crate::writing::log_base::{Changing, Folded};

/// Rows per batch handed to the base.
const BATCH_ROWS: usize = 8192;

/// A change store as of the end of its log segment.
#[derive(Debug)]
struct Sealed {
    /// The newest write in it, and the time of that write.
    version: u64,
    time: Timestamp,
    reader: Arc<RowReader>,
    keys: KeyIndex,
    chunks: Arc<Vec<Arc<Chunk>>>,
    fold: ToFold,
}

impl State {
    /// Moves everything written so far into the base. Writers go on meanwhile.
    pub(crate) async fn fold(self: &Arc<Self>) -> Result<()> {
        let state = Arc::clone(self);
        detached(async move {
            let changing = state.changing().await?;
            let mut writing = state.writing().await?;
            state.adopt(&mut writing).await?;
            let Some(sealed) = state.seal(&mut writing).await? else { return Ok(()) };
            drop(writing);
            let folded = sealed.fold(&state).await?;
            let mut writing = state.writing().await?;
            state.finish(&changing, &mut writing, folded).await
        })
        .await
    }

    /// Moves everything into the base while the caller keeps others from writing.
    pub(crate) async fn fold_all(self: &Arc<Self>, changing: &Changing, writing: &mut Writing) -> Result<()> {
        self.adopt(writing).await?;
        let Some(sealed) = self.seal(writing).await? else { return Ok(()) };
        let folded = sealed.fold(self).await?;
        self.finish(changing, writing, folded).await
    }

    /// Ends the log's current segment and the corresponding layer of the change store.
    async fn seal(&self, writing: &mut Writing) -> Result<Option<Sealed>> {
        let (version, time) = self.now();
        if self.inner.lock().changes.is_empty() {
            return Ok(None);
        }
        writing.roll(version, time).await?;
        let mut inner = self.inner.lock();
        let sealed = Sealed {
            version,
            time: inner.time,
            reader: Arc::clone(&inner.reader),
            keys: inner.keys.clone(),
            chunks: Arc::clone(&inner.changes.chunks),
            fold: inner.changes.to_fold(),
        };
        inner.changes.seal();
        Ok(Some(sealed))
    }

    /// Ends the log's current segment if `version` is the newest, so that keeping this version keeps nothing newer.
    pub(crate) async fn roll_behind(&self, writing: &mut Writing, version: Version) -> Result<()> {
        let (newest, time) = self.now();
        if version.0 < newest {
            return Ok(());
        }
        writing.roll(newest, time).await?;
        self.inner.lock().changes.seal();
        Ok(())
    }

    /// Ends the log's current segment if everything in it is folded, so that it can be collected.
    pub(crate) async fn roll_if_folded(&self, writing: &mut Writing) -> Result<()> {
        let (version, time) = self.now();
        if self.history().current()?.folded < version {
            return Ok(());
        }
        writing.roll(version, time).await
    }
}

impl Sealed {
    async fn fold(self, state: &State) -> Result<Folded> {
        let Self { version, time, reader, keys, chunks, fold } = self;
        let ToFold { superseded, deleted, rows } = fold;
        let dataset = Arc::clone(reader.base());
        let rows = blocking(move || {
            let (logical, stored) = schemas(&dataset);
            let logical = Arc::new(logical);
            let batches = chunks.iter().map(|chunk| schema::conform(&chunk.batch, &logical));
            let batches = batches.collect::<Result<Vec<_>>>()?;
            let sources: Vec<&RecordBatch> = batches.iter().collect();
            let places: Vec<(usize, usize)> = rows.iter().map(|(place, _)| *place).collect();
            let pieces = places.chunks(BATCH_ROWS).map(|places| {
                let rows = interleave_record_batch(&sources, places).map_err(arrow_error)?;
                schema::to_stored_batch(&rows, &stored)
            });
            pieces.collect::<Result<Vec<_>>>()
        })
        .await?;
        let faults = &state.options.faults;
        let fragments = dataset::stage(reader.base(), rows, faults).await?;
        let folded = dataset::replace(&reader, &superseded, fragments, faults).await?;
        let mut entries = dataset::all_keys(&folded, Some(reader.base()), &state.key, state.hash_key()).await?;
        entries.extend(deleted.into_iter().map(|hash| (hash, None)));
        faults.check("keys.save")?;
        let number = folded.version().version;
        let keys = blocking(move || keys.advance(number, entries)).await?;
        let keys = state.place.keys.save(keys, number).await?;
        Ok(Folded { version, time, base: folded, keys })
    }
}

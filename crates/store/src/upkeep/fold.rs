//! Folds: the writes of a sealed change store become one commit to the base.
//!
//! A fold reads nothing but memory, writes each row once, and changes no row that the log does not hold too. If it is
//! interrupted at any point, repeating it gives the same rows.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::interleave_record_batch;
use cenote_base::{Result, Timestamp};
use futures::FutureExt;

use crate::base::dataset::{self, schemas};
use crate::base::pages::RowReader;
use crate::blocking::{blocking, detached};
use crate::changes::change_store::ToFold;
use crate::errors::arrow_error;
use crate::keys::key_index::KeyIndex;
use crate::rows::schema;
use crate::state::table_state::TableState;
use crate::version::Version;
use crate::writing::commit::Writing;
use crate::writing::log_base::{Changing, Folded};

/// A writer waits for a fold when the change store holds more than `BACKPRESSURE · fold_bytes` bytes.
const BACKPRESSURE: u64 = 4;

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
    fold: ToFold,
}

impl TableState {
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

    /// Waits until the change store has room for another write.
    pub(crate) async fn make_room(self: &Arc<Self>) -> Result<()> {
        let room = self.options().fold_bytes.0 * BACKPRESSURE;
        while self.newest().changes().bytes() as u64 > room {
            self.fold().boxed().await?;
        }
        Ok(())
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
        if self.newest().changes().is_empty() {
            return Ok(None);
        }
        writing.roll(version, time).await?;
        let mut newest = self.newest();
        let sealed = Sealed {
            version,
            time: newest.time(),
            reader: Arc::clone(newest.reader()),
            keys: newest.keys().clone(),
            fold: newest.changes().to_fold(),
        };
        newest.seal();
        Ok(Some(sealed))
    }

    /// Ends the log's current segment if `version` is the newest, so that keeping this version keeps nothing newer.
    pub(crate) async fn roll_behind(&self, writing: &mut Writing, version: Version) -> Result<()> {
        let (newest, time) = self.now();
        if version.0 < newest {
            return Ok(());
        }
        writing.roll(newest, time).await?;
        self.newest().seal();
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
    async fn fold(self, state: &TableState) -> Result<Folded> {
        let Self { version, time, reader, keys, mut fold } = self;
        let (superseded, deleted) = (std::mem::take(&mut fold.superseded), std::mem::take(&mut fold.deleted));
        let base = Arc::clone(reader.base());
        let rows = blocking(move || {
            let (logical, stored) = schemas(&base);
            let batches = fold.chunks(&Arc::new(logical))?;
            let sources: Vec<&RecordBatch> = batches.iter().collect();
            let rows: Vec<(usize, usize)> = fold.rows.iter().map(|row| (row.chunk(), row.row())).collect();
            let pieces = rows.chunks(BATCH_ROWS).map(|rows| {
                let rows = interleave_record_batch(&sources, rows).map_err(arrow_error)?;
                schema::to_stored_batch(&rows, &stored)
            });
            pieces.collect::<Result<Vec<_>>>()
        })
        .await?;
        let faults = &state.options().faults;
        let fragments = dataset::stage(reader.base(), rows, faults).await?;
        let folded = dataset::replace(&reader, &superseded, fragments, faults).await?;
        let mut entries = dataset::all_keys(&folded, Some(reader.base()), state.key(), state.hash_key()).await?;
        entries.extend(deleted.into_iter().map(|hash| (hash, None)));
        faults.check("keys.save")?;
        let number = folded.version().version;
        let keys = blocking(move || keys.advance(number, entries)).await?;
        let keys = state.location().keys.save(keys, number).await?;
        Ok(Folded { version, time, base: folded, keys })
    }
}

//! Folding: the writes of a sealed change store as one commit to the base.
//!
//! A fold reads nothing but memory, writes each row once, and changes no row that the log does not hold too: when it is cut
//! short anywhere, doing it again gives the same rows.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::interleave_record_batch;
use cenote_base::Result;
use lance::Dataset;

use crate::base;
use crate::changes::{Chunk, ToFold};
use crate::fault::arrow_error;
use crate::key_index::KeyIndex;
use crate::schema;
use crate::state::{State, blocking};
use crate::store::schemas;

/// Rows of one batch handed to the base.
const BATCH_ROWS: usize = 8192;

/// A change store as it was when its segment of the log ended.
#[derive(Debug)]
pub(crate) struct Sealed {
    /// The newest write in it.
    pub(crate) version: u64,
    pub(crate) base: Arc<Dataset>,
    pub(crate) keys: KeyIndex,
    pub(crate) chunks: Arc<Vec<Arc<Chunk>>>,
    pub(crate) fold: ToFold,
}

/// A base with everything up to `version` in it.
#[derive(Debug)]
pub(crate) struct Folded {
    pub(crate) version: u64,
    pub(crate) base: Dataset,
    pub(crate) keys: KeyIndex,
}

/// A base that was changed without the change store.
#[derive(Debug)]
pub(crate) struct Direct {
    pub(crate) base: Dataset,
    /// Where keys are that were not there before, and those that are gone.
    pub(crate) entries: Vec<(u128, Option<u64>)>,
    /// Keys that have new values.
    pub(crate) written: Option<RecordBatch>,
    /// Keys that are gone.
    pub(crate) deleted: Option<RecordBatch>,
    /// Whether readers see another table: a new version.
    pub(crate) is_write: bool,
}

impl Sealed {
    pub(crate) async fn fold(self, state: &State) -> Result<Folded> {
        let Self { version, base, keys, chunks, fold } = self;
        let ToFold { superseded, deleted, rows } = fold;
        let dataset = Arc::clone(&base);
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
        let fragments = base::stage(&base, rows, faults).await?;
        let folded = base::replace(&base, &superseded, fragments, faults).await?;
        let mut entries = base::keys(&folded, Some(&base), &state.key, state.hash_key()).await?;
        entries.extend(deleted.into_iter().map(|hash| (hash, None)));
        faults.check("keys.save")?;
        let number = folded.version().version;
        let keys = blocking(move || keys.advance(number, entries)).await?;
        Ok(Folded { version, base: folded, keys })
    }
}

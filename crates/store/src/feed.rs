//! The change feed: what happened to each row, in order, from the log.
//!
//! The log has what rows became; what they were before is read from the table as it was where the feed stands, with the
//! changes seen since laid over it. So a feed costs nothing until somebody reads it.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use arrow::array::{
    ArrayRef, RecordBatch, StringArray, StructArray, TimestampMicrosecondArray, UInt64Array, new_null_array,
};
use arrow::buffer::NullBuffer;
use arrow::compute::interleave_record_batch;
use arrow::datatypes::{Field, Fields, Schema, SchemaRef};
use cenote_base::{Error, ErrorKind, Result};
use futures::FutureExt;

use crate::Version;
use crate::fault::arrow_error;
use crate::log::{Frame, Log, News, Record};
use crate::schema;
use crate::snapshot::Snapshot;
use crate::state::State;

/// So many changes are laid over a snapshot before a newer one is taken.
const RECENT_ROWS_MAX: usize = 50_000;

/// Where a row is: the number of a source, and the row in it.
type Place = (usize, usize);

/// What became of a row: the hash of its key, and its last values.
type Recent = (u128, Option<(RecordBatch, usize)>);

/// A row that changed: what it was, what it is, and which row of the write's keys it is.
#[derive(Debug, Clone, Copy)]
struct Changed {
    before: Option<Place>,
    after: Option<Place>,
    key: usize,
}

/// The changes of a table, in order, from a version on. Each batch is one write:
///
/// | column | type |
/// |---|---|
/// | `version` | `UInt64`: the version that the write made |
/// | `time` | `Timestamp(Microsecond, "UTC")` |
/// | `operation` | `Utf8`: `insert`, `update` or `delete` |
/// | `key` | `Struct` of the primary key's columns |
/// | `before`, `after` | `Struct` of the visible columns without media; null where there was no row, or is none |
///
/// A write that leaves a row as it was is no change.
#[derive(Debug)]
pub struct ChangeFeed {
    state: Arc<State>,
    log: Option<Log>,
    frames: VecDeque<Frame>,
    /// The table where `recent` begins.
    ground: Snapshot,
    /// What became of rows since: `None` where they were deleted.
    recent: HashMap<u128, Option<(RecordBatch, usize)>>,
    at: Version,
}

impl ChangeFeed {
    /// The changes after `from`.
    ///
    /// # Errors
    /// `NotFound` when what was before `from` was collected.
    pub(crate) async fn open(state: Arc<State>, from: Version) -> Result<Self> {
        let ground = ground(&state, from).await?;
        Ok(Self { state, log: None, frames: VecDeque::new(), ground, recent: HashMap::new(), at: from })
    }

    /// How far the feed was read: what follows is newer.
    pub fn version(&self) -> Version {
        self.at
    }

    /// The next write that changed rows; `None` at the end, where asking again later gives what came meanwhile.
    ///
    /// # Errors
    /// `NotFound` when the log was collected faster than the feed was read.
    pub async fn next(&mut self) -> Result<Option<RecordBatch>> {
        loop {
            let Some(frame) = self.frame().await? else { return Ok(None) };
            if frame.version <= self.at.0 {
                continue;
            }
            let mut taken = self.take_in(&frame).boxed().await;
            if taken.is_err() {
                // What the change is compared with may have been collected, by a process that does not know of this feed.
                taken = match self.move_ground().await {
                    Ok(()) => self.take_in(&frame).boxed().await,
                    Err(error) => Err(error),
                };
            }
            let version = Version(frame.version);
            if taken.is_err() {
                self.frames.push_front(frame);
            }
            let changes = taken?;
            self.at = version;
            if self.recent.len() > RECENT_ROWS_MAX {
                self.move_ground().await?;
            }
            if changes.as_ref().is_some_and(|changes| changes.num_rows() > 0) {
                return Ok(changes);
            }
        }
    }

    async fn frame(&mut self) -> Result<Option<Frame>> {
        if self.frames.is_empty() {
            let at = self.at;
            if let Some(log) = &mut self.log
                && log.news().await? != News::Gone
            {
                self.frames = log.read().await?.into();
                return Ok(self.frames.pop_front());
            }
            check_follows(&self.state, at).await?;
            let mut log = Log::open(&self.state.place.log, at.0 + 1).await?;
            let frames = log.read().await?;
            match frames.first().map(|frame| &frame.record) {
                Some(Record::Checkpoint(checkpoint)) if checkpoint.version <= at.0 => {}
                _ => return Err(collected(at)),
            }
            self.log = Some(log);
            self.frames = frames.into();
        }
        Ok(self.frames.pop_front())
    }

    async fn move_ground(&mut self) -> Result<()> {
        self.ground = ground(&self.state, self.at).await?;
        self.recent.clear();
        Ok(())
    }

    /// The changes of a write, if it is one. When it fails, the feed is as it was.
    async fn take_in(&mut self, frame: &Frame) -> Result<Option<RecordBatch>> {
        match &frame.record {
            Record::Upsert(batch) => {
                let rows: Vec<Option<usize>> = (0..batch.num_rows()).map(Some).collect();
                let (changes, recent) = self.change(frame, batch, batch, &rows).await?;
                self.recent.extend(recent);
                Ok(Some(changes))
            }
            Record::Delete(keys) => {
                let (changes, recent) = self.change(frame, keys, keys, &vec![None; keys.num_rows()]).await?;
                self.recent.extend(recent);
                Ok(Some(changes))
            }
            Record::Base { written, deleted, .. } => {
                // Written past the log: the rows are in the base.
                let then = self.state.snapshot_at(Version(frame.version)).boxed().await?;
                let mut parts = Vec::new();
                if let Some(keys) = written {
                    let found = then.locate(keys).await?;
                    let row_ids: Vec<u64> = found.iter().flatten().copied().collect();
                    let columns = columns(&then).fields().iter().map(|field| field.name().clone()).collect::<Vec<_>>();
                    let taken = then.take(&row_ids, &columns).await?;
                    let mut next = 0..;
                    let rows: Vec<Option<usize>> = found.iter().map(|row| row.and_then(|_| next.next())).collect();
                    parts.push(self.change(frame, keys, &taken, &rows).await?.0);
                }
                if let Some(keys) = deleted {
                    parts.push(self.change(frame, keys, keys, &vec![None; keys.num_rows()]).await?.0);
                }
                (self.ground, self.at) = (then, Version(frame.version));
                self.recent.clear();
                let Some(first) = parts.first() else { return Ok(None) };
                arrow::compute::concat_batches(first.schema_ref(), &parts).map(Some).map_err(arrow_error)
            }
            Record::Checkpoint(_) | Record::Note(_) | Record::Sealed(_) => Ok(None),
        }
    }

    /// The changes to the rows of `keys`, and what becomes of them in `recent`: row `n` is now row `rows[n]` of `after`, or gone.
    async fn change(
        &self,
        frame: &Frame,
        keys: &RecordBatch,
        after: &RecordBatch,
        rows: &[Option<usize>],
    ) -> Result<(RecordBatch, Vec<Recent>)> {
        let keys = self.state.key.project(keys)?;
        let hashes = self.state.key.hash(&keys, self.state.hash_key())?;
        let columns = columns(&self.ground);
        let absent: Vec<ArrayRef> = columns.fields().iter().map(|field| new_null_array(field.data_type(), 1)).collect();
        let absent = RecordBatch::try_new(Arc::clone(&columns), absent).map_err(arrow_error)?;
        let after = schema::conform(after, &columns)?;

        // What the rows were: in `recent`, in the ground, or nowhere.
        let located = self.ground.locate(&keys).await?;
        let row_ids: Vec<u64> = located.iter().flatten().copied().collect();
        let names: Vec<String> = columns.fields().iter().map(|field| field.name().clone()).collect();
        let ground = schema::conform(&self.ground.take(&row_ids, &names).await?, &columns)?;
        let mut sources = vec![absent, after.clone(), ground];
        let mut in_ground = 0..;
        let mut places: Vec<Changed> = Vec::with_capacity(hashes.len());
        for (row, hash) in hashes.iter().enumerate() {
            let ground = located[row].and_then(|_| in_ground.next()).map(|row| (2, row));
            let before = match self.recent.get(hash) {
                None => ground,
                Some(None) => None,
                Some(Some((batch, row))) => {
                    sources.push(schema::conform(batch, &columns)?);
                    Some((sources.len() - 1, *row))
                }
            };
            places.push(Changed { before, after: rows[row].map(|row| (1, row)), key: row });
        }
        let recent = |(place, hash): (&Changed, &u128)| (*hash, place.after.map(|(_, row)| (after.clone(), row)));
        let recent = places.iter().zip(&hashes).map(recent).collect();
        places.retain(|place| match (place.before, place.after) {
            (None, None) => false,
            (Some(before), Some(after)) => !same(&sources, before, after),
            _ => true,
        });
        Ok((assemble(frame, &keys, &sources, &places)?, recent))
    }
}

fn assemble(frame: &Frame, keys: &RecordBatch, sources: &[RecordBatch], places: &[Changed]) -> Result<RecordBatch> {
    let sources: Vec<&RecordBatch> = sources.iter().collect();
    let side = |side: fn(&Changed) -> Option<Place>| -> Result<ArrayRef> {
        let valid: NullBuffer = places.iter().map(|place| side(place).is_some()).collect();
        let rows: Vec<Place> = places.iter().map(|place| side(place).unwrap_or((0, 0))).collect();
        let rows = interleave_record_batch(&sources, &rows).map_err(arrow_error)?;
        let fields = rows.schema_ref().fields().clone();
        let rows = StructArray::try_new(fields, rows.columns().to_vec(), Some(valid)).map_err(arrow_error)?;
        Ok(Arc::new(rows))
    };
    let operation = |place: &Changed| match (place.before, place.after) {
        (None, _) => Some("insert"),
        (_, None) => Some("delete"),
        _ => Some("update"),
    };
    let key_rows: Vec<Place> = places.iter().map(|place| (0, place.key)).collect();
    let keys = interleave_record_batch(&[keys], &key_rows).map_err(arrow_error)?;
    let columns: Vec<ArrayRef> = vec![
        Arc::new(UInt64Array::from(vec![frame.version; places.len()])),
        Arc::new(TimestampMicrosecondArray::from(vec![frame.time.0; places.len()]).with_timezone("UTC")),
        Arc::new(places.iter().map(operation).collect::<StringArray>()),
        Arc::new(StructArray::from(keys)),
        side(|place| place.before)?,
        side(|place| place.after)?,
    ];
    let names = ["version", "time", "operation", "key", "before", "after"];
    let fields: Fields = names
        .iter()
        .zip(&columns)
        .map(|(name, column)| Field::new(*name, column.data_type().clone(), matches!(*name, "before" | "after")))
        .collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).map_err(arrow_error)
}

/// The table at `at`, behind which all changes can be read.
async fn ground(state: &Arc<State>, at: Version) -> Result<Snapshot> {
    check_follows(state, at).await?;
    match state.snapshot_at(at).boxed().await {
        Err(error) if error.kind() == ErrorKind::NotFound => Err(collected(at)),
        ground => ground,
    }
}

/// # Errors
/// `NotFound` when versions after `at` were collected: a tag keeps its version, and not what follows.
async fn check_follows(state: &Arc<State>, at: Version) -> Result<()> {
    state.snapshot().boxed().await?;
    if at.0 < state.history().oldest() { Err(collected(at)) } else { Ok(()) }
}

fn collected(at: Version) -> Error {
    let what = format!("the changes after version {at} were collected; read the table itself and follow from there");
    Error::not_found(what)
}

/// The visible columns without media, all nullable.
fn columns(snapshot: &Snapshot) -> SchemaRef {
    let fields = snapshot.schema().fields().iter().filter(|field| !schema::is_blob(field));
    Arc::new(Schema::new(fields.map(|field| field.as_ref().clone().with_nullable(true)).collect::<Vec<_>>()))
}

fn same(sources: &[RecordBatch], a: Place, b: Place) -> bool {
    let row = |(source, row): Place| sources[source].slice(row, 1);
    row(a) == row(b)
}

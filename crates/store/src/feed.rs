//! The change feed: what happened to each row, in order, read from the log.
//!
//! The log says what rows became. What they were before is read from a snapshot at the feed's position, overlaid with
//! the changes since. A feed that nobody reads therefore costs nothing.
//!
//! A write is returned in batches, and its rows are read one batch at a time. The feed's state changes only between
//! awaits: when a write is opened, a batch is returned, or a write is closed. So a caller that cancels loses nothing.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use arrow::array::{
    ArrayRef, RecordBatch, StringArray, StructArray, TimestampMicrosecondArray, UInt64Array, new_null_array,
};
use arrow::buffer::NullBuffer;
use arrow::compute::interleave_record_batch;
use arrow::datatypes::{Field, Fields, Schema, SchemaRef};
use cenote_base::{Error, ErrorKind, Result, Timestamp, pack};
use futures::FutureExt;

use crate::blocking::blocking;
use crate::errors::arrow_error;
use crate::log::concerned::{Concerned, KeyParts, row_bytes};
use crate::log::{Frame, Log, News, Record};
use crate::reading::snapshot::Snapshot;
use crate::rows::schema::{self, value_bytes};
use crate::state::table_state::TableState;
use crate::version::Version;

/// Changes overlaid on a snapshot before a newer snapshot is taken: maximum rows, and maximum bytes.
const RECENT_ROWS_MAX: usize = 50_000;
const RECENT_BYTES_MAX: usize = 64 << 20;
/// Maximum rows and bytes per batch, unless it is one row.
const BATCH_ROWS_MAX: usize = 8192;
const BATCH_BYTES: u64 = 16 << 20;

/// The place of a row: the index of a source, and the row in it.
type SourceRow = (usize, usize);

/// The newest values of a row, as a batch and the row in it; `None` for a deleted row.
type Recent = Option<(RecordBatch, usize)>;

/// A row that changed: its places before and after the write, and the index of its key.
#[derive(Debug, Clone, Copy)]
struct ChangedRow {
    before: Option<SourceRow>,
    after: Option<SourceRow>,
    key: usize,
}

/// The changes of a table after some version, in order. A batch holds changes of one write:
///
/// | column | type |
/// |---|---|
/// | `version` | `UInt64`: the version that the write made |
/// | `time` | `Timestamp(Microsecond, "UTC")` |
/// | `operation` | `Utf8`: `insert`, `update` or `delete` |
/// | `key` | `Struct` of the primary key's columns |
/// | `before`, `after` | `Struct` of the visible columns without media; null where the row did not or does not exist |
///
/// A write that leaves a row unchanged is not reported. A large write comes in several batches with one version, each
/// of at most 8,192 rows and 16 MiB, or of one row; [`version`](Self::version) advances to it after the last of them.
/// So a reader that stores this number after each batch, and reopens a feed there, misses nothing, but may receive
/// batches of one write again.
#[derive(Debug)]
pub struct ChangeFeed {
    state: Arc<TableState>,
    log: Option<Log>,
    frames: VecDeque<Frame>,
    /// The write that is being returned.
    open: Option<OpenWrite>,
    /// The table at the point where `recent` begins.
    ground: Snapshot,
    /// The newest values of rows changed since, and their bytes.
    recent: HashMap<u128, Recent>,
    recent_bytes: usize,
    at: Version,
}

/// A write that is being returned in batches.
#[derive(Debug)]
struct OpenWrite {
    version: Version,
    time: Timestamp,
    /// Rows to return, and how many of the first section were returned.
    sections: VecDeque<Section>,
    given: usize,
    /// Maximum rows that are compared next.
    batch_rows: usize,
    /// The rest of the write's keys, which are still in the log.
    parts: Option<KeyPartsReader>,
    /// The table after the write, if it went directly to the base.
    then: Option<Snapshot>,
    /// The newest values of the rows that were returned, if it did not.
    recent: Vec<(u128, Recent)>,
    recent_bytes: usize,
}

/// Keys of a write, and the state of their rows after it.
#[derive(Debug, Clone)]
struct Section {
    keys: RecordBatch,
    now: Now,
}

#[derive(Debug, Clone)]
enum Now {
    /// The rows have these values.
    Rows(RecordBatch),
    Gone,
    /// The rows are those of the table after the write.
    After,
}

/// The records with the keys of a write to the base, read a second time.
#[derive(Debug)]
struct KeyPartsReader {
    log: Log,
    frames: VecDeque<Frame>,
    wanted: KeyParts,
    read: u64,
}

impl ChangeFeed {
    /// Opens a feed of the changes after `from`.
    ///
    /// # Errors
    /// `NotFound` when `from` has not been written yet, or changes after it were collected.
    pub(crate) async fn open(state: Arc<TableState>, from: Version) -> Result<Self> {
        let ground = ground(&state, from).await?;
        Ok(Self {
            state,
            log: None,
            frames: VecDeque::new(),
            open: None,
            ground,
            recent: HashMap::new(),
            recent_bytes: 0,
            at: from,
        })
    }

    /// Returns how far the feed was read: all changes up to this version were returned, and all later batches are of
    /// newer ones.
    pub fn version(&self) -> Version {
        self.at
    }

    /// Returns the next changes, or `None` at the end of the log; a later call returns what was written meanwhile.
    ///
    /// Cancel safe: when the future is dropped or fails, the next call returns what this one would have returned.
    ///
    /// # Errors
    /// `NotFound` when the log was collected faster than the feed was read.
    pub async fn next(&mut self) -> Result<Option<RecordBatch>> {
        loop {
            if self.open.is_none() && !self.begin().await? {
                return Ok(None);
            }
            if let Some(changes) = self.give().await?.filter(|changes| changes.num_rows() > 0) {
                return Ok(Some(changes));
            }
        }
    }

    /// Opens the next write. Returns false when there is none yet.
    async fn begin(&mut self) -> Result<bool> {
        if self.recent.len() > RECENT_ROWS_MAX || self.recent_bytes > RECENT_BYTES_MAX {
            self.move_ground().await?;
        }
        while self.fill().await? {
            let Some(frame) = self.frames.front() else { break };
            if frame.version <= self.at.0 {
                self.frames.pop_front();
                continue;
            }
            let (version, time) = (Version(frame.version), frame.time);
            let (sections, parts, is_past_log) = match &frame.record {
                Record::Upsert(rows) => {
                    (vec![Section { keys: rows.clone(), now: Now::Rows(rows.clone()) }], None, false)
                }
                Record::Delete(keys) => (vec![Section { keys: keys.clone(), now: Now::Gone }], None, false),
                Record::Base { keys, parts, .. } => (sections(keys.clone()), *parts, true),
                Record::Checkpoint(_) | Record::Note(_) | Record::Sealed(_) | Record::Keys { .. } => {
                    (Vec::new(), None, false)
                }
            };
            let then = match is_past_log {
                true => Some(self.after(version).await?),
                false => None,
            };
            let parts = match parts {
                Some(wanted) => {
                    let log = Log::open(&self.state.location().log, version.0).await?;
                    Some(KeyPartsReader { log, frames: VecDeque::new(), wanted, read: 0 })
                }
                None => None,
            };
            // No await from here on: what is taken from the log must be opened.
            self.frames.pop_front();
            self.open = Some(OpenWrite {
                version,
                time,
                sections: sections.into(),
                given: 0,
                batch_rows: BATCH_ROWS_MAX,
                parts,
                then,
                recent: Vec::new(),
                recent_bytes: 0,
            });
            return Ok(true);
        }
        Ok(false)
    }

    /// Returns the next changes of the open write, or `None` when it has no more and was closed.
    async fn give(&mut self) -> Result<Option<RecordBatch>> {
        let (at, Some(open)) = (self.at, &mut self.open) else { return Ok(None) };
        while open.sections.is_empty()
            && let Some(parts) = &mut open.parts
        {
            match parts.next().await? {
                Some(keys) => open.sections.extend(sections(keys)),
                None if parts.read == parts.wanted.count => open.parts = None,
                None => return Err(collected(at)),
            }
        }
        let Some(section) = open.sections.front() else {
            self.close();
            return Ok(None);
        };
        let (whole, rows) = (section.keys.num_rows(), open.given..section.keys.num_rows());
        let section = section.slice(rows.start, rows.len().min(open.batch_rows));
        let mut changed = self.change(&section).boxed().await;
        if changed.is_err() {
            // What the rows are compared with may have been collected by a process that does not know of this feed.
            self.move_ground().await?;
            changed = self.change(&section).boxed().await;
        }
        let Compared { batch, rows, recent, bytes } = changed?;
        // No await from here on: what was compared must be returned.
        if let Some(open) = &mut self.open {
            open.batch_rows = (2 * rows).min(BATCH_ROWS_MAX);
            open.given += rows;
            if open.then.is_none() {
                open.recent.extend(recent);
                open.recent_bytes += bytes;
            }
            if open.given == whole {
                open.sections.pop_front();
                open.given = 0;
            }
            let is_last = open.parts.as_ref().is_none_or(|parts| parts.read == parts.wanted.count);
            if is_last && open.sections.is_empty() {
                self.close();
            }
        }
        Ok(Some(batch))
    }

    /// Closes the open write after all of it was returned.
    fn close(&mut self) {
        let Some(open) = self.open.take() else { return };
        self.at = open.version;
        match open.then {
            Some(then) => {
                self.ground = then;
                self.recent.clear();
                self.recent_bytes = 0;
            }
            None => {
                self.recent.extend(open.recent);
                self.recent_bytes += open.recent_bytes;
            }
        }
    }

    /// Reads more of the log when all frames were used. Returns false when there is nothing new.
    async fn fill(&mut self) -> Result<bool> {
        if !self.frames.is_empty() {
            return Ok(true);
        }
        if let Some(log) = &mut self.log {
            let frames = match log.news().await? {
                News::None => return Ok(false),
                News::More => log.read().await?,
                News::Gone => None,
            };
            if let Some(frames) = frames {
                self.frames = frames.into();
                return Ok(!self.frames.is_empty());
            }
        }
        loop {
            check_follows(&self.state, self.at).await?;
            let mut log = Log::open(&self.state.location().log, self.at.0 + 1).await?;
            // The segment may have been collected since the log was opened.
            let Some(frames) = log.read().await? else { continue };
            match frames.first().map(|frame| &frame.record) {
                Some(Record::Checkpoint(checkpoint)) if checkpoint.version <= self.at.0 => {}
                _ => return Err(collected(self.at)),
            }
            self.log = Some(log);
            self.frames = frames.into();
            return Ok(true);
        }
    }

    /// Moves `ground` to a new snapshot at the feed's position, whose files exist.
    async fn move_ground(&mut self) -> Result<()> {
        let ground = ground(&self.state, self.at).await?;
        let then = match self.open.as_ref().filter(|open| open.then.is_some()).map(|open| open.version) {
            Some(version) => Some(self.after(version).await?),
            None => None,
        };
        self.ground = ground;
        self.recent.clear();
        self.recent_bytes = 0;
        if let Some(open) = &mut self.open {
            open.then = then;
        }
        Ok(())
    }

    /// Returns the table at `version`, the next version after the feed's position.
    async fn after(&self, version: Version) -> Result<Snapshot> {
        match self.state.snapshot_at(version).boxed().await {
            Err(error) if error.kind() == ErrorKind::NotFound => Err(collected(self.at)),
            then => then,
        }
    }

    /// Compares the first rows of `section` before and after the open write, as many as make a batch.
    async fn change(&self, section: &Section) -> Result<Compared> {
        let mut rows = self.rows_of_batch(section).boxed().await?;
        loop {
            let compared = self.compare(section.slice(0, rows)).boxed().await?;
            if rows <= 1 || value_bytes(&compared.batch) <= BATCH_BYTES {
                return Ok(compared);
            }
            rows /= 2;
        }
    }

    /// Estimates how many of the first rows of `section` make a batch.
    async fn rows_of_batch(&self, section: &Section) -> Result<usize> {
        let open = self.open.as_ref().ok_or_else(lost)?;
        let keys = self.state.key().project(&section.keys)?;
        let mut sizes = vec![0; keys.num_rows()];
        if let Now::Rows(rows) = &section.now {
            sizes.iter_mut().enumerate().for_each(|(row, size)| *size = value_bytes(&rows.slice(row, 1)));
        }
        let hashes = self.state.key().hash(&keys, self.state.hash_key())?;
        for (hash, size) in hashes.iter().zip(&mut sizes) {
            *size +=
                self.recent.get(hash).and_then(Option::as_ref).map_or(0, |(rows, at)| value_bytes(&rows.slice(*at, 1)));
        }
        let then = open.then.as_ref().filter(|_| matches!(section.now, Now::After));
        for snapshot in [&self.ground].into_iter().chain(then) {
            let found = snapshot.locate(&keys).await?;
            let (places, row_ids): (Vec<usize>, Vec<u64>) =
                found.into_iter().enumerate().filter_map(|(at, row)| Some((at, row?))).unzip();
            let found = snapshot.plain_sizes(&row_ids, &columns(snapshot)).boxed().await?;
            places.into_iter().zip(found).for_each(|(at, size)| sizes[at] += size);
        }
        Ok(pack(&sizes, BATCH_BYTES, BATCH_ROWS_MAX).first().map_or(0, |rows| rows.len()))
    }

    /// Compares the rows of `section` before and after the open write.
    async fn compare(&self, section: Section) -> Result<Compared> {
        let open = self.open.as_ref().ok_or_else(lost)?;
        let keys = self.state.key().project(&section.keys)?;
        let hashes = self.state.key().hash(&keys, self.state.hash_key())?;
        let columns = columns(&self.ground);
        let (in_ground, ground) = rows_of(&self.ground, &keys, &columns).await?;
        let (is_there, after) = match (&section.now, &open.then) {
            (Now::Rows(rows), _) => (vec![true; keys.num_rows()], rows.clone()),
            (Now::After, Some(then)) => rows_of(then, &keys, &self::columns(then)).await?,
            _ => (vec![false; keys.num_rows()], RecordBatch::new_empty(Arc::clone(&columns))),
        };
        let recent = hashes.iter().map(|hash| self.recent.get(hash).cloned()).collect();
        let (version, time) = (open.version, open.time);
        let look = Comparison { version, time, keys, hashes, columns, recent, in_ground, ground, is_there, after };
        blocking(move || look.compare()).await
    }
}

fn lost() -> Error {
    Error::internal("a change feed lost its open write")
}

impl Section {
    fn slice(&self, first: usize, rows: usize) -> Self {
        let now = match &self.now {
            Now::Rows(batch) => Now::Rows(batch.slice(first, rows)),
            now => now.clone(),
        };
        Self { keys: self.keys.slice(first, rows), now }
    }
}

/// Returns the keys that a write to the base concerned, as sections.
fn sections(keys: Concerned) -> Vec<Section> {
    // A deleted key may exist after the write: it may have been written again, to the change store.
    let sections = keys.written.into_iter().chain(keys.deleted).map(|keys| Section { keys, now: Now::After });
    sections.filter(|section| section.keys.num_rows() > 0).collect()
}

impl KeyPartsReader {
    /// Returns the next keys; `None` when all were read, or the rest was collected. Cancel safe.
    async fn next(&mut self) -> Result<Option<Concerned>> {
        while self.read < self.wanted.count {
            let Some(frame) = self.frames.pop_front() else {
                self.frames = self.log.read().await?.unwrap_or_default().into();
                if self.frames.is_empty() {
                    break;
                }
                continue;
            };
            if let Record::Keys { parts, keys } = frame.record
                && parts == self.wanted.id
            {
                self.read += 1;
                return Ok(Some(keys));
            }
        }
        Ok(None)
    }
}

/// Reads the rows of `keys` in `snapshot`. Returns which keys have a row, and those rows in the order of the keys.
async fn rows_of(snapshot: &Snapshot, keys: &RecordBatch, columns: &SchemaRef) -> Result<(Vec<bool>, RecordBatch)> {
    let found = snapshot.locate(keys).await?;
    let row_ids: Vec<u64> = found.iter().flatten().copied().collect();
    let names: Vec<String> = columns.fields().iter().map(|field| field.name().clone()).collect();
    Ok((found.iter().map(Option::is_some).collect(), snapshot.take(&row_ids, &names).await?))
}

/// The rows of one section before and after a write, for comparison.
struct Comparison {
    version: Version,
    time: Timestamp,
    keys: RecordBatch,
    hashes: Vec<u128>,
    columns: SchemaRef,
    /// The newest values that the feed knows of each row, if any.
    recent: Vec<Option<Recent>>,
    /// Which keys have a row in the ground snapshot, and these rows.
    in_ground: Vec<bool>,
    ground: RecordBatch,
    /// Which keys have a row after the write, and these rows.
    is_there: Vec<bool>,
    after: RecordBatch,
}

struct Compared {
    batch: RecordBatch,
    /// The number of compared rows.
    rows: usize,
    /// The newest values of all compared rows, changed or not.
    recent: Vec<(u128, Recent)>,
    /// Bytes of the compared rows.
    bytes: usize,
}

impl Comparison {
    fn compare(self) -> Result<Compared> {
        let columns = &self.columns;
        let absent: Vec<ArrayRef> = columns.fields().iter().map(|field| new_null_array(field.data_type(), 1)).collect();
        let absent = RecordBatch::try_new(Arc::clone(columns), absent).map_err(arrow_error)?;
        let (after, ground) = (schema::conform(&self.after, columns)?, schema::conform(&self.ground, columns)?);
        let bytes = row_bytes(&after) + row_bytes(&ground);
        let mut sources = vec![absent, after.clone(), ground];
        let (mut in_ground, mut in_after) = (0.., 0..);
        let mut changed: Vec<ChangedRow> = Vec::with_capacity(self.hashes.len());
        for (key, recent) in self.recent.iter().enumerate() {
            let ground = self.in_ground[key].then(|| in_ground.next()).flatten().map(|row| (2, row));
            let before = match recent {
                None => ground,
                Some(None) => None,
                Some(Some((batch, row))) => {
                    sources.push(schema::conform(batch, columns)?);
                    Some((sources.len() - 1, *row))
                }
            };
            let after = self.is_there[key].then(|| in_after.next()).flatten().map(|row| (1, row));
            changed.push(ChangedRow { before, after, key });
        }
        let recent = |(row, hash): (&ChangedRow, &u128)| (*hash, row.after.map(|(_, at)| (after.clone(), at)));
        let recent = changed.iter().zip(&self.hashes).map(recent).collect();
        changed.retain(|row| match (row.before, row.after) {
            (None, None) => false,
            (Some(before), Some(after)) => !same(&sources, before, after),
            _ => true,
        });
        let batch = assemble(self.version, self.time, &self.keys, &sources, &changed)?;
        Ok(Compared { batch, rows: self.hashes.len(), recent, bytes })
    }
}

fn assemble(
    version: Version,
    time: Timestamp,
    keys: &RecordBatch,
    sources: &[RecordBatch],
    changed: &[ChangedRow],
) -> Result<RecordBatch> {
    let sources: Vec<&RecordBatch> = sources.iter().collect();
    let side = |side: fn(&ChangedRow) -> Option<SourceRow>| -> Result<ArrayRef> {
        let valid: NullBuffer = changed.iter().map(|row| side(row).is_some()).collect();
        let rows: Vec<SourceRow> = changed.iter().map(|row| side(row).unwrap_or((0, 0))).collect();
        let rows = interleave_record_batch(&sources, &rows).map_err(arrow_error)?;
        let fields = rows.schema_ref().fields().clone();
        let rows = StructArray::try_new(fields, rows.columns().to_vec(), Some(valid)).map_err(arrow_error)?;
        Ok(Arc::new(rows))
    };
    let operation = |row: &ChangedRow| match (row.before, row.after) {
        (None, _) => Some("insert"),
        (_, None) => Some("delete"),
        _ => Some("update"),
    };
    let key_rows: Vec<SourceRow> = changed.iter().map(|row| (0, row.key)).collect();
    let keys = interleave_record_batch(&[keys], &key_rows).map_err(arrow_error)?;
    let columns: Vec<ArrayRef> = vec![
        Arc::new(UInt64Array::from(vec![version.0; changed.len()])),
        Arc::new(TimestampMicrosecondArray::from(vec![time.0; changed.len()]).with_timezone("UTC")),
        Arc::new(changed.iter().map(operation).collect::<StringArray>()),
        Arc::new(StructArray::from(keys)),
        side(|row| row.before)?,
        side(|row| row.after)?,
    ];
    let names = ["version", "time", "operation", "key", "before", "after"];
    let fields: Fields = names
        .iter()
        .zip(&columns)
        .map(|(name, column)| Field::new(*name, column.data_type().clone(), matches!(*name, "before" | "after")))
        .collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).map_err(arrow_error)
}

/// Takes a snapshot at version `at`, after which all changes can be read.
async fn ground(state: &Arc<TableState>, at: Version) -> Result<Snapshot> {
    check_follows(state, at).await?;
    match state.snapshot_at(at).boxed().await {
        Err(error) if error.kind() == ErrorKind::NotFound => Err(collected(at)),
        ground => ground,
    }
}

/// # Errors
/// `NotFound` when `at` has not been written yet, or versions after it were collected: a tag keeps its own version, but
/// not those that follow.
async fn check_follows(state: &Arc<TableState>, at: Version) -> Result<()> {
    let newest = state.snapshot().boxed().await?.version();
    check_written(at, newest)?;
    if at.0 < state.history().oldest() { Err(collected(at)) } else { Ok(()) }
}

/// # Errors
/// `NotFound` when `version` is newer than `newest`.
pub(crate) fn check_written(version: Version, newest: Version) -> Result<()> {
    match version <= newest {
        true => Ok(()),
        false => Err(Error::not_found(format!("version {version} has not been written yet: the newest is {newest}"))),
    }
}

fn collected(at: Version) -> Error {
    let what = format!("the changes after version {at} were collected; read the table itself and follow from there");
    Error::not_found(what)
}

/// Returns the visible columns without media, all nullable.
fn columns(snapshot: &Snapshot) -> SchemaRef {
    let fields = snapshot.schema().fields().iter().filter(|field| !schema::is_blob(field));
    Arc::new(Schema::new(fields.map(|field| field.as_ref().clone().with_nullable(true)).collect::<Vec<_>>()))
}

fn same(sources: &[RecordBatch], a: SourceRow, b: SourceRow) -> bool {
    let row = |(source, row): SourceRow| sources[source].slice(row, 1);
    row(a) == row(b)
}

//! The newest version of a table, as it is held in memory.

use std::sync::Arc;

use cenote_base::{Result, Timestamp};
use lance::Dataset;

use super::change_store::{ByHash, ChangeStore, Counts};
use crate::base::key_build::open_or_build;
use crate::base::pages::{Pages, RowReader};
use crate::blocking::blocking;
use crate::errors::lance_error;
use crate::keys::key_files::KeyFiles;
use crate::keys::key_index::KeyIndex;
use crate::log::history::{BaseMark, History, Note};
use crate::log::replay::Replayed;
use crate::log::{Frame, Record};
use crate::rows::primary_key::PrimaryKey;

/// The newest version known in memory: its base, and the writes that the base does not hold yet.
#[derive(Debug)]
pub(crate) struct Newest {
    version: u64,
    time: Timestamp,
    history: Arc<History>,
    base: Arc<Dataset>,
    base_rows: usize,
    reader: Arc<RowReader>,
    keys: KeyIndex,
    changes: ChangeStore,
    /// Bytes of rows that were written since the last fold.
    accepted: u64,
    /// Time of the oldest write that is not folded.
    since: Option<Timestamp>,
}

/// A base that replaces the current one.
#[derive(Debug)]
pub(crate) struct NewBase {
    /// The table's version and time once it is installed.
    pub(crate) version: u64,
    pub(crate) time: Timestamp,
    pub(crate) mark: BaseMark,
    pub(crate) base: Arc<Dataset>,
    pub(crate) base_rows: usize,
    pub(crate) reader: Arc<RowReader>,
    pub(crate) keys: KeyIndex,
}

impl Newest {
    /// Applies the replayed log to `base`, its newest base.
    pub(crate) async fn load(
        files: &KeyFiles,
        pages: &Arc<Pages>,
        key: &PrimaryKey,
        base: Arc<Dataset>,
        replayed: Replayed,
    ) -> Result<Self> {
        let Replayed { version, time, history, rows } = replayed;
        let base_rows = base.count_rows(None).await.map_err(lance_error)?;
        let keys = open_or_build(files, key, history.hash_key, &base, history.current()?.keys).await?;
        let key = key.clone();
        let history = Arc::new(history);
        let changes = ChangeStore::default();
        let reader = Arc::new(RowReader::new(&base, pages));
        let mut newest =
            Self { version, time, history, base, base_rows, reader, keys, changes, accepted: 0, since: None };
        blocking(move || {
            for frame in rows {
                let hashes = frame.record.hashes(&key, newest.history.hash_key)?;
                let unknown = newest.changes.unknown(&hashes);
                let found = newest.keys.get_many(&unknown)?;
                let bases = unknown.into_iter().zip(found).filter_map(|(hash, row)| Some((hash, row?))).collect();
                newest.apply(frame, hashes, &bases);
            }
            newest.version = newest.version.max(version);
            Ok(newest)
        })
        .await
    }

    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    /// Returns the time of the newest write.
    pub(crate) fn time(&self) -> Timestamp {
        self.time
    }

    pub(crate) fn history(&self) -> &Arc<History> {
        &self.history
    }

    pub(crate) fn base(&self) -> &Arc<Dataset> {
        &self.base
    }

    pub(crate) fn base_rows(&self) -> usize {
        self.base_rows
    }

    pub(crate) fn reader(&self) -> &Arc<RowReader> {
        &self.reader
    }

    pub(crate) fn keys(&self) -> &KeyIndex {
        &self.keys
    }

    pub(crate) fn changes(&self) -> &ChangeStore {
        &self.changes
    }

    /// Returns the bytes of rows that were written since the last fold.
    pub(crate) fn accepted(&self) -> u64 {
        self.accepted
    }

    /// Returns the time of the oldest write that is not folded.
    pub(crate) fn since(&self) -> Option<Timestamp> {
        self.since
    }

    /// Applies a frame of rows, whose keys have these `hashes`; `bases` has the base rows that it supersedes.
    pub(crate) fn apply(&mut self, frame: Frame, hashes: Vec<u128>, bases: &ByHash<u64>) -> Counts {
        let Frame { version, time, record } = frame;
        self.version = version;
        self.time = self.time.max(time);
        self.accepted += record.bytes() as u64;
        self.since.get_or_insert(time);
        match record {
            Record::Upsert(batch) => self.changes.upsert(version, batch, hashes, bases),
            Record::Delete(_) => self.changes.delete(version, &hashes, bases),
            _ => Counts::default(),
        }
    }

    /// Applies a note.
    pub(crate) fn note(&mut self, note: &Note) {
        Arc::make_mut(&mut self.history).note(note);
    }

    /// Starts a new layer of the change store, as a new segment of the log begins.
    pub(crate) fn seal(&mut self) {
        self.changes.seal();
    }

    /// Replaces the base with `new`. With `bases`, which has the rows of the new base that the remaining writes
    /// supersede, also drops the writes that the new base holds. Returns false, and changes nothing, when the change
    /// store cannot be cut at that version.
    pub(crate) fn replace_base(&mut self, new: NewBase, bases: Option<&ByHash<u64>>) -> bool {
        let NewBase { version, time, mark, base, base_rows, reader, keys } = new;
        if let Some(bases) = bases {
            let Some(changes) = self.changes.folded(mark.folded, bases) else { return false };
            // The remaining writes came during the fold.
            self.since = (!changes.is_empty()).then_some(time);
            self.changes = changes;
        }
        Arc::make_mut(&mut self.history).add(mark);
        self.version = self.version.max(version);
        self.time = self.time.max(time);
        self.accepted = 0;
        (self.base, self.base_rows, self.reader, self.keys) = (base, base_rows, reader, keys);
        true
    }
}

//! What the newest version of a table is made of.

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

/// The newest version of a table: its base, and the writes that the base lacks.
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
    /// Bytes of rows written since the base was.
    accepted: u64,
    /// When the oldest of them were.
    since: Option<Timestamp>,
}

/// A base that takes the place of the one before it.
#[derive(Debug)]
pub(crate) struct NewBase {
    /// The table's version and time with it.
    pub(crate) version: u64,
    pub(crate) time: Timestamp,
    pub(crate) mark: BaseMark,
    pub(crate) base: Arc<Dataset>,
    pub(crate) base_rows: usize,
    pub(crate) reader: Arc<RowReader>,
    pub(crate) keys: KeyIndex,
}

impl Newest {
    /// Loads what a log adds up to, over `base`, which is its newest base.
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

    /// Returns when the newest write was.
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

    /// Returns the bytes of rows written since the base was.
    pub(crate) fn accepted(&self) -> u64 {
        self.accepted
    }

    /// Returns when the oldest write was that the base lacks.
    pub(crate) fn since(&self) -> Option<Timestamp> {
        self.since
    }

    /// Takes in a frame of rows, whose keys have these `hashes`; `bases` has the rows of the base that it supersedes.
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

    /// Takes in a note.
    pub(crate) fn note(&mut self, note: &Note) {
        Arc::make_mut(&mut self.history).note(note);
    }

    /// Ends a layer of the change store, as a segment of the log ends.
    pub(crate) fn seal(&mut self) {
        self.changes.seal();
    }

    /// Puts `new` in the place of the base. With `bases`, forgets the writes that it holds: those have the rows of the
    /// new base that the other writes supersede. Returns false, with nothing done, when the change store cannot be cut
    /// there.
    pub(crate) fn replace_base(&mut self, new: NewBase, bases: Option<&ByHash<u64>>) -> bool {
        let NewBase { version, time, mark, base, base_rows, reader, keys } = new;
        if let Some(bases) = bases {
            let Some(changes) = self.changes.folded(mark.folded, bases) else { return false };
            // What is left came while the fold went on.
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

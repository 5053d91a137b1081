//! Reads of a table as it was at one version.

mod base_scan;
mod lookup;
mod scan;

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use cenote_base::Result;
use lance::Dataset;
use lance::dataset::scanner::{RowAddrMask, RowAddrTreeMap, Scanner};

use crate::base::pages::RowReader;
use crate::base::readers::Reading;
use crate::changes::newest::Newest;
use crate::changes::view::ChangeView;
use crate::keys::key_index::KeyIndex;
use crate::log::history::History;
use crate::row_id::RowId;
use crate::rows::primary_key::PrimaryKey;
use crate::rows::schema;
use crate::version::Version;

/// A table at one version: its base without the rows that later writes supersede, plus the newest rows of those writes.
/// Cheap to clone; never changes.
#[derive(Debug, Clone)]
pub struct Snapshot {
    version: Version,
    base: Arc<Dataset>,
    base_rows: usize,
    reader: Arc<RowReader>,
    key: PrimaryKey,
    keys: KeyIndex,
    history: Arc<History>,
    changes: ChangeView,
    logical: SchemaRef,
    visible: SchemaRef,
    /// Pins the files of the base.
    reading: Arc<Reading>,
    /// Keeps the table open in this process.
    _use: Arc<()>,
}

impl Snapshot {
    /// Makes a snapshot of the newest version that `newest` knows; `reading` pins its base.
    pub(crate) fn new(newest: &Newest, key: PrimaryKey, table_use: Arc<()>, reading: Reading) -> Result<Self> {
        let logical = schema::to_logical(&Schema::from(newest.base().schema()));
        let visible = Arc::new(schema::visible(&logical));
        Ok(Self {
            version: Version(newest.version()),
            base: Arc::clone(newest.base()),
            base_rows: newest.base_rows(),
            reader: Arc::clone(newest.reader()),
            key,
            keys: newest.keys().clone(),
            history: Arc::clone(newest.history()),
            changes: ChangeView::of(newest.changes(), newest.version()),
            logical: Arc::new(logical),
            visible,
            reading: Arc::new(reading),
            _use: table_use,
        })
    }

    /// Returns the version that this snapshot shows.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Returns the identity of the table. It differs even from that of a dropped table of the same name.
    pub fn identity(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.history.hash_key.hash(&mut hasher);
        hasher.finish()
    }

    /// Returns a number for the rows and where they are stored: snapshots of one table with the same number have the
    /// same rows under the same row ids, in any process.
    pub fn placement(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.identity(), self.version().0, self.base().version().version).hash(&mut hasher);
        hasher.finish()
    }

    /// Returns the schema without Cenote's own columns.
    pub fn schema(&self) -> &SchemaRef {
        &self.visible
    }

    /// Returns the schema with Cenote's own columns.
    pub fn full_schema(&self) -> &SchemaRef {
        &self.logical
    }

    /// Returns the primary key.
    pub fn primary_key(&self) -> &PrimaryKey {
        &self.key
    }

    /// Returns the Lance dataset of the base. Later writes may have superseded some of its rows: see
    /// [`base_scanner`](Self::base_scanner).
    pub fn base(&self) -> &Arc<Dataset> {
        &self.base
    }

    pub(crate) fn reader(&self) -> &RowReader {
        &self.reader
    }

    /// Returns the oldest version of the table that was readable when the snapshot was taken.
    pub fn oldest_version(&self) -> Version {
        Version(self.history.oldest())
    }

    /// Returns the version of the newest write that version `lance` of the base holds.
    pub fn version_of_base(&self, lance: u64) -> Version {
        let mark = self.history.marks.iter().rev().find(|mark| mark.since <= lance);
        Version(mark.map_or(0, |mark| mark.version))
    }

    /// Returns a Lance scan or search of the base that skips superseded rows. Its result and that of
    /// [`changed`](Self::changed) together are complete.
    pub fn base_scanner(&self) -> Scanner {
        let mut scanner = self.base.scan();
        if self.changes.masked() > 0 {
            scanner.with_row_id_prefilter(RowAddrMask::from_block(self.changes.mask().as_ref().clone()));
        }
        scanner
    }

    /// Returns the row ids of base rows that later writes supersede.
    pub fn superseded(&self) -> &Arc<RowAddrTreeMap> {
        self.changes.mask()
    }

    /// Returns how many rows of this snapshot the base does not hold yet.
    pub fn changed_rows(&self) -> usize {
        self.changes.live()
    }

    /// Counts the change store's rows that were written after `version`, superseded ones included.
    pub fn changed_rows_since(&self, version: Version) -> usize {
        self.changes.rows_since(version)
    }

    /// Returns whether `row_id` names a row of this snapshot that the base does not hold yet.
    pub fn is_changed(&self, row_id: u64) -> bool {
        self.changes.row(row_id).is_some_and(|row| self.changes.is_live(row))
    }

    /// Returns whether no later write supersedes the row `row_id` of this base or its change store.
    pub(crate) fn is_live(&self, row_id: u64) -> bool {
        match RowId::from(row_id) {
            RowId::Base(row_id) => !self.changes.is_masked(row_id),
            RowId::Changed { .. } => self.is_changed(row_id),
        }
    }

    /// Returns the properties that [`Table::set_properties`](crate::Table::set_properties) had stored at this version.
    pub fn properties(&self) -> &HashMap<String, String> {
        self.base.config()
    }
}

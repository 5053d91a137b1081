//! A table as it was at one version.

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

/// A table at one version: its base, less the rows that later writes supersede, and those writes' newest rows. Cheap to
/// clone; never changes.
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
    /// Keeps the files of the base.
    reading: Arc<Reading>,
    /// Keeps the table open in this process.
    _use: Arc<()>,
}

impl Snapshot {
    /// The newest version that `newest` knows, whose base `reading` keeps.
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

    /// Which version this is.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Of the table: another one has another, even if it was made under the name of one that was dropped.
    pub fn identity(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.history.hash_key.hash(&mut hasher);
        hasher.finish()
    }

    /// A number for the rows and where they are: snapshots of one table with the same number have the same rows under
    /// the same row ids, in any process.
    pub fn placement(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.identity(), self.version().0, self.base().version().version).hash(&mut hasher);
        hasher.finish()
    }

    /// The columns, without Cenote's own.
    pub fn schema(&self) -> &SchemaRef {
        &self.visible
    }

    /// All columns, Cenote's own too.
    pub fn full_schema(&self) -> &SchemaRef {
        &self.logical
    }

    /// The primary key.
    pub fn primary_key(&self) -> &PrimaryKey {
        &self.key
    }

    /// The Lance dataset of the base, in which later writes may have superseded rows: see
    /// [`base_scanner`](Self::base_scanner).
    pub fn base(&self) -> &Arc<Dataset> {
        &self.base
    }

    pub(crate) fn reader(&self) -> &RowReader {
        &self.reader
    }

    /// The oldest version of the table that could be read when the snapshot was taken.
    pub fn oldest_version(&self) -> Version {
        Version(self.history.oldest())
    }

    /// The newest write that version `lance` of the base holds.
    pub fn version_of_base(&self, lance: u64) -> Version {
        let mark = self.history.marks.iter().rev().find(|mark| mark.since <= lance);
        Version(mark.map_or(0, |mark| mark.version))
    }

    /// A Lance scan or search of the base that passes over superseded rows. What it finds is the whole answer together
    /// with [`changed`](Self::changed).
    pub fn base_scanner(&self) -> Scanner {
        let mut scanner = self.base.scan();
        if self.changes.masked() > 0 {
            scanner.with_row_id_prefilter(RowAddrMask::from_block(self.changes.mask().as_ref().clone()));
        }
        scanner
    }

    /// The row ids of the base's rows that later writes supersede.
    pub fn superseded(&self) -> &Arc<RowAddrTreeMap> {
        self.changes.mask()
    }

    /// How many rows were written since the base was, and are in this snapshot.
    pub fn changed_rows(&self) -> usize {
        self.changes.live()
    }

    /// How many of them came after `version`, those that a later write superseded too.
    pub fn changed_rows_since(&self, version: Version) -> usize {
        self.changes.rows_since(version)
    }

    /// Whether `row_id` is of a row that was written since the base was, and is in this snapshot.
    pub fn is_changed(&self, row_id: u64) -> bool {
        self.changes.row(row_id).is_some_and(|row| self.changes.is_live(row))
    }

    /// Whether `row_id`, of a row of this base or its change store, is of one that no later write supersedes.
    pub(crate) fn is_live(&self, row_id: u64) -> bool {
        match RowId::from(row_id) {
            RowId::Base(row_id) => !self.changes.is_masked(row_id),
            RowId::Changed { .. } => self.is_changed(row_id),
        }
    }

    /// What [`Table::set_properties`](crate::Table::set_properties) stored, at this version.
    pub fn properties(&self) -> &HashMap<String, String> {
        self.base.config()
    }
}

//! The change store in memory: the writes that are not part of the base yet, and which rows of the base they supersede.
//!
//! Rows live in chunks, one a write, that are never changed: a row that a later write supersedes is marked with that
//! write's version, so that any number of snapshots share the chunks. A layer indexes the newest entry of each key
//! written since the log segment of the same place began; a fold takes all layers but the last one into the base.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use cenote_base::Result;
use cenote_base::sync::RwLock;
use lance::dataset::scanner::RowAddrTreeMap;
use smallvec::SmallVec;

use crate::report::WriteReport;
use crate::rows::schema;
use crate::version::Version;

const LIVE: u64 = u64::MAX;
/// What an entry costs beside its row: the key's hash, places and mark.
const ENTRY_BYTES: usize = 160;

/// The rows of one write, in the table's logical schema of then.
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) version: u64,
    pub(super) batch: RecordBatch,
    /// The hash of each row's key.
    pub(super) hashes: Vec<u128>,
    superseded_at: Vec<AtomicU64>,
}

impl Chunk {
    /// Whether `row` is the newest of its key at `version`.
    pub(super) fn is_live(&self, row: usize, version: u64) -> bool {
        self.version <= version && self.superseded_at[row].load(Ordering::Acquire) > version
    }
}

/// A row of the change store: its chunk, and its place in that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ChunkRow {
    chunk: u32,
    row: u32,
}

impl ChunkRow {
    pub(super) fn new(chunk: usize, row: usize) -> Self {
        Self { chunk: chunk as u32, row: row as u32 }
    }

    pub(crate) fn chunk(self) -> usize {
        self.chunk as usize
    }

    pub(crate) fn row(self) -> usize {
        self.row as usize
    }
}

/// A map by the hash of a key, which is as random as a hash of it would be.
pub(crate) type ByHash<V> = HashMap<u128, V, BuildHasherDefault<Itself>>;

/// Takes a number for its hash.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Itself(u64);

impl Hasher for Itself {
    fn write(&mut self, bytes: &[u8]) {
        self.0 = bytes.iter().fold(self.0, |hash, byte| hash.rotate_left(8) ^ u64::from(*byte));
    }

    fn write_u128(&mut self, number: u128) {
        self.0 = number as u64;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// Every row of the chunks, oldest first, by key: snapshots that share the chunks share it.
#[derive(Debug, Default)]
pub(super) struct RowsByKey(RwLock<ByHash<KeyRows>>);

/// The rows of a key, oldest first: most have one.
type KeyRows = SmallVec<[ChunkRow; 1]>;

impl RowsByKey {
    /// For each of `hashes` the row that `is_live` picks.
    pub(super) fn find(&self, hashes: &[u128], is_live: impl Fn(ChunkRow) -> bool) -> Vec<Option<ChunkRow>> {
        let rows = self.0.read();
        let live = |rows: &KeyRows| rows.iter().rev().copied().find(|row| is_live(*row));
        hashes.iter().map(|hash| rows.get(hash).and_then(live)).collect()
    }
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    /// The row; `None` when it was deleted.
    row: Option<ChunkRow>,
    /// The row of the base that it supersedes.
    base: Option<u64>,
}

#[derive(Debug, Default)]
struct Layer {
    entries: ByHash<Entry>,
    bytes: usize,
    /// The versions of its first and last write; 0 when there was none.
    first: u64,
    last: u64,
}

/// What a write changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) inserted: usize,
    pub(crate) updated: usize,
    pub(crate) deleted: usize,
}

impl Counts {
    pub(crate) fn report(self, version: u64) -> WriteReport {
        WriteReport { version: Version(version), inserted: self.inserted, updated: self.updated, deleted: self.deleted }
    }
}

/// The change store of one table.
#[derive(Debug)]
pub(crate) struct ChangeStore {
    layers: Vec<Layer>,
    /// The chunks of all layers, oldest first.
    pub(super) chunks: Arc<Vec<Arc<Chunk>>>,
    /// Where they have each key.
    pub(super) by_key: Arc<RowsByKey>,
    /// The rows of the base that are superseded.
    pub(super) mask: Arc<RowAddrTreeMap>,
    /// How many those are.
    pub(super) masked: usize,
    /// Rows of the change store that are live.
    pub(super) live: usize,
    /// Rows of the change store.
    rows: usize,
}

impl Default for ChangeStore {
    fn default() -> Self {
        Self {
            layers: vec![Layer::default()],
            chunks: Arc::default(),
            by_key: Arc::default(),
            mask: Arc::new(RowAddrTreeMap::new()),
            masked: 0,
            live: 0,
            rows: 0,
        }
    }
}

impl ChangeStore {
    /// Returns how many rows there are, live or not.
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// Returns how many rows are superseded.
    pub(crate) fn superseded(&self) -> usize {
        self.rows - self.live
    }

    /// Bytes held.
    pub(crate) fn bytes(&self) -> usize {
        self.layers.iter().map(|layer| layer.bytes).sum()
    }

    /// Keys written and not folded, over all layers.
    pub(crate) fn entries(&self) -> usize {
        self.layers.iter().map(|layer| layer.entries.len()).sum()
    }

    /// Parts that a fold takes as one.
    pub(crate) fn runs(&self) -> usize {
        self.layers.iter().filter(|layer| !layer.entries.is_empty()).count()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.layers.iter().all(|layer| layer.entries.is_empty())
    }

    /// Starts a new layer, unless the newest one is empty.
    pub(crate) fn seal(&mut self) {
        if self.layers.last().is_some_and(|layer| layer.last > 0) {
            self.layers.push(Layer::default());
        }
    }

    fn find(&self, hash: u128) -> Option<Entry> {
        self.layers.iter().rev().find_map(|layer| layer.entries.get(&hash)).copied()
    }

    pub(crate) fn contains(&self, hash: u128) -> bool {
        self.find(hash).is_some()
    }

    /// Those of `hashes` that only the base may know.
    pub(crate) fn unknown(&self, hashes: &[u128]) -> Vec<u128> {
        hashes.iter().copied().filter(|hash| !self.contains(*hash)).collect()
    }

    /// Takes in rows, one a key, that replace what was there.
    pub(crate) fn upsert(
        &mut self,
        version: u64,
        batch: RecordBatch,
        hashes: Vec<u128>,
        bases: &ByHash<u64>,
    ) -> Counts {
        let chunk = self.chunks.len();
        let mut counts = Counts::default();
        for (row, &hash) in hashes.iter().enumerate() {
            match self.supersede(version, hash, Some(ChunkRow::new(chunk, row)), bases) {
                true => counts.updated += 1,
                false => counts.inserted += 1,
            }
        }
        {
            let mut rows = self.by_key.0.write();
            for (row, hash) in hashes.iter().enumerate() {
                rows.entry(*hash).or_default().push(ChunkRow::new(chunk, row));
            }
        }
        self.live += hashes.len();
        self.rows += hashes.len();
        self.note_write(version, batch.get_array_memory_size() + hashes.len() * ENTRY_BYTES);
        let superseded_at = hashes.iter().map(|_| AtomicU64::new(LIVE)).collect();
        Arc::make_mut(&mut self.chunks).push(Arc::new(Chunk { version, batch, hashes, superseded_at }));
        counts
    }

    /// Takes in deletions.
    pub(crate) fn delete(&mut self, version: u64, hashes: &[u128], bases: &ByHash<u64>) -> Counts {
        let deleted = hashes.iter().filter(|hash| self.supersede(version, **hash, None, bases)).count();
        self.note_write(version, hashes.len() * ENTRY_BYTES);
        Counts { deleted, ..Counts::default() }
    }

    fn note_write(&mut self, version: u64, bytes: usize) {
        if let Some(layer) = self.layers.last_mut() {
            layer.bytes += bytes;
            layer.first = if layer.first == 0 { version } else { layer.first };
            layer.last = version;
        }
    }

    /// Makes `row` the newest word on a key; whether there was a row.
    fn supersede(&mut self, version: u64, hash: u128, row: Option<ChunkRow>, bases: &ByHash<u64>) -> bool {
        let known = self.find(hash);
        let base = known.map_or_else(|| bases.get(&hash).copied(), |entry| entry.base);
        let was_there = match known {
            Some(Entry { row: Some(old), .. }) => {
                self.chunks[old.chunk()].superseded_at[old.row()].store(version, Ordering::Release);
                self.live -= 1;
                true
            }
            Some(_) => false,
            None => base.is_some(),
        };
        if let (None, Some(base)) = (known, base) {
            Arc::make_mut(&mut self.mask).insert(base);
            self.masked += 1;
        }
        // Also of a key that is nowhere and deleted: the log says so too, and whoever reads it again must not apply it
        // to a row that came to the base later, behind the log's back.
        if let Some(layer) = self.layers.last_mut() {
            layer.entries.insert(hash, Entry { row, base });
        }
        was_there
    }

    /// The newest row of each key in all layers, and the rows of the base that they supersede.
    pub(crate) fn to_fold(&self) -> ToFold {
        let mut newest: ByHash<Entry> = ByHash::default();
        for layer in &self.layers {
            newest.extend(layer.entries.iter().map(|(hash, entry)| (*hash, *entry)));
        }
        let mut fold =
            ToFold { superseded: Vec::new(), deleted: Vec::new(), rows: Vec::new(), chunks: Arc::clone(&self.chunks) };
        for (hash, entry) in newest {
            fold.superseded.extend(entry.base);
            match entry.row {
                Some(row) => fold.rows.push(row),
                None => fold.deleted.push(hash),
            }
        }
        // In the order they came, which is the order people expect.
        fold.rows.sort_unstable();
        fold
    }

    /// Whether the base may have other rows than before of the keys written here, when it holds the writes up to
    /// `version` and direct writes of the keys `touched`.
    pub(crate) fn is_cut_by(&self, version: u64, touched: &[u128]) -> bool {
        let is_folded = |layer: &Layer| layer.first > 0 && layer.first <= version;
        self.layers.iter().any(is_folded) || touched.iter().any(|hash| self.contains(*hash))
    }

    /// The keys written after `version`.
    pub(crate) fn keys_after(&self, version: u64) -> Vec<u128> {
        let kept = self.layers.iter().filter(|layer| layer.last > version);
        kept.flat_map(|layer| layer.entries.keys().copied()).collect::<HashSet<_>>().into_iter().collect()
    }

    /// Forgets the writes up to `version`, which the base has now; the rows that the others supersede there are in
    /// `bases`. Snapshots taken before keep what they had. `None` when a layer holds both.
    pub(crate) fn folded(&self, version: u64, bases: &ByHash<u64>) -> Option<Self> {
        let kept = self.layers.iter().filter(|layer| layer.last > version).collect::<Vec<_>>();
        if kept.iter().any(|layer| layer.first <= version) {
            return None;
        }
        let mut next = Self { layers: Vec::new(), ..Self::default() };
        let rows = kept.iter().flat_map(|layer| layer.entries.values()).filter_map(|entry| entry.row);
        let used: BTreeSet<usize> = rows.map(ChunkRow::chunk).collect();
        let moved: HashMap<usize, usize> = used.iter().enumerate().map(|(new, old)| (*old, new)).collect();
        next.rows = used.iter().map(|chunk| self.chunks[*chunk].hashes.len()).sum();
        next.chunks = Arc::new(used.iter().map(|chunk| Arc::clone(&self.chunks[*chunk])).collect());
        let mut newest: ByHash<Entry> = ByHash::default();
        for layer in kept {
            let mut entries = ByHash::default();
            for (hash, entry) in &layer.entries {
                let row = entry.row.map(|row| ChunkRow::new(moved[&row.chunk()], row.row()));
                entries.insert(*hash, Entry { row, base: bases.get(hash).copied() });
            }
            newest.extend(entries.iter().map(|(hash, entry)| (*hash, *entry)));
            next.layers.push(Layer { entries, bytes: layer.bytes, first: layer.first, last: layer.last });
        }
        let mut mask = RowAddrTreeMap::new();
        let rows = newest.iter().filter_map(|(hash, entry)| Some((*hash, SmallVec::from([entry.row?]))));
        next.by_key = Arc::new(RowsByKey(RwLock::new(rows.collect())));
        for entry in newest.values() {
            next.live += usize::from(entry.row.is_some());
            if let Some(base) = entry.base {
                mask.insert(base);
                next.masked += 1;
            }
        }
        next.mask = Arc::new(mask);
        if next.layers.is_empty() {
            next.layers.push(Layer::default());
        }
        Some(next)
    }
}

/// What a fold moves into the base.
#[derive(Debug)]
pub(crate) struct ToFold {
    /// Row ids of the base.
    pub(crate) superseded: Vec<u64>,
    /// Keys that are gone.
    pub(crate) deleted: Vec<u128>,
    /// Rows to add, in the order they came.
    pub(crate) rows: Vec<ChunkRow>,
    chunks: Arc<Vec<Arc<Chunk>>>,
}

impl ToFold {
    /// Returns the chunks of the rows in the columns of `schema`.
    pub(crate) fn chunks(&self, schema: &SchemaRef) -> Result<Vec<RecordBatch>> {
        self.chunks.iter().map(|chunk| schema::conform(&chunk.batch, schema)).collect()
    }
}

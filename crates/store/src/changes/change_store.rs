//! The change store in memory: the writes that the base does not hold yet, and the base rows that they supersede.
//!
//! Rows live in chunks, one per write, that never change: a superseded row is marked with the version that superseded
//! it, so that any number of snapshots share the chunks. A layer indexes the newest entry of each key written since the
//! corresponding log segment began; a fold moves all layers but the last one into the base.

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
/// Bytes of an entry in addition to its row: the key's hash, places and mark.
const ENTRY_BYTES: usize = 160;

/// The rows of one write, in the table's logical schema at that time.
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) version: u64,
    pub(super) batch: RecordBatch,
    /// The hash of each row's key.
    pub(super) hashes: Vec<u128>,
    superseded_at: Vec<AtomicU64>,
}

impl Chunk {
    /// Returns whether `row` is the newest of its key at `version`.
    pub(super) fn is_live(&self, row: usize, version: u64) -> bool {
        self.version <= version && self.superseded_at[row].load(Ordering::Acquire) > version
    }
}

/// The place of a row in the change store: its chunk, and the row in it.
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

/// A map keyed by hashes of keys, which need no further hashing.
pub(crate) type ByHash<V> = HashMap<u128, V, BuildHasherDefault<Itself>>;

/// A hasher that returns the number it is given.
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

/// All rows of the chunks by key, oldest first; shared by the snapshots that share the chunks.
#[derive(Debug, Default)]
pub(super) struct RowsByKey(RwLock<ByHash<KeyRows>>);

/// The rows of a key, oldest first; most keys have one.
type KeyRows = SmallVec<[ChunkRow; 1]>;

impl RowsByKey {
    /// Returns for each of `hashes` its newest row for which `is_live` holds.
    pub(super) fn find(&self, hashes: &[u128], is_live: impl Fn(ChunkRow) -> bool) -> Vec<Option<ChunkRow>> {
        let rows = self.0.read();
        let live = |rows: &KeyRows| rows.iter().rev().copied().find(|row| is_live(*row));
        hashes.iter().map(|hash| rows.get(hash).and_then(live)).collect()
    }
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    /// The place of the row; `None` when it was deleted.
    row: Option<ChunkRow>,
    /// The row id of the base row that it supersedes.
    base: Option<u64>,
}

#[derive(Debug, Default)]
struct Layer {
    entries: ByHash<Entry>,
    bytes: usize,
    /// The versions of its first and last write; 0 while there is none.
    first: u64,
    last: u64,
}

/// The numbers of rows that a write changed.
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
    /// The rows of each key in `chunks`.
    pub(super) by_key: Arc<RowsByKey>,
    /// The row ids of superseded base rows.
    pub(super) mask: Arc<RowAddrTreeMap>,
    /// The number of row ids in `mask`.
    pub(super) masked: usize,
    /// Live rows in `chunks`.
    pub(super) live: usize,
    /// All rows in `chunks`.
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
    /// Returns the number of rows, superseded ones included.
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// Returns the number of superseded rows.
    pub(crate) fn superseded(&self) -> usize {
        self.rows - self.live
    }

    /// Returns the bytes held in memory.
    pub(crate) fn bytes(&self) -> usize {
        self.layers.iter().map(|layer| layer.bytes).sum()
    }

    /// Returns the number of unfolded keys, summed over all layers.
    pub(crate) fn entries(&self) -> usize {
        self.layers.iter().map(|layer| layer.entries.len()).sum()
    }

    /// Returns the number of layers with entries, which a fold merges.
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

    /// Returns those of `hashes` that the change store does not have; only the base may have them.
    pub(crate) fn unknown(&self, hashes: &[u128]) -> Vec<u128> {
        hashes.iter().copied().filter(|hash| !self.contains(*hash)).collect()
    }

    /// Applies rows, one per key, that supersede what was there.
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

    /// Applies deletions.
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

    /// Makes `row` the newest entry of a key. Returns whether the key had a row.
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
        // Deletions of absent keys are entered too: the log has them, and replaying it must not apply them to a row
        // that a later direct write brings into the base.
        if let Some(layer) = self.layers.last_mut() {
            layer.entries.insert(hash, Entry { row, base });
        }
        was_there
    }

    /// Returns the newest row of each key in all layers, and the base rows that these supersede.
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
        // The order of the writes is the order people expect.
        fold.rows.sort_unstable();
        fold
    }

    /// Returns whether a base that holds the writes up to `version`, and direct writes of the keys `touched`, changes
    /// what is held here: entries that are folded, or the base rows that entries supersede.
    pub(crate) fn is_cut_by(&self, version: u64, touched: &[u128]) -> bool {
        let is_folded = |layer: &Layer| layer.first > 0 && layer.first <= version;
        self.layers.iter().any(is_folded) || touched.iter().any(|hash| self.contains(*hash))
    }

    /// Returns the keys written after `version`.
    pub(crate) fn keys_after(&self, version: u64) -> Vec<u128> {
        let kept = self.layers.iter().filter(|layer| layer.last > version);
        kept.flat_map(|layer| layer.entries.keys().copied()).collect::<HashSet<_>>().into_iter().collect()
    }

    /// Returns the change store without the writes up to `version`, which the base holds now; `bases` has the base rows
    /// that the remaining ones supersede. Older snapshots keep what they had. Returns `None` when a layer has writes on
    /// both sides of `version`.
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

/// The rows and deletions that a fold moves into the base.
#[derive(Debug)]
pub(crate) struct ToFold {
    /// Row ids of base rows to delete.
    pub(crate) superseded: Vec<u64>,
    /// Hashes of deleted keys.
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

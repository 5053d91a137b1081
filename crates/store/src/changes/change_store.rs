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
use cenote_base::sync::RwLock;
use lance::dataset::scanner::RowAddrTreeMap;
use smallvec::SmallVec;

const LIVE: u64 = u64::MAX;
/// Bytes of an entry in addition to its row: the key's hash, places and mark.
const ENTRY_BYTES: usize = 160;

/// The rows of one write, in the table's logical schema at that time.
#[derive(Debug)]
pub(crate) struct Chunk {
    pub(crate) version: u64,
    pub(crate) batch: RecordBatch,
    /// The hash of each row's key.
    pub(crate) hashes: Vec<u128>,
    superseded_at: Vec<AtomicU64>,
}

impl Chunk {
    /// Returns whether `row` is the newest of its key at `version`.
    pub(crate) fn is_live(&self, row: usize, version: u64) -> bool {
        self.version <= version && self.superseded_at[row].load(Ordering::Acquire) > version
    }
}

/// The place of a row in the change store: its chunk, and the row in it.
type Place = (usize, usize);

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
pub(crate) struct Rows(RwLock<ByHash<Places>>);

/// The rows of a key, oldest first; most keys have one.
type Places = SmallVec<[(u32, u32); 1]>;

impl Rows {
    /// Returns for each of `hashes` its newest row for which `is_live` holds.
    pub(crate) fn find(&self, hashes: &[u128], is_live: impl Fn(Place) -> bool) -> Vec<Option<Place>> {
        let rows = self.0.read();
        let live = |places: &Places| {
            let mut newest_first = places.iter().rev().map(|(chunk, row)| (*chunk as usize, *row as usize));
            newest_first.find(|place| is_live(*place))
        };
        hashes.iter().map(|hash| rows.get(hash).and_then(live)).collect()
    }
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    /// The place of the row; `None` when it was deleted.
    place: Option<Place>,
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

/// The change store of one table.
#[derive(Debug)]
pub(crate) struct Changes {
    layers: Vec<Layer>,
    /// The chunks of all layers, oldest first.
    pub(crate) chunks: Arc<Vec<Arc<Chunk>>>,
    /// The places of each key in `chunks`.
    pub(crate) by_key: Arc<Rows>,
    /// The row ids of superseded base rows.
    pub(crate) mask: Arc<RowAddrTreeMap>,
    /// The number of row ids in `mask`.
    pub(crate) masked: usize,
    /// Live rows in `chunks`.
    pub(crate) live: usize,
    /// All rows in `chunks`.
    pub(crate) rows: usize,
}

impl Default for Changes {
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

impl Changes {
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
            match self.supersede(version, hash, Some((chunk, row)), bases) {
                true => counts.updated += 1,
                false => counts.inserted += 1,
            }
        }
        {
            let mut rows = self.by_key.0.write();
            for (row, hash) in hashes.iter().enumerate() {
                rows.entry(*hash).or_default().push((chunk as u32, row as u32));
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

    /// Makes `place` the newest entry of a key. Returns whether the key had a row.
    fn supersede(&mut self, version: u64, hash: u128, place: Option<Place>, bases: &ByHash<u64>) -> bool {
        let known = self.find(hash);
        let base = known.map_or_else(|| bases.get(&hash).copied(), |entry| entry.base);
        let was_there = match known {
            Some(Entry { place: Some((chunk, row)), .. }) => {
                self.chunks[chunk].superseded_at[row].store(version, Ordering::Release);
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
            layer.entries.insert(hash, Entry { place, base });
        }
        was_there
    }

    /// Returns the newest row of each key in all layers, and the base rows that these supersede.
    pub(crate) fn to_fold(&self) -> ToFold {
        let mut newest: ByHash<Entry> = ByHash::default();
        for layer in &self.layers {
            newest.extend(layer.entries.iter().map(|(hash, entry)| (*hash, *entry)));
        }
        let mut fold = ToFold { superseded: Vec::new(), deleted: Vec::new(), rows: Vec::new() };
        for (hash, entry) in newest {
            fold.superseded.extend(entry.base);
            match entry.place {
                Some(place) => fold.rows.push((place, hash)),
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
        let places = kept.iter().flat_map(|layer| layer.entries.values()).filter_map(|entry| entry.place);
        let used: BTreeSet<usize> = places.map(|(chunk, _)| chunk).collect();
        let moved: HashMap<usize, usize> = used.iter().enumerate().map(|(new, old)| (*old, new)).collect();
        next.rows = used.iter().map(|chunk| self.chunks[*chunk].hashes.len()).sum();
        next.chunks = Arc::new(used.iter().map(|chunk| Arc::clone(&self.chunks[*chunk])).collect());
        let mut newest: ByHash<Entry> = ByHash::default();
        for layer in kept {
            let mut entries = ByHash::default();
            for (hash, entry) in &layer.entries {
                let place = entry.place.map(|(chunk, row)| (moved[&chunk], row));
                entries.insert(*hash, Entry { place, base: bases.get(hash).copied() });
            }
            newest.extend(entries.iter().map(|(hash, entry)| (*hash, *entry)));
            next.layers.push(Layer { entries, bytes: layer.bytes, first: layer.first, last: layer.last });
        }
        let mut mask = RowAddrTreeMap::new();
        let rows = newest.iter().filter_map(|(hash, entry)| {
            let (chunk, row) = entry.place?;
            Some((*hash, SmallVec::from([(chunk as u32, row as u32)])))
        });
        next.by_key = Arc::new(Rows(RwLock::new(rows.collect())));
        for entry in newest.values() {
            next.live += usize::from(entry.place.is_some());
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
    /// Rows to add, each with the hash of its key.
    pub(crate) rows: Vec<(Place, u128)>,
}

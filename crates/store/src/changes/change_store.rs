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
use cenote_base::sync::RwLock;
use lance::dataset::scanner::RowAddrTreeMap;
use smallvec::SmallVec;

const LIVE: u64 = u64::MAX;
/// What an entry costs beside its row: the key's hash, places and mark.
const ENTRY_BYTES: usize = 160;

/// The rows of one write, in the table's logical schema of then.
#[derive(Debug)]
pub(crate) struct Chunk {
    pub(crate) version: u64,
    pub(crate) batch: RecordBatch,
    /// The hash of each row's key.
    pub(crate) hashes: Vec<u128>,
    superseded_at: Vec<AtomicU64>,
}

impl Chunk {
    /// Whether `row` is the newest of its key at `version`.
    pub(crate) fn is_live(&self, row: usize, version: u64) -> bool {
        self.version <= version && self.superseded_at[row].load(Ordering::Acquire) > version
    }
}

/// A row of the change store: chunk and row in it.
type Place = (usize, usize);

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
pub(crate) struct Rows(RwLock<ByHash<Places>>);

/// The rows of a key, oldest first: most have one.
type Places = SmallVec<[(u32, u32); 1]>;

impl Rows {
    /// For each of `hashes` the row that `is_live` picks.
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
    /// Where the row is; `None` when it was deleted.
    place: Option<Place>,
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

/// The change store of one table.
#[derive(Debug)]
pub(crate) struct Changes {
    layers: Vec<Layer>,
    /// The chunks of all layers, oldest first.
    pub(crate) chunks: Arc<Vec<Arc<Chunk>>>,
    /// Where they have each key.
    pub(crate) by_key: Arc<Rows>,
    /// The rows of the base that are superseded.
    pub(crate) mask: Arc<RowAddrTreeMap>,
    /// How many those are.
    pub(crate) masked: usize,
    /// Rows of the change store that are live.
    pub(crate) live: usize,
    /// Rows of the change store.
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

    /// Makes `place` the newest word on a key; whether there was a row.
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
        // Also of a key that is nowhere and deleted: the log says so too, and whoever reads it again must not apply it
        // to a row that came to the base later, behind the log's back.
        if let Some(layer) = self.layers.last_mut() {
            layer.entries.insert(hash, Entry { place, base });
        }
        was_there
    }

    /// The newest row of each key in all layers, and the rows of the base that they supersede.
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

/// What a fold moves into the base.
#[derive(Debug)]
pub(crate) struct ToFold {
    /// Row ids of the base.
    pub(crate) superseded: Vec<u64>,
    /// Keys that are gone.
    pub(crate) deleted: Vec<u128>,
    /// Rows to add, each with the hash of its key.
    pub(crate) rows: Vec<(Place, u128)>,
}

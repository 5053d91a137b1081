//! Values that searches derive from a base and keep for the next search.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use cenote_base::sync::Mutex;

use cenote_store::Snapshot;
use lance::Dataset;

/// Named values derived from bases. The cache evicts the least recently used values once they exceed its bytes. A
/// caller that counts each value as one byte bounds their number instead.
///
/// A base is identified by its address, which no other base has while the entry exists, and a table by its identity. A
/// table that is created in place of another does not see the entries of the former, which are dropped.
#[derive(Debug)]
pub(crate) struct Cache<V> {
    bytes_max: usize,
    entries: Mutex<VecDeque<Entry<V>>>,
}

#[derive(Debug)]
struct Entry<V> {
    /// The identity of the table.
    table: u64,
    /// The location of the table.
    table_uri: String,
    base: Weak<Dataset>,
    /// Whether the entry outlives its base, because the next base can use it.
    is_lasting: bool,
    name: String,
    bytes: usize,
    value: Arc<V>,
}

impl<V> Entry<V> {
    fn is_of(&self, base: &Arc<Dataset>) -> bool {
        std::ptr::eq(self.base.as_ptr(), Arc::as_ptr(base))
    }

    fn is_gone(&self) -> bool {
        self.base.strong_count() == 0
    }
}

impl<V> Cache<V> {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { bytes_max, entries: Mutex::default() }
    }

    /// Returns whether a value of `bytes` may be cached.
    pub(crate) fn has_room_for(&self, bytes: usize) -> bool {
        bytes <= self.bytes_max
    }

    /// Returns value `name` of the base of `snapshot`.
    pub(crate) fn get(&self, snapshot: &Snapshot, name: &str) -> Option<Arc<V>> {
        self.find(|entry| entry.is_of(snapshot.base()) && entry.name == name)
    }

    /// Returns value `name` of the base of `snapshot`, or else the latest one of any base of its table.
    pub(crate) fn last(&self, snapshot: &Snapshot, name: &str) -> Option<Arc<V>> {
        let table = snapshot.identity();
        self.get(snapshot, name).or_else(|| self.find(|entry| entry.table == table && entry.name == name))
    }

    fn find(&self, is_it: impl Fn(&Entry<V>) -> bool) -> Option<Arc<V>> {
        let mut entries = self.entries.lock();
        entries.retain(|entry| entry.is_lasting || !entry.is_gone());
        let entry = entries.iter().rposition(is_it).and_then(|at| entries.remove(at))?;
        let value = Arc::clone(&entry.value);
        entries.push_back(entry);
        Some(value)
    }

    /// Caches `value`, which takes `bytes`, for as long as the base of `snapshot` exists. Replaces a value of the same
    /// name. A value larger than the cache is not cached.
    pub(crate) fn put(&self, snapshot: &Snapshot, name: &str, value: &Arc<V>, bytes: usize) {
        self.add(snapshot, name, value, bytes, false);
    }

    /// Caches `value` as [`put`](Self::put) does, but beyond the life of its base, for the table's next one.
    pub(crate) fn put_lasting(&self, snapshot: &Snapshot, name: &str, value: &Arc<V>, bytes: usize) {
        self.add(snapshot, name, value, bytes, true);
    }

    fn add(&self, snapshot: &Snapshot, name: &str, value: &Arc<V>, bytes: usize, is_lasting: bool) {
        if !self.has_room_for(bytes) {
            return;
        }
        let (table, base) = (snapshot.identity(), snapshot.base());
        let table_uri = base.uri();
        let mut entries = self.entries.lock();
        entries.retain(|entry| {
            let is_replaced = entry.table == table && entry.name == name && (entry.is_gone() || entry.is_of(base));
            let is_of_former_table = entry.table != table && entry.table_uri == table_uri;
            !is_replaced && !is_of_former_table && (entry.is_lasting || !entry.is_gone())
        });
        let (table_uri, base, name) = (table_uri.to_owned(), Arc::downgrade(base), name.to_owned());
        entries.push_back(Entry { table, table_uri, base, is_lasting, name, bytes, value: Arc::clone(value) });
        while entries.iter().map(|entry| entry.bytes).sum::<usize>() > self.bytes_max {
            entries.pop_front();
        }
    }

    /// Drops the entries of the table with identity `table`.
    pub(crate) fn forget(&self, table: u64) {
        self.entries.lock().retain(|entry| entry.table != table);
    }
}

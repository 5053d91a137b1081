//! What searches keep of a snapshot for the next search.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use cenote_store::Snapshot;
use lance::Dataset;

/// Values that were made of a base, under a name; those used least recently leave when all together take too many bytes
/// (or are too many, where each is put in as one).
/// A base is known by its address, which nobody else has as long as the entry is there.
#[derive(Debug)]
pub(crate) struct Cache<V> {
    bytes_max: usize,
    entries: Mutex<VecDeque<Entry<V>>>,
}

#[derive(Debug)]
struct Entry<V> {
    base: Weak<Dataset>,
    name: String,
    bytes: usize,
    value: Arc<V>,
}

impl<V> Cache<V> {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { bytes_max, entries: Mutex::default() }
    }

    /// Whether something that takes `bytes` may be kept.
    pub(crate) fn has_room_for(&self, bytes: usize) -> bool {
        bytes <= self.bytes_max
    }

    /// The value called `name` of the base of `snapshot`.
    pub(crate) fn get(&self, snapshot: &Snapshot, name: &str) -> Option<Arc<V>> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let is_it =
            |entry: &Entry<V>| std::ptr::eq(entry.base.as_ptr(), Arc::as_ptr(snapshot.base())) && entry.name == name;
        entries.retain(|entry| entry.base.strong_count() > 0);
        let at = entries.iter().rposition(is_it)?;
        let entry = entries.remove(at)?;
        let value = Arc::clone(&entry.value);
        entries.push_back(entry);
        Some(value)
    }

    /// Keeps `value`, which takes `bytes`, in the place of one of the same name; not one that takes more than there are.
    pub(crate) fn put(&self, snapshot: &Snapshot, name: &str, value: &Arc<V>, bytes: usize) {
        if !self.has_room_for(bytes) {
            return;
        }
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let base = Arc::downgrade(snapshot.base());
        entries
            .retain(|entry| entry.base.strong_count() > 0 && !(entry.name == name && Weak::ptr_eq(&entry.base, &base)));
        entries.push_back(Entry { base, name: name.to_owned(), bytes, value: Arc::clone(value) });
        while entries.iter().map(|entry| entry.bytes).sum::<usize>() > self.bytes_max {
            entries.pop_front();
        }
    }
}

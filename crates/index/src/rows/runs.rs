//! What is made of rows and grows with them.

use std::sync::Arc;

use arrow::array::RecordBatch;
use cenote_base::Result;
use cenote_store::{ScanRequest, Snapshot, Version};

use super::cache::Cache;
use super::fragments::Parts;
use crate::blocking::blocking;

/// What is made of rows, and can be made of more of them.
pub(crate) trait Part: Clone + Send + Sync + 'static {
    /// How many rows it holds.
    fn rows(&self) -> usize;
    /// About how many bytes it takes.
    fn bytes(&self) -> usize;
    /// Takes in `more`, whose rows are later ones.
    fn append(&mut self, more: &Self);
}

/// What was made of the change store, oldest rows first: of those that were there at some version, and maybe are no
/// more.
#[derive(Debug)]
pub(crate) struct Changed<V> {
    to: Version,
    /// Each about twice as large as the next at least, so that a write copies little.
    pub(crate) parts: Vec<Arc<V>>,
}

/// `parts`, and `more` of later rows.
pub(crate) fn with<V: Part>(mut parts: Vec<Arc<V>>, mut more: V) -> Vec<Arc<V>> {
    while let Some(last) = parts.pop_if(|last| last.rows() < 2 * more.rows()) {
        let mut merged = Arc::unwrap_or_clone(last);
        merged.append(&more);
        more = merged;
    }
    if more.rows() > 0 {
        parts.push(Arc::new(more));
    }
    parts
}

/// What `parts` take together.
pub(crate) fn bytes<V: Part>(parts: &[Arc<V>]) -> usize {
    parts.iter().map(|part| part.bytes()).sum()
}

/// And what those of fragments take.
pub(crate) fn bytes_of<V: Part>(parts: &Parts<V>) -> usize {
    parts.iter().map(|part| part.value.bytes()).sum()
}

/// What `read` makes of `column` in the change store: of all rows of this snapshot, and of some that are no more. What
/// `cache` has of an earlier version under `name` is not read again.
pub(crate) async fn changed<V: Part>(
    cache: &Cache<Changed<V>>,
    snapshot: &Snapshot,
    mut name: String,
    column: &str,
    read: impl FnOnce(Vec<RecordBatch>) -> Result<V> + Send + 'static,
) -> Result<Arc<Changed<V>>> {
    let version = snapshot.version();
    let mut known = cache.get(snapshot, &name);
    if known.as_ref().is_some_and(|known| known.to > version) {
        // What is known of a later version lacks rows that are no more there.
        name = format!("{name} {version}");
        known = cache.get(snapshot, &name);
    }
    if let Some(known) = known.as_ref().filter(|known| known.to == version) {
        return Ok(Arc::clone(known));
    }
    let known = known.unwrap_or_else(|| Arc::new(Changed { to: Version(0), parts: Vec::new() }));
    let request = ScanRequest::default().columns([column]).with_row_id();
    let batches = snapshot.changed_since(known.to, &request).await?;
    let make = move || Ok(Changed { to: version, parts: with(known.parts.clone(), read(batches)?) });
    let changed = Arc::new(blocking(make).await?);
    cache.put(snapshot, &name, &changed, bytes(&changed.parts));
    Ok(changed)
}

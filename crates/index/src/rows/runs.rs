//! Rows read into memory, to which later rows are appended.

use std::sync::Arc;

use arrow::array::RecordBatch;
use cenote_base::Result;
use cenote_store::{ScanRequest, Snapshot, Version, blocking};

use super::cache::Cache;
use super::fragments::PerFragment;

/// Rows in memory, oldest first.
pub(crate) trait Run: Clone + Send + Sync + 'static {
    /// Returns the number of rows.
    fn rows(&self) -> usize;
    /// Returns the approximate size in bytes.
    fn bytes(&self) -> usize;
    /// Appends the rows of `later`, which are newer than all rows of `self`.
    fn append(&mut self, later: &Self);
}

/// Runs, oldest first. Each is about twice as large as the next at least, so that appending copies few rows.
#[derive(Debug, Clone)]
pub(crate) struct Runs<V>(Vec<Arc<V>>);

impl<V> Default for Runs<V> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<V: Run> Runs<V> {
    /// Appends `run`, merged with the newest runs that are less than twice as large.
    pub(crate) fn append(&mut self, mut run: V) {
        while let Some(last) = self.0.pop_if(|last| last.rows() < 2 * run.rows()) {
            let mut merged = Arc::unwrap_or_clone(last);
            merged.append(&run);
            run = merged;
        }
        if run.rows() > 0 {
            self.0.push(Arc::new(run));
        }
    }

    /// Returns the approximate size in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.0.iter().map(|run| run.bytes()).sum()
    }

    /// Iterates over the runs, oldest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &V> {
        self.0.iter().map(Arc::as_ref)
    }
}

impl<V: Run> PerFragment<V> {
    /// Returns the approximate size in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.iter().map(|entry| entry.value.bytes()).sum()
    }
}

/// One column of the change store, read up to a version. It may include rows that are no longer in the change store.
#[derive(Debug)]
pub(crate) struct ChangedRows<V> {
    version: Version,
    pub(crate) runs: Runs<V>,
}

impl<V: Run> ChangedRows<V> {
    /// Reads `column` in the change store of `snapshot` by `read`: the rows that `cache` does not have under `name`
    /// from an earlier version.
    pub(crate) async fn read(
        cache: &Cache<Self>,
        snapshot: &Snapshot,
        mut name: String,
        column: &str,
        read: impl FnOnce(Vec<RecordBatch>) -> Result<V> + Send + 'static,
    ) -> Result<Arc<Self>> {
        let version = snapshot.version();
        let mut known = cache.get(snapshot, &name);
        if known.as_ref().is_some_and(|known| known.version > version) {
            // A later version may lack rows that are still live at this one.
            name = format!("{name} {version}");
            known = cache.get(snapshot, &name);
        }
        if let Some(known) = known.as_ref().filter(|known| known.version == version) {
            return Ok(Arc::clone(known));
        }
        let (since, mut runs) = known.map_or_else(Default::default, |known| (known.version, known.runs.clone()));
        let request = ScanRequest::default().columns([column]).with_row_id();
        let batches = snapshot.changed_since(since, &request).await?;
        let append = move || {
            runs.append(read(batches)?);
            Ok(Self { version, runs })
        };
        let changed = Arc::new(blocking(append).await?);
        cache.put(snapshot, &name, &changed, changed.runs.bytes());
        Ok(changed)
    }
}

//! What the index of a column has not seen, read once for many searches: the late rows of a base, and the change store of a version.

use std::sync::Arc;

use arrow::array::RecordBatch;
use cenote_base::Result;
use cenote_store::{ScanRequest, Snapshot, Version};
use futures::TryStreamExt;
use lance::dataset::scanner::RowAddrTreeMap;
use lance_index::scalar::inverted::tokenizer::document_tokenizer::LanceTokenizer;

use crate::cache::Cache;
use crate::corpus::Segment;
use crate::late::Texts;
use crate::live;
use crate::resident::blocking;
use crate::spec::Metric;
use crate::vectors::Vectors;

/// More late rows than this are read batch by batch for each search, for the sake of memory.
pub(crate) const LATE_ROWS_MAX: usize = 100_000;

/// An opened full-text index, for one base.
#[derive(Debug)]
pub(crate) struct TextIndex {
    pub(crate) segments: Vec<Segment>,
    /// The rows of the base that none of them has seen.
    pub(crate) late: RowAddrTreeMap,
}

/// What is made of rows, and can be made of more of them.
pub(crate) trait Part: Clone + Send + Sync + 'static {
    /// How many rows it holds.
    fn rows(&self) -> usize;
    /// About how many bytes it takes.
    fn bytes(&self) -> usize;
    /// Takes in `more`, whose rows are later ones.
    fn append(&mut self, more: &Self);
}

/// What was made of the change store, oldest rows first: of those that were there at some version, and maybe are no more.
#[derive(Debug)]
pub(crate) struct Changed<V> {
    to: Version,
    /// Each about twice as large as the next at least, so that a write copies little.
    pub(crate) parts: Vec<Arc<V>>,
}

impl<V: Part> Changed<V> {
    pub(crate) fn bytes(&self) -> usize {
        self.parts.iter().map(|part| part.bytes()).sum()
    }

    /// With what was made of later writes too.
    fn with(&self, to: Version, mut more: V) -> Self {
        let mut parts = self.parts.clone();
        while let Some(last) = parts.pop_if(|last| last.rows() < 2 * more.rows()) {
            let mut merged = Arc::unwrap_or_clone(last);
            merged.append(&more);
            more = merged;
        }
        if more.rows() > 0 {
            parts.push(Arc::new(more));
        }
        Self { to, parts }
    }
}

/// What was read, bounded in bytes.
pub(crate) struct Unseen {
    late_vectors: Cache<Vectors>,
    changed_vectors: Cache<Changed<Vectors>>,
    late_texts: Cache<Texts>,
    changed_texts: Cache<Changed<Texts>>,
    pub(crate) text_indexes: Cache<TextIndex>,
}

impl Unseen {
    pub(crate) fn new(bytes_max: usize) -> Self {
        let share = bytes_max / 5;
        Self {
            late_vectors: Cache::new(share),
            changed_vectors: Cache::new(share),
            late_texts: Cache::new(share),
            changed_texts: Cache::new(share),
            text_indexes: Cache::new(share),
        }
    }

    /// The vectors of `late`, which are rows of the base that `name` stands for; at most [`LATE_ROWS_MAX`].
    pub(crate) async fn late_vectors(
        &self,
        snapshot: &Snapshot,
        name: &str,
        column: &str,
        (metric, width): (Metric, usize),
        late: &RowAddrTreeMap,
    ) -> Result<Arc<Vectors>> {
        if let Some(known) = self.late_vectors.get(snapshot, name) {
            return Ok(known);
        }
        let mut vectors = Vectors::new(metric, width);
        let mut batches = live::read(snapshot.base(), column, late.clone()).await?;
        while let Some(batch) = batches.try_next().await? {
            vectors = blocking(move || vectors.read(&batch).map(|_| vectors)).await?;
        }
        let vectors = Arc::new(vectors);
        self.late_vectors.put(snapshot, name, &vectors, vectors.bytes());
        Ok(vectors)
    }

    /// The vectors of `column` in the change store.
    pub(crate) async fn changed_vectors(
        &self,
        snapshot: &Snapshot,
        column: &str,
        (metric, width): (Metric, usize),
    ) -> Result<Arc<Changed<Vectors>>> {
        let name = format!("{column} {}", metric == Metric::Hamming);
        let read = move |batches: Vec<RecordBatch>| {
            let mut vectors = Vectors::new(metric, width);
            batches.iter().try_for_each(|batch| vectors.read(batch).map(drop)).map(|()| vectors)
        };
        changed(&self.changed_vectors, snapshot, name, column, read).await
    }

    /// The texts of `late`, which are rows of the base that index `name` over `column` has not seen; at most [`LATE_ROWS_MAX`].
    pub(crate) async fn late_texts(
        &self,
        snapshot: &Snapshot,
        name: &str,
        column: &str,
        tokenizer: &dyn LanceTokenizer,
        late: &RowAddrTreeMap,
    ) -> Result<Arc<Texts>> {
        if let Some(known) = self.late_texts.get(snapshot, name) {
            return Ok(known);
        }
        let mut texts = Texts::default();
        let mut batches = live::read(snapshot.base(), column, late.clone()).await?;
        while let Some(batch) = batches.try_next().await? {
            let mut tokenizer = tokenizer.box_clone();
            texts = blocking(move || texts.read(&batch, tokenizer.as_mut()).map(|()| texts)).await?;
        }
        let texts = Arc::new(texts);
        self.late_texts.put(snapshot, name, &texts, texts.bytes());
        Ok(texts)
    }

    /// The texts of `column` in the change store, as index `name` reads them.
    pub(crate) async fn changed_texts(
        &self,
        snapshot: &Snapshot,
        name: &str,
        column: &str,
        tokenizer: &dyn LanceTokenizer,
    ) -> Result<Arc<Changed<Texts>>> {
        let mut tokenizer = tokenizer.box_clone();
        let read = move |batches: Vec<RecordBatch>| {
            let mut texts = Texts::default();
            batches.iter().try_for_each(|batch| texts.read(batch, tokenizer.as_mut())).map(|()| texts)
        };
        changed(&self.changed_texts, snapshot, name.to_owned(), column, read).await
    }
}

/// What `read` makes of `column` in the change store: of all rows of this snapshot, and of some that are no more. What `cache` has of
/// an earlier version under `name` is not read again.
async fn changed<V: Part>(
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
    let changed = Arc::new(blocking(move || Ok(known.with(version, read(batches)?))).await?);
    cache.put(snapshot, &name, &changed, changed.bytes());
    Ok(changed)
}

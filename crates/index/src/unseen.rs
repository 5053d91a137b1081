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

/// A value of the change store as one version has it.
#[derive(Debug)]
struct Changed<V>(Version, Arc<V>);

/// The vectors of the change store, oldest first: those that were there at some version, and maybe no more.
#[derive(Debug)]
pub(crate) struct ChangedVectors {
    to: Version,
    /// Each about twice as large as the next at least, so that a write copies little.
    pub(crate) parts: Vec<Arc<Vectors>>,
}

impl ChangedVectors {
    pub(crate) fn bytes(&self) -> usize {
        self.parts.iter().map(|part| part.bytes()).sum()
    }

    /// With those of later writes too.
    fn with(&self, to: Version, mut more: Vectors) -> Self {
        let mut parts = self.parts.clone();
        while let Some(last) = parts.pop_if(|last| last.row_ids.len() < 2 * more.row_ids.len()) {
            let mut merged = Arc::unwrap_or_clone(last);
            merged.append(&more);
            more = merged;
        }
        if !more.row_ids.is_empty() {
            parts.push(Arc::new(more));
        }
        Self { to, parts }
    }
}

/// What was read, bounded in bytes.
pub(crate) struct Unseen {
    late_vectors: Cache<Vectors>,
    changed_vectors: Cache<ChangedVectors>,
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

    /// The vectors of `column` in the change store: all of this snapshot's, and some of rows that are no more. What is known of an
    /// earlier version is not read again.
    pub(crate) async fn changed_vectors(
        &self,
        snapshot: &Snapshot,
        column: &str,
        (metric, width): (Metric, usize),
    ) -> Result<Arc<ChangedVectors>> {
        let (version, mut name) = (snapshot.version(), format!("{column} {}", metric == Metric::Hamming));
        let mut known = self.changed_vectors.get(snapshot, &name);
        if known.as_ref().is_some_and(|known| known.to > version) {
            // What is known of a later version lacks rows that are no more there.
            name = format!("{name} {version}");
            known = self.changed_vectors.get(snapshot, &name);
        }
        if let Some(known) = known.as_ref().filter(|known| known.to == version) {
            return Ok(Arc::clone(known));
        }
        let known = known.unwrap_or_else(|| Arc::new(ChangedVectors { to: Version(0), parts: Vec::new() }));
        let request = ScanRequest::default().columns([column]).with_row_id();
        let batches = snapshot.changed_since(known.to, &request).await?;
        let read = move || {
            let mut vectors = Vectors::new(metric, width);
            batches.iter().try_for_each(|batch| vectors.read(batch).map(drop))?;
            Ok(known.with(version, vectors))
        };
        let vectors = Arc::new(blocking(read).await?);
        self.changed_vectors.put(snapshot, &name, &vectors, vectors.bytes());
        Ok(vectors)
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
    ) -> Result<Arc<Texts>> {
        if let Some(known) = self.changed_texts.get(snapshot, name).filter(|known| known.0 == snapshot.version()) {
            return Ok(Arc::clone(&known.1));
        }
        let batches = changed(snapshot, column).await?;
        let mut tokenizer = tokenizer.box_clone();
        let read = move || {
            let mut texts = Texts::default();
            batches.iter().try_for_each(|batch| texts.read(batch, tokenizer.as_mut())).map(|()| texts)
        };
        let texts = Arc::new(blocking(read).await?);
        let value = Arc::new(Changed(snapshot.version(), Arc::clone(&texts)));
        self.changed_texts.put(snapshot, name, &value, texts.bytes());
        Ok(texts)
    }
}

async fn changed(snapshot: &Snapshot, column: &str) -> Result<Vec<RecordBatch>> {
    snapshot.changed(&ScanRequest::default().columns([column]).with_row_id()).await
}

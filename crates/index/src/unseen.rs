//! What the index of a column has not seen, read once for many searches: the late rows of a base, the change store of a version, and
//! what of the base that supersedes.

use std::sync::{Arc, Weak};

use arrow::array::RecordBatch;
use cenote_base::Result;
use cenote_store::{ScanRequest, Snapshot, Version};
use futures::TryStreamExt;
use lance::dataset::scanner::RowAddrTreeMap;
use lance_index::scalar::inverted::tokenizer::document_tokenizer::LanceTokenizer;
use lance_select::RowSetOps;

use crate::cache::Cache;
use crate::corpus::{Segment, Statistics};
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

/// The texts of rows of the base that later writes supersede, and that its index has.
#[derive(Debug)]
pub(crate) struct Superseded {
    /// The superseded rows of the base, those too that the index does not have.
    of: Weak<RowAddrTreeMap>,
    rows: RowAddrTreeMap,
    /// As in [`Changed`]; `None` where they take too much memory.
    parts: Option<Vec<Arc<Texts>>>,
}

impl Superseded {
    /// Of the rows, for `terms`; `None` where their texts take too much memory.
    pub(crate) fn statistics(&self, terms: &[String]) -> Option<Statistics> {
        let mut sum = Statistics::none(terms.len());
        self.parts.as_ref()?.iter().for_each(|part| sum.add(&part.statistics(terms)));
        Some(sum)
    }
}

/// `parts`, and `more` of later rows.
fn with<V: Part>(mut parts: Vec<Arc<V>>, mut more: V) -> Vec<Arc<V>> {
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

/// What was read, bounded in bytes.
pub(crate) struct Unseen {
    late_vectors: Cache<Vectors>,
    changed_vectors: Cache<Changed<Vectors>>,
    late_texts: Cache<Texts>,
    changed_texts: Cache<Changed<Texts>>,
    superseded_texts: Cache<Superseded>,
    pub(crate) text_indexes: Cache<TextIndex>,
}

impl Unseen {
    pub(crate) fn new(bytes_max: usize) -> Self {
        let share = bytes_max / 6;
        Self {
            late_vectors: Cache::new(share),
            changed_vectors: Cache::new(share),
            late_texts: Cache::new(share),
            changed_texts: Cache::new(share),
            superseded_texts: Cache::new(share),
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
        let texts = Arc::new(read_texts(snapshot, column, tokenizer, late.clone()).await?);
        self.late_texts.put(snapshot, name, &texts, texts.bytes());
        Ok(texts)
    }

    /// The texts of the superseded rows of the base that index `name` over `column` has, which are all but the `late` ones.
    pub(crate) async fn superseded_texts(
        &self,
        snapshot: &Snapshot,
        name: &str,
        column: &str,
        tokenizer: &dyn LanceTokenizer,
        late: &RowAddrTreeMap,
    ) -> Result<Arc<Superseded>> {
        let of = snapshot.superseded();
        let mut name = name.to_owned();
        let mut known = self.superseded_texts.get(snapshot, &name);
        let is_current = |known: &Arc<Superseded>| Weak::as_ptr(&known.of) == Arc::as_ptr(of);
        if let Some(known) = known.as_ref().filter(|known| is_current(known)) {
            return Ok(Arc::clone(known));
        }
        let rows = of.as_ref().clone() - late;
        if known.as_ref().is_some_and(|known| !(known.rows.clone() - &rows).is_empty()) {
            // What is known of a later version has rows that are live here.
            name = format!("{name} {}", snapshot.version());
            known = self.superseded_texts.get(snapshot, &name);
        }
        let (new, parts) = match &known {
            Some(known) => (rows.clone() - &known.rows, known.parts.clone()),
            None => (rows.clone(), Some(Vec::new())),
        };
        let mut parts = parts.filter(|_| live::count(&rows) <= LATE_ROWS_MAX);
        if let Some(known) = parts.take() {
            let texts = read_texts(snapshot, column, tokenizer, new).await?;
            parts = Some(blocking(move || Ok(with(known, texts))).await?);
        }
        let parts = parts.filter(|parts| self.superseded_texts.has_room_for(bytes(parts)));
        let bytes = rows.serialized_size() + parts.as_deref().map_or(0, bytes);
        let superseded = Arc::new(Superseded { of: Arc::downgrade(of), rows, parts });
        self.superseded_texts.put(snapshot, &name, &superseded, bytes);
        Ok(superseded)
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

/// The texts of `column` in `rows` of the base.
async fn read_texts(
    snapshot: &Snapshot,
    column: &str,
    tokenizer: &dyn LanceTokenizer,
    rows: RowAddrTreeMap,
) -> Result<Texts> {
    let mut texts = Texts::default();
    let mut batches = live::read(snapshot.base(), column, rows).await?;
    while let Some(batch) = batches.try_next().await? {
        let mut tokenizer = tokenizer.box_clone();
        texts = blocking(move || texts.read(&batch, tokenizer.as_mut()).map(|()| texts)).await?;
    }
    Ok(texts)
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
    let make = move || Ok(Changed { to: version, parts: with(known.parts.clone(), read(batches)?) });
    let changed = Arc::new(blocking(make).await?);
    cache.put(snapshot, &name, &changed, bytes(&changed.parts));
    Ok(changed)
}

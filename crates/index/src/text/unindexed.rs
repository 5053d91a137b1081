//! The texts that the segments of a full-text index do not have or that are stale there, and the opened segments,
//! cached from one search to the next.

use std::sync::{Arc, Weak};

use arrow::array::RecordBatch;
use cenote_base::Result;
use cenote_store::{RecordBatches, Snapshot, blocking};
use futures::TryStreamExt;
use lance::dataset::scanner::RowAddrTreeMap;
use lance::table::format::IndexMetadata;
use lance_index::scalar::inverted::tokenizer::document_tokenizer::LanceTokenizer;
use lance_select::RowSetOps;

use super::segment::{Statistics, TextSegment, read_indexed_rows};
use super::texts::Texts;
use crate::rows::cache::Cache;
use crate::rows::fragments::{self, Examined, Fragment, PerFragment, UNCOVERED_ROWS_MAX, column_id};
use crate::rows::row_set;
use crate::rows::runs::{ChangedRows, Runs};

/// The segments of a full-text index, opened for one base.
#[derive(Debug)]
pub(super) struct OpenTextIndex {
    pub(super) segments: Vec<TextSegment>,
    /// The live rows of the base that no segment covers.
    pub(super) uncovered: RowAddrTreeMap,
    /// The fragments of those rows.
    pub(super) uncovered_fragments: Vec<Fragment>,
    /// A key for the tokenizer of the index: equal keys split texts into the same words.
    pub(super) tokenizer_key: String,
}

impl OpenTextIndex {
    /// Returns the key of cached texts of `column`, split into words as this index, called `name`, does. An index that
    /// cannot be read may differ from the one that replaces it in its tokenizer alone.
    fn key(&self, snapshot: &Snapshot, name: &str, column: &str) -> String {
        format!("{name} {} {}", column_id(snapshot, column), self.tokenizer_key)
    }
}

/// The texts of the rows of the base that an index has and that later writes supersede.
#[derive(Debug)]
pub(super) struct SupersededTexts {
    /// All superseded rows of the base, also those that the index does not have.
    superseded: Weak<RowAddrTreeMap>,
    rows: RowAddrTreeMap,
    /// `None` where the texts take too much memory.
    runs: Option<Runs<Texts>>,
}

impl SupersededTexts {
    /// Counts `terms` in the texts; `None` where those take too much memory.
    pub(super) fn statistics(&self, terms: &[String]) -> Option<Statistics> {
        let mut sum = Statistics::none(terms.len());
        self.runs.as_ref()?.iter().for_each(|texts| sum.add(&texts.statistics(terms)));
        Some(sum)
    }
}

/// The cached texts of uncovered fragments, change stores and superseded rows, and the opened indexes, bounded in
/// bytes.
pub(crate) struct UnindexedTextCache {
    uncovered: Cache<PerFragment<Texts>>,
    changed: Cache<ChangedRows<Texts>>,
    superseded: Cache<SupersededTexts>,
    pub(super) opened: Cache<OpenTextIndex>,
    indexed_rows: Cache<RowAddrTreeMap>,
    examined: Examined,
}

impl UnindexedTextCache {
    /// Makes a cache of which each of the five parts takes up to `bytes_max`.
    pub(crate) fn new(bytes_max: usize, examined: Examined) -> Self {
        Self {
            uncovered: Cache::new(bytes_max),
            changed: Cache::new(bytes_max),
            superseded: Cache::new(bytes_max),
            opened: Cache::new(bytes_max),
            indexed_rows: Cache::new(bytes_max),
            examined,
        }
    }

    /// Drops the entries of the table with identity `table`.
    pub(crate) fn forget(&self, table: u64) {
        self.uncovered.forget(table);
        self.changed.forget(table);
        self.superseded.forget(table);
        self.opened.forget(table);
        self.indexed_rows.forget(table);
    }

    /// Reads `column` in the fragments that `index`, called `name`, does not cover. They have up to
    /// [`UNCOVERED_ROWS_MAX`] rows.
    pub(super) async fn uncovered(
        &self,
        snapshot: &Snapshot,
        name: &str,
        column: &str,
        tokenizer: &dyn LanceTokenizer,
        index: &OpenTextIndex,
    ) -> Result<Arc<PerFragment<Texts>>> {
        let uncovered = &index.uncovered_fragments;
        let key = index.key(snapshot, name, column);
        let known = self.uncovered.last(snapshot, &key);
        if let Some(known) = known.as_ref().filter(|known| known.are_of(uncovered)) {
            return Ok(Arc::clone(known));
        }
        let (mut entries, missing) = PerFragment::carried(known.as_deref(), uncovered);
        for fragment in missing {
            let batches = fragments::read(snapshot.base(), column, &fragment).await?;
            entries.push(fragment, self.read_texts(batches, tokenizer).await?);
        }
        let entries = Arc::new(entries);
        self.uncovered.put_lasting(snapshot, &key, &entries, entries.bytes());
        Ok(entries)
    }

    /// Reads `column` in the change store, split into words as `index`, called `name`, does.
    pub(super) async fn changed(
        &self,
        snapshot: &Snapshot,
        name: &str,
        column: &str,
        tokenizer: &dyn LanceTokenizer,
        index: &OpenTextIndex,
    ) -> Result<Arc<ChangedRows<Texts>>> {
        let mut tokenizer = tokenizer.box_clone();
        let read = move |batches: Vec<RecordBatch>| {
            let mut texts = Texts::default();
            batches.iter().try_for_each(|batch| texts.read(batch, tokenizer.as_mut())).map(|()| texts)
        };
        ChangedRows::read(&self.changed, snapshot, index.key(snapshot, name, column), column, read).await
    }

    /// Reads the rows that `segment` of a full-text index was built from.
    pub(super) async fn indexed_rows(
        &self,
        snapshot: &Snapshot,
        segment: &IndexMetadata,
    ) -> Result<Arc<RowAddrTreeMap>> {
        let key = segment.uuid.to_string();
        if let Some(known) = self.indexed_rows.last(snapshot, &key) {
            return Ok(known);
        }
        let rows = Arc::new(read_indexed_rows(snapshot.base(), segment).await?);
        self.examined.add(row_set::count(&rows));
        self.indexed_rows.put_lasting(snapshot, &key, &rows, rows.serialized_size());
        Ok(rows)
    }

    /// Reads the texts of the superseded rows that `index`, called `name`, over `column` has.
    pub(super) async fn superseded(
        &self,
        snapshot: &Snapshot,
        name: &str,
        column: &str,
        tokenizer: &dyn LanceTokenizer,
        index: &OpenTextIndex,
    ) -> Result<Arc<SupersededTexts>> {
        let superseded = snapshot.superseded();
        let mut key = index.key(snapshot, name, column);
        let mut known = self.superseded.get(snapshot, &key);
        let is_current = |known: &Arc<SupersededTexts>| Weak::as_ptr(&known.superseded) == Arc::as_ptr(superseded);
        if let Some(known) = known.as_ref().filter(|known| is_current(known)) {
            return Ok(Arc::clone(known));
        }
        let rows = superseded.as_ref().clone() - &index.uncovered;
        if known.as_ref().is_some_and(|known| !(known.rows.clone() - &rows).is_empty()) {
            // The entry is of a later version, which supersedes rows that are live at this one.
            key = format!("{key} {}", snapshot.version());
            known = self.superseded.get(snapshot, &key);
        }
        let (new, runs) = match &known {
            Some(known) => (rows.clone() - &known.rows, known.runs.clone()),
            None => (rows.clone(), Some(Runs::default())),
        };
        let mut runs = runs.filter(|_| row_set::count(&rows) <= UNCOVERED_ROWS_MAX);
        if let Some(mut known) = runs.take() {
            let texts = self.read_texts(row_set::read(snapshot.base(), column, new).await?, tokenizer).await?;
            let append = move || {
                known.append(texts);
                Ok(known)
            };
            runs = Some(blocking(append).await?);
        }
        let runs = runs.filter(|runs| self.superseded.has_room_for(runs.bytes()));
        let bytes = rows.serialized_size() + runs.as_ref().map_or(0, Runs::bytes);
        let texts = Arc::new(SupersededTexts { superseded: Arc::downgrade(superseded), rows, runs });
        self.superseded.put(snapshot, &key, &texts, bytes);
        Ok(texts)
    }

    /// Reads the texts in the first column of `batches`.
    async fn read_texts(&self, mut batches: RecordBatches, tokenizer: &dyn LanceTokenizer) -> Result<Texts> {
        let mut texts = Texts::default();
        while let Some(batch) = batches.try_next().await? {
            self.examined.add(batch.num_rows());
            let mut tokenizer = tokenizer.box_clone();
            texts = blocking(move || texts.read(&batch, tokenizer.as_mut()).map(|()| texts)).await?;
        }
        Ok(texts)
    }
}

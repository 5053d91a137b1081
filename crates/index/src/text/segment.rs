//! The segments of a full-text index, and the statistics of the live rows, by which BM25 weighs words.
//!
//! A segment counts the rows that it was built from. So that every row is scored as if one index had all live rows, the
//! rows that are gone are subtracted from those counts, and the rows that no segment has are added.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::AsArray;
use arrow::datatypes::UInt64Type;
use cenote_base::sync::Mutex;
use cenote_base::{Error, Result};
use cenote_store::{ROW_ID, blocking, lance_error};
use lance::Dataset;
use lance::dataset::index::LanceIndexStoreExt;
use lance::dataset::scanner::RowAddrTreeMap;
use lance::table::format::IndexMetadata;
use lance_index::scalar::IndexStore;
use lance_index::scalar::inverted::query::{FtsSearchParams, Tokens};
use lance_index::scalar::inverted::tokenizer::document_tokenizer::DocType;
use lance_index::scalar::inverted::{DOCS_FILE, InvertedIndex, MemBM25Scorer};
use lance_index::scalar::lance_format::LanceIndexStore;
use lance_select::RowSetOps;

use super::fuzzy::Expansion;
use super::plan::FuzzyWord;

/// Row ids that are read from a segment at once.
const READ_ROWS: usize = 1 << 20;
/// Words whose counts a segment caches, at most.
const COUNTED_TERMS_MAX: usize = 10_000;

/// Counts of rows and words, by which BM25 weighs some terms.
#[derive(Debug, Clone)]
pub(super) struct Statistics {
    /// The rows that have words.
    pub(super) rows: usize,
    /// The words of those rows together.
    pub(super) words: u64,
    /// The rows that have each of the terms.
    pub(super) rows_with: Vec<usize>,
}

impl Statistics {
    /// Returns the statistics of no rows, for `terms` terms.
    pub(super) fn none(terms: usize) -> Self {
        Self { rows: 0, words: 0, rows_with: vec![0; terms] }
    }

    /// Adds `other`, the counts of other rows for the same terms.
    pub(super) fn add(&mut self, other: &Self) {
        self.rows += other.rows;
        self.words += other.words;
        self.rows_with.iter_mut().zip(&other.rows_with).for_each(|(sum, rows)| *sum += rows);
    }

    /// Subtracts `other`, the counts of some of these rows for the same terms.
    pub(super) fn remove(&mut self, other: &Self) {
        self.rows = self.rows.saturating_sub(other.rows);
        self.words = self.words.saturating_sub(other.words);
        let both = self.rows_with.iter_mut().zip(&other.rows_with);
        both.for_each(|(sum, rows)| *sum = sum.saturating_sub(*rows));
    }

    /// Returns a scorer of `terms`, whose counts these are.
    pub(super) fn scorer(&self, terms: &[String]) -> MemBM25Scorer {
        let rows_with = terms.iter().cloned().zip(self.rows_with.iter().copied());
        MemBM25Scorer::new(self.words, self.rows, rows_with.collect())
    }

    /// Returns `expansion` with a scorer that weighs all its words as the commonest of them.
    pub(super) fn score_expansion(&self, expansion: Expansion) -> ScoredExpansion {
        let rows_with = expansion.words.iter().map(|weighted| (weighted.word.clone(), expansion.rows_with));
        let scorer = MemBM25Scorer::new(self.words, self.rows, rows_with.collect());
        ScoredExpansion { expansion, scorer }
    }
}

/// The words that a fuzzy word stands for, with the scorer that weighs them.
pub(super) struct ScoredExpansion {
    pub(super) expansion: Expansion,
    pub(super) scorer: MemBM25Scorer,
}

/// A row that matches a query.
#[derive(Debug, Clone, Copy)]
pub(super) struct RowScore {
    pub(super) row_id: u64,
    pub(super) score: f32,
}

/// A segment of a full-text index.
#[derive(Debug)]
pub(super) struct TextSegment {
    pub(super) index: Arc<InvertedIndex>,
    /// The rows of the base that a search may find in it: those of the fragments that it covers that are not deleted.
    pub(super) live: RowAddrTreeMap,
    /// The rows that the segment was built from.
    rows: Arc<RowAddrTreeMap>,
    /// Those of `rows` that are not live.
    gone: RowAddrTreeMap,
    counted: Mutex<CountedTerms>,
}

/// The cached counts of a segment's live rows: counting again would read the postings of the rows that are gone.
#[derive(Debug, Default)]
struct CountedTerms {
    rows: usize,
    words: u64,
    rows_with: HashMap<String, usize>,
}

impl CountedTerms {
    /// Returns the statistics of `terms`, if all are cached.
    fn statistics(&self, terms: &[String]) -> Option<Statistics> {
        let rows_with: Option<Vec<usize>> = terms.iter().map(|term| self.rows_with.get(term).copied()).collect();
        Some(Statistics { rows: self.rows, words: self.words, rows_with: rows_with? })
    }

    /// Caches `counted`, the statistics of `terms`.
    fn keep(&mut self, terms: &[String], counted: &Statistics) {
        if self.rows_with.len() + terms.len() > COUNTED_TERMS_MAX {
            self.rows_with.clear();
        }
        (self.rows, self.words) = (counted.rows, counted.words);
        self.rows_with.extend(terms.iter().cloned().zip(counted.rows_with.iter().copied()));
    }
}

impl TextSegment {
    pub(super) fn new(index: Arc<InvertedIndex>, rows: Arc<RowAddrTreeMap>, live: RowAddrTreeMap) -> Self {
        let gone = rows.as_ref().clone() - &live;
        Self { index, live, rows, gone, counted: Mutex::default() }
    }

    /// Counts `terms` in the live rows.
    pub(super) async fn statistics(&self, terms: &[String]) -> Result<Statistics> {
        let counted = || self.counted.lock();
        // Without terms, nothing tells whether the counts are cached.
        if let Some(known) = counted().statistics(terms).filter(|_| !terms.is_empty()) {
            return Ok(known);
        }
        let statistics = self.count(terms, &self.gone).await?;
        counted().keep(terms, &statistics);
        Ok(statistics)
    }

    /// Counts `terms` in the live rows that are not `superseded`, by reading the postings of the superseded ones.
    pub(super) async fn statistics_without(&self, terms: &[String], superseded: &RowAddrTreeMap) -> Result<Statistics> {
        self.count(terms, &((superseded.clone() & self.rows.as_ref()) | &self.gone)).await
    }

    async fn count(&self, terms: &[String], gone: &RowAddrTreeMap) -> Result<Statistics> {
        let counted = self.index.bm25_row_stats_for_terms(terms, Some(gone), None).await;
        let (words, rows, rows_with) = counted.map_err(lance_error)?;
        Ok(Statistics { rows, words, rows_with })
    }

    /// Returns the words of the segment that `fuzzy` may stand for.
    pub(super) async fn similar(&self, fuzzy: &FuzzyWord, token_type: DocType) -> Result<Vec<String>> {
        let tokens = Tokens::new(vec![fuzzy.term.clone()], token_type);
        let params = FtsSearchParams::new().with_fuzziness(Some(fuzzy.edits)).with_max_expansions(usize::MAX);
        let index = Arc::clone(&self.index);
        let expand = move || index.expand_fuzzy_tokens(&tokens, &params).map_err(lance_error);
        Ok(blocking(expand).await?.into_iter().collect())
    }

    /// Returns whether every row that the segment was built from is live.
    pub(super) fn is_whole(&self) -> bool {
        self.gone.is_empty()
    }

    /// Returns the size of the row sets in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.live.serialized_size() + self.gone.serialized_size()
    }
}

/// Reads the ids of the rows that a segment of a full-text index was built from.
pub(super) async fn read_indexed_rows(base: &Dataset, metadata: &IndexMetadata) -> Result<RowAddrTreeMap> {
    let store = LanceIndexStore::from_dataset_for_existing(base, metadata).await.map_err(lance_error)?;
    let mut rows = RowAddrTreeMap::new();
    for file in store.list_files_with_sizes().await.map_err(lance_error)? {
        if !file.path.ends_with(DOCS_FILE) {
            continue;
        }
        let reader = store.open_index_file(&file.path).await.map_err(lance_error)?;
        for start in (0..reader.num_rows()).step_by(READ_ROWS) {
            let range = start..reader.num_rows().min(start + READ_ROWS);
            let batch = reader.read_range(range, Some(&[ROW_ID])).await.map_err(lance_error)?;
            let Some(ids) = batch.column(0).as_primitive_opt::<UInt64Type>() else {
                return Err(Error::corrupt(format!("file `{}` of index `{}` lists no rows", file.path, metadata.name)));
            };
            rows.extend(ids.values().iter().copied());
        }
    }
    Ok(rows)
}

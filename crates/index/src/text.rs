//! Full-text search, ranked by BM25.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use cenote_base::{Error, Result};
use cenote_store::{Filter, Snapshot, lance_error};
use futures::TryStreamExt;
use lance::dataset::scanner::{RowAddrMask, RowAddrTreeMap};
use lance::index::DatasetIndexInternalExt;
use lance::table::format::IndexMetadata;
use lance_index::metrics::NoOpMetricsCollector;
use lance_index::prefilter::PreFilter;
use lance_index::scalar::inverted::query::{FtsSearchParams, Operator, try_collect_query_tokens};
use lance_index::scalar::inverted::tokenizer::document_tokenizer::LanceTokenizer;
use lance_index::scalar::inverted::{InvertedIndex, MemBM25Scorer};
use lance_select::RowSetOps;

use crate::build::text_params;
use crate::catalog::{Catalog, Index};
use crate::corpus::Segment;
use crate::hits::{Hit, K_MAX, SCORE, by_score, check_k, materialize};
use crate::indexes::{Indexes, is_of_index};
use crate::kind::IndexKind;
use crate::late::{Fit, LateRows, Terms, Texts};
use crate::live;
use crate::resident::blocking;
use crate::unseen::{LATE_ROWS_MAX, TextIndex};
use crate::vector::unreadable;

/// So many rows beyond k are asked for, to see ties at the end of the result.
const TIES_MIN: usize = 64;

/// A search for the rows whose text fits some words best.
#[derive(Debug, Clone)]
pub struct TextQuery {
    /// A column with a full-text index; `None`: all that have one, each row ranked by its best column.
    pub column: Option<String>,
    /// Words, of which a row needs one at least; or a phrase in double quotes, which it needs as it stands.
    pub query: String,
    /// Whether a row needs all the words.
    pub all_words: bool,
    /// How many rows, at most.
    pub k: usize,
    /// Only rows that satisfy this; applied before the search.
    pub filter: Option<Filter>,
    /// Columns of the answer; `None`: all visible ones.
    pub columns: Option<Vec<String>>,
}

impl TextQuery {
    /// The `k` rows that fit `query` best.
    pub fn new(query: impl Into<String>, k: usize) -> Self {
        Self { column: None, query: query.into(), all_words: false, k, filter: None, columns: None }
    }

    /// Only in `column`.
    pub fn column(mut self, column: impl Into<String>) -> Self {
        self.column = Some(column.into());
        self
    }
}

impl Indexes {
    /// The rows that fit best: the columns asked for, and [`SCORE`] descending. A query of stop words finds nothing.
    ///
    /// The score is BM25 with k1 = 1.2 and b = 0.75 over all live rows of the column that have words, whatever the filter, and
    /// wherever they are: a row's score does not change when it is folded or indexed. A word that stands twice in the query counts
    /// once, but in a phrase. Robertson, Zaragoza: "The Probabilistic Relevance Framework: BM25 and Beyond", 2009.
    ///
    /// # Errors
    /// `NotFound` when there is no full-text index, saying how to make one; `InvalidInput` for an empty query, a `k` of 0 or
    /// a filter that does not parse.
    pub async fn text_search(&self, snapshot: &Snapshot, query: &TextQuery) -> Result<RecordBatch> {
        let hits = self.text_hits(snapshot, query).await?;
        materialize(snapshot, &hits, query.columns.as_deref(), &[SCORE]).await
    }

    /// [`text_search`](Self::text_search) without reading the rows.
    pub async fn text_hits(&self, snapshot: &Snapshot, query: &TextQuery) -> Result<Vec<Hit>> {
        check_k(query.k)?;
        let catalog = self.catalog(snapshot).await?;
        let indexes = text_indexes(snapshot, &catalog, query.column.as_deref())?;
        let text = query.query.trim();
        if text.is_empty() {
            return Err(Error::invalid_input("the text to search for is empty"));
        }
        let (text, fit) = match phrase(text) {
            Some(_) if indexes.len() > 1 => {
                let named = indexes.iter().map(|index| index.column.as_str()).collect::<Vec<_>>().join(", ");
                return Err(Error::invalid_input(format!("a phrase is searched in one column: name one of {named}")));
            }
            Some(phrase) => (phrase, Fit::Phrase),
            None if query.all_words => (text, Fit::AllWords),
            None => (text, Fit::AnyWord),
        };
        let wanted = match &query.filter {
            Some(filter) => Some(live::satisfying(snapshot, filter).await?),
            None => None,
        };
        // A row ranks by its best column.
        let mut best: HashMap<u64, f32> = HashMap::new();
        for index in indexes {
            let search = ColumnSearch { indexes: self, snapshot, index, wanted: wanted.as_ref(), k: query.k };
            for (row_id, score) in search.run(text, fit).await? {
                let best = best.entry(row_id).or_insert(score);
                *best = best.max(score);
            }
        }
        let hits = best.into_iter().map(|(row_id, score)| Hit { row_id, distance: None, score: Some(score) });
        let mut hits: Vec<Hit> = hits.collect();
        hits.sort_unstable_by(by_score);
        hits.truncate(query.k);
        Ok(hits)
    }

    /// The columns of `snapshot` with a full-text index, or `column` alone.
    ///
    /// # Errors
    /// `NotFound` when there is none, or `column` is not one.
    pub async fn text_columns(&self, snapshot: &Snapshot, column: Option<&str>) -> Result<Vec<String>> {
        let catalog = self.catalog(snapshot).await?;
        let indexes = text_indexes(snapshot, &catalog, column)?;
        Ok(indexes.into_iter().map(|index| index.column.clone()).collect())
    }
}

/// A search in one column.
struct ColumnSearch<'a> {
    indexes: &'a Indexes,
    snapshot: &'a Snapshot,
    index: &'a Index,
    /// The rows that satisfy the filter.
    wanted: Option<&'a RowAddrTreeMap>,
    k: usize,
}

impl ColumnSearch<'_> {
    /// At least the best k rows. All rows are scored by the statistics of all that are live, whatever the filter and wherever
    /// they are, so that a row keeps its score when it is folded or indexed.
    async fn run(&self, text: &str, fit: Fit) -> Result<Vec<(u64, f32)>> {
        match self.run_by(self.open().await?, text, fit).await {
            Err(error) if is_of_index(&error) => {
                unreadable(&self.index.name, &error);
                self.run_by(Arc::new(self.all_late().await?), text, fit).await
            }
            found => found,
        }
    }

    async fn run_by(&self, opened: Arc<TextIndex>, text: &str, fit: Fit) -> Result<Vec<(u64, f32)>> {
        let mut tokenizer = match (opened.segments.first(), &self.index.definition.kind) {
            (Some(segment), _) => segment.index.tokenizer(),
            (None, IndexKind::FullText(options)) => text_params(options)?.build().map_err(lance_error)?,
            (None, _) => return Err(Error::internal(format!("index `{}` is no full-text index", self.index.name))),
        };
        let tokens = try_collect_query_tokens(text, &mut tokenizer).map_err(lance_error)?;
        if tokens.is_empty() {
            return Ok(Vec::new());
        }
        let terms = Terms::new(tokens, fit);
        let late = self.read_late(&opened, LateRows::new(terms.clone()), tokenizer.as_ref()).await?;
        let superseded = self.snapshot.superseded().as_ref();
        let mut statistics = late.statistics().clone();
        for segment in &opened.segments {
            statistics.add(&segment.statistics(&terms.unique, superseded).await?);
        }
        let scorer = statistics.scorer(&terms.unique);
        let is_wanted = |row_id: u64| self.wanted.is_none_or(|wanted| wanted.contains(row_id));
        let mut found: Vec<(u64, f32)> = late.scores(&scorer).filter(|(row_id, _)| is_wanted(*row_id)).collect();
        for segment in &opened.segments {
            found.extend(self.best(segment, &terms, &scorer).await?);
        }
        Ok(found)
    }

    /// The parts of the index, and the rows of the base that none of them has seen.
    async fn open(&self) -> Result<Arc<TextIndex>> {
        let unseen = self.indexes.unseen();
        if let Some(known) = unseen.text_indexes.get(self.snapshot, &self.index.name) {
            return Ok(known);
        }
        let Some(built) = &self.index.built else { return Ok(Arc::new(self.all_late().await?)) };
        let base = self.snapshot.base();
        let mut segments = Vec::with_capacity(built.segments.len());
        for part in &built.segments {
            match self.open_segment(part).await {
                Ok(segment) => segments.push(segment),
                Err(error) if is_of_index(&error) => {
                    unreadable(&self.index.name, &error);
                    return Ok(Arc::new(self.all_late().await?));
                }
                Err(error) => return Err(error),
            }
        }
        let (_, late) = live::rows(base, &built.segments).await?;
        let opened = Arc::new(TextIndex { segments, late });
        let bytes = opened.segments.iter().map(Segment::bytes).sum::<usize>() + opened.late.serialized_size();
        unseen.text_indexes.put(self.snapshot, &self.index.name, &opened, bytes);
        Ok(opened)
    }

    async fn open_segment(&self, part: &IndexMetadata) -> Result<Segment> {
        let base = self.snapshot.base();
        let opened = base.open_scalar_index(&self.index.column, &part.uuid, &NoOpMetricsCollector).await;
        let opened = opened.map_err(lance_error)?;
        let inverted = opened.as_any().downcast_ref::<InvertedIndex>();
        let inverted =
            inverted.ok_or_else(|| Error::corrupt(format!("index `{}` is no full-text index", self.index.name)))?;
        let (rows, _) = live::rows(base, std::slice::from_ref(part)).await?;
        Segment::new(base, part, Arc::new(inverted.clone()), rows).await
    }

    /// As if there were no index.
    async fn all_late(&self) -> Result<TextIndex> {
        let base = self.snapshot.base();
        let late = live::rows_in(base, base.fragment_bitmap().as_ref().clone()).await?;
        Ok(TextIndex { segments: Vec::new(), late })
    }

    /// What `opened` has not seen of the base, and the change store.
    async fn read_late(
        &self,
        opened: &TextIndex,
        mut rows: LateRows,
        tokenizer: &dyn LanceTokenizer,
    ) -> Result<LateRows> {
        let (snapshot, index) = (self.snapshot, self.index);
        let (unseen, superseded) = (self.indexes.unseen(), snapshot.superseded().as_ref());
        let is_live = |row: u64| !superseded.contains(row);
        let late = live::count(&opened.late);
        if late > LATE_ROWS_MAX {
            let mut batches = live::read(snapshot.base(), &index.column, opened.late.clone() - superseded).await?;
            while let Some(batch) = batches.try_next().await? {
                let mut tokenizer = tokenizer.box_clone();
                let read = move || {
                    let mut texts = Texts::default();
                    texts.read(&batch, tokenizer.as_mut()).map(|()| texts)
                };
                rows.add(&blocking(read).await?, |_| true);
            }
        } else if late > 0 {
            // The same rows are late whether the index cannot be read or is not there.
            let name = format!("{}\0{}", index.name, opened.segments.len());
            let texts = unseen.late_texts(snapshot, &name, &index.column, tokenizer, &opened.late).await?;
            rows.add(&texts, is_live);
        }
        if snapshot.changed_rows() > 0 {
            let texts = unseen.changed_texts(snapshot, &index.name, &index.column, tokenizer).await?;
            rows.add(&texts, |_| true);
        }
        Ok(rows)
    }

    /// The best rows of `segment`: k, and those that score as the last of them does.
    async fn best(&self, segment: &Segment, terms: &Terms, scorer: &MemBM25Scorer) -> Result<Vec<(u64, f32)>> {
        let superseded = self.snapshot.superseded().as_ref();
        let mask = match self.wanted {
            Some(wanted) => RowAddrMask::from_allowed((segment.live.clone() & wanted) - superseded),
            None if segment.is_whole() => RowAddrMask::from_block(superseded.clone()),
            None => RowAddrMask::from_allowed(segment.live.clone() - superseded),
        };
        let rows = Arc::new(Rows(Arc::new(mask)));
        let operator = if terms.fit == Fit::AnyWord { Operator::Or } else { Operator::And };
        let slop = (terms.fit == Fit::Phrase).then_some(0);
        let mut limit = self.k.saturating_add(TIES_MIN).min(K_MAX);
        loop {
            let params = FtsSearchParams::new().with_limit(Some(limit)).with_phrase_slop(slop);
            let (tokens, rows) = (terms.searched(), Arc::clone(&rows));
            let found = segment.index.bm25_search(
                tokens,
                Arc::new(params),
                operator,
                rows,
                Arc::new(NoOpMetricsCollector),
                Some(scorer),
            );
            let (row_ids, scores) = found.await.map_err(lance_error)?;
            let mut found: Vec<(u64, f32)> = row_ids.into_iter().zip(scores).collect();
            found.sort_unstable_by(|a, b| b.1.total_cmp(&a.1));
            // Of rows with equal scores the index gives any: all of those at the end of the result must be seen, for the
            // same rows to come out each time.
            let cuts_ties = found.len() >= limit && found[self.k - 1].1 == found[found.len() - 1].1;
            if !cuts_ties || limit >= K_MAX {
                return Ok(found);
            }
            limit = limit.saturating_mul(4).min(K_MAX);
        }
    }
}

/// The rows that a search of an index may find.
struct Rows(Arc<RowAddrMask>);

#[async_trait]
impl PreFilter for Rows {
    async fn wait_for_ready(&self) -> lance::Result<()> {
        Ok(())
    }

    fn is_empty(&self) -> bool {
        false
    }

    fn mask(&self) -> Arc<RowAddrMask> {
        Arc::clone(&self.0)
    }

    fn filter_row_ids<'a>(&self, row_ids: Box<dyn Iterator<Item = &'a u64> + 'a>) -> Vec<u64> {
        self.0.selected_indices(row_ids)
    }
}

/// The full-text indexes of `catalog`, one a column; that of `column` alone when one is given.
fn text_indexes<'a>(snapshot: &Snapshot, catalog: &'a Catalog, column: Option<&str>) -> Result<Vec<&'a Index>> {
    let of_text = |index: &&Index| matches!(index.definition.kind, IndexKind::FullText(_));
    let mut indexed: Vec<&Index> = catalog.indexes.iter().filter(of_text).collect();
    let mut columns = HashSet::new();
    indexed.retain(|index| columns.insert(index.column.as_str()));
    let hint = "make one with `cenote index create TABLE COLUMN --kind text`";
    match column {
        None if indexed.is_empty() => Err(Error::not_found(format!("the table has no full-text index; {hint}"))),
        None => Ok(indexed),
        Some(column) if indexed.iter().any(|index| index.column == column) => {
            indexed.retain(|index| index.column == column);
            Ok(indexed)
        }
        Some(column) if snapshot.schema().index_of(column).is_err() => {
            let known = snapshot.schema().fields().iter().map(|f| f.name().as_str()).collect::<Vec<_>>().join(", ");
            Err(Error::not_found(format!("no column `{column}`; the table has {known}")))
        }
        Some(column) => Err(Error::not_found(format!("column `{column}` has no full-text index; {hint}"))),
    }
}

/// What stands in the double quotes around `text`.
fn phrase(text: &str) -> Option<&str> {
    text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).filter(|text| !text.is_empty())
}

//! Full-text search, ranked by BM25.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use cenote_base::{Error, Result};
use cenote_store::{Filter, ScanRequest, Snapshot, lance_error};
use futures::{StreamExt, stream};
use lance::dataset::scanner::{RowAddrMask, RowAddrTreeMap};
use lance::index::{DatasetIndexExt, DatasetIndexInternalExt};
use lance_index::IndexCriteria;
use lance_index::metrics::NoOpMetricsCollector;
use lance_index::prefilter::PreFilter;
use lance_index::scalar::inverted::query::{FtsSearchParams, Operator, try_collect_query_tokens};
use lance_index::scalar::inverted::tokenizer::document_tokenizer::LanceTokenizer;
use lance_index::scalar::inverted::{InvertedIndex, MemBM25Scorer};
use lance_select::RowSetOps;

use crate::catalog::definitions;
use crate::corpus::Segment;
use crate::hits::{Hit, K_MAX, SCORE, by_score, check_k, materialize};
use crate::late::{Fit, LateRows, Terms, read_late};
use crate::live;
use crate::spec::IndexKind;

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

/// The rows that fit best: the columns asked for, and [`SCORE`] descending. A query of stop words finds nothing.
///
/// The score is BM25 with k1 = 1.2 and b = 0.75 over all live rows of the column that have words, whatever the filter, and
/// wherever they are: a row's score does not change when it is folded or indexed. A word that stands twice in the query counts
/// once, but in a phrase. Robertson, Zaragoza: "The Probabilistic Relevance Framework: BM25 and Beyond", 2009.
///
/// # Errors
/// `NotFound` when there is no full-text index, saying how to make one; `InvalidInput` for an empty query, a `k` of 0 or
/// a filter that does not parse.
pub async fn text_search(snapshot: &Snapshot, query: &TextQuery) -> Result<RecordBatch> {
    let hits = text_hits(snapshot, query).await?;
    materialize(snapshot, &hits, query.columns.as_deref(), &[SCORE]).await
}

/// [`text_search`] without reading the rows.
pub async fn text_hits(snapshot: &Snapshot, query: &TextQuery) -> Result<Vec<Hit>> {
    check_k(query.k)?;
    let columns = text_columns(snapshot, query.column.as_deref()).await?;
    let text = query.query.trim();
    if text.is_empty() {
        return Err(Error::invalid_input("the text to search for is empty"));
    }
    let (text, fit) = match phrase(text) {
        Some(_) if columns.len() > 1 => {
            let named = columns.join(", ");
            return Err(Error::invalid_input(format!("a phrase is searched in one column: name one of {named}")));
        }
        Some(phrase) => (phrase, Fit::Phrase),
        None if query.all_words => (text, Fit::AllWords),
        None => (text, Fit::AnyWord),
    };
    let superseded = snapshot.superseded().as_ref();
    let wanted = match &query.filter {
        Some(filter) => Some(live::satisfying(snapshot, filter).await?),
        None => None,
    };
    // A row ranks by its best column.
    let mut best: HashMap<u64, f32> = HashMap::new();
    for column in &columns {
        let search = ColumnSearch { snapshot, column, superseded, wanted: wanted.as_ref(), k: query.k };
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

/// A search in one column.
struct ColumnSearch<'a> {
    snapshot: &'a Snapshot,
    column: &'a str,
    superseded: &'a RowAddrTreeMap,
    /// The rows that satisfy the filter.
    wanted: Option<&'a RowAddrTreeMap>,
    k: usize,
}

impl ColumnSearch<'_> {
    /// At least the best k rows. All rows are scored by the statistics of all that are live, whatever the filter and wherever
    /// they are, so that a row keeps its score when it is folded or indexed.
    async fn run(&self, text: &str, fit: Fit) -> Result<Vec<(u64, f32)>> {
        let (segments, late) = self.segments().await?;
        let mut tokenizer = match segments.first() {
            Some(segment) => segment.index.tokenizer(),
            None => return Err(Error::corrupt(format!("the full-text index of column `{}` is empty", self.column))),
        };
        let tokens = try_collect_query_tokens(text, &mut tokenizer).map_err(lance_error)?;
        if tokens.is_empty() {
            return Ok(Vec::new());
        }
        let terms = Terms::new(tokens, fit);
        let late = self.read_late(late, LateRows::new(terms.clone()), tokenizer).await?;
        let mut statistics = late.statistics().clone();
        for segment in &segments {
            statistics.add(&segment.statistics(&terms.unique).await?);
        }
        let scorer = statistics.scorer(&terms.unique);
        let is_wanted = |row_id: u64| self.wanted.is_none_or(|wanted| wanted.contains(row_id));
        let mut found: Vec<(u64, f32)> = late.scores(&scorer).filter(|(row_id, _)| is_wanted(*row_id)).collect();
        for segment in segments {
            found.extend(self.best(segment, &terms, &scorer).await?);
        }
        Ok(found)
    }

    /// The parts of the index, and the rows of the base that none of them has seen.
    async fn segments(&self) -> Result<(Vec<Segment>, RowAddrTreeMap)> {
        let base = self.snapshot.base();
        let criteria = IndexCriteria::default().for_column(self.column).supports_fts();
        let index = base.load_scalar_index(criteria).await.map_err(lance_error)?;
        let index = index.ok_or_else(|| Error::internal(format!("column `{}` lost its index", self.column)))?;
        let parts = base.load_indices_by_name(&index.name).await.map_err(lance_error)?;
        let mut segments = Vec::with_capacity(parts.len());
        for part in &parts {
            let opened = base.open_scalar_index(self.column, &part.uuid, &NoOpMetricsCollector).await;
            let opened = opened.map_err(lance_error)?;
            let inverted = opened.as_any().downcast_ref::<InvertedIndex>();
            let inverted =
                inverted.ok_or_else(|| Error::internal(format!("index `{}` is no full-text index", index.name)))?;
            let (rows, _) = live::rows(base, std::slice::from_ref(part)).await?;
            segments.push(Segment::new(base, part, Arc::new(inverted.clone()), rows - self.superseded).await?);
        }
        let (_, late) = live::rows(base, &parts).await?;
        Ok((segments, late - self.superseded))
    }

    /// Reads `late` of the base, and the change store.
    async fn read_late(
        &self,
        late: RowAddrTreeMap,
        rows: LateRows,
        tokenizer: Box<dyn LanceTokenizer>,
    ) -> Result<LateRows> {
        let request = ScanRequest::default().columns([self.column]).with_row_id();
        let changed = stream::iter(self.snapshot.changed(&request).await?).map(Ok);
        let base = live::read(self.snapshot.base(), self.column, late).await?;
        read_late(rows, tokenizer, changed.chain(base)).await
    }

    /// The best rows of `segment`: k, and those that score as the last of them does.
    async fn best(&self, segment: Segment, terms: &Terms, scorer: &MemBM25Scorer) -> Result<Vec<(u64, f32)>> {
        let rows = match self.wanted {
            Some(wanted) => segment.live & wanted,
            None => segment.live,
        };
        let rows = Arc::new(Rows(Arc::new(RowAddrMask::from_allowed(rows))));
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

/// The columns of `snapshot` with a full-text index, or `column` alone.
///
/// # Errors
/// `NotFound` when there is none, or `column` is not one.
pub async fn text_columns(snapshot: &Snapshot, column: Option<&str>) -> Result<Vec<String>> {
    let mut indexed: Vec<String> = definitions(snapshot)
        .await?
        .into_iter()
        .filter(|index| matches!(index.kind, IndexKind::FullText { .. }))
        .map(|index| index.column)
        .collect();
    indexed.dedup();
    let hint = "make one with `cenote index create TABLE COLUMN --kind text`";
    match column {
        None if indexed.is_empty() => Err(Error::not_found(format!("the table has no full-text index; {hint}"))),
        None => Ok(indexed),
        Some(column) if indexed.iter().any(|name| name == column) => Ok(vec![column.to_owned()]),
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

//! Full-text search, ranked by BM25.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow::array::RecordBatch;
use cenote_base::{Error, Result};
use cenote_store::{Filter, ScanRequest, Snapshot, lance_error};
use futures::{TryStreamExt, stream};
use lance::deps::datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use lance::index::{DatasetIndexExt, DatasetIndexInternalExt};
use lance_index::IndexCriteria;
use lance_index::metrics::NoOpMetricsCollector;
use lance_index::scalar::FullTextSearchQuery;
use lance_index::scalar::inverted::query::{
    FtsQuery, FtsSearchParams, MatchQuery, MultiMatchQuery, Operator, PhraseQuery, collect_query_tokens,
};
use lance_index::scalar::inverted::{
    DocumentGranularity, FlatBm25SearchOptions, InvertedIndex, build_global_bm25_scorer,
    flat_bm25_search_stream_with_options_and_scorer,
};

use crate::catalog::definitions;
use crate::hits::{Hit, K_MAX, SCORE, by_score, check_k, materialize};
use crate::spec::IndexKind;
use crate::vector::{apply_filter, ranked, scored};

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

/// The rows that fit best: the columns asked for, and [`SCORE`] (BM25) descending. A query of stop words finds nothing.
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
    let changed = changed_hits(snapshot, query, &columns).await?;
    let search = FullTextSearchQuery::new_query(fts_query(text, columns, query.all_words)?);
    let mut limit = query.k.saturating_add(TIES_MIN).min(K_MAX);
    loop {
        let mut hits = best(snapshot, query, search.clone().limit(Some(limit as i64))).await?;
        // Of rows with equal scores the index gives any: all of those at the end of the result must be seen, for the
        // same rows to come out each time.
        let cuts_ties = hits.len() >= limit && hits[query.k - 1].score == hits[hits.len() - 1].score;
        if !cuts_ties || limit >= K_MAX {
            hits.extend(changed);
            hits.sort_unstable_by(by_score);
            hits.truncate(query.k);
            return Ok(hits);
        }
        limit = limit.saturating_mul(4).min(K_MAX);
    }
}

async fn best(snapshot: &Snapshot, query: &TextQuery, search: FullTextSearchQuery) -> Result<Vec<Hit>> {
    let mut scanner = snapshot.base_scanner();
    apply_filter(&mut scanner, query.filter.as_ref())?;
    scanner.prefilter(true);
    scanner.full_text_search(search).map_err(lance_error)?;
    scanner.project(&[SCORE]).map_err(lance_error)?.with_row_id();
    let mut seen = HashSet::new();
    let mut hits: Vec<Hit> = ranked(&scanner, SCORE, query.filter.as_ref())
        .await?
        .into_iter()
        .map(|(row_id, score)| Hit { row_id, distance: None, score: Some(score) })
        .collect();
    hits.sort_unstable_by(by_score);
    hits.retain(|hit| seen.insert(hit.row_id));
    Ok(hits)
}

/// The rows that fit among those that no index has seen because the base has not. Their words are weighed by the statistics
/// of the index and their own, and a row ranks by its best column.
async fn changed_hits(snapshot: &Snapshot, query: &TextQuery, columns: &[String]) -> Result<Vec<Hit>> {
    let mut best: HashMap<u64, f32> = HashMap::new();
    if snapshot.changed_rows() == 0 {
        return Ok(Vec::new());
    }
    let text = query.query.trim();
    let phrase = phrase(text);
    for column in columns {
        let mut request = ScanRequest::default().columns([column]).with_row_id();
        request.filter.clone_from(&query.filter);
        let schema = snapshot.scan_schema(&request)?;
        let rows = snapshot.changed(&request).await?;
        let rows = RecordBatchStreamAdapter::new(schema, stream::iter(rows.into_iter().map(Ok)));
        let segments = segments(snapshot, column).await?;
        let mut tokenizer = match segments.first() {
            Some(segment) => segment.tokenizer(),
            None => return Err(Error::corrupt(format!("the full-text index of column `{column}` has no segment"))),
        };
        let terms = phrase.unwrap_or(text);
        let tokens = collect_query_tokens(terms, &mut tokenizer);
        let scorer = build_global_bm25_scorer(&segments, &tokens, &FtsSearchParams::new(), None).await;
        let options = FlatBm25SearchOptions {
            target_batch_size: 8192,
            elapsed_compute: None,
            document_granularity: DocumentGranularity::Row,
            operator: if query.all_words { Operator::And } else { Operator::Or },
            boost: 1.0,
            phrase_slop: phrase.map(|_| 0),
        };
        let (hits, _) = flat_bm25_search_stream_with_options_and_scorer(
            Box::pin(rows),
            column.clone(),
            terms.to_owned(),
            tokenizer,
            Some(scorer.map_err(lance_error)?),
            options,
        )
        .await
        .map_err(failed)?;
        let batches: Vec<RecordBatch> = hits.try_collect().await.map_err(failed)?;
        for (row_id, score) in scored(&batches, SCORE)? {
            let best = best.entry(row_id).or_insert(score);
            *best = best.max(score);
        }
    }
    Ok(best.into_iter().map(|(row_id, score)| Hit { row_id, distance: None, score: Some(score) }).collect())
}

fn failed(source: lance::deps::datafusion::error::DataFusionError) -> Error {
    Error::internal("a full-text search failed").with_source(source)
}

/// The parts of the full-text index on `column`.
async fn segments(snapshot: &Snapshot, column: &str) -> Result<Vec<Arc<InvertedIndex>>> {
    let base = snapshot.base();
    let criteria = IndexCriteria::default().for_column(column).supports_fts();
    let Some(index) = base.load_scalar_index(criteria).await.map_err(lance_error)? else { return Ok(Vec::new()) };
    let mut segments = Vec::new();
    for segment in base.load_indices_by_name(&index.name).await.map_err(lance_error)? {
        let opened = base.open_scalar_index(column, &segment.uuid, &NoOpMetricsCollector).await.map_err(lance_error)?;
        let inverted = opened.as_any().downcast_ref::<InvertedIndex>();
        let inverted =
            inverted.ok_or_else(|| Error::internal(format!("index `{}` is no full-text index", index.name)))?;
        segments.push(Arc::new(inverted.clone()));
    }
    Ok(segments)
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

fn fts_query(text: &str, columns: Vec<String>, all_words: bool) -> Result<FtsQuery> {
    let operator = if all_words { Operator::And } else { Operator::Or };
    match (phrase(text), columns.as_slice()) {
        (Some(phrase), [column]) => {
            Ok(FtsQuery::Phrase(PhraseQuery::new(phrase.to_owned()).with_column(Some(column.clone()))))
        }
        (Some(_), _) => {
            let named = columns.join(", ");
            Err(Error::invalid_input(format!("a phrase is searched in one column: name one of {named}")))
        }
        (None, [column]) => {
            let query = MatchQuery::new(text.to_owned()).with_column(Some(column.clone())).with_operator(operator);
            Ok(FtsQuery::Match(query))
        }
        (None, _) => {
            let query = MultiMatchQuery::try_new(text.to_owned(), columns).map_err(lance_error)?;
            Ok(FtsQuery::MultiMatch(query.with_operator(operator)))
        }
    }
}

/// What stands in the double quotes around `text`.
fn phrase(text: &str) -> Option<&str> {
    text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).filter(|text| !text.is_empty())
}

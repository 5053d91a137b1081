//! Full-text search, ranked by BM25.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow::array::RecordBatch;
use cenote_base::{Error, Result, unknown};
use cenote_store::{Filter, Snapshot, blocking, lance_error};
use futures::TryStreamExt;
use lance::dataset::scanner::{RowAddrMask, RowAddrTreeMap};
use lance::index::DatasetIndexInternalExt;
use lance::table::format::IndexMetadata;
use lance_index::metrics::NoOpMetricsCollector;
use lance_index::scalar::inverted::InvertedIndex;
use lance_index::scalar::inverted::tokenizer::document_tokenizer::LanceTokenizer;
use lance_select::RowSetOps;
use roaring::RoaringBitmap;

use super::fuzzy::{EXPANSIONS_MAX, Expansion, WeightedWord};
use super::parse::{ParsedQuery, WordRule, escape, parse};
use super::plan::{FuzzyWord, TextPlan};
use super::segment::{RowScore, Statistics, TextSegment};
use super::segment_search::SegmentSearch;
use super::texts::{Texts, UnindexedMatches};
use super::unindexed::{OpenTextIndex, SupersededTexts};
use crate::build::params::text_params;
use crate::catalog::{Catalog, Index};
use crate::hits::{Hit, SCORE, by_score, check_k, materialize};
use crate::indexes::{Indexes, is_of_index, warn_unreadable};
use crate::kind::IndexKind;
use crate::rows::coverage::Coverage;
use crate::rows::filtered::FilteredRows;
use crate::rows::fragments::UNCOVERED_ROWS_MAX;
use crate::rows::row_set;

/// A search for the rows whose text matches a query best.
#[derive(Debug, Clone)]
pub struct TextQuery {
    /// The column, which has a full-text index; `None`: all columns that have one, each row ranked by its best column.
    pub column: Option<String>,
    /// The query:
    ///
    /// | query | matching rows have |
    /// |---|---|
    /// | `red car` | at least one of the words; with [`all_words`](Self::all_words), all |
    /// | `"red car"` | the words one after the other |
    /// | `colour~1`, `colour~2` | a word that differs by at most 1 or 2 letters |
    /// | `colour~` | the same, with the letters by the word's length: none up to 2, 1 up to 5, 2 beyond |
    /// | `red AND car`, `red OR car` | both; at least one |
    /// | `car -red`, `car NOT red` | the first and not the second |
    /// | `+car red` | the first; the second makes it rank higher |
    /// | `(red OR blue) AND "fast car"` | what the parentheses group, and the phrase |
    /// | `\-red`, `\"`, `\(`, `\~`, `\AND` | the characters themselves, without a special meaning |
    ///
    /// `AND` binds more tightly than `OR`. Adjacent words are joined as by `OR`, or as by `AND` when all are required.
    /// `-` and `NOT` exclude rows from what they stand beside, and need something to exclude them from: `-red` alone
    /// and `NOT red OR car` are errors.
    /// `AND`, `OR` and `NOT` are written in capitals; `+` and `-` precede what they apply to, and within a word are
    /// like any other character. The index splits, stems and drops words of a query as it does those of texts.
    /// Wildcards, weights and column names are not supported.
    pub query: String,
    /// Whether a row must have all adjacent words.
    pub all_words: bool,
    /// Rows to return, at most.
    pub k: usize,
    /// The condition that rows must satisfy, applied before the search.
    pub filter: Option<Filter>,
    /// The columns to return; `None`: all visible ones.
    pub columns: Option<Vec<String>>,
}

impl TextQuery {
    /// Makes a query for the `k` rows that match `query` best.
    pub fn new(query: impl Into<String>, k: usize) -> Self {
        Self { column: None, query: query.into(), all_words: false, k, filter: None, columns: None }
    }

    /// Escapes `text` with backslashes, so that it is a query for its words alone.
    pub fn escape(text: &str) -> String {
        escape(text)
    }

    /// Restricts the search to `column`.
    pub fn column(mut self, column: impl Into<String>) -> Self {
        self.column = Some(column.into());
        self
    }
}

impl Indexes {
    /// Returns the rows that match best: the requested columns, and [`SCORE`] descending. A query of stop words finds
    /// nothing.
    ///
    /// The score is BM25 with k1 = 1.2 and b = 0.75 over all live rows of the column that have words, whatever the
    /// filter and wherever the rows are: a row's score does not change when it is folded or indexed. Robertson,
    /// Zaragoza: "The Probabilistic Relevance Framework: BM25 and Beyond", 2009. A row scores the sum of the clauses
    /// that it matches; a word that is repeated in a list counts once, one that is repeated in a phrase each time.
    ///
    /// A fuzzy word stands for the 50 most similar words that live rows have: those within its edits (letters inserted,
    /// deleted or replaced, in the words as the index holds them) that have a letter in common; the most similar first,
    /// then in alphabetical order. It scores as in Lucene: the sum over the words that the row has, each times 1 -
    /// edits / letters of the shorter word, all weighed as the commonest of them, so that rare misspellings do not rank
    /// first.
    ///
    /// A query of words alone, or of one phrase, does not read all rows that match; other queries score all rows that
    /// match.
    ///
    /// # Errors
    /// `NotFound` without a full-text index, with how to create one; `InvalidInput` for a query that is empty or does
    /// not parse, with the position and a correction, for a `k` of 0 or a filter that does not parse.
    pub async fn text_search(&self, snapshot: &Snapshot, query: &TextQuery) -> Result<RecordBatch> {
        let hits = self.text_hits(snapshot, query).await?;
        materialize(snapshot, &hits, query.columns.as_deref(), &[SCORE]).await
    }

    /// Does what [`text_search`](Self::text_search) does, without reading the rows.
    pub async fn text_hits(&self, snapshot: &Snapshot, query: &TextQuery) -> Result<Vec<Hit>> {
        check_k(query.k)?;
        let catalog = self.catalog(snapshot).await?;
        let indexes = text_indexes(snapshot, &catalog, query.column.as_deref())?;
        let rule = if query.all_words { WordRule::AllWords } else { WordRule::AnyWord };
        let written = parse(&query.query, rule)?;
        let filtered = match &query.filter {
            Some(filter) => Some(self.filtered(snapshot, filter).await?),
            None => None,
        };
        // A row ranks by its best column.
        let mut best: HashMap<u64, f32> = HashMap::new();
        for index in indexes {
            let search = ColumnSearch { indexes: self, snapshot, index, filtered: filtered.as_ref(), k: query.k, rule };
            for RowScore { row_id, score } in search.run(&written).await? {
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

    /// Returns the columns of `snapshot` that have a full-text index, or `column` alone.
    ///
    /// # Errors
    /// `NotFound` when there are none, or `column` is not one of them.
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
    /// The rows that satisfy the filter, if there is one.
    filtered: Option<&'a FilteredRows>,
    k: usize,
    /// The rule that joins adjacent words.
    rule: WordRule,
}

impl ColumnSearch<'_> {
    /// Returns at least the best k rows. The statistics that score them are those of all live rows, whatever the filter
    /// and wherever the rows are, so that a row keeps its score when it is folded or indexed.
    async fn run(&self, query: &ParsedQuery) -> Result<Vec<RowScore>> {
        match self.run_by(self.open().await?, query).await {
            Err(error) if is_of_index(&error) => {
                warn_unreadable(&self.index.name, &error);
                self.run_by(Arc::new(self.without_segments().await?), query).await
            }
            found => found,
        }
    }

    async fn run_by(&self, opened: Arc<OpenTextIndex>, query: &ParsedQuery) -> Result<Vec<RowScore>> {
        let mut tokenizer = match (opened.segments.first(), &self.index.definition.kind) {
            (Some(segment), _) => segment.index.tokenizer(),
            (None, IndexKind::FullText(options)) => text_params(options)?.build().map_err(lance_error)?,
            (None, _) => return Err(Error::internal(format!("index `{}` is not a full-text index", self.index.name))),
        };
        let Some(plan) = TextPlan::read(query, self.rule, &mut tokenizer)? else { return Ok(Vec::new()) };
        let plan = Arc::new(plan);
        let uncovered =
            self.read_unindexed(&opened, UnindexedMatches::new(Arc::clone(&plan)), tokenizer.as_ref()).await?;
        let indexed = self.indexed(&opened, tokenizer.as_ref()).await?;
        let mut statistics = uncovered.statistics();
        statistics.add(&indexed.statistics(&plan.terms).await?);
        let exact = statistics.scorer(&plan.terms);
        let mut expansions = Vec::with_capacity(plan.fuzzy.len());
        for fuzzy in &plan.fuzzy {
            let expansion = self.expand(fuzzy, &plan, &indexed, &uncovered).await?;
            expansions.push(statistics.score_expansion(expansion));
        }
        let is_match = |row_id: u64| self.filtered.is_none_or(|filtered| filtered.contains(row_id));
        let mut found = uncovered.scores(&exact, &expansions);
        found.retain(|row| is_match(row.row_id));
        for segment in &opened.segments {
            let matches = SegmentSearch { segment, plan: &plan, exact: &exact, expansions: &expansions };
            found.extend(matches.best(self.mask(segment), self.k).await?);
        }
        Ok(found)
    }

    /// Expands `fuzzy` to the most similar words that live rows have.
    async fn expand(
        &self,
        fuzzy: &FuzzyWord,
        plan: &TextPlan,
        indexed: &Indexed<'_>,
        uncovered: &UnindexedMatches,
    ) -> Result<Expansion> {
        let uncovered = uncovered.words();
        let mut words: Vec<String> = uncovered.keys().map(|word| (*word).to_owned()).collect();
        for segment in indexed.segments {
            words.extend(segment.similar(fuzzy, plan.token_type.clone()).await?);
        }
        let mut expansion = Expansion::default();
        // A segment may also have words that no live row has, which do not count.
        for ranked in fuzzy.ranked(words).chunks(EXPANSIONS_MAX) {
            let (words, weights): (Vec<String>, Vec<f32>) =
                ranked.iter().map(|ranked| (ranked.word.clone(), ranked.weight)).unzip();
            let rows_with = words.iter().map(|word| uncovered.get(word.as_str()).copied().unwrap_or(0)).collect();
            let mut statistics = Statistics { rows: 0, words: 0, rows_with };
            statistics.add(&indexed.statistics(&words).await?);
            for ((word, weight), rows_with) in words.into_iter().zip(weights).zip(statistics.rows_with) {
                if rows_with > 0 && expansion.words.len() < EXPANSIONS_MAX {
                    expansion.words.push(WeightedWord { word, weight });
                    expansion.rows_with = expansion.rows_with.max(rows_with);
                }
            }
            if expansion.words.len() == EXPANSIONS_MAX {
                break;
            }
        }
        Ok(expansion)
    }

    /// Prepares the segments of `opened` for counting the words of live rows.
    async fn indexed<'b>(&'b self, opened: &'b OpenTextIndex, tokenizer: &dyn LanceTokenizer) -> Result<Indexed<'b>> {
        let (snapshot, index, superseded) = (self.snapshot, self.index, self.snapshot.superseded().as_ref());
        let mut texts = None;
        if !superseded.is_empty() && !opened.segments.is_empty() {
            let (cache, name, column) = (self.indexes.unindexed_texts(), &index.name, &index.column);
            texts = Some(cache.superseded(snapshot, name, column, tokenizer, opened).await?);
        }
        Ok(Indexed { segments: &opened.segments, superseded, texts })
    }

    /// Returns the rows of `segment` that the search may find.
    fn mask(&self, segment: &TextSegment) -> RowAddrMask {
        let superseded = self.snapshot.superseded().as_ref();
        match self.filtered {
            Some(filtered) => RowAddrMask::from_allowed((segment.live.clone() & filtered.base()) - superseded),
            None if segment.is_whole() => RowAddrMask::from_block(superseded.clone()),
            None => RowAddrMask::from_allowed(segment.live.clone() - superseded),
        }
    }

    /// Opens the segments of the index. Without readable segments, all rows of the base are uncovered.
    async fn open(&self) -> Result<Arc<OpenTextIndex>> {
        let cache = self.indexes.unindexed_texts();
        if let Some(known) = cache.opened.get(self.snapshot, &self.index.name) {
            return Ok(known);
        }
        let Some(built) = &self.index.built else { return Ok(Arc::new(self.without_segments().await?)) };
        let fragments = self.indexes.fragments(self.snapshot).await?;
        let coverage = built.coverage(&fragments).await?;
        let live_by_segment = built.live_by_segment(&fragments).await?;
        let mut segments = Vec::with_capacity(built.segments.len());
        for (metadata, live) in built.segments.iter().zip(live_by_segment.iter()) {
            match self.open_segment(metadata, live).await {
                Ok(segment) => segments.push(segment),
                Err(error) if is_of_index(&error) => {
                    warn_unreadable(&self.index.name, &error);
                    return Ok(Arc::new(self.without_segments().await?));
                }
                Err(error) => return Err(error),
            }
        }
        let (uncovered, uncovered_fragments) = (coverage.uncovered.clone(), coverage.uncovered_fragments.clone());
        // A segment carries its own tokenizer.
        let tokenizer_key = match built.segments.first() {
            Some(first) => first.uuid.to_string(),
            None => self.index.definition.kind.key()?,
        };
        let opened = Arc::new(OpenTextIndex { segments, uncovered, uncovered_fragments, tokenizer_key });
        let bytes = opened.segments.iter().map(TextSegment::bytes).sum::<usize>() + opened.uncovered.serialized_size();
        cache.opened.put(self.snapshot, &self.index.name, &opened, bytes);
        Ok(opened)
    }

    async fn open_segment(&self, metadata: &IndexMetadata, live: &RowAddrTreeMap) -> Result<TextSegment> {
        let base = self.snapshot.base();
        let opened = base.open_scalar_index(&self.index.column, &metadata.uuid, &NoOpMetricsCollector).await;
        let opened = opened.map_err(lance_error)?;
        let inverted = opened.as_any().downcast_ref::<InvertedIndex>();
        let inverted =
            inverted.ok_or_else(|| Error::corrupt(format!("index `{}` is not a full-text index", self.index.name)))?;
        let rows = self.indexes.unindexed_texts().indexed_rows(self.snapshot, metadata).await?;
        Ok(TextSegment::new(Arc::new(inverted.clone()), rows, live.clone()))
    }

    /// Returns the index as if it had no segments: the definition then names the tokenizer.
    async fn without_segments(&self) -> Result<OpenTextIndex> {
        let fragments = self.indexes.fragments(self.snapshot).await?;
        let Coverage { uncovered, uncovered_fragments, .. } = Coverage::new(&fragments, RoaringBitmap::new()).await?;
        let tokenizer_key = self.index.definition.kind.key()?;
        Ok(OpenTextIndex { segments: Vec::new(), uncovered, uncovered_fragments, tokenizer_key })
    }

    /// Adds the rows that `opened` does not have to `rows`: the uncovered ones of the base, and the change store.
    async fn read_unindexed(
        &self,
        opened: &OpenTextIndex,
        mut rows: UnindexedMatches,
        tokenizer: &dyn LanceTokenizer,
    ) -> Result<UnindexedMatches> {
        let (snapshot, index) = (self.snapshot, self.index);
        let (cache, superseded) = (self.indexes.unindexed_texts(), snapshot.superseded().as_ref());
        let uncovered = row_set::count(&opened.uncovered);
        if uncovered > UNCOVERED_ROWS_MAX {
            let mut batches =
                row_set::read(snapshot.base(), &index.column, opened.uncovered.clone() - superseded).await?;
            while let Some(batch) = batches.try_next().await? {
                let mut tokenizer = tokenizer.box_clone();
                let read = move || {
                    let mut texts = Texts::default();
                    texts.read(&batch, tokenizer.as_mut()).map(|()| texts)
                };
                rows.add(&blocking(read).await?, |_| true);
            }
        } else if uncovered > 0 {
            let texts = cache.uncovered(snapshot, &index.name, &index.column, tokenizer, opened).await?;
            for entry in texts.iter() {
                let is_live = |row: u64| entry.fragment.rows().contains(row) && !superseded.contains(row);
                rows.add(&entry.value, is_live);
            }
        }
        if snapshot.changed_rows() > 0 {
            let texts = cache.changed(snapshot, &index.name, &index.column, tokenizer, opened).await?;
            texts.runs.iter().for_each(|run| rows.add(run, |row| snapshot.is_changed(row)));
        }
        Ok(rows)
    }
}

/// The segments of an index, and the rows in them that later writes supersede.
struct Indexed<'a> {
    segments: &'a [TextSegment],
    superseded: &'a RowAddrTreeMap,
    /// The texts of the superseded rows, if there are any.
    texts: Option<Arc<SupersededTexts>>,
}

impl Indexed<'_> {
    /// Counts `terms` in the live rows of all segments.
    async fn statistics(&self, terms: &[String]) -> Result<Statistics> {
        let gone = match &self.texts {
            Some(texts) => texts.statistics(terms),
            None => Some(Statistics::none(terms.len())),
        };
        let mut statistics = Statistics::none(terms.len());
        for segment in self.segments {
            statistics.add(&match &gone {
                Some(_) => segment.statistics(terms).await?,
                None => segment.statistics_without(terms, self.superseded).await?,
            });
        }
        gone.iter().for_each(|gone| statistics.remove(gone));
        Ok(statistics)
    }
}

/// Returns the full-text indexes of `catalog`, one for each column, or that of `column` alone.
fn text_indexes<'a>(snapshot: &Snapshot, catalog: &'a Catalog, column: Option<&str>) -> Result<Vec<&'a Index>> {
    let of_text = |index: &&Index| matches!(index.definition.kind, IndexKind::FullText(_));
    let mut indexed: Vec<&Index> = catalog.indexes.iter().filter(of_text).collect();
    let mut columns = HashSet::new();
    indexed.retain(|index| columns.insert(index.column.as_str()));
    let hint = "create an index of kind `text`";
    match column {
        None if indexed.is_empty() => Err(Error::not_found(format!("the table has no full-text index; {hint}"))),
        None => Ok(indexed),
        Some(column) if indexed.iter().any(|index| index.column == column) => {
            indexed.retain(|index| index.column == column);
            Ok(indexed)
        }
        Some(column) if snapshot.schema().index_of(column).is_err() => {
            Err(unknown("column", column, snapshot.schema().fields().iter().map(|field| field.name().as_str())))
        }
        Some(column) => Err(Error::not_found(format!("column `{column}` has no full-text index; {hint}"))),
    }
}

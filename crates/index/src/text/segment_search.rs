//! The rows of one segment of a full-text index that match a query.

use std::collections::HashMap;
use std::sync::Arc;

use cenote_base::Result;
use cenote_store::lance_error;
use futures::FutureExt;
use futures::future::BoxFuture;
use lance::dataset::scanner::{RowAddrMask, RowAddrTreeMap};
use lance_index::metrics::NoOpMetricsCollector;
use lance_index::scalar::inverted::MemBM25Scorer;
use lance_index::scalar::inverted::query::{FtsSearchParams, Operator, Tokens};

use super::parse::{ClauseGroup, WordRule};
use super::plan::{Node, TextPlan};
use super::segment::{RowScore, ScoredExpansion, TextSegment};
use crate::hits::K_MAX;
use crate::rows::row_set::MaskFilter;

/// Rows requested beyond k, to detect ties at the end of the result.
const TIES_MIN: usize = 16;

/// A search of one segment. Rows are scored by the statistics of the whole column, which the scorers hold.
pub(super) struct SegmentSearch<'a> {
    pub(super) segment: &'a TextSegment,
    pub(super) plan: &'a TextPlan,
    /// The scorer of the plan's terms.
    pub(super) exact: &'a MemBM25Scorer,
    /// The expansions of the plan's fuzzy words.
    pub(super) expansions: &'a [ScoredExpansion],
}

impl SegmentSearch<'_> {
    /// Returns the best rows that `mask` selects: at least k, and all that score the same as the k-th.
    pub(super) async fn best(&self, mut mask: RowAddrMask, k: usize) -> Result<Vec<RowScore>> {
        let mut node = &self.plan.root;
        // A group of one clause and exclusions ranks as its clause does.
        while let Node::Group(ClauseGroup { must, should, must_not }) = node
            && let ([only], []) | ([], [only]) = (must.as_slice(), should.as_slice())
        {
            mask = self.without(must_not, mask).await?;
            node = only;
        }
        let mut limit = k.saturating_add(TIES_MIN).min(K_MAX);
        loop {
            let mut found = match node {
                Node::Words(terms, rule) => self.words(terms, *rule, &mask, Some(limit)).await?,
                Node::Phrase(phrase) => self.phrase(*phrase, &mask, Some(limit)).await?,
                Node::Fuzzy(_) | Node::Group(_) => return self.all(node, mask).await,
            };
            found.sort_unstable_by(|a, b| b.score.total_cmp(&a.score));
            // Lance returns any of the rows with equal scores. For a deterministic result, all rows that tie with the
            // last one must be seen.
            let cuts_ties = found.len() >= limit && found[k - 1].score == found[found.len() - 1].score;
            if !cuts_ties || limit >= K_MAX {
                return Ok(found);
            }
            limit = limit.saturating_mul(4).min(K_MAX);
        }
    }

    /// Returns all rows that match `node` and that `mask` selects, each once.
    fn all<'b>(&'b self, node: &'b Node, mask: RowAddrMask) -> BoxFuture<'b, Result<Vec<RowScore>>> {
        async move {
            match node {
                Node::Words(terms, rule) => self.words(terms, *rule, &mask, None).await,
                Node::Phrase(phrase) => self.phrase(*phrase, &mask, None).await,
                Node::Fuzzy(fuzzy) => self.fuzzy(*fuzzy, &mask).await,
                Node::Group(group) => self.group(group, mask).await,
            }
        }
        .boxed()
    }

    async fn words(
        &self,
        terms: &[usize],
        rule: WordRule,
        mask: &RowAddrMask,
        limit: Option<usize>,
    ) -> Result<Vec<RowScore>> {
        let tokens = self.plan.tokens(terms.iter().map(|term| &self.plan.terms[*term]));
        let operator = if rule == WordRule::AnyWord { Operator::Or } else { Operator::And };
        self.search(tokens, operator, FtsSearchParams::new().with_limit(limit), self.exact, mask).await
    }

    async fn phrase(&self, phrase: usize, mask: &RowAddrMask, limit: Option<usize>) -> Result<Vec<RowScore>> {
        let tokens = Arc::clone(&self.plan.phrases[phrase].tokens);
        let params = FtsSearchParams::new().with_limit(limit).with_phrase_slop(Some(0));
        self.search(tokens, Operator::And, params, self.exact, mask).await
    }

    async fn fuzzy(&self, fuzzy: usize, mask: &RowAddrMask) -> Result<Vec<RowScore>> {
        let ScoredExpansion { expansion, scorer } = &self.expansions[fuzzy];
        let mut sum = ScoreSums::default();
        // Words of equal weight are searched together.
        for alike in expansion.words.chunk_by(|a, b| a.weight == b.weight) {
            let tokens = self.plan.tokens(alike.iter().map(|weighted| &weighted.word));
            let found = self.search(tokens, Operator::Or, FtsSearchParams::new(), scorer, mask).await?;
            sum.add(found, alike[0].weight);
        }
        Ok(sum.into_scores())
    }

    async fn group(&self, group: &ClauseGroup<Node>, mut mask: RowAddrMask) -> Result<Vec<RowScore>> {
        let mut must: Vec<&Node> = group.must.iter().collect();
        // The rarest clause first: its rows mask the search of the others.
        must.sort_by_cached_key(|node| self.rows_max(node));
        let mut sum = ScoreSums::default();
        for node in &must {
            let found = self.all(node, mask).await?;
            mask = RowAddrMask::from_allowed(found.iter().map(|row| row.row_id).collect());
            sum.keep(&found);
            sum.add(found, 1.0);
        }
        mask = self.without(&group.must_not, mask).await?;
        sum.0.retain(|row_id, _| mask.selected(*row_id));
        for node in &group.should {
            sum.add(self.all(node, mask.clone()).await?, 1.0);
        }
        Ok(sum.into_scores())
    }

    /// Removes the rows that match any of `nodes` from `mask`.
    async fn without(&self, nodes: &[Node], mut mask: RowAddrMask) -> Result<RowAddrMask> {
        for node in nodes {
            let found = self.all(node, mask.clone()).await?;
            let found: RowAddrTreeMap = found.into_iter().map(|row| row.row_id).collect();
            mask = mask.also_block(found);
        }
        Ok(mask)
    }

    /// Returns an upper bound of the live rows of the column that match `node`.
    fn rows_max(&self, node: &Node) -> usize {
        let rows_with = |term: &usize| self.exact.num_docs_containing_token(&self.plan.terms[*term]);
        match node {
            Node::Words(terms, WordRule::AnyWord) => terms.iter().map(rows_with).sum(),
            Node::Words(terms, WordRule::AllWords) => terms.iter().map(rows_with).min().unwrap_or(0),
            Node::Phrase(phrase) => self.plan.phrases[*phrase].terms.iter().map(rows_with).min().unwrap_or(0),
            Node::Fuzzy(fuzzy) => {
                let expansion = &self.expansions[*fuzzy].expansion;
                expansion.rows_with * expansion.words.len()
            }
            Node::Group(ClauseGroup { must, should, .. }) => {
                let must = must.iter().map(|node| self.rows_max(node)).min();
                must.unwrap_or_else(|| should.iter().map(|node| self.rows_max(node)).sum())
            }
        }
    }

    async fn search(
        &self,
        tokens: Arc<Tokens>,
        operator: Operator,
        params: FtsSearchParams,
        scorer: &MemBM25Scorer,
        mask: &RowAddrMask,
    ) -> Result<Vec<RowScore>> {
        let rows = Arc::new(MaskFilter::new(mask.clone()));
        let (params, metrics) = (Arc::new(params), Arc::new(NoOpMetricsCollector));
        let found = self.segment.index.bm25_search(tokens, params, operator, rows, metrics, Some(scorer)).await;
        let (row_ids, scores) = found.map_err(lance_error)?;
        Ok(row_ids.into_iter().zip(scores).map(|(row_id, score)| RowScore { row_id, score }).collect())
    }
}

/// The sum of the scores of each row.
#[derive(Default)]
struct ScoreSums(HashMap<u64, f32>);

impl ScoreSums {
    fn add(&mut self, scores: Vec<RowScore>, weight: f32) {
        for RowScore { row_id, score } in scores {
            *self.0.entry(row_id).or_insert(0.0) += weight * score;
        }
    }

    /// Drops the rows that are not among `scores`.
    fn keep(&mut self, scores: &[RowScore]) {
        let mut kept = HashMap::with_capacity(scores.len());
        kept.extend(scores.iter().filter_map(|row| Some((row.row_id, *self.0.get(&row.row_id)?))));
        self.0 = kept;
    }

    fn into_scores(self) -> Vec<RowScore> {
        self.0.into_iter().map(|(row_id, score)| RowScore { row_id, score }).collect()
    }
}

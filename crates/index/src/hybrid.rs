//! Hybrid search: a vector search and a text search, fused into one ranking.

use std::collections::HashMap;

use arrow::array::RecordBatch;
use cenote_base::Result;
use cenote_store::Snapshot;

use crate::hits::{DISTANCE, Hit, K_MAX, SCORE, by_score, check_k, materialize};
use crate::indexes::Indexes;
use crate::text::search::TextQuery;
use crate::vector::search::VectorQuery;

/// The constant c of reciprocal rank fusion, `1 / (c + rank)`: the larger, the less the first ranks stand out.
const RANK_CONSTANT: f32 = 60.0;
/// Rows of each ranking that are fused: `DEPTH_FACTOR · k`, at least `DEPTH_MIN` and at most `K_MAX`.
const DEPTH_FACTOR: usize = 4;
const DEPTH_MIN: usize = 100;

/// A vector search and a text search whose rankings are fused.
#[derive(Debug, Clone)]
pub struct HybridQuery {
    /// The vector search. Its filter applies to it alone, its columns are those of the result, its `k` is ignored.
    pub vector: VectorQuery,
    /// The text search. Its filter applies to it alone, its columns and its `k` are ignored.
    pub text: TextQuery,
    /// Rows to return, at most.
    pub k: usize,
}

impl Indexes {
    /// Returns the rows that rank highest by reciprocal rank fusion: the score of a row is the sum of 1 / (60 + rank)
    /// over the rankings that have it. The result has the requested columns, [`DISTANCE`] (null for a row that only its
    /// text found) and [`SCORE`] descending.
    ///
    /// Cormack, Clarke, Büttcher: "Reciprocal Rank Fusion outperforms Condorcet and individual Rank Learning Methods",
    /// SIGIR 2009.
    ///
    /// # Errors
    /// Those of [`vector_search`](Self::vector_search) and [`text_search`](Self::text_search).
    pub async fn hybrid_search(&self, snapshot: &Snapshot, query: &HybridQuery) -> Result<RecordBatch> {
        let hits = self.hybrid_hits(snapshot, query).await?;
        materialize(snapshot, &hits, query.vector.columns.as_deref(), &[DISTANCE, SCORE]).await
    }

    /// Does what [`hybrid_search`](Self::hybrid_search) does, without reading the rows.
    pub async fn hybrid_hits(&self, snapshot: &Snapshot, query: &HybridQuery) -> Result<Vec<Hit>> {
        check_k(query.k)?;
        let depth = (query.k * DEPTH_FACTOR).clamp(DEPTH_MIN, K_MAX);
        let vector = VectorQuery { k: depth, ..query.vector.clone() };
        let text = TextQuery { k: depth, ..query.text.clone() };
        let (by_vector, by_text) =
            futures::future::try_join(self.vector_hits(snapshot, &vector), self.text_hits(snapshot, &text)).await?;
        Ok(fuse(&by_vector, &by_text, query.k))
    }
}

fn fuse(by_vector: &[Hit], by_text: &[Hit], k: usize) -> Vec<Hit> {
    let mut fused: HashMap<u64, Hit> = HashMap::new();
    for ranking in [by_vector, by_text] {
        for (rank, hit) in (1..).zip(ranking) {
            let entry = fused.entry(hit.row_id).or_insert(Hit { row_id: hit.row_id, distance: None, score: None });
            entry.distance = entry.distance.or(hit.distance);
            entry.score = Some(entry.score.unwrap_or(0.0) + 1.0 / (RANK_CONSTANT + rank as f32));
        }
    }
    let mut hits: Vec<Hit> = fused.into_values().collect();
    hits.sort_unstable_by(by_score);
    hits.truncate(k);
    hits
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(row_id: u64, distance: Option<f32>, score: Option<f32>) -> Hit {
        Hit { row_id, distance, score }
    }

    #[test]
    fn a_row_in_both_rankings_beats_the_first_of_one() {
        let near = [found(1, Some(0.1), None), found(2, Some(0.2), None)];
        let fitting = [found(3, None, Some(9.0)), found(2, None, Some(8.0))];
        let fused = fuse(&near, &fitting, 3);
        let ids: Vec<u64> = fused.iter().map(|hit| hit.row_id).collect();
        // Rows 1 and 3 are both first in one ranking: the smaller row id goes first.
        assert_eq!(ids, [2, 1, 3]);
        assert_eq!(fused[0].score, Some(1.0 / 62.0 + 1.0 / 62.0));
        assert_eq!((fused[0].distance, fused[2].distance), (Some(0.2), None));
    }
}

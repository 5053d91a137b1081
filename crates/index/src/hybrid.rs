//! Vectors and text in one ranking.

use std::collections::HashMap;

use arrow::array::RecordBatch;
use cenote_base::Result;
use cenote_store::Snapshot;

use crate::hits::{DISTANCE, Hit, K_MAX, SCORE, by_score, check_k, materialize};
use crate::indexes::Indexes;
use crate::text::search::TextQuery;
use crate::vector::search::VectorQuery;

/// The constant of reciprocal rank fusion: how little the first ranks weigh more than later ones.
const RANK_CONSTANT: f32 = 60.0;
/// Each ranking is fused so deep: this many times k, and at least [`DEPTH_MIN`] rows.
const DEPTH_FACTOR: usize = 4;
const DEPTH_MIN: usize = 100;

/// A vector search and a text search whose rankings are fused.
#[derive(Debug, Clone)]
pub struct HybridQuery {
    /// What to be near to; its filter applies to it, its columns are those of the answer, its `k` is not used.
    pub vector: VectorQuery,
    /// What to find; its filter applies to it, its columns and its `k` are not used.
    pub text: TextQuery,
    /// How many rows, at most.
    pub k: usize,
}

impl Indexes {
    /// The rows that the two rankings together put highest, by reciprocal rank fusion: the sum over the rankings that have
    /// the row of 1 / (60 + rank). The columns asked for, [`DISTANCE`] (null for a row that only its text found) and [`SCORE`]
    /// descending.
    ///
    /// Cormack, Clarke, Büttcher: "Reciprocal Rank Fusion outperforms Condorcet and individual Rank Learning Methods",
    /// SIGIR 2009.
    ///
    /// # Errors
    /// As [`vector_search`](Self::vector_search) and [`text_search`](Self::text_search).
    pub async fn hybrid_search(&self, snapshot: &Snapshot, query: &HybridQuery) -> Result<RecordBatch> {
        let hits = self.hybrid_hits(snapshot, query).await?;
        materialize(snapshot, &hits, query.vector.columns.as_deref(), &[DISTANCE, SCORE]).await
    }

    /// [`hybrid_search`](Self::hybrid_search) without reading the rows.
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
        // MaskFilter 1 and 3 are both first in one ranking: the smaller row id goes first.
        assert_eq!(ids, [2, 1, 3]);
        assert_eq!(fused[0].score, Some(1.0 / 62.0 + 1.0 / 62.0));
        assert_eq!((fused[0].distance, fused[2].distance), (Some(0.2), None));
    }
}

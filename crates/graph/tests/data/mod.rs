//! Vectors for tests, and brute force as the definition of what a search should find.
#![allow(dead_code, reason = "each test binary uses its own part")]

use cenote_base::Random;
use cenote_graph::{Graph, LabelFilter, Metric, Neighbour};

/// Draws from the standard normal distribution.
pub fn gauss(random: &mut Random) -> f32 {
    let radius = (-2.0 * (1.0 - random.unit()).ln()).sqrt();
    (radius * (std::f64::consts::TAU * random.unit()).cos()) as f32
}

/// Returns `count` vectors of numbers from -1 to 1.
pub fn uniform(random: &mut Random, count: usize, dimension: usize) -> Vec<Vec<f32>> {
    (0..count).map(|_| (0..dimension).map(|_| random.unit() as f32 * 2.0 - 1.0).collect()).collect()
}

/// Returns `count` vectors around `count / 50` centres.
pub fn clustered(random: &mut Random, count: usize, dimension: usize) -> Vec<Vec<f32>> {
    let centres: Vec<Vec<f32>> =
        (0..count.div_ceil(50)).map(|_| (0..dimension).map(|_| gauss(random)).collect()).collect();
    (0..count)
        .map(|_| {
            let centre = &centres[random.below(centres.len() as u64) as usize];
            centre.iter().map(|value| value + 0.4 * gauss(random)).collect()
        })
        .collect()
}

/// Returns the distance by the definition of its metric, in f64.
pub fn distance(metric: Metric, a: &[f32], b: &[f32]) -> f64 {
    let sum = |of: &dyn Fn(f64, f64) -> f64| a.iter().zip(b).map(|(&a, &b)| of(a.into(), b.into())).sum::<f64>();
    match metric {
        Metric::L2 => sum(&|a, b| (a - b).powi(2)).sqrt(),
        Metric::Dot => -sum(&|a, b| a * b),
        Metric::Cosine => {
            let norms = (sum(&|a, _| a * a) * sum(&|_, b| b * b)).sqrt();
            if norms > 0.0 { 1.0 - sum(&|a, b| a * b) / norms } else { 1.0 }
        }
        Metric::Hamming => unimplemented!("bits have their own test"),
    }
}

/// Returns the distances of the `k` nearest rows.
pub fn nearest<'a>(metric: Metric, rows: impl Iterator<Item = &'a Vec<f32>>, query: &[f32], k: usize) -> Vec<f64> {
    let mut distances: Vec<f64> = rows.map(|row| distance(metric, row, query)).collect();
    distances.sort_by(f64::total_cmp);
    distances.truncate(k);
    distances
}

/// Returns the share of hits that are within the farthest of the true nearest distances.
pub fn share_right(hits: &[Neighbour], truth: &[f64]) -> f64 {
    let Some(farthest) = truth.last() else { return 1.0 };
    hits.iter().filter(|hit| f64::from(hit.distance) <= farthest + 1e-4).count() as f64 / truth.len() as f64
}

/// Returns the recall at 10 of `queries` against `rows`.
pub fn recall<'a>(
    graph: &Graph,
    rows: impl Iterator<Item = &'a Vec<f32>> + Clone,
    queries: &[Vec<f32>],
    ef: usize,
) -> f64 {
    let shares = queries.iter().map(|query| {
        let hits = graph.search(query, 10, ef, LabelFilter::All).unwrap();
        share_right(&hits, &nearest(graph.options().metric, rows.clone(), query, 10))
    });
    shares.sum::<f64>() / queries.len() as f64
}

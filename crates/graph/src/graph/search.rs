//! Searches: by a walk through the graph, or exact.

use std::collections::HashSet;

use cenote_base::{Context, Result};

use super::Graph;
use crate::values::VectorValues;
use crate::vectors::{Probe, SlotVectors};
use crate::walk::{LayerSearch, LayerWalk, LinkedVectors};

/// A label that a search found, and the distance of its vector.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Neighbour {
    /// The label.
    pub label: u64,
    /// The distance as [`Metric`](crate::Metric) defines it.
    pub distance: f32,
}

/// The labels that a search may find.
#[derive(Clone, Copy)]
pub enum LabelFilter<'a> {
    /// All labels.
    All,
    /// Only these labels. The graph need not have all of them. Each search looks all of them up; for many, a test of a
    /// set that the caller holds is faster.
    Labels(&'a [u64]),
    /// Labels that pass a test.
    Test {
        /// The test. The searching thread calls it, sometimes more than once for a label; it must not call the graph.
        matches: &'a dyn Fn(u64) -> bool,
        /// The estimated share of labels that pass, from 0 to 1. A wrong estimate costs time, not hits.
        selectivity: f64,
    },
}

/// The strategy of a search.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GraphStrategy {
    /// A walk that keeps the best `width` vectors, whether they match or not, and restarts wider when too few match.
    Walk {
        /// The width of the first walk.
        width: usize,
    },
    /// A comparison with every matching vector.
    Exact,
}

/// Largest width of a walk. Beyond it, moving candidates costs more than computing distances.
const WIDTH_MAX: usize = 8192;
/// Cost of looking up one label and comparing its vector, in distances of a walk, whose vectors are short and cached.
const LOOK_UP_COST: f64 = 4.0;
/// Factor by which a walk that found too few labels is widened.
const WIDEN: usize = 4;
/// Vectors whose distance an exact search computes in one call.
pub(super) const BLOCK: usize = 256;

/// A [`LabelFilter`] with its labels as a set.
enum LabelTest<'a> {
    Everything,
    OneOf(HashSet<u64>),
    Passes(&'a dyn Fn(u64) -> bool),
}

impl LabelTest<'_> {
    fn passes(&self, label: u64) -> bool {
        match self {
            Self::Everything => true,
            Self::OneOf(labels) => labels.contains(&label),
            Self::Passes(matches) => matches(label),
        }
    }
}

impl Graph {
    /// Returns the `k` labels nearest to `query` that pass `filter`, by distance and then by label; fewer only if fewer
    /// match. `ef`, raised to at least `k`, is the width of the walk: a wider walk misses less and takes longer.
    ///
    /// Distances are exact, but a nearer label may be missed. No label is returned twice, and none that was deleted
    /// before the call. Errors: `InvalidInput` for a query of the wrong dimension or with a number that is not finite.
    pub fn search<'a>(
        &self,
        query: impl Into<VectorValues<'a>>,
        k: usize,
        ef: usize,
        filter: LabelFilter<'_>,
    ) -> Result<Vec<Neighbour>> {
        self.search_by(query.into(), k, filter, self.strategy(k, ef, filter))
    }

    /// Searches as [`Self::search`] does, but compares every matching vector: no nearer label is missed.
    pub fn search_exact<'a>(
        &self,
        query: impl Into<VectorValues<'a>>,
        k: usize,
        filter: LabelFilter<'_>,
    ) -> Result<Vec<Neighbour>> {
        self.search_by(query.into(), k, filter, GraphStrategy::Exact)
    }

    /// Returns the strategy with which [`Self::search`] begins: exact where few labels match, else a walk whose width
    /// is `ef` divided by the share of vectors that match.
    pub fn strategy(&self, k: usize, ef: usize, filter: LabelFilter<'_>) -> GraphStrategy {
        let live = self.len();
        let share = match filter {
            LabelFilter::All => 1.0,
            LabelFilter::Labels(labels) => labels.len() as f64 / live.max(1) as f64,
            LabelFilter::Test { selectivity, .. } => selectivity,
        };
        let share = if share.is_nan() { 1.0 } else { share.clamp(0.0, 1.0) };
        let found = share * live as f64 / (live + self.deleted()).max(1) as f64;
        let width = ef.max(k).max(1) as f64 / found.max(1e-9);
        // A walk of this width computes about this many distances.
        let walked = width * self.options.m as f64;
        if width > WIDTH_MAX as f64 || share * live as f64 * LOOK_UP_COST <= walked {
            return GraphStrategy::Exact;
        }
        GraphStrategy::Walk { width: width.ceil() as usize }
    }

    fn search_by(
        &self,
        query: VectorValues<'_>,
        k: usize,
        filter: LabelFilter<'_>,
        strategy: GraphStrategy,
    ) -> Result<Vec<Neighbour>> {
        self.check(query, 1).context(|| "query a graph")?;
        let k = k.min(self.len());
        if k == 0 {
            return Ok(Vec::new());
        }
        let test = match filter {
            LabelFilter::All => LabelTest::Everything,
            LabelFilter::Test { matches, .. } => LabelTest::Passes(matches),
            // An exact search looks the labels up one by one instead.
            LabelFilter::Labels(labels) if strategy != GraphStrategy::Exact => {
                LabelTest::OneOf(labels.iter().copied().collect())
            }
            LabelFilter::Labels(_) => LabelTest::Everything,
        };
        let vectors = self.vectors.read();
        let exact = vectors.exact(query);
        if let GraphStrategy::Walk { width } = strategy {
            let hits = self.walks.with(|walk| self.walk_until(walk, &vectors, &exact, k, width, &test));
            if hits.len() == k {
                return Ok(hits);
            }
        }
        Ok(self.scan(&vectors, &exact, k, filter))
    }

    /// Walks, ever wider, until `k` labels are found. Returns none when a scan is cheaper.
    fn walk_until(
        &self,
        walk: &mut LayerWalk,
        vectors: &SlotVectors,
        exact: &Probe,
        k: usize,
        mut width: usize,
        test: &LabelTest<'_>,
    ) -> Vec<Neighbour> {
        let short = vectors.short(exact);
        let probe = short.as_ref().unwrap_or(exact);
        let Some(entry) = self.links.entry() else { return Vec::new() };
        let graph = LinkedVectors { vectors, links: &self.links };
        let mut nearest = entry.slot;
        for layer in (1..=entry.level).rev() {
            nearest = walk.descend(graph, probe, nearest, layer);
        }
        let used = self.slots.used();
        loop {
            let found = walk.run(graph, probe, LayerSearch { start: nearest, layer: 0, width, used });
            let mut live: Vec<u32> = found.iter().map(|candidate| candidate.slot()).collect();
            // Held so that a label that is being replaced is live in exactly one slot. The caller's test runs without
            // it.
            let unchanged = self.slots.by_label().read();
            live.retain(|&slot| self.slots.is_live(slot));
            drop(unchanged);
            let passing = live.into_iter().filter(|&slot| test.passes(self.slots.label(slot)));
            let matching: Vec<u32> = passing.take(rerank(k)).collect();
            if matching.len() >= k {
                return self.nearest(vectors, exact, k, &matching);
            }
            width *= WIDEN;
            if width > WIDTH_MAX || width * self.options.m > used as usize {
                return Vec::new();
            }
        }
    }

    /// Returns the `k` nearest of all matching vectors.
    fn scan(&self, vectors: &SlotVectors, exact: &Probe, k: usize, filter: LabelFilter<'_>) -> Vec<Neighbour> {
        // The map at one moment has every label in one slot. Labels that are deleted afterwards are still found.
        let by_label = self.slots.by_label().read();
        let mut slots: Vec<u32> = match filter {
            LabelFilter::Labels(labels) => labels.iter().filter_map(|label| by_label.get(label).copied()).collect(),
            LabelFilter::All | LabelFilter::Test { .. } => by_label.values().copied().collect(),
        };
        drop(by_label);
        if let LabelFilter::Test { matches, .. } = filter {
            slots.retain(|&slot| matches(self.slots.label(slot)));
        }
        slots.sort_unstable();
        slots.dedup();
        self.nearest(vectors, exact, k, &slots)
    }

    /// Returns the `k` nearest of `slots` by the vectors as given, then by label.
    pub(super) fn nearest(&self, vectors: &SlotVectors, exact: &Probe, k: usize, slots: &[u32]) -> Vec<Neighbour> {
        let mut keys = Vec::new();
        let mut best: Vec<(u32, u64)> = Vec::new();
        let keep_nearest = |best: &mut Vec<(u32, u64)>| {
            if best.len() > k {
                best.select_nth_unstable(k - 1);
                best.truncate(k);
            }
        };
        for block in slots.chunks(BLOCK) {
            vectors.keys(exact, block, &mut keys);
            best.extend(keys.iter().zip(block).map(|(&key, &slot)| (key, self.slots.label(slot))));
            if best.len() > 2 * k + 4 * BLOCK {
                keep_nearest(&mut best);
            }
        }
        keep_nearest(&mut best);
        let mut hits: Vec<Neighbour> =
            best.into_iter().map(|(key, label)| Neighbour { label, distance: vectors.distance(key) }).collect();
        hits.sort_by(|a, b| a.distance.total_cmp(&b.distance).then(a.label.cmp(&b.label)));
        hits
    }
}

/// Returns the number of the best candidates by code that are compared exactly: `4 · k + 16`.
pub(super) fn rerank(k: usize) -> usize {
    4 * k + 16
}

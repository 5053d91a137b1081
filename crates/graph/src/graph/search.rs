//! Searches: through the graph, or exactly.

use std::collections::HashSet;

use cenote_base::{Context, Result};

use super::Graph;
use crate::values::Values;
use crate::vectors::{Probe, Vectors};
use crate::walk::Walk;

/// A label that a search found, and how far its vector is, in the metric's own unit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Hit {
    /// The label.
    pub label: u64,
    /// As [`Metric`](crate::Metric) defines it.
    pub distance: f32,
}

/// Which labels a search may find.
#[derive(Clone, Copy)]
pub enum Filter<'a> {
    /// Every one.
    All,
    /// These only. Those that the graph does not have do no harm. Each search looks all of them up; a test of a set that
    /// the caller has is faster for many.
    Labels(&'a [u64]),
    /// Those that pass a test.
    Test {
        /// The test. It is called from the searching thread, at times more than once for a label, and must not call the graph.
        matches: &'a dyn Fn(u64) -> bool,
        /// The share of labels that pass, from 0 to 1, as well as the caller knows it. A wrong one costs time, not hits.
        selectivity: f64,
    },
}

/// How a search goes about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strategy {
    /// A walk that keeps the best `width` vectors, matching or not, and starts again with more when too few match.
    Walk {
        /// Vectors kept at first.
        width: usize,
    },
    /// The distance of every matching vector.
    Exact,
}

/// A width beyond which moving candidates costs more than computing distances.
const WIDTH_MAX: usize = 8192;
/// To find one label and compare its vector takes as long as so many distances in a walk, whose vectors are short and near.
const LOOK_UP_COST: f64 = 4.0;
/// By how much a walk that found too few is widened.
const WIDEN: usize = 4;
/// Rows whose distance is computed in one call of an exact search.
pub(crate) const BLOCK: usize = 256;

/// A [`Filter`] made ready: labels as a set.
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
    /// The `k` labels nearest to `query` among those that `filter` lets pass, nearest first and by label where equally
    /// near. Fewer only if fewer match. `ef` (at least `k` is used) is the width of the walk: more finds more, slower.
    ///
    /// Distances are exact, that a nearer one was not missed is not. No label is found twice, none that was deleted before
    /// the call. Errors: `InvalidInput` for a query of the wrong dimension or with a number that is not finite.
    pub fn search<'a>(
        &self,
        query: impl Into<Values<'a>>,
        k: usize,
        ef: usize,
        filter: Filter<'_>,
    ) -> Result<Vec<Hit>> {
        self.search_by(query.into(), k, filter, self.strategy(k, ef, filter))
    }

    /// As [`Self::search`], by the distance of every matching vector: nothing nearer is missed.
    pub fn search_exact<'a>(&self, query: impl Into<Values<'a>>, k: usize, filter: Filter<'_>) -> Result<Vec<Hit>> {
        self.search_by(query.into(), k, filter, Strategy::Exact)
    }

    /// How a [`Self::search`] with these arguments begins: exactly where few match, else by a walk as much wider as fewer
    /// match.
    pub fn strategy(&self, k: usize, ef: usize, filter: Filter<'_>) -> Strategy {
        let live = self.len();
        let share = match filter {
            Filter::All => 1.0,
            Filter::Labels(labels) => labels.len() as f64 / live.max(1) as f64,
            Filter::Test { selectivity, .. } => selectivity,
        };
        let share = if share.is_nan() { 1.0 } else { share.clamp(0.0, 1.0) };
        let found = share * live as f64 / (live + self.deleted()).max(1) as f64;
        let width = ef.max(k).max(1) as f64 / found.max(1e-9);
        // A walk of this width computes about this many distances.
        let walked = width * self.options.m as f64;
        if width > WIDTH_MAX as f64 || share * live as f64 * LOOK_UP_COST <= walked {
            return Strategy::Exact;
        }
        Strategy::Walk { width: width.ceil() as usize }
    }

    fn search_by(&self, query: Values<'_>, k: usize, filter: Filter<'_>, strategy: Strategy) -> Result<Vec<Hit>> {
        self.check(query, 1).context(|| "query a graph")?;
        let k = k.min(self.len());
        if k == 0 {
            return Ok(Vec::new());
        }
        let test = match filter {
            Filter::All => LabelTest::Everything,
            Filter::Test { matches, .. } => LabelTest::Passes(matches),
            // An exact search looks the labels up one by one instead.
            Filter::Labels(labels) if strategy != Strategy::Exact => LabelTest::OneOf(labels.iter().copied().collect()),
            Filter::Labels(_) => LabelTest::Everything,
        };
        let vectors = self.vectors.read();
        let exact = vectors.exact(query);
        if let Strategy::Walk { width } = strategy {
            let hits = self.walks.with(|walk| self.walk_until(&vectors, walk, &exact, k, width, &test));
            if hits.len() == k {
                return Ok(hits);
            }
        }
        Ok(self.scan(&vectors, &exact, k, filter))
    }

    /// WalkPool, ever wider, until `k` were found or a scan is cheaper.
    fn walk_until(
        &self,
        vectors: &Vectors,
        walk: &mut Walk,
        exact: &Probe,
        k: usize,
        mut width: usize,
        test: &LabelTest<'_>,
    ) -> Vec<Hit> {
        let short = vectors.short(exact);
        let probe = short.as_ref().unwrap_or(exact);
        let Some(entry) = self.links.entry() else { return Vec::new() };
        let graph = (vectors, &self.links);
        let mut nearest = entry.slot;
        for layer in (1..=entry.level).rev() {
            nearest = walk.descend(graph, probe, nearest, layer);
        }
        let used = self.slots.used();
        loop {
            let found = walk.run(graph, probe, &[nearest], (0, width), used);
            let mut live: Vec<u32> = found.iter().map(|candidate| candidate.slot()).collect();
            // Held so that a label that is being replaced is live in one slot of the two. A caller's test is not run under it.
            let moment = self.slots.by_label().read();
            live.retain(|&slot| self.slots.is_live(slot));
            drop(moment);
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

    /// The distance of every matching vector.
    fn scan(&self, vectors: &Vectors, exact: &Probe, k: usize, filter: Filter<'_>) -> Vec<Hit> {
        // The map as it was at one moment: every label in one slot. What is deleted after that is still found.
        let by_label = self.slots.by_label().read();
        let mut slots: Vec<u32> = match filter {
            Filter::Labels(labels) => labels.iter().filter_map(|label| by_label.get(label).copied()).collect(),
            Filter::All | Filter::Test { .. } => by_label.values().copied().collect(),
        };
        drop(by_label);
        if let Filter::Test { matches, .. } = filter {
            slots.retain(|&slot| matches(self.slots.label(slot)));
        }
        slots.sort_unstable();
        slots.dedup();
        self.nearest(vectors, exact, k, &slots)
    }

    /// The `k` nearest of `slots` by the vectors as given, by label where equally near.
    pub(crate) fn nearest(&self, vectors: &Vectors, exact: &Probe, k: usize, slots: &[u32]) -> Vec<Hit> {
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
        let mut hits: Vec<Hit> =
            best.into_iter().map(|(key, label)| Hit { label, distance: vectors.distance(key) }).collect();
        hits.sort_by(|a, b| a.distance.total_cmp(&b.distance).then(a.label.cmp(&b.label)));
        hits
    }
}

/// How many of the best candidates by code are compared exactly.
pub(crate) fn rerank(k: usize) -> usize {
    4 * k + 16
}

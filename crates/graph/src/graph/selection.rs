//! Searches among labels that are asked for again and again.

use cenote_base::{Context, Result};

use super::Graph;
use super::search::{BLOCK, Hit, rerank};
use crate::values::Values;
use crate::vectors::{Probe, Vectors};

/// To compare one of many vectors whose places are known takes this part of what a step of a walk does, which must find the next.
const COMPARE_COST: f64 = 0.25;

/// Labels, and where a graph had them when they were selected: a search compares all of them without looking for each.
#[derive(Debug)]
pub struct Selection {
    /// In the order of memory.
    slots: Vec<u32>,
    /// Of each slot.
    labels: Vec<u64>,
}

impl Selection {
    /// Bytes that each label takes.
    pub const LABEL_BYTES: usize = size_of::<u32>() + size_of::<u64>();

    /// How many labels there are.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }
}

impl Graph {
    /// Those of `labels` that the graph has.
    pub fn select(&self, labels: &[u64]) -> Selection {
        let by_label = self.slots.by_label().read();
        let found = labels.iter().filter_map(|label| Some((*by_label.get(label)?, *label)));
        let mut members: Vec<(u32, u64)> = found.collect();
        drop(by_label);
        members.sort_unstable();
        members.dedup();
        let (slots, labels) = members.into_iter().unzip();
        Selection { slots, labels }
    }

    /// Whether to compare `labels` selected ones takes less time than a [`search`](Self::search) that only they pass.
    pub fn is_quicker_selected(&self, k: usize, ef: usize, labels: usize) -> bool {
        let share = (labels as f64 / self.len().max(1) as f64).min(1.0);
        let walked = ef.max(k).max(1) as f64 / share.max(1e-9) * self.options.m as f64;
        labels as f64 * COMPARE_COST <= walked
    }

    /// The `k` nearest to `query` of those of `selection` that the graph has still, whichever vectors they have now, and that `matches`
    /// lets pass, nearest first and by label where equally near. The codes of all are compared, and the best as given: where
    /// vectors have codes a nearer one may be missed, though hardly.
    ///
    /// `matches` is called for those alone that are near enough. Errors: as [`Self::search`].
    pub fn search_selection<'a>(
        &self,
        query: impl Into<Values<'a>>,
        k: usize,
        selection: &Selection,
        matches: impl Fn(u64) -> bool,
    ) -> Result<Vec<Hit>> {
        let query = query.into();
        self.check(query, 1).context(|| "query a graph")?;
        let k = k.min(selection.len());
        if k == 0 {
            return Ok(Vec::new());
        }
        // As long as they are held a slot keeps its label, and is given to no other vector.
        let vectors = self.vectors.read();
        let exact = vectors.exact(query);
        let short = vectors.short(&exact);
        let slots = self.current(selection);
        let near = self.nearest_slots(&vectors, short.as_ref().unwrap_or(&exact), rerank(k), &slots, matches);
        Ok(self.nearest(&vectors, &exact, k, &near))
    }

    /// Where the labels of `selection` are.
    fn current(&self, selection: &Selection) -> Vec<u32> {
        let mut moved = Vec::new();
        let mut slots = Vec::with_capacity(selection.len());
        for (&slot, &label) in selection.slots.iter().zip(&selection.labels) {
            match self.slots.is_live(slot) && self.slots.label(slot) == label {
                true => slots.push(slot),
                false => moved.push(label),
            }
        }
        if !moved.is_empty() {
            let by_label = self.slots.by_label().read();
            slots.extend(moved.iter().filter_map(|label| by_label.get(label)));
        }
        slots
    }

    /// The `rows_max` of `slots` nearest by `probe` whose labels match.
    fn nearest_slots(
        &self,
        vectors: &Vectors,
        probe: &Probe,
        rows_max: usize,
        slots: &[u32],
        matches: impl Fn(u64) -> bool,
    ) -> Vec<u32> {
        let (mut keys, mut near): (Vec<u32>, Vec<(u32, u32)>) = (Vec::new(), Vec::new());
        let mut farthest = u32::MAX;
        for block in slots.chunks(BLOCK) {
            vectors.keys(probe, block, &mut keys);
            for (&key, &slot) in keys.iter().zip(block) {
                if key <= farthest && matches(self.slots.label(slot)) {
                    near.push((key, slot));
                }
            }
            if near.len() > rows_max + BLOCK {
                near.select_nth_unstable(rows_max - 1);
                near.truncate(rows_max);
                farthest = near.iter().map(|(key, _)| *key).max().unwrap_or(farthest);
            }
        }
        if near.len() > rows_max {
            near.select_nth_unstable(rows_max - 1);
            near.truncate(rows_max);
        }
        near.into_iter().map(|(_, slot)| slot).collect()
    }
}

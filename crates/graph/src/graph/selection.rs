//! Searches among a set of labels that is used repeatedly.

use cenote_base::{Context, Result};

use super::Graph;
use super::search::{BLOCK, Neighbour, rerank};
use crate::values::VectorValues;
use crate::vectors::{Probe, SlotVectors};

/// Cost of comparing a vector whose slot is known, relative to a step of a walk, which must find the next slot.
const COMPARE_COST: f64 = 0.25;

/// A set of labels and the slots that they had when they were selected, so that a search need not look each up.
#[derive(Debug)]
pub struct LabelSelection {
    /// Slots in the order of memory.
    slots: Vec<u32>,
    /// The label of each slot.
    labels: Vec<u64>,
}

impl LabelSelection {
    /// Bytes of a label.
    pub const LABEL_BYTES: usize = size_of::<u32>() + size_of::<u64>();

    /// Returns the number of labels.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Returns whether the selection is empty.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }
}

impl Graph {
    /// Selects those of `labels` that the graph has.
    pub fn select(&self, labels: &[u64]) -> LabelSelection {
        let by_label = self.slots.by_label().read();
        let found = labels.iter().filter_map(|label| Some((*by_label.get(label)?, *label)));
        let mut members: Vec<(u32, u64)> = found.collect();
        drop(by_label);
        members.sort_unstable();
        members.dedup();
        let (slots, labels) = members.into_iter().unzip();
        LabelSelection { slots, labels }
    }

    /// Returns whether comparing this number of selected labels takes less time than a [`search`](Self::search) whose
    /// filter only they pass.
    pub fn is_quicker_selected(&self, k: usize, ef: usize, labels: usize) -> bool {
        let share = (labels as f64 / self.len().max(1) as f64).min(1.0);
        let walked = ef.max(k).max(1) as f64 / share.max(1e-9) * self.options.m as f64;
        labels as f64 * COMPARE_COST <= walked
    }

    /// Returns the `k` labels of `selection` nearest to `query` that the graph still has and that pass `matches`, by
    /// distance and then by label. Labels whose vectors were replaced are compared by the new ones. The codes of all
    /// are compared, then the best vectors as given: where vectors have codes, a nearer one is missed only rarely.
    ///
    /// `matches` is called only for labels that are near enough. Errors: as [`Self::search`].
    pub fn search_selection<'a>(
        &self,
        query: impl Into<VectorValues<'a>>,
        k: usize,
        selection: &LabelSelection,
        matches: impl Fn(u64) -> bool,
    ) -> Result<Vec<Neighbour>> {
        let query = query.into();
        self.check(query, 1).context(|| "query a graph")?;
        let k = k.min(selection.len());
        if k == 0 {
            return Ok(Vec::new());
        }
        // While the vectors are held, a slot keeps its label and is not given to another vector.
        let vectors = self.vectors.read();
        let exact = vectors.exact(query);
        let short = vectors.short(&exact);
        let slots = self.current(selection);
        let candidates = self.nearest_slots(&vectors, short.as_ref().unwrap_or(&exact), rerank(k), &slots, matches);
        Ok(self.nearest(&vectors, &exact, k, &candidates))
    }

    /// Returns the slots in which the labels of `selection` are now.
    fn current(&self, selection: &LabelSelection) -> Vec<u32> {
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

    /// Returns the `slots_max` of `slots` nearest to `probe` whose labels match.
    fn nearest_slots(
        &self,
        vectors: &SlotVectors,
        probe: &Probe,
        slots_max: usize,
        slots: &[u32],
        matches: impl Fn(u64) -> bool,
    ) -> Vec<u32> {
        let (mut keys, mut nearest): (Vec<u32>, Vec<(u32, u32)>) = (Vec::new(), Vec::new());
        let mut farthest = u32::MAX;
        for block in slots.chunks(BLOCK) {
            vectors.keys(probe, block, &mut keys);
            for (&key, &slot) in keys.iter().zip(block) {
                if key <= farthest && matches(self.slots.label(slot)) {
                    nearest.push((key, slot));
                }
            }
            if nearest.len() > slots_max + BLOCK {
                nearest.select_nth_unstable(slots_max - 1);
                nearest.truncate(slots_max);
                farthest = nearest.iter().map(|(key, _)| *key).max().unwrap_or(farthest);
            }
        }
        if nearest.len() > slots_max {
            nearest.select_nth_unstable(slots_max - 1);
            nearest.truncate(slots_max);
        }
        nearest.into_iter().map(|(_, slot)| slot).collect()
    }
}

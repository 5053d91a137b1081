//! The choice of neighbours among the nodes near a node, and the links to them.

use crate::vectors::{Probe, SlotVectors};
use crate::walk::{LinkedVectors, SlotCandidate};

/// Chooses neighbours. Its memory is reused from node to node.
#[derive(Default)]
pub(crate) struct NeighbourChooser {
    remaining: Vec<SlotCandidate>,
    passed_over: Vec<SlotCandidate>,
    slots: Vec<u32>,
    keys: Vec<u32>,
}

impl NeighbourChooser {
    /// Chooses at most `links_max` of `candidates`, which are in order of distance to one node.
    ///
    /// A candidate is passed over when one already chosen is nearer to it than the node is, because a walk reaches it
    /// through that one; places left over are filled with the nearest of those passed over (Malkov and Yashunin 2016,
    /// algorithm 4).
    pub(crate) fn choose(&mut self, vectors: &SlotVectors, candidates: &[SlotCandidate], links_max: usize) -> Vec<u32> {
        let mut chosen = Vec::with_capacity(links_max);
        self.remaining.clear();
        self.remaining.extend_from_slice(candidates);
        self.passed_over.clear();
        while let Some(&nearest) = self.remaining.first()
            && chosen.len() < links_max
        {
            chosen.push(nearest.slot());
            self.slots.clear();
            self.slots.extend(self.remaining[1..].iter().map(|candidate| candidate.slot()));
            vectors.keys(&vectors.probe(nearest.slot()), &self.slots, &mut self.keys);
            let mut kept = 0;
            for at in 1..self.remaining.len() {
                let candidate = self.remaining[at];
                let (to_chosen, to_node) = (self.keys[at - 1], candidate.key());
                // One of several that are as near as the nearest is enough: they are equal vectors as a rule.
                if to_chosen < to_node || to_chosen == to_node && to_node == candidates[0].key() {
                    self.passed_over.push(candidate);
                } else {
                    self.remaining[kept] = candidate;
                    kept += 1;
                }
            }
            self.remaining.truncate(kept);
        }
        let places = links_max - chosen.len();
        if places > 0 {
            self.passed_over.sort_unstable();
            chosen.extend(self.passed_over.iter().take(places).map(|candidate| candidate.slot()));
        }
        chosen
    }

    /// Adds a link from `from` to `to`, which may replace another one. The caller must not hold a node's lock.
    pub(crate) fn add(&mut self, graph: LinkedVectors<'_>, from: u32, to: u32, layer: u8) {
        let LinkedVectors { vectors, links } = graph;
        let _lock = links.lock(from);
        let mut list: Vec<u32> = links.of(from, layer).collect();
        if list.contains(&to) {
            return;
        }
        list.push(to);
        let links_max = links.links_max(layer);
        if list.len() > links_max {
            let candidates = self.order(vectors, &vectors.probe(from), &list);
            list = self.choose(vectors, &candidates, links_max);
        }
        links.set(from, layer, &list);
    }

    /// Returns `slots` in order of distance to `probe`.
    pub(crate) fn order(&mut self, vectors: &SlotVectors, probe: &Probe, slots: &[u32]) -> Vec<SlotCandidate> {
        vectors.keys(probe, slots, &mut self.keys);
        let mut candidates: Vec<SlotCandidate> =
            slots.iter().zip(&self.keys).map(|(&slot, &key)| SlotCandidate::new(key, slot)).collect();
        candidates.sort_unstable();
        candidates
    }
}

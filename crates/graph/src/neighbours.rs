//! Which of the nodes near a node become its neighbours, and how links come about.

use crate::links::Links;
use crate::vectors::{Probe, Vectors};
use crate::walk::Candidate;

/// Reused memory of [`NeighbourChooser::choose`].
#[derive(Default)]
pub(crate) struct NeighbourChooser {
    remaining: Vec<Candidate>,
    passed_over: Vec<Candidate>,
    slots: Vec<u32>,
    keys: Vec<u32>,
}

impl NeighbourChooser {
    /// At most `most` of `candidates`, which are in order of distance to one node.
    ///
    /// A candidate is passed over when one already chosen is nearer to it than the node is, because a walk gets to it over
    /// that one; places left over are filled with the nearest of those passed over (Malkov and Yashunin 2016, algorithm 4).
    pub(crate) fn choose(&mut self, vectors: &Vectors, candidates: &[Candidate], most: usize) -> Vec<u32> {
        let mut chosen = Vec::with_capacity(most);
        self.remaining.clear();
        self.remaining.extend_from_slice(candidates);
        self.passed_over.clear();
        while let Some(&nearest) = self.remaining.first()
            && chosen.len() < most
        {
            chosen.push(nearest.slot());
            self.slots.clear();
            self.slots.extend(self.remaining[1..].iter().map(|candidate| candidate.slot()));
            vectors.keys(&vectors.probe(nearest.slot()), &self.slots, &mut self.keys);
            let mut kept = 0;
            for at in 1..self.remaining.len() {
                let candidate = self.remaining[at];
                let (to_chosen, to_node) = (self.keys[at - 1], candidate.key());
                // Of several as near as the nearest, equal vectors as a rule, one is enough.
                if to_chosen < to_node || to_chosen == to_node && to_node == candidates[0].key() {
                    self.passed_over.push(candidate);
                } else {
                    self.remaining[kept] = candidate;
                    kept += 1;
                }
            }
            self.remaining.truncate(kept);
        }
        let places = most - chosen.len();
        if places > 0 {
            self.passed_over.sort_unstable();
            chosen.extend(self.passed_over.iter().take(places).map(|candidate| candidate.slot()));
        }
        chosen
    }

    /// Adds a link from `from` to `to`, for which another one may have to go. The caller must not hold a node's lock.
    pub(crate) fn add(&mut self, (vectors, links): (&Vectors, &Links), from: u32, to: u32, layer: u8) {
        let _lock = links.lock(from);
        let mut list: Vec<u32> = links.of(from, layer).collect();
        if list.contains(&to) {
            return;
        }
        list.push(to);
        let most = links.most(layer);
        if list.len() > most {
            let candidates = self.order(vectors, &vectors.probe(from), &list);
            list = self.choose(vectors, &candidates, most);
        }
        links.set(from, layer, &list);
    }

    /// `slots` in order of distance to `probe`.
    pub(crate) fn order(&mut self, vectors: &Vectors, probe: &Probe, slots: &[u32]) -> Vec<Candidate> {
        vectors.keys(probe, slots, &mut self.keys);
        let mut candidates: Vec<Candidate> =
            slots.iter().zip(&self.keys).map(|(&slot, &key)| Candidate::new(key, slot)).collect();
        candidates.sort_unstable();
        candidates
    }
}

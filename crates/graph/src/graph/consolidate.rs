//! The removal of deleted vectors.

use cenote_base::sync::Mutex;

use super::Graph;
use super::insert::in_parallel;
use crate::links::EntryPoint;
use crate::neighbours::NeighbourChooser;
use crate::slots::SlotState;
use crate::vectors::SlotVectors;

impl Graph {
    /// Removes the vectors that were deleted before the call, on `threads` threads, so that their memory is free again
    /// and walks no longer pass through them. Returns the number of removed vectors.
    ///
    /// Searches, inserts and deletes run meanwhile. A node that linked to deleted nodes gets links to the neighbours of
    /// those (Singh et al., "FreshDiskANN" (2021), algorithm 4). A node that loses most of its links is linked again,
    /// because possibly no other node links to it any more. The scale of codes is learnt again when the range of the
    /// vectors differs much from that of the vectors from which it was learnt.
    pub fn consolidate(&self, threads: usize) -> usize {
        let _upkeep = self.upkeep.lock();
        let _writing = self.writers.read();
        self.train_when_drifted();
        let leaving = self.mark_leaving();
        if leaving.is_empty() {
            return 0;
        }
        let relink = Mutex::new(Vec::new());
        let used = self.slots.used();
        in_parallel(used as usize, threads, |chooser, at| {
            let slot = at as u32 + 1;
            let vectors = self.vectors.read();
            if self.slots.state(slot) != SlotState::Leaving && self.bridge(&vectors, chooser, slot) {
                relink.lock().push(slot);
            }
        });
        let relink = relink.into_inner();
        in_parallel(relink.len(), threads, |chooser, at| {
            let vectors = self.vectors.read();
            self.walks.with(|walk| self.link(&vectors, walk, chooser, relink[at]));
        });
        // No link leads to the leaving slots now, and no walk that still knows of one runs while this is held.
        let _no_walks = self.vectors.write();
        for &slot in &leaving {
            (0..=self.links.level(slot)).for_each(|layer| self.links.set(slot, layer, &[]));
        }
        self.slots.release(&leaving);
        leaving.len()
    }

    /// Marks the deleted slots as leaving and returns them. From now on no link to them is made, and no walk begins at
    /// one.
    fn mark_leaving(&self) -> Vec<u32> {
        let _no_walks = self.vectors.write();
        let used = self.slots.used();
        let leaving: Vec<u32> = (1..=used).filter(|&slot| self.slots.state(slot) == SlotState::Deleted).collect();
        leaving.iter().for_each(|&slot| self.slots.set_state(slot, SlotState::Leaving));
        if self.links.entry().is_some_and(|entry| self.slots.state(entry.slot) == SlotState::Leaving) {
            let staying = (1..=used).filter(|&slot| self.slots.is_live(slot));
            let entry =
                staying.map(|slot| EntryPoint { slot, level: self.links.level(slot) }).max_by_key(|entry| entry.level);
            self.links.set_entry(entry);
        }
        leaving
    }

    /// Replaces the links of `slot` to leaving nodes with links to the neighbours of those. Returns whether it lost
    /// most of its links in the base.
    fn bridge(&self, vectors: &SlotVectors, chooser: &mut NeighbourChooser, slot: u32) -> bool {
        let leaves = |slot: u32| self.slots.state(slot) == SlotState::Leaving;
        let mut lost_most = false;
        for layer in 0..=self.links.level(slot) {
            let _lock = self.links.lock(slot);
            let (gone, mut near): (Vec<u32>, Vec<u32>) = self.links.of(slot, layer).partition(|&link| leaves(link));
            if gone.is_empty() {
                continue;
            }
            lost_most |= layer == 0 && gone.len() > 3 * near.len();
            near.extend(
                gone.iter().flat_map(|&link| self.links.of(link, layer)).filter(|&far| far != slot && !leaves(far)),
            );
            near.sort_unstable();
            near.dedup();
            let candidates = chooser.order(vectors, &vectors.probe(slot), &near);
            let list = chooser.choose(vectors, &candidates, self.links.links_max(layer));
            self.links.set(slot, layer, &list);
        }
        lost_most
    }

    /// Learns the scale of codes if the range of the vectors has drifted.
    fn train_when_drifted(&self) {
        let vectors = self.vectors.read();
        let drifted = vectors.has_drifted(&self.sample());
        drop(vectors);
        if drifted {
            self.train(&mut self.vectors.write());
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use cenote_base::Random;

    use super::*;
    use crate::options::{GraphOptions, Metric};

    #[test]
    fn no_link_leads_to_or_from_a_free_slot() {
        let mut options = GraphOptions::new(4, Metric::L2);
        options.m = 4;
        options.ef_construction = 16;
        let graph = Graph::new(options).unwrap();
        std::thread::scope(|scope| {
            let writers: Vec<_> = (0..2u64)
                .map(|writer| {
                    let graph = &graph;
                    scope.spawn(move || {
                        let mut random = Random::new(writer);
                        for _ in 0..6000 {
                            let vector: Vec<f32> = (0..4).map(|_| random.unit() as f32).collect();
                            graph.insert(random.below(400) * 2 + writer, &vector).unwrap();
                            graph.delete(random.below(400) * 2 + writer);
                        }
                    })
                })
                .collect();
            while !writers.iter().all(std::thread::ScopedJoinHandle::is_finished) {
                graph.consolidate(1);
                check(&graph);
            }
        });
        graph.consolidate(1);
        assert!(check(&graph) > 400);
        assert!(graph.links.entry().is_some_and(|entry| graph.slots.is_live(entry.slot)));
    }

    /// Checks all links, none of which changes meanwhile, and returns their number.
    fn check(graph: &Graph) -> usize {
        let _no_walks = graph.vectors.write();
        let free = |slot: u32| graph.slots.state(slot) == SlotState::Free;
        let mut links = 0;
        for slot in 1..=graph.slots.used() {
            for layer in 0..=graph.links.level(slot) {
                for link in graph.links.of(slot, layer) {
                    links += 1;
                    assert!(!free(slot) && !free(link), "{slot} links to {link} in layer {layer}");
                }
            }
        }
        links
    }
}

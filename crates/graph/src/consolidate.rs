//! Deleted vectors leave the graph.

use parking_lot::Mutex;

use crate::Graph;
use crate::insert::in_parallel;
use crate::links::Entry;
use crate::neighbours::Chooser;
use crate::slots::State;
use crate::vectors::Vectors;

impl Graph {
    /// Takes what was deleted before the call out of the graph, on `threads` threads, so that its room is free again and
    /// walks no longer pass through it. Returns how many vectors that were.
    ///
    /// Searches, inserts and deletes go on meanwhile. A node that linked to deleted ones gets links to what those linked to
    /// (Singh et al., "FreshDiskANN" (2021), algorithm 4); one that lost half of its links is linked anew. If the vectors
    /// have come to differ much in range from those that the scale of codes was learnt from, it is learnt anew.
    pub fn consolidate(&self, threads: usize) -> usize {
        let _alone = self.upkeep.lock();
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
            if self.slots.state(slot) != State::Leaving && self.bridge(&vectors, chooser, slot) {
                relink.lock().push(slot);
            }
        });
        let relink = relink.into_inner();
        in_parallel(relink.len(), threads, |chooser, at| {
            let vectors = self.vectors.read();
            self.walks.with(|walk| self.link(&vectors, walk, chooser, relink[at]));
        });
        // No link leads to them now, and no walk that still knows of one goes on while this is held.
        let _still = self.vectors.write();
        for &slot in &leaving {
            (0..=self.links.level(slot)).for_each(|layer| self.links.set(slot, layer, &[]));
        }
        self.slots.release(&leaving);
        leaving.len()
    }

    /// The deleted slots, to none of which a link is made from now on and at none of which a walk begins.
    fn mark_leaving(&self) -> Vec<u32> {
        let _still = self.vectors.write();
        let used = self.slots.used();
        let leaving: Vec<u32> = (1..=used).filter(|&slot| self.slots.state(slot) == State::Deleted).collect();
        leaving.iter().for_each(|&slot| self.slots.set_state(slot, State::Leaving));
        if self.links.entry().is_some_and(|entry| self.slots.state(entry.slot) == State::Leaving) {
            let staying = (1..=used).filter(|&slot| self.slots.is_live(slot));
            let entry =
                staying.map(|slot| Entry { slot, level: self.links.level(slot) }).max_by_key(|entry| entry.level);
            self.links.set_entry(entry);
        }
        leaving
    }

    /// Replaces links of `slot` to leaving nodes by links to what those link to. Whether it lost half of a list by that.
    fn bridge(&self, vectors: &Vectors, chooser: &mut Chooser, slot: u32) -> bool {
        let leaves = |slot: u32| self.slots.state(slot) == State::Leaving;
        let mut lost_half = false;
        for layer in 0..=self.links.level(slot) {
            let _lock = self.links.lock(slot);
            let (gone, mut near): (Vec<u32>, Vec<u32>) = self.links.of(slot, layer).partition(|&link| leaves(link));
            if gone.is_empty() {
                continue;
            }
            lost_half |= gone.len() >= near.len();
            near.extend(
                gone.iter().flat_map(|&link| self.links.of(link, layer)).filter(|&far| far != slot && !leaves(far)),
            );
            near.sort_unstable();
            near.dedup();
            let candidates = chooser.order(vectors, &vectors.probe(slot), &near);
            let list = chooser.choose(vectors, &candidates, self.links.most(layer));
            self.links.set(slot, layer, &list);
        }
        lost_half
    }

    fn train_when_drifted(&self) {
        let vectors = self.vectors.read();
        let drifted = vectors.has_drifted(&self.sample());
        drop(vectors);
        if drifted {
            self.train(&mut self.vectors.write());
        }
    }
}

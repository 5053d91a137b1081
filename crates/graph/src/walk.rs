//! The walk through one layer: a beam of the best nodes so far, and the set of visited nodes.

use cenote_base::sync::Mutex;

use crate::links::Links;
use crate::vectors::{Probe, SlotVectors};

/// A node and its distance: the key is in the upper half, so that candidates order by distance, then by slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SlotCandidate(u64);

impl SlotCandidate {
    const EXPANDED: u64 = 1;

    #[inline(always)]
    pub(crate) fn new(key: u32, slot: u32) -> Self {
        Self(u64::from(key) << 32 | u64::from(slot) << 1)
    }

    pub(crate) fn key(self) -> u32 {
        (self.0 >> 32) as u32
    }

    #[inline(always)]
    pub(crate) fn slot(self) -> u32 {
        self.0 as u32 >> 1
    }
}

/// The best `width` candidates in order. Insertion moves memory, which is faster than a heap for these widths.
#[derive(Default)]
struct Beam {
    best: Vec<SlotCandidate>,
    width: usize,
    /// Every candidate before this position was expanded.
    cursor: usize,
}

impl Beam {
    fn clear(&mut self, width: usize) {
        self.best.clear();
        self.best.reserve(width + 1);
        self.width = width;
        self.cursor = 0;
    }

    #[inline(always)]
    fn push(&mut self, candidate: SlotCandidate) {
        if self.best.len() == self.width {
            match self.best.last() {
                Some(&last) if candidate < last => self.best.pop(),
                _ => return,
            };
        }
        let at = self.best.partition_point(|&other| other < candidate);
        self.best.insert(at, candidate);
        self.cursor = self.cursor.min(at);
    }

    /// Returns the nearest candidate that was not expanded yet, and marks it as expanded.
    #[inline(always)]
    fn next(&mut self) -> Option<u32> {
        while let Some(candidate) = self.best.get_mut(self.cursor) {
            self.cursor += 1;
            if candidate.0 & SlotCandidate::EXPANDED == 0 {
                candidate.0 |= SlotCandidate::EXPANDED;
                return Some(candidate.slot());
            }
        }
        None
    }

    /// Returns what [`Self::next`] would return if no nearer candidate were pushed.
    #[inline(always)]
    fn peek(&self) -> Option<u32> {
        let rest = self.best.get(self.cursor..)?;
        rest.iter().find(|candidate| candidate.0 & SlotCandidate::EXPANDED == 0).map(|candidate| candidate.slot())
    }
}

/// The set of visited slots: one bit per slot, so that a set of a million slots stays in the nearest caches. It lists
/// the words that are not zero, so that clearing costs as much as was visited, however many slots there are.
#[derive(Default)]
struct Visited {
    words: Vec<u64>,
    touched: Vec<u32>,
    /// Slots from here on were used after the walk began.
    end: u32,
}

impl Visited {
    fn clear(&mut self, end: u32) {
        self.touched.drain(..).for_each(|word| self.words[word as usize] = 0);
        self.words.resize(self.words.len().max(end.div_ceil(64) as usize), 0);
        self.end = end;
    }

    /// Adds `slot`, and returns whether it is new. Slots that were used after the walk began are left out.
    #[inline(always)]
    fn insert(&mut self, slot: u32) -> bool {
        if slot >= self.end {
            return false;
        }
        let word = &mut self.words[slot as usize / 64];
        if *word == 0 {
            self.touched.push(slot / 64);
        }
        let bit = 1 << (slot % 64);
        let fresh = *word & bit == 0;
        *word |= bit;
        fresh
    }

    fn bytes(&self) -> usize {
        self.words.capacity() * size_of::<u64>() + self.touched.capacity() * size_of::<u32>()
    }
}

/// The vectors and links that a walk follows.
#[derive(Clone, Copy)]
pub(crate) struct LinkedVectors<'a> {
    pub(crate) vectors: &'a SlotVectors,
    pub(crate) links: &'a Links,
}

/// The task of a walk through one layer.
pub(crate) struct LayerSearch {
    /// The slot at which the walk begins.
    pub(crate) start: u32,
    pub(crate) layer: u8,
    /// The number of nodes that the walk keeps.
    pub(crate) width: usize,
    /// The last slot that the walk may enter.
    pub(crate) used: u32,
}

/// The memory of a walk, reused by the next one.
#[derive(Default)]
pub(crate) struct LayerWalk {
    beam: Beam,
    visited: Visited,
    fresh: Vec<u32>,
    keys: Vec<u32>,
}

impl LayerWalk {
    /// Walks as `search` says, and returns the nodes nearest to `probe` that it finds, nearest first.
    ///
    /// A beam search: Malkov and Yashunin, "Efficient and robust approximate nearest neighbor search using Hierarchical
    /// Navigable Small World graphs" (2016), algorithm 2, with one sorted array for its two heaps.
    pub(crate) fn run(
        &mut self,
        LinkedVectors { vectors, links }: LinkedVectors<'_>,
        probe: &Probe,
        LayerSearch { start, layer, width, used }: LayerSearch,
    ) -> &[SlotCandidate] {
        let Self { beam, visited, fresh, keys } = self;
        beam.clear(width);
        visited.clear(used + 1);
        fresh.clear();
        fresh.extend(visited.insert(start).then_some(start));
        loop {
            vectors.keys(probe, fresh, keys);
            for (&slot, &key) in fresh.iter().zip(keys.iter()) {
                beam.push(SlotCandidate::new(key, slot));
            }
            let Some(slot) = beam.next() else { return &beam.best };
            if let Some(after) = beam.peek() {
                links.prefetch(after);
            }
            fresh.clear();
            fresh.extend(links.of(slot, layer).filter(|&link| visited.insert(link)));
        }
    }

    /// Walks downhill from `slot` and returns the node of `layer` at which it ends.
    pub(crate) fn descend(
        &mut self,
        LinkedVectors { vectors, links }: LinkedVectors<'_>,
        probe: &Probe,
        mut slot: u32,
        layer: u8,
    ) -> u32 {
        vectors.keys(probe, &[slot], &mut self.keys);
        let mut best = SlotCandidate::new(self.keys[0], slot);
        loop {
            self.fresh.clear();
            self.fresh.extend(links.of(slot, layer));
            vectors.keys(probe, &self.fresh, &mut self.keys);
            let nearest = self.fresh.iter().zip(&self.keys).map(|(&slot, &key)| SlotCandidate::new(key, slot)).min();
            match nearest {
                Some(nearest) if nearest < best => best = nearest,
                _ => return best.slot(),
            }
            slot = best.slot();
        }
    }
}

/// The idle walks, for the next searches.
#[derive(Default)]
pub(crate) struct WalkPool(Mutex<Vec<LayerWalk>>);

impl WalkPool {
    /// Walks kept at most; concurrent searches beyond that allocate their own.
    const IDLE_MAX: usize = 64;

    /// Runs `work` with an idle walk or a new one.
    pub(crate) fn with<T>(&self, work: impl FnOnce(&mut LayerWalk) -> T) -> T {
        let mut walk = self.0.lock().pop().unwrap_or_default();
        let result = work(&mut walk);
        let mut idle = self.0.lock();
        if idle.len() < Self::IDLE_MAX {
            idle.push(walk);
        }
        result
    }

    /// Returns the bytes of the idle walks.
    pub(crate) fn bytes(&self) -> usize {
        self.0.lock().iter().map(|walk| walk.visited.bytes() + walk.beam.best.capacity() * 8).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use cenote_base::Random;

    use super::*;

    #[test]
    fn a_walk_clears_what_it_visited_and_no_more() {
        let (mut visited, mut random) = (Visited::default(), Random::new(4));
        for walk in 0..200 {
            // The graph grows, and some walks began when it was smaller.
            let end = 1 + random.below(if walk % 3 == 0 { 100 } else { 1_000_000 }) as u32;
            visited.clear(end);
            assert!(visited.words.iter().all(|word| *word == 0), "walk {walk} has seen something before it began");
            let mut seen = HashSet::new();
            for _ in 0..random.below(500) {
                let slot = random.below(2 * u64::from(end)) as u32;
                assert_eq!(visited.insert(slot), slot < end && seen.insert(slot), "slot {slot} of {end}");
            }
            assert!(visited.touched.len() <= seen.len(), "more is cleared than was visited");
        }
    }
}

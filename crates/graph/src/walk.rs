//! The walk through one layer: the best nodes seen so far, and which were seen.

use cenote_base::sync::Mutex;

use crate::links::Links;
use crate::vectors::{Probe, Vectors};

/// A node and how far it is: the key in the upper half, so that numbers order as distances do and ties by slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Candidate(u64);

impl Candidate {
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

/// The best `width` candidates in order. Insertion moves memory, which for such widths is faster than a heap.
#[derive(Default)]
struct Beam {
    best: Vec<Candidate>,
    width: usize,
    /// Everything before this was expanded.
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
    fn push(&mut self, candidate: Candidate) {
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

    /// The nearest candidate that was not expanded yet, now marked so.
    #[inline(always)]
    fn next(&mut self) -> Option<u32> {
        while let Some(candidate) = self.best.get_mut(self.cursor) {
            self.cursor += 1;
            if candidate.0 & Candidate::EXPANDED == 0 {
                candidate.0 |= Candidate::EXPANDED;
                return Some(candidate.slot());
            }
        }
        None
    }

    /// What [`Self::next`] would give if nothing nearer turned up.
    #[inline(always)]
    fn peek(&self) -> Option<u32> {
        let rest = self.best.get(self.cursor..)?;
        rest.iter().find(|candidate| candidate.0 & Candidate::EXPANDED == 0).map(|candidate| candidate.slot())
    }
}

/// One bit a slot, so that the set of a million slots stays in the nearest caches. It knows the words that are not
/// zero, so that to clear it costs what was visited, however many slots there are.
#[derive(Default)]
struct Visited {
    words: Vec<u64>,
    touched: Vec<u32>,
    /// Slots from here on came after the walk began.
    end: u32,
}

impl Visited {
    fn clear(&mut self, end: u32) {
        self.touched.drain(..).for_each(|word| self.words[word as usize] = 0);
        self.words.resize(self.words.len().max(end.div_ceil(64) as usize), 0);
        self.end = end;
    }

    /// Whether `slot` is new. Those that came after the walk began are left out.
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

/// What a walk needs, kept for the next one.
#[derive(Default)]
pub(crate) struct Walk {
    beam: Beam,
    visited: Visited,
    fresh: Vec<u32>,
    keys: Vec<u32>,
}

impl Walk {
    /// The `width` nodes of `layer` nearest to `probe`, nearest first, that a walk from `entries` finds.
    ///
    /// A beam search: Malkov and Yashunin, "Efficient and robust approximate nearest neighbor search using Hierarchical
    /// Navigable Small World graphs" (2016), algorithm 2, with one sorted array for its two heaps.
    pub(crate) fn run(
        &mut self,
        (vectors, links): (&Vectors, &Links),
        probe: &Probe,
        entries: &[u32],
        (layer, width): (u8, usize),
        used: u32,
    ) -> &[Candidate] {
        let Self { beam, visited, fresh, keys } = self;
        beam.clear(width);
        visited.clear(used + 1);
        fresh.clear();
        fresh.extend(entries.iter().copied().filter(|&slot| visited.insert(slot)));
        loop {
            vectors.keys(probe, fresh, keys);
            for (&slot, &key) in fresh.iter().zip(keys.iter()) {
                beam.push(Candidate::new(key, slot));
            }
            let Some(slot) = beam.next() else { return &beam.best };
            if let Some(after) = beam.peek() {
                links.prefetch(after);
            }
            fresh.clear();
            fresh.extend(links.of(slot, layer).filter(|&link| visited.insert(link)));
        }
    }

    /// The node of `layer` that a walk downhill from `slot` ends at.
    pub(crate) fn descend(
        &mut self,
        (vectors, links): (&Vectors, &Links),
        probe: &Probe,
        mut slot: u32,
        layer: u8,
    ) -> u32 {
        vectors.keys(probe, &[slot], &mut self.keys);
        let mut best = Candidate::new(self.keys[0], slot);
        loop {
            self.fresh.clear();
            self.fresh.extend(links.of(slot, layer));
            vectors.keys(probe, &self.fresh, &mut self.keys);
            let nearest = self.fresh.iter().zip(&self.keys).map(|(&slot, &key)| Candidate::new(key, slot)).min();
            match nearest {
                Some(nearest) if nearest < best => best = nearest,
                _ => return best.slot(),
            }
            slot = best.slot();
        }
    }
}

/// WalkPool that are not in use, for whoever comes next.
#[derive(Default)]
pub(crate) struct WalkPool(Mutex<Vec<Walk>>);

impl WalkPool {
    /// Kept at most; more searches at once make their own.
    const IDLE_MAX: usize = 64;

    pub(crate) fn with<T>(&self, work: impl FnOnce(&mut Walk) -> T) -> T {
        let mut walk = self.0.lock().pop().unwrap_or_default();
        let result = work(&mut walk);
        let mut idle = self.0.lock();
        if idle.len() < Self::IDLE_MAX {
            idle.push(walk);
        }
        result
    }

    /// Bytes of the idle ones.
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
            // The graph grows, and now and then a walk began when it was smaller.
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

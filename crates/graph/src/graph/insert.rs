//! Inserts: vectors are written, then linked, then published to searches.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};

use cenote_base::{Context, Error, Result};

use super::Graph;
use crate::links::EntryPoint;
use crate::neighbours::NeighbourChooser;
use crate::slots::SlotState;
use crate::values::VectorValues;
use crate::vectors::SlotVectors;
use crate::walk::{LayerSearch, LayerWalk, LinkedVectors, SlotCandidate};

/// Vectors from which the scale of codes is learnt, at most.
const TRAINING_MAX: usize = 1 << 16;
/// Vectors of a graph that are linked one by one, so that those linked concurrently have others to link to.
const LINKED_ALONE: usize = 256;

impl Graph {
    /// Inserts a vector under `label`, replacing the vector that it had. Searches find the old vector until they find
    /// the new one.
    ///
    /// Errors: `InvalidInput` for a wrong dimension or a number that is not finite; `ResourceExhausted`, with the
    /// figures, when the vector exceeds the capacity. The graph is unchanged then.
    pub fn insert<'a>(&self, label: u64, vector: impl Into<VectorValues<'a>>) -> Result<()> {
        self.insert_values(&[label], vector.into(), 1)
    }

    /// Inserts a vector for each of `labels`, which must be distinct, on `threads` threads. `vectors` holds the vectors
    /// consecutively. Each can be found once it is linked; on an error the graph is unchanged. Otherwise as
    /// [`Self::insert`].
    ///
    /// A snapshot waits for the end of a batch, and other writers wait for the snapshot, so load many vectors in
    /// several batches.
    pub fn insert_batch<'a>(&self, labels: &[u64], vectors: impl Into<VectorValues<'a>>, threads: usize) -> Result<()> {
        self.insert_values(labels, vectors.into(), threads)
    }

    fn insert_values(&self, labels: &[u64], values: VectorValues<'_>, threads: usize) -> Result<()> {
        self.check(values, labels.len()).context(|| "insert into a graph")?;
        let mut seen = HashSet::with_capacity(labels.len());
        if let Some(label) = labels.iter().find(|&&label| labels.len() > 1 && !seen.insert(label)) {
            return Err(Error::invalid_input(format!("label {label} is twice in one batch")));
        }
        let _writing = self.writers.read();
        let slots = self.slots.reserve(labels, |slot| self.links.admit(slot))?;
        let width = VectorValues::width(&self.options);
        for (at, &slot) in slots.iter().enumerate() {
            let vectors = self.vectors.read();
            #[expect(unsafe_code, reason = "the slots were taken for this call alone")]
            // SAFETY: nobody else can reach a reserved slot.
            let clamped = unsafe { vectors.write(slot, values.vector(at, width)) };
            self.clamped.fetch_add(clamped, Ordering::Relaxed);
        }
        self.train_when_due();
        let (alone, together) =
            slots.split_at(if self.len() < LINKED_ALONE { slots.len().min(LINKED_ALONE) } else { 0 });
        self.link_all(alone, 1);
        self.link_all(together, threads);
        Ok(())
    }

    /// Learns the scale of codes when there are four times as many vectors as the last time, up to [`TRAINING_MAX`], or
    /// when more than a hundredth of all numbers were out of range since.
    fn train_when_due(&self) {
        let due = || {
            let (used, trained) = (self.slots.used() as usize, self.trained.load(Ordering::Acquire));
            (used >= trained.saturating_mul(4).max(1) && trained < TRAINING_MAX)
                || self.clamped.load(Ordering::Relaxed) > used * self.options.dimension / 100
        };
        if due() {
            let mut vectors = self.vectors.write();
            // Another thread may have done it meanwhile.
            if due() {
                self.train(&mut vectors);
            }
        }
    }

    /// Learns the scale of codes.
    pub(super) fn train(&self, vectors: &mut SlotVectors) {
        let used = self.slots.used();
        vectors.train(&self.sample(), used);
        self.trained.store(used as usize, Ordering::Release);
        self.clamped.store(0, Ordering::Relaxed);
    }

    /// Returns an even sample of the slots that are or will be live.
    pub(super) fn sample(&self) -> Vec<u32> {
        let used = self.slots.used();
        let step = (used as usize).div_ceil(TRAINING_MAX).max(1);
        let lasting = |slot: &u32| matches!(self.slots.state(*slot), SlotState::Live | SlotState::Pending);
        (1..=used).step_by(step).filter(lasting).collect()
    }

    /// Links `slots` and publishes each.
    fn link_all(&self, slots: &[u32], threads: usize) {
        in_parallel(slots.len(), threads, |chooser, at| {
            let vectors = self.vectors.read();
            self.walks.with(|walk| self.link(&vectors, walk, chooser, slots[at]));
            self.slots.publish(slots[at]);
        });
    }

    /// Links `slot` with its neighbours in all its layers.
    pub(super) fn link(&self, vectors: &SlotVectors, walk: &mut LayerWalk, chooser: &mut NeighbourChooser, slot: u32) {
        let level = self.links.level(slot);
        let mut entry_lock = None;
        let mut entry = self.links.entry();
        if entry.is_none_or(|entry| entry.level < level) {
            entry_lock = Some(self.links.lock_entry());
            entry = self.links.entry();
        }
        let graph = LinkedVectors { vectors, links: &self.links };
        if let Some(entry) = entry {
            if entry.level >= level {
                entry_lock = None;
            }
            let probe = vectors.probe(slot);
            let mut nearest = entry.slot;
            for layer in (level + 1..=entry.level).rev() {
                nearest = walk.descend(graph, &probe, nearest, layer);
            }
            // Its own links come first: a walk that meets it in an upper layer must find a way on below.
            let mut lists = Vec::new();
            for layer in (0..=level.min(entry.level)).rev() {
                let width = self.options.ef_construction;
                let found =
                    walk.run(graph, &probe, LayerSearch { start: nearest, layer, width, used: self.slots.used() });
                nearest = found.first().map_or(nearest, |candidate| candidate.slot());
                let mut candidates: Vec<SlotCandidate> = found.to_vec();
                candidates.retain(|candidate| candidate.slot() != slot);
                self.keep_lasting(&mut candidates);
                let mut chosen = chooser.choose(vectors, &candidates, self.options.m);
                if chosen.is_empty() && entry.slot != slot {
                    chosen.push(entry.slot);
                }
                let lock = self.links.lock(slot);
                self.links.set(slot, layer, &chosen);
                drop(lock);
                lists.push((layer, chosen));
            }
            for (layer, list) in lists.into_iter().rev() {
                for neighbour in list {
                    chooser.add(graph, neighbour, slot, layer);
                }
            }
        }
        if entry.is_none_or(|entry| entry.level < level) {
            self.links.set_entry(Some(EntryPoint { slot, level }));
        }
        drop(entry_lock);
    }

    /// Removes deleted slots from `candidates` unless that leaves none, and leaving slots in any case.
    fn keep_lasting(&self, candidates: &mut Vec<SlotCandidate>) {
        if self.slots.deleted() == 0 {
            return;
        }
        candidates.retain(|candidate| self.slots.state(candidate.slot()) != SlotState::Leaving);
        if candidates.iter().any(|candidate| self.slots.state(candidate.slot()) != SlotState::Deleted) {
            candidates.retain(|candidate| self.slots.state(candidate.slot()) != SlotState::Deleted);
        }
    }
}

/// Runs `work` for each of `0..count` on `threads` threads, including the calling one.
pub(super) fn in_parallel(count: usize, threads: usize, work: impl Fn(&mut NeighbourChooser, usize) + Sync) {
    let next = AtomicUsize::new(0);
    let run = || {
        let mut chooser = NeighbourChooser::default();
        loop {
            match next.fetch_add(1, Ordering::Relaxed) {
                at if at < count => work(&mut chooser, at),
                _ => break,
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads.min(count) {
            scope.spawn(run);
        }
        run();
    });
}

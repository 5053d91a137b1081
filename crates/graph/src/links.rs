//! The links between nodes, layer by layer.
//!
//! Readers need no lock. One writer, which holds the node's lock, may change a list meanwhile: a reader may see some
//! old and some new links, each of which leads to a node that exists. Slot 0 stands for no node; the first 0 ends a
//! list.

use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

use cenote_base::sync::{Mutex, MutexGuard};
use cenote_base::{Error, Random, Result};

use crate::options::GraphOptions;
use crate::stable_rows::StableRows;

/// Locks that all nodes share. No thread holds two.
const LOCKS: usize = 1024;
/// Highest layer of a node.
const LEVEL_MAX: u8 = 15;

/// The links of all nodes, and the node where walks begin.
pub(crate) struct Links {
    m: usize,
    seed: u64,
    base: StableRows<AtomicU32>,
    /// Lists of the upper layers, in consecutive rows for the layers of a node. Row 0 is unused.
    upper: StableRows<AtomicU32>,
    upper_rows: u32,
    upper_used: AtomicU32,
    /// The row of layer 1 of each node, and the number of layers above the base that it is in. They stay with the slot.
    upper_at: StableRows<AtomicU32>,
    levels: StableRows<AtomicU8>,
    locks: Vec<Mutex<()>>,
    /// Level and slot of the entry point, packed; 0 if there is none.
    entry: AtomicU64,
    entry_lock: Mutex<()>,
}

/// The node at which walks begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EntryPoint {
    pub(crate) slot: u32,
    pub(crate) level: u8,
}

/// The highest layer of a slot and its row of layer 1, as a snapshot has them.
pub(crate) struct StoredLevel {
    pub(crate) level: u8,
    pub(crate) upper_at: u32,
}

impl Links {
    /// Returns the bytes of a slot's links, including its share of the upper layers.
    pub(crate) fn slot_bytes(options: &GraphOptions) -> usize {
        let base = 2 * options.m * size_of::<u32>();
        base + (options.m * size_of::<u32>()).div_ceil(Self::slots_per_upper_row(options)) + size_of::<u32>() + 1
    }

    /// Returns the number of slots that share a row of the upper layers: `0.8 · (m − 1)`. One row in `m − 1` slots is
    /// expected.
    fn slots_per_upper_row(options: &GraphOptions) -> usize {
        ((options.m - 1) * 4 / 5).max(1)
    }

    pub(crate) fn new(options: &GraphOptions, slots: usize) -> Result<Self> {
        let upper_rows = slots / Self::slots_per_upper_row(options) + 64;
        Ok(Self {
            m: options.m,
            seed: options.seed,
            base: StableRows::new(slots, 2 * options.m)?,
            upper: StableRows::new(upper_rows, options.m)?,
            upper_rows: upper_rows as u32,
            upper_used: AtomicU32::new(1),
            upper_at: StableRows::new(slots, 1)?,
            levels: StableRows::new(slots, 1)?,
            locks: (0..LOCKS).map(|_| Mutex::new(())).collect(),
            entry: AtomicU64::new(0),
            entry_lock: Mutex::new(()),
        })
    }

    /// Returns the list of `slot` in `layer`.
    #[inline(always)]
    fn list(&self, slot: u32, layer: u8) -> &[AtomicU32] {
        if layer == 0 {
            return self.base.row(slot);
        }
        match self.upper_at(slot) {
            0 => &[],
            first => self.upper.row(first + u32::from(layer) - 1),
        }
    }

    /// Returns the slots that `slot` links to in `layer`.
    #[inline(always)]
    pub(crate) fn of(&self, slot: u32, layer: u8) -> impl Iterator<Item = u32> {
        self.list(slot, layer).iter().map(|link| link.load(Ordering::Acquire)).take_while(|&link| link != 0)
    }

    #[inline(always)]
    pub(crate) fn prefetch(&self, slot: u32) {
        self.base.prefetch(slot);
    }

    /// Returns the largest number of links of a node in `layer`.
    pub(crate) fn links_max(&self, layer: u8) -> usize {
        if layer == 0 { 2 * self.m } else { self.m }
    }

    /// Locks the lists of `slot` for writing.
    pub(crate) fn lock(&self, slot: u32) -> MutexGuard<'_, ()> {
        self.locks[slot as usize % LOCKS].lock()
    }

    /// Replaces the list of `slot` in `layer`. The caller holds its lock, or no link leads to it yet.
    pub(crate) fn set(&self, slot: u32, layer: u8, links: &[u32]) {
        let list = self.list(slot, layer);
        for (at, place) in list.iter().enumerate() {
            place.store(links.get(at).copied().unwrap_or(0), Ordering::Release);
        }
    }

    /// Returns the highest layer that `slot` is in.
    pub(crate) fn level(&self, slot: u32) -> u8 {
        self.levels.row(slot)[0].load(Ordering::Acquire)
    }

    /// Draws the level of a slot that is used for the first time, as in HNSW, and reserves the lists of its layers.
    pub(crate) fn admit(&self, slot: u32) {
        let mut random = Random::new(self.seed ^ u64::from(slot).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let drawn = (-(1.0 - random.unit()).ln() / (self.m as f64).ln()) as u8;
        let level = drawn.min(LEVEL_MAX);
        if level == 0 {
            return;
        }
        // If chance draws more rows than there are, the node stays in the base, which costs a little speed.
        let taken = self.upper_used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            Some(used + u32::from(level)).filter(|&used| used <= self.upper_rows)
        });
        if let Ok(first) = taken {
            self.levels.row(slot)[0].store(level, Ordering::Release);
            self.upper_at.row(slot)[0].store(first, Ordering::Release);
        }
    }

    pub(crate) fn entry(&self) -> Option<EntryPoint> {
        let packed = self.entry.load(Ordering::Acquire);
        (packed != 0).then_some(EntryPoint { slot: packed as u32, level: (packed >> 32) as u8 })
    }

    pub(crate) fn set_entry(&self, entry: Option<EntryPoint>) {
        let packed = entry.map_or(0, |entry| u64::from(entry.level) << 32 | u64::from(entry.slot));
        self.entry.store(packed, Ordering::Release);
    }

    /// Locks the entry point for writing.
    pub(crate) fn lock_entry(&self) -> MutexGuard<'_, ()> {
        self.entry_lock.lock()
    }

    /// Returns the number of rows of upper layers in use, including row 0.
    pub(crate) fn upper_used(&self) -> u32 {
        self.upper_used.load(Ordering::Relaxed)
    }

    /// Returns the row of layer 1 of `slot`, 0 if it is only in the base.
    pub(crate) fn upper_at(&self, slot: u32) -> u32 {
        self.upper_at.row(slot)[0].load(Ordering::Acquire)
    }

    /// Returns all lists: those of the base for slots 1 to `used`, then those of the upper layers.
    pub(crate) fn lists(&self, used: u32) -> impl Iterator<Item = &[AtomicU32]> {
        (1..=used).map(|slot| self.base.row(slot)).chain((1..self.upper_used()).map(|row| self.upper.row(row)))
    }

    /// Sets the level and the row of layer 1 of each slot from 1 on, as a snapshot has them.
    pub(crate) fn restore(&self, stored: &[StoredLevel], upper_used: u32, entry: Option<EntryPoint>) -> Result<()> {
        if upper_used > self.upper_rows {
            return Err(Error::resource_exhausted(format!(
                "{upper_used} lists of upper layers do not fit, there is room for {}",
                self.upper_rows
            )));
        }
        self.upper_used.store(upper_used.max(1), Ordering::Relaxed);
        for (slot, &StoredLevel { level, upper_at }) in (1..).zip(stored) {
            let end = upper_at.saturating_add(level.into());
            if (level > 0) != (upper_at > 0) || level > LEVEL_MAX || end > upper_used.max(1) {
                return Err(Error::corrupt(format!("slot {slot} has no room for its {level} upper layers")));
            }
            self.levels.row(slot)[0].store(level, Ordering::Release);
            self.upper_at.row(slot)[0].store(upper_at, Ordering::Release);
        }
        let is_stored =
            |entry: EntryPoint| stored.get(entry.slot as usize - 1).is_some_and(|at| at.level == entry.level);
        if !entry.is_none_or(is_stored) {
            return Err(Error::corrupt("walks would begin at a node that is not there"));
        }
        self.set_entry(entry);
        Ok(())
    }

    /// Checks that every link leads to a node of its layer among slots 1 to `used`.
    pub(crate) fn check(&self, used: u32) -> Result<()> {
        for slot in 1..=used {
            for layer in 0..=self.level(slot) {
                if let Some(link) = self.of(slot, layer).find(|&link| link > used || self.level(link) < layer) {
                    return Err(Error::corrupt(format!("slot {slot} links to {link}, which is not in layer {layer}")));
                }
            }
        }
        Ok(())
    }

    /// Returns the bytes of the base layer for each slot.
    pub(crate) fn base_bytes(&self) -> usize {
        2 * self.m * size_of::<u32>() + size_of::<u32>() + 1
    }

    /// Returns the bytes of the upper layers in use.
    pub(crate) fn upper_bytes(&self) -> usize {
        self.upper_used.load(Ordering::Relaxed) as usize * self.m * size_of::<u32>()
    }
}

//! Who links to whom, layer by layer.
//!
//! A list is read without a lock while one writer, who holds the node's lock, changes it: a reader may see some old and some
//! new links, each of which leads to a node that exists. Slot 0 is nobody; the first 0 ends a list.

use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

use cenote_base::sync::{Mutex, MutexGuard};
use cenote_base::{Error, Random, Result};

use crate::options::Options;
use crate::stable_rows::StableRows;

/// Locks shared by all nodes. No thread holds two.
const LOCKS: usize = 1024;
const LEVEL_MAX: u8 = 15;

pub(crate) struct Links {
    m: usize,
    seed: u64,
    base: StableRows<AtomicU32>,
    /// Lists of upper layers, row after row for the layers of a node. Row 0 is nobody's.
    upper: StableRows<AtomicU32>,
    upper_rows: u32,
    upper_used: AtomicU32,
    /// The row of layer 1 of each node, and how many layers above the base it is in. They stay with the slot.
    upper_at: StableRows<AtomicU32>,
    levels: StableRows<AtomicU8>,
    locks: Vec<Mutex<()>>,
    /// Level and slot of the node where a walk begins; 0 if there is none.
    entry: AtomicU64,
    entry_lock: Mutex<()>,
}

/// Where a walk begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EntryPoint {
    pub(crate) slot: u32,
    pub(crate) level: u8,
}

impl Links {
    /// Bytes that a slot's links take, its share of the upper layers included.
    pub(crate) fn slot_bytes(options: &Options) -> usize {
        let base = 2 * options.m * size_of::<u32>();
        base + (options.m * size_of::<u32>()).div_ceil(Self::slots_an_upper_row(options)) + size_of::<u32>() + 1
    }

    /// One upper row in m − 1 slots is expected; there are a quarter more.
    fn slots_an_upper_row(options: &Options) -> usize {
        ((options.m - 1) * 4 / 5).max(1)
    }

    pub(crate) fn new(options: &Options, slots: usize) -> Result<Self> {
        let upper_rows = slots / Self::slots_an_upper_row(options) + 64;
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

    /// The links of `slot` in `layer`.
    #[inline(always)]
    pub(crate) fn list(&self, slot: u32, layer: u8) -> &[AtomicU32] {
        if layer == 0 {
            return self.base.row(slot);
        }
        match self.upper_at(slot) {
            0 => &[],
            first => self.upper.row(first + u32::from(layer) - 1),
        }
    }

    /// The slots that `slot` links to in `layer`.
    #[inline(always)]
    pub(crate) fn of(&self, slot: u32, layer: u8) -> impl Iterator<Item = u32> {
        self.list(slot, layer).iter().map(|link| link.load(Ordering::Acquire)).take_while(|&link| link != 0)
    }

    #[inline(always)]
    pub(crate) fn prefetch(&self, slot: u32) {
        self.base.prefetch(slot);
    }

    /// Most links of a node in `layer`.
    pub(crate) fn most(&self, layer: u8) -> usize {
        if layer == 0 { 2 * self.m } else { self.m }
    }

    /// The right to change the lists of `slot`.
    pub(crate) fn lock(&self, slot: u32) -> MutexGuard<'_, ()> {
        self.locks[slot as usize % LOCKS].lock()
    }

    /// Replaces the list of `slot` in `layer`; its lock is held, or nobody reaches it yet.
    pub(crate) fn set(&self, slot: u32, layer: u8, links: &[u32]) {
        let list = self.list(slot, layer);
        for (at, place) in list.iter().enumerate() {
            place.store(links.get(at).copied().unwrap_or(0), Ordering::Release);
        }
    }

    pub(crate) fn level(&self, slot: u32) -> u8 {
        self.levels.row(slot)[0].load(Ordering::Acquire)
    }

    /// Gives a slot that is used for the first time its level, as in HNSW, and room for the links of its layers.
    pub(crate) fn admit(&self, slot: u32) {
        let mut random = Random::new(self.seed ^ u64::from(slot).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let drawn = (-(1.0 - random.unit()).ln() / (self.m as f64).ln()) as u8;
        let level = drawn.min(LEVEL_MAX);
        if level == 0 {
            return;
        }
        // When chance wanted more rows than there are, the node stays in the base, which costs a little speed.
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

    /// Held by whoever may change the entry.
    pub(crate) fn lock_entry(&self) -> MutexGuard<'_, ()> {
        self.entry_lock.lock()
    }

    /// Rows of upper layers in use, row 0 included.
    pub(crate) fn upper_used(&self) -> u32 {
        self.upper_used.load(Ordering::Relaxed)
    }

    /// The row of layer 1 of `slot`, 0 if it is only in the base.
    pub(crate) fn upper_at(&self, slot: u32) -> u32 {
        self.upper_at.row(slot)[0].load(Ordering::Acquire)
    }

    /// All lists: of the base for slots 1 to `used`, then of the upper layers.
    pub(crate) fn rows(&self, used: u32) -> impl Iterator<Item = &[AtomicU32]> {
        (1..=used).map(|slot| self.base.row(slot)).chain((1..self.upper_used()).map(|row| self.upper.row(row)))
    }

    /// Sets level and row of layer 1 of each slot from 1 on, as a snapshot has them.
    pub(crate) fn restore(&self, places: &[(u8, u32)], upper_used: u32, entry: Option<EntryPoint>) -> Result<()> {
        if upper_used > self.upper_rows {
            return Err(Error::resource_exhausted(format!(
                "{upper_used} lists of upper layers do not fit, there is room for {}",
                self.upper_rows
            )));
        }
        self.upper_used.store(upper_used.max(1), Ordering::Relaxed);
        for (slot, &(level, first)) in (1..).zip(places) {
            if (level > 0) != (first > 0) || level > LEVEL_MAX || first.saturating_add(level.into()) > upper_used.max(1)
            {
                return Err(Error::corrupt(format!("slot {slot} has no room for its {level} upper layers")));
            }
            self.levels.row(slot)[0].store(level, Ordering::Release);
            self.upper_at.row(slot)[0].store(first, Ordering::Release);
        }
        if entry.is_some_and(|entry| places.get(entry.slot as usize - 1).is_none_or(|place| place.0 != entry.level)) {
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

    /// Bytes that the base layer takes for each slot.
    pub(crate) fn base_bytes(&self) -> usize {
        2 * self.m * size_of::<u32>() + size_of::<u32>() + 1
    }

    /// Bytes of the upper layers in use.
    pub(crate) fn upper_bytes(&self) -> usize {
        self.upper_used.load(Ordering::Relaxed) as usize * self.m * size_of::<u32>()
    }
}

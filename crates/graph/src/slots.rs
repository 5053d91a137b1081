//! The slots of a graph: the label and the state of each.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

use cenote_base::sync::{Mutex, RwLock};
use cenote_base::{ByteSize, Error, Result};

use crate::stable_rows::StableRows;

/// The state of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum SlotState {
    /// Empty.
    Free = 0,
    /// Holds the vector of a label.
    Live = 1,
    /// Holds a deleted vector; walks still pass through it.
    Deleted = 2,
    /// Deleted, and links to it are being removed.
    Leaving = 3,
    /// Reserved for a vector that is not linked yet.
    Pending = 4,
}

impl SlotState {
    #[inline(always)]
    fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            0 => Self::Free,
            1 => Self::Live,
            2 => Self::Deleted,
            3 => Self::Leaving,
            4 => Self::Pending,
            _ => return None,
        })
    }
}

/// The move of a vector from one label to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Relabelling {
    /// The label that the vector has.
    pub from: u64,
    /// The label that it gets.
    pub to: u64,
}

/// A hasher for labels. They are row numbers, so one multiplication mixes them well enough.
#[derive(Default)]
pub(crate) struct LabelHasher(u64);

impl Hasher for LabelHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.write_u64(self.0 << 8 | u64::from(byte)));
    }

    fn write_u64(&mut self, label: u64) {
        let product = u128::from(label ^ 0x9e37_79b9_7f4a_7c15) * 0xd134_2543_de82_ef95_u128;
        self.0 = (product as u64) ^ (product >> 64) as u64;
    }
}

/// The label and the state of a slot, as a snapshot has them.
pub(crate) struct StoredSlot {
    pub(crate) label: u64,
    pub(crate) state: u8,
}

/// Slots by label.
pub(crate) type ByLabel = HashMap<u64, u32, BuildHasherDefault<LabelHasher>>;

/// The label and the state of each slot. Slots count from 1; 0 stands for no slot.
pub(crate) struct Slots {
    slots_max: u32,
    capacity_bytes: u64,
    labels: StableRows<AtomicU64>,
    states: StableRows<AtomicU8>,
    /// The last slot used so far.
    used: AtomicU32,
    /// Slots that are free again.
    free: Mutex<Vec<u32>>,
    by_label: RwLock<ByLabel>,
    deleted: AtomicU32,
}

impl Slots {
    /// Bytes of a slot: its label and state, an entry of the free list, and the map, which is there twice while it
    /// grows.
    pub(crate) const SLOT_BYTES: usize = 8 + 1 + 4 + 3 * 17 * 8 / 7;

    pub(crate) fn new(slots_max: u32, capacity_bytes: u64) -> Result<Self> {
        Ok(Self {
            slots_max,
            capacity_bytes,
            labels: StableRows::new(slots_max as usize + 1, 1)?,
            states: StableRows::new(slots_max as usize + 1, 1)?,
            used: AtomicU32::new(0),
            free: Mutex::default(),
            by_label: RwLock::default(),
            deleted: AtomicU32::new(0),
        })
    }

    /// Returns the last slot used so far, 0 if there is none.
    pub(crate) fn used(&self) -> u32 {
        self.used.load(Ordering::Acquire)
    }

    /// Returns the number of labels.
    pub(crate) fn live(&self) -> usize {
        self.by_label.read().len()
    }

    /// Returns the number of slots whose label was deleted and that are not free yet.
    pub(crate) fn deleted(&self) -> u32 {
        self.deleted.load(Ordering::Relaxed)
    }

    pub(crate) fn by_label(&self) -> &RwLock<ByLabel> {
        &self.by_label
    }

    #[inline]
    pub(crate) fn label(&self, slot: u32) -> u64 {
        self.labels.row(slot)[0].load(Ordering::Acquire)
    }

    #[inline]
    pub(crate) fn state(&self, slot: u32) -> SlotState {
        // Only bytes of states are ever stored.
        SlotState::from_byte(self.states.row(slot)[0].load(Ordering::Acquire)).unwrap_or(SlotState::Free)
    }

    pub(crate) fn is_live(&self, slot: u32) -> bool {
        self.state(slot) == SlotState::Live
    }

    pub(crate) fn set_state(&self, slot: u32, state: SlotState) {
        self.states.row(slot)[0].store(state as u8, Ordering::Release);
    }

    /// Reserves a slot for each label, or fails without reserving any. Calls `admit` for slots that are used for the
    /// first time.
    pub(crate) fn reserve(&self, labels: &[u64], admit: impl Fn(u32)) -> Result<Vec<u32>> {
        let mut free = self.free.lock();
        let used = self.used();
        let available = free.len() + (self.slots_max - used) as usize;
        if labels.len() > available {
            return Err(self.full(self.slots_max as usize - available, labels.len()));
        }
        let kept = free.len() - labels.len().min(free.len());
        let mut slots = free.split_off(kept);
        for slot in used + 1..=used + (labels.len() - slots.len()) as u32 {
            admit(slot);
            slots.push(slot);
        }
        for (&slot, &label) in slots.iter().zip(labels) {
            self.labels.row(slot)[0].store(label, Ordering::Release);
            self.set_state(slot, SlotState::Pending);
        }
        self.used.fetch_max(slots.iter().copied().max().unwrap_or(0), Ordering::AcqRel);
        Ok(slots)
    }

    /// Publishes the linked `slot` under its label, and deletes the slot that the label had in the same moment.
    pub(crate) fn publish(&self, slot: u32) {
        let mut by_label = self.by_label.write();
        if let Some(old) = by_label.insert(self.label(slot), slot) {
            self.retire(old);
        }
        self.set_state(slot, SlotState::Live);
    }

    /// Deletes `label`, and returns whether it was there.
    pub(crate) fn delete(&self, label: u64) -> bool {
        let mut by_label = self.by_label.write();
        let slot = by_label.remove(&label);
        slot.into_iter().for_each(|slot| self.retire(slot));
        slot.is_some()
    }

    /// Moves vectors from label to label, and returns the number of old labels that were there.
    pub(crate) fn relabel(&self, moves: &[Relabelling]) -> usize {
        let mut by_label = self.by_label.write();
        let mut moved = 0;
        for Relabelling { from, to } in moves {
            let Some(slot) = by_label.remove(from) else { continue };
            if let Some(old) = by_label.insert(*to, slot) {
                self.retire(old);
            }
            self.labels.row(slot)[0].store(*to, Ordering::Release);
            moved += 1;
        }
        moved
    }

    fn retire(&self, slot: u32) {
        // Counted first: a reader that sees a count of 0 may conclude that no slot is deleted or leaving.
        self.deleted.fetch_add(1, Ordering::Relaxed);
        self.set_state(slot, SlotState::Deleted);
    }

    /// Frees `slots`, to which no link leads.
    pub(crate) fn release(&self, slots: &[u32]) {
        let mut free = self.free.lock();
        slots.iter().for_each(|&slot| self.set_state(slot, SlotState::Free));
        free.extend_from_slice(slots);
        self.deleted.fetch_sub(slots.len() as u32, Ordering::Relaxed);
    }

    /// Sets the label and state of each slot from 1 on, as a snapshot has them.
    pub(crate) fn restore(&self, stored: &[StoredSlot]) -> Result<()> {
        if stored.len() > self.slots_max as usize {
            return Err(self.full(0, stored.len()));
        }
        let (mut by_label, mut free) = (self.by_label.write(), self.free.lock());
        for (slot, &StoredSlot { label, state }) in (1..).zip(stored) {
            let state =
                SlotState::from_byte(state).ok_or_else(|| Error::corrupt(format!("slot {slot} has state {state}")))?;
            self.labels.row(slot)[0].store(label, Ordering::Release);
            self.set_state(slot, state);
            match state {
                SlotState::Free => free.push(slot),
                SlotState::Live => {
                    if by_label.insert(label, slot).is_some() {
                        return Err(Error::corrupt(format!("label {label} is in two slots")));
                    }
                }
                // A snapshot is taken while no slot is pending or leaving.
                SlotState::Pending | SlotState::Leaving => {
                    return Err(Error::corrupt(format!("slot {slot} is in the middle of a change")));
                }
                SlotState::Deleted => {
                    self.deleted.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        self.used.store(stored.len() as u32, Ordering::Release);
        Ok(())
    }

    fn full(&self, taken: usize, more: usize) -> Error {
        Error::resource_exhausted(format!(
            "a graph of {} holds {} vectors: {taken} are in use, {} of them deleted and not consolidated, so {more} \
             more do not fit",
            ByteSize(self.capacity_bytes),
            self.slots_max,
            self.deleted()
        ))
    }

    /// Returns the bytes of the map and the free list.
    pub(crate) fn map_bytes(&self) -> usize {
        let (map, free) = (self.by_label.read().capacity(), self.free.lock().capacity());
        map * 8 / 7 * 17 + free * size_of::<u32>()
    }
}

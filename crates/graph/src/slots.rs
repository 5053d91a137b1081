//! Which slot holds which label, and what has become of it.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

use cenote_base::sync::{Mutex, RwLock};
use cenote_base::{ByteSize, Error, Result};

use crate::stable_rows::StableRows;

/// What a slot is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum SlotState {
    /// Holds nothing.
    Free = 0,
    /// A label's vector.
    Live = 1,
    /// Was a label's vector; walks still pass through it.
    Deleted = 2,
    /// As deleted, and links to it are being taken out.
    Leaving = 3,
    /// Taken for a vector that is not linked yet.
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

/// Labels are row numbers: one multiplication mixes them well enough.
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

pub(crate) type ByLabel = HashMap<u64, u32, BuildHasherDefault<LabelHasher>>;

pub(crate) struct Slots {
    /// Slots there can be; slot 0 is nobody.
    most: u32,
    capacity_bytes: u64,
    labels: StableRows<AtomicU64>,
    states: StableRows<AtomicU8>,
    /// The last slot ever used.
    used: AtomicU32,
    /// Slots that were used and are free again.
    free: Mutex<Vec<u32>>,
    by_label: RwLock<ByLabel>,
    deleted: AtomicU32,
}

impl Slots {
    /// Bytes a slot takes here: label, state, a place in the free list, and the map, of which there are two while it grows.
    pub(crate) const SLOT_BYTES: usize = 8 + 1 + 4 + 3 * 17 * 8 / 7;

    pub(crate) fn new(most: u32, capacity_bytes: u64) -> Result<Self> {
        Ok(Self {
            most,
            capacity_bytes,
            labels: StableRows::new(most as usize + 1, 1)?,
            states: StableRows::new(most as usize + 1, 1)?,
            used: AtomicU32::new(0),
            free: Mutex::default(),
            by_label: RwLock::default(),
            deleted: AtomicU32::new(0),
        })
    }

    /// The last slot ever used; slots count from 1.
    pub(crate) fn used(&self) -> u32 {
        self.used.load(Ordering::Acquire)
    }

    pub(crate) fn live(&self) -> usize {
        self.by_label.read().len()
    }

    /// Slots whose label was deleted and that are not free yet.
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

    /// Takes a free slot for each label; `admit` is told of those that are used for the first time. All or none.
    pub(crate) fn reserve(&self, labels: &[u64], admit: impl Fn(u32)) -> Result<Vec<u32>> {
        let mut again = self.free.lock();
        let used = self.used();
        let free = again.len() + (self.most - used) as usize;
        if labels.len() > free {
            return Err(self.full(self.most as usize - free, labels.len()));
        }
        let kept = again.len() - labels.len().min(again.len());
        let mut slots = again.split_off(kept);
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

    /// The linked `slot` now holds its label; what held it before is deleted in the same moment.
    pub(crate) fn publish(&self, slot: u32) {
        let mut by_label = self.by_label.write();
        if let Some(old) = by_label.insert(self.label(slot), slot) {
            self.retire(old);
        }
        self.set_state(slot, SlotState::Live);
    }

    /// Whether `label` was there.
    pub(crate) fn delete(&self, label: u64) -> bool {
        let mut by_label = self.by_label.write();
        let slot = by_label.remove(&label);
        slot.into_iter().for_each(|slot| self.retire(slot));
        slot.is_some()
    }

    /// Gives the vector of each first label to the second, which nothing has; how many first labels were there.
    pub(crate) fn relabel(&self, labels: &[(u64, u64)]) -> usize {
        let mut by_label = self.by_label.write();
        let mut given = 0;
        for (from, to) in labels {
            let Some(slot) = by_label.remove(from) else { continue };
            if let Some(old) = by_label.insert(*to, slot) {
                self.retire(old);
            }
            self.labels.row(slot)[0].store(*to, Ordering::Release);
            given += 1;
        }
        given
    }

    fn retire(&self, slot: u32) {
        // Counted first: whoever sees none counted may take it that no slot is deleted or leaving.
        self.deleted.fetch_add(1, Ordering::Relaxed);
        self.set_state(slot, SlotState::Deleted);
    }

    /// Slots to which no link leads any more may be taken again.
    pub(crate) fn release(&self, slots: &[u32]) {
        let mut again = self.free.lock();
        slots.iter().for_each(|&slot| self.set_state(slot, SlotState::Free));
        again.extend_from_slice(slots);
        self.deleted.fetch_sub(slots.len() as u32, Ordering::Relaxed);
    }

    /// Sets label and state of each slot from 1 on, as a snapshot has them.
    pub(crate) fn restore(&self, stored: &[(u64, u8)]) -> Result<()> {
        if stored.len() > self.most as usize {
            return Err(self.full(0, stored.len()));
        }
        let (mut by_label, mut free) = (self.by_label.write(), self.free.lock());
        for (slot, &(label, state)) in (1..).zip(stored) {
            let state =
                SlotState::from_byte(state).ok_or_else(|| Error::corrupt(format!("slot {slot} has state {state}")))?;
            self.labels.row(slot)[0].store(label, Ordering::Release);
            self.set_state(slot, state);
            match state {
                SlotState::Free => free.push(slot),
                SlotState::Live => {
                    if by_label.insert(label, slot).is_some() {
                        return Err(Error::corrupt(format!("label {label} is there twice")));
                    }
                }
                // A snapshot is taken while none is pending or leaving.
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
            "a graph of {} holds {} vectors: {taken} are in use, {} of them deleted and not consolidated, so {more} more do \
             not fit",
            ByteSize(self.capacity_bytes),
            self.most,
            self.deleted()
        ))
    }

    /// Bytes of the map and the free list.
    pub(crate) fn map_bytes(&self) -> usize {
        let (map, again) = (self.by_label.read().capacity(), self.free.lock().capacity());
        map * 8 / 7 * 17 + again * size_of::<u32>()
    }
}

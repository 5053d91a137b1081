//! The graph: its parts and their locks; each kind of operation has a file of its own.
//!
//! This part does not know where labels and vectors come from.

mod consolidate;
mod insert;
pub(crate) mod search;
pub(crate) mod selection;
mod snapshot;

use std::sync::atomic::AtomicUsize;

use cenote_base::sync::{Mutex, RwLock};
use cenote_base::{ByteSize, Error, Result};

use crate::links::Links;
use crate::options::GraphOptions;
use crate::slots::{Relabelling, Slots};
use crate::values::VectorValues;
use crate::vectors::{Probe, SlotVectors};
use crate::walk::WalkPool;

/// Labelled vectors, linked to their neighbours: see the crate's documentation.
///
/// Every method may be called from any number of threads at once. Locks are taken in the order of the fields here. A
/// search holds only that of the vectors, shared: it waits only while slots change hands and while the scale of codes
/// is learnt.
pub struct Graph {
    options: GraphOptions,
    /// Held while deleted vectors are removed.
    upkeep: Mutex<()>,
    /// Held shared by changes of the graph, exclusively by a snapshot.
    writers: RwLock<()>,
    /// Held shared by whatever follows links, exclusively for changes that no walk may see half done.
    vectors: RwLock<SlotVectors>,
    slots: Slots,
    links: Links,
    walks: WalkPool,
    /// Slots in use when the scale of codes was last learnt.
    trained: AtomicUsize,
    /// Numbers out of the range of codes that were inserted since.
    clamped: AtomicUsize,
}

impl Graph {
    /// Creates an empty graph. Errors: `InvalidInput` for options out of range, `ResourceExhausted` if not one vector
    /// fits.
    pub fn new(options: GraphOptions) -> Result<Self> {
        options.check()?;
        let slots_max = (options.capacity_bytes / Self::slot_bytes(&options) as u64).min((1 << 31) - 2) as u32;
        if slots_max == 0 {
            return Err(Error::resource_exhausted(format!(
                "a vector of dimension {} and its links take {}: {} hold none",
                options.dimension,
                ByteSize(Self::slot_bytes(&options) as u64),
                ByteSize(options.capacity_bytes)
            )));
        }
        let rows = slots_max as usize + 1;
        Ok(Self {
            upkeep: Mutex::default(),
            writers: RwLock::default(),
            vectors: RwLock::new(SlotVectors::new(&options, rows)?),
            slots: Slots::new(slots_max, options.capacity_bytes)?,
            links: Links::new(&options, rows)?,
            walks: WalkPool::default(),
            trained: AtomicUsize::new(0),
            clamped: AtomicUsize::new(0),
            options,
        })
    }

    /// Estimates the bytes that a graph of `count` vectors needs, as a capacity to request.
    pub fn bytes_for(options: &GraphOptions, count: usize) -> u64 {
        // About every seventeenth node has links in upper layers too, and a map leads from labels to slots.
        (count as u64 + 1).saturating_mul(Self::slot_bytes(options) as u64 + 64)
    }

    /// Returns the bytes of a slot.
    fn slot_bytes(options: &GraphOptions) -> usize {
        SlotVectors::slot_bytes(options) + Links::slot_bytes(options) + Slots::SLOT_BYTES
    }

    /// Returns the options of the graph.
    pub fn options(&self) -> &GraphOptions {
        &self.options
    }

    /// Returns the number of labels that a search can find.
    pub fn len(&self) -> usize {
        self.slots.live()
    }

    /// Returns whether the graph has no label that a search can find.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the number of deleted vectors that occupy memory until [`Self::consolidate`].
    pub fn deleted(&self) -> usize {
        self.slots.deleted() as usize
    }

    /// Returns whether a search can find `label`.
    pub fn contains(&self, label: u64) -> bool {
        self.slots.by_label().read().contains_key(&label)
    }

    /// Returns whether the vector of `label` is exactly this one, which has the graph's dimension.
    pub fn holds<'a>(&self, label: u64, vector: impl Into<VectorValues<'a>>) -> bool {
        let vectors = self.vectors.read();
        let slot = self.slots.by_label().read().get(&label).copied();
        match (slot, vectors.exact(vector.into())) {
            (None, _) => false,
            (Some(slot), Probe::Floats(floats)) => {
                vectors.values(slot) == VectorValues::Floats(&floats[..self.options.dimension])
            }
            (Some(slot), Probe::Bits(bits)) => {
                vectors.values(slot) == VectorValues::Bits(&bits[..VectorValues::width(&self.options)])
            }
            (Some(_), _) => false,
        }
    }

    /// Returns the labels that a search can find, in no particular order.
    pub fn labels(&self) -> Vec<u64> {
        self.slots.by_label().read().keys().copied().collect()
    }

    /// Deletes `label`, and returns whether it was there. No search that begins afterwards finds it; its memory is free
    /// again after [`Self::consolidate`].
    pub fn delete(&self, label: u64) -> bool {
        let _writing = self.writers.read();
        self.slots.delete(label)
    }

    /// Moves vectors from label to label, as if the new label had been inserted with the vector and the old one
    /// deleted, but without a new link. Returns the number of old labels that were there. A search sees all moves or
    /// none.
    pub fn relabel(&self, moves: &[Relabelling]) -> usize {
        let _writing = self.writers.read();
        let _unseen = self.vectors.write();
        self.slots.relabel(moves)
    }

    /// Returns the bytes in use: vectors, links, labels, and memory that searches keep for the next ones.
    pub fn memory_bytes(&self) -> u64 {
        let slot = SlotVectors::slot_bytes(&self.options) + self.links.base_bytes() + 9;
        let slots = (self.slots.used() as usize + 1) * slot;
        (slots + self.links.upper_bytes() + self.slots.map_bytes() + self.walks.bytes()) as u64
    }

    fn check(&self, values: VectorValues<'_>, count: usize) -> Result<()> {
        values.check(&self.options, count)
    }
}

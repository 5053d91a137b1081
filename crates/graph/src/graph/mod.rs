//! The graph: its parts, and how they are locked.

mod consolidate;
mod insert;
pub(crate) mod search;
pub(crate) mod selection;
mod snapshot;

use std::sync::atomic::AtomicUsize;

use cenote_base::sync::{Mutex, RwLock};
use cenote_base::{ByteSize, Error, Result};

use crate::links::Links;
use crate::options::Options;
use crate::slots::Slots;
use crate::values::Values;
use crate::vectors::{Probe, Vectors};
use crate::walk::WalkPool;

/// Vectors with labels, linked to their neighbours: see the crate's documentation.
///
/// Every method may be called from any number of threads at once. Locks are taken in the order of the fields here, and
/// searches take none but that of the vectors, shared: they wait only for the moments in which slots change hands and the
/// scale of codes is learnt anew.
pub struct Graph {
    pub(crate) options: Options,
    /// Held while deleted vectors are taken out.
    pub(crate) upkeep: Mutex<()>,
    /// Shared by whatever changes the graph; exclusive for a snapshot.
    pub(crate) writers: RwLock<()>,
    /// Shared by whatever follows links; exclusive for what no walk may see half done.
    pub(crate) vectors: RwLock<Vectors>,
    pub(crate) slots: Slots,
    pub(crate) links: Links,
    pub(crate) walks: WalkPool,
    /// Slots in use when the scale of codes was learnt last.
    pub(crate) trained: AtomicUsize,
    /// Numbers out of the range of codes that came since.
    pub(crate) clamped: AtomicUsize,
}

impl Graph {
    /// An empty graph. Errors: `InvalidInput` for options out of range, `ResourceExhausted` if not one vector fits.
    pub fn new(options: Options) -> Result<Self> {
        options.check()?;
        let most = (options.capacity_bytes / Self::slot_bytes(&options) as u64).min((1 << 31) - 2) as u32;
        if most == 0 {
            return Err(Error::resource_exhausted(format!(
                "a vector of dimension {} and its links take {}: {} hold none",
                options.dimension,
                ByteSize(Self::slot_bytes(&options) as u64),
                ByteSize(options.capacity_bytes)
            )));
        }
        let rows = most as usize + 1;
        Ok(Self {
            upkeep: Mutex::default(),
            writers: RwLock::default(),
            vectors: RwLock::new(Vectors::new(&options, rows)?),
            slots: Slots::new(most, options.capacity_bytes)?,
            links: Links::new(&options, rows)?,
            walks: WalkPool::default(),
            trained: AtomicUsize::new(0),
            clamped: AtomicUsize::new(0),
            options,
        })
    }

    /// About how many bytes a graph of `count` vectors takes: what to ask for as a capacity.
    pub fn bytes_for(options: &Options, count: usize) -> u64 {
        // Every seventeenth or so node has links in upper layers too, and a map leads from labels to slots.
        (count as u64 + 1).saturating_mul(Self::slot_bytes(options) as u64 + 64)
    }

    fn slot_bytes(options: &Options) -> usize {
        Vectors::slot_bytes(options) + Links::slot_bytes(options) + Slots::SLOT_BYTES
    }

    /// What it was asked to be.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Labels that a search can find.
    pub fn len(&self) -> usize {
        self.slots.live()
    }

    /// Whether no search can find anything.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Deleted vectors that still take room, until [`Self::consolidate`].
    pub fn deleted(&self) -> usize {
        self.slots.deleted() as usize
    }

    /// Whether a search can find `label`.
    pub fn contains(&self, label: u64) -> bool {
        self.slots.by_label().read().contains_key(&label)
    }

    /// Whether a search finds `label` by just this vector, which fits the graph's dimension.
    pub fn holds<'a>(&self, label: u64, vector: impl Into<Values<'a>>) -> bool {
        let vectors = self.vectors.read();
        let slot = self.slots.by_label().read().get(&label).copied();
        match (slot, vectors.exact(vector.into())) {
            (None, _) => false,
            (Some(slot), Probe::Floats(floats)) => {
                vectors.values(slot) == Values::Floats(&floats[..self.options.dimension])
            }
            (Some(slot), Probe::Bits(bits)) => {
                vectors.values(slot) == Values::Bits(&bits[..Values::width(&self.options)])
            }
            (Some(_), _) => false,
        }
    }

    /// The labels that a search can find, in no promised order.
    pub fn labels(&self) -> Vec<u64> {
        self.slots.by_label().read().keys().copied().collect()
    }

    /// Deletes `label`, and says whether it was there. No search that begins afterwards finds it; its room is free again
    /// after [`Self::consolidate`].
    pub fn delete(&self, label: u64) -> bool {
        let _writing = self.writers.read();
        self.slots.delete(label)
    }

    /// Gives the vector of each first label to the second, as if that had been inserted with it and the first deleted, but at no
    /// cost; how many first labels were there. A search sees all of it or nothing.
    pub fn relabel(&self, labels: &[(u64, u64)]) -> usize {
        let _writing = self.writers.read();
        let _unseen = self.vectors.write();
        self.slots.relabel(labels)
    }

    /// Bytes in use: vectors, links, labels, and what searches keep for the next ones.
    pub fn memory_bytes(&self) -> u64 {
        let slot = Vectors::slot_bytes(&self.options) + self.links.base_bytes() + 9;
        let slots = (self.slots.used() as usize + 1) * slot;
        (slots + self.links.upper_bytes() + self.slots.map_bytes() + self.walks.bytes()) as u64
    }

    pub(crate) fn check(&self, values: Values<'_>, count: usize) -> Result<()> {
        values.check(&self.options, count)
    }
}

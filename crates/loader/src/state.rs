//! Where a loader stands: enough for another one, of another shape, to go on exactly there.

use cenote_base::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::order::Shuffle;
use crate::order::buckets::Buckets;
use crate::shard::Shard;

/// The form of a state; counted up when it changes.
pub(crate) const FORMAT: u32 = 1;

/// What a source of samples was.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SourceState {
    /// Its table.
    pub table: String,
    /// Which table of that name: see [`Snapshot::identity`](cenote_store::Snapshot::identity). `None` in states of old.
    #[serde(default)]
    pub identity: Option<u64>,
    /// The table's version.
    pub version: u64,
    /// Its filter.
    pub filter: Option<String>,
    /// Rows that the filter left.
    pub rows: u64,
    /// Its weight in the mixture.
    pub weight: Option<f64>,
}

/// Where a loader stands. Plain data; JSON keeps it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LoaderState {
    /// The form of this state.
    pub format: u32,
    /// Which epoch.
    pub epoch: u64,
    /// Whether the epoch has not begun, so that a loader that follows its tables reads their newest versions in it.
    #[serde(default)]
    pub unread: bool,
    /// Samples of the epoch that all ranks had taken when this loader began to count its steps.
    pub consumed: u64,
    /// Batches that this worker gave since.
    pub batches: u64,
    /// The shape it gave them in: rows a batch, ranks, workers of the rank, and which worker.
    pub batch_rows: u64,
    /// See `batch_rows`.
    pub world_size: u64,
    /// See `batch_rows`.
    pub workers: u64,
    /// See `batch_rows`.
    pub worker: u64,
    /// The order.
    pub shuffle: Option<Shuffle>,
    /// What of it is by length.
    #[serde(default)]
    pub buckets: Option<Buckets>,
    /// Samples of an epoch, where weights divide it.
    pub epoch_rows: u64,
    /// What the samples are of.
    pub sources: Vec<SourceState>,
}

impl LoaderState {
    /// Samples of the epoch that all ranks have taken, when all stand where this one does.
    ///
    /// # Errors
    /// `InvalidInput` for the state of one worker among several: see [`merge`].
    pub(crate) fn taken(&self) -> Result<u64> {
        if self.workers > 1 {
            return Err(Error::invalid_input(format!(
                "this is the state of worker {} of {}: resume with as many workers, or merge the states of all first",
                self.worker, self.workers
            )));
        }
        Ok((self.consumed + self.batches * self.batch_rows * self.world_size).min(self.epoch_rows))
    }

    /// Whether a loader of `shard` can go on from the middle of this worker's own count.
    pub(crate) fn fits(&self, shard: &Shard) -> bool {
        let own = (self.batch_rows, self.world_size, self.workers, self.worker);
        own == (shard.batch_rows, shard.world_size, shard.workers, shard.worker)
    }
}

/// The state of a rank from the states of all its workers.
///
/// # Errors
/// `InvalidInput` when they are not those of all workers of one rank in one epoch.
pub fn merge(states: &[LoaderState]) -> Result<LoaderState> {
    let Some(first) = states.first() else { return Err(Error::invalid_input("there are no states to merge")) };
    let mut workers: Vec<u64> = states.iter().map(|state| state.worker).collect();
    workers.sort_unstable();
    let same =
        |state: &LoaderState| *state == LoaderState { worker: state.worker, batches: state.batches, ..first.clone() };
    if !workers.iter().copied().eq(0..first.workers) || !states.iter().all(same) {
        return Err(Error::invalid_input(format!(
            "these are not the states of all {} workers of one rank in one epoch: found those of workers {workers:?}",
            first.workers
        )));
    }
    // Workers give the rank's batches in turn, so none is more than one ahead of another, the first ones first.
    let mut by_worker: Vec<&LoaderState> = states.iter().collect();
    by_worker.sort_by_key(|state| state.worker);
    let batches: u64 = states.iter().map(|state| state.batches).sum();
    let expected = |worker: u64| batches / first.workers + u64::from(worker < batches % first.workers);
    if let Some(odd) = by_worker.iter().find(|state| state.batches != expected(state.worker)) {
        return Err(Error::invalid_input(format!(
            "worker {} gave {} batches where the others say {}: these states are not of one moment",
            odd.worker,
            odd.batches,
            expected(odd.worker)
        )));
    }
    Ok(LoaderState { batches, worker: 0, workers: 1, ..first.clone() })
}

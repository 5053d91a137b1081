//! The position of a loader, from which a loader of another shape can resume exactly.

use cenote_base::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::order::Shuffle;
use crate::order::buckets::Buckets;
use crate::shard::Shard;

/// The version of the format of a state, incremented when it changes.
pub(crate) const FORMAT: u32 = 1;

/// A source of samples, as a state records it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SourceState {
    /// The name of its table.
    pub table: String,
    /// The table among those of that name: see [`Snapshot::identity`](cenote_store::Snapshot::identity). `None` in old
    /// states.
    #[serde(default)]
    pub identity: Option<u64>,
    /// The version of the table.
    pub version: u64,
    /// The filter.
    pub filter: Option<String>,
    /// Rows that satisfy the filter.
    pub rows: u64,
    /// The weight in the mixture.
    pub weight: Option<f64>,
}

/// The position of a loader, as plain data that serialises to JSON.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LoaderState {
    /// The version of the format.
    pub format: u32,
    /// The epoch.
    pub epoch: u64,
    /// Whether the epoch has not begun, so that a loader that follows its tables will read their newest versions.
    #[serde(default)]
    pub unread: bool,
    /// Samples of the epoch that all ranks had taken when this loader began to count its batches.
    pub consumed: u64,
    /// Batches that this worker has given since.
    pub batches: u64,
    /// Rows in a batch.
    pub batch_rows: u64,
    /// The number of ranks.
    pub world_size: u64,
    /// The number of workers of the rank.
    pub workers: u64,
    /// The number of this worker.
    pub worker: u64,
    /// The shuffle of the order.
    pub shuffle: Option<Shuffle>,
    /// The grouping by length.
    #[serde(default)]
    pub buckets: Option<Buckets>,
    /// Samples in an epoch.
    pub epoch_rows: u64,
    /// The sources of the samples.
    pub sources: Vec<SourceState>,
}

impl LoaderState {
    /// Checks that the state is of the order of a loader with this seed, these buckets and this number of sources.
    ///
    /// # Errors
    /// `Unsupported` for another format; `InvalidInput` for another seed, other buckets or another number of sources.
    pub(crate) fn check(&self, seed: Option<u64>, buckets: Option<&Buckets>, sources: usize) -> Result<()> {
        if self.format != FORMAT {
            return Err(Error::unsupported(format!(
                "the state has format {}, and this Cenote reads {FORMAT}",
                self.format
            )));
        }
        let other_order = |then: String, now: String| {
            Err(Error::invalid_input(format!("the state is of an order with {then}, and this loader has {now}")))
        };
        let own_seed = self.shuffle.as_ref().map(|shuffle| shuffle.seed);
        if own_seed != seed {
            let name = |seed: Option<u64>| seed.map_or("no shuffle".to_owned(), |seed| format!("seed {seed}"));
            return other_order(name(own_seed), name(seed));
        }
        if self.buckets.as_ref() != buckets {
            let name = |buckets: Option<&Buckets>| match buckets {
                Some(Buckets { column, window_rows, run_rows }) => {
                    format!("buckets by `{column}` in windows of {window_rows} and runs of {run_rows}")
                }
                None => "no buckets".to_owned(),
            };
            return other_order(name(self.buckets.as_ref()), name(buckets));
        }
        if self.sources.len() != sources {
            return Err(Error::invalid_input(format!(
                "the state is of {} sources, and this loader has {sources}",
                self.sources.len()
            )));
        }
        Ok(())
    }

    /// Returns the samples of the epoch that all ranks have taken, if all are at this position.
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
        // A state is text that anybody may have edited.
        let since = self.batches.saturating_mul(self.batch_rows).saturating_mul(self.world_size);
        Ok(self.consumed.saturating_add(since).min(self.epoch_rows))
    }

    /// Returns whether a loader of `shard` has the same shape, so that it can continue the count of this worker.
    pub(crate) fn fits(&self, shard: &Shard) -> bool {
        let shape = (self.batch_rows, self.world_size, self.workers, self.worker);
        shape == (shard.batch_rows, shard.world_size, shard.workers, shard.worker)
    }
}

/// Merges the states of all workers of a rank into the state of the rank.
///
/// # Errors
/// `InvalidInput` if they are not the states of all workers of one rank at one moment.
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
    // Workers give the batches of the rank in turn, so each is at most one ahead of another, in the order of their
    // numbers.
    let mut by_worker: Vec<&LoaderState> = states.iter().collect();
    by_worker.sort_by_key(|state| state.worker);
    let batches: u64 = states.iter().map(|state| state.batches).sum();
    let expected = |worker: u64| batches / first.workers + u64::from(worker < batches % first.workers);
    if let Some(odd) = by_worker.iter().find(|state| state.batches != expected(state.worker)) {
        return Err(Error::invalid_input(format!(
            "worker {} gave {} batches, and the others imply {}: these states are not of one moment",
            odd.worker,
            odd.batches,
            expected(odd.worker)
        )));
    }
    Ok(LoaderState { batches, worker: 0, workers: 1, ..first.clone() })
}

//! The loader: a cursor over the batches of epochs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cenote_base::sync::Mutex;
use cenote_base::{Error, Result};
use cenote_store::{BlockCacheUsage, Version};
use tokio::runtime::Handle;

use crate::batch::columns::{chains, columns, is_nullable, packings};
use crate::batch::maker::{BatchMaker, DecodeScratch};
use crate::batch::packing::Packing;
use crate::batch::tensor_pool::TensorPools;
use crate::batch::transform::{Transform, TransformChain};
use crate::batch::{Batch, BatchPlan};
use crate::options::LoaderOptions;
use crate::order::mixture::Mixture;
use crate::order::sample::Sample;
use crate::order::{Order, Shuffle};
use crate::pipeline::{EpochPlan, Next, Offer, Pipeline, Stats};
use crate::shard::Shard;
use crate::sources::selection::{SampleSource, SourceSelection};
use crate::sources::{mixture, read_all, row_bytes, selection_of};
use crate::state::{FORMAT, LoaderState, SourceState};

/// Gives the batches of one epoch after the other. A loader is a cursor: every caller gets the next batch, and an epoch
/// that was left in its middle continues there. It can be shared between threads.
pub struct Loader {
    sources: Vec<SampleSource>,
    options: LoaderOptions,
    columns: Vec<String>,
    chains: Vec<(String, TransformChain)>,
    packings: Vec<(String, Packing)>,
    shard: Shard,
    weights: Option<Vec<f64>>,
    handle: Handle,
    pools: TensorPools,
    cursor: Mutex<Cursor>,
}

/// A position in the sequence of epochs.
#[derive(Clone, Copy, PartialEq, Eq)]
struct EpochPosition {
    epoch: u64,
    /// Samples of the epoch that all ranks had taken when the loader began to count its batches.
    consumed: u64,
    /// Batches given since.
    batches: u64,
}

impl EpochPosition {
    fn start_of(epoch: u64) -> Self {
        Self { epoch, consumed: 0, batches: 0 }
    }
}

/// The loader's place in the epochs, and the order and the pipeline that serve it.
struct Cursor {
    selections: Arc<Vec<SourceSelection>>,
    mixture: Mixture,
    shuffle: Option<Shuffle>,
    position: EpochPosition,
    /// The number of epochs that ended here: a reader of one epoch does not run into the next.
    iteration: u64,
    /// Whether all batches of the epoch were given, although no caller has seen its end yet.
    finished: bool,
    /// Whether the sources must be read again before the next batch.
    unread: bool,
    pipeline: Option<Arc<Pipeline>>,
    /// The statistics of former pipelines.
    stats: Stats,
}

impl std::fmt::Debug for Loader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loader").field("columns", &self.columns).field("shard", &self.shard).finish_non_exhaustive()
    }
}

impl Loader {
    /// Opens a loader over `sources` at the start of epoch 0, and reads their keys. Its tasks run on the current
    /// runtime.
    ///
    /// # Errors
    /// `InvalidInput` for options out of range or sources without rows; `NotFound` for an unknown column or version.
    pub async fn open(sources: Vec<SampleSource>, options: LoaderOptions) -> Result<Self> {
        Self::open_at(sources, options, None).await
    }

    /// Opens a loader as [`open`](Self::open) does, but with `versions`, one for each source, in place of the newest
    /// ones: the versions on which the ranks of a training agreed.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub async fn open_at(
        sources: Vec<SampleSource>,
        options: LoaderOptions,
        versions: Option<&[Version]>,
    ) -> Result<Self> {
        let shard = options.shard();
        shard.check()?;
        if let Some(buckets) = &options.buckets {
            buckets.check()?;
        }
        let weights: Vec<f64> = sources.iter().filter_map(|source| source.weight).collect();
        if !weights.is_empty() && weights.len() != sources.len() {
            return Err(Error::invalid_input("either all sources of a mixture have a weight, or none"));
        }
        if options.follow && sources.iter().any(|source| source.version.is_some()) {
            return Err(Error::invalid_input("a loader either follows its tables or stays at a version"));
        }
        let weights = (!weights.is_empty()).then_some(weights);
        let selections = read_all(&sources, versions, options.buckets.as_ref()).await?;
        let mixture = mixture(&selections, weights.as_deref(), options.epoch_rows)?;
        let columns = columns(&selections, options.columns.as_deref())?;
        let (pack, decode): (Vec<_>, Vec<_>) =
            options.transforms.iter().partition(|(_, steps)| matches!(steps[..], [Transform::Pack { .. }]));
        let chains = chains(&selections, &columns, &decode)?;
        let packings = packings(&selections, &columns, &pack)?;
        let window_rows = match options.window {
            None => None,
            Some(window) => Some((window.0 / row_bytes(&selections, &columns).await?.max(1)).max(1)),
        };
        let shuffle = options.shuffle.map(|seed| Shuffle { seed, window_rows });
        let cursor = Cursor {
            selections: Arc::new(selections),
            mixture,
            shuffle,
            position: EpochPosition::start_of(0),
            iteration: 0,
            finished: false,
            unread: false,
            pipeline: None,
            stats: Stats::default(),
        };
        let handle = Handle::current();
        let (pools, cursor) = (TensorPools::default(), Mutex::new(cursor));
        Ok(Self { sources, options, columns, chains, packings, shard, weights, handle, pools, cursor })
    }

    /// Returns the samples in an epoch, over all ranks.
    pub fn epoch_rows(&self) -> u64 {
        self.cursor.lock().mixture.epoch_rows()
    }

    /// Returns the batches that this worker gives in a whole epoch.
    pub fn epoch_batches(&self) -> u64 {
        self.shard.batches(self.epoch_rows(), 0)
    }

    /// Returns the batches left in this epoch.
    pub fn batches_left(&self) -> u64 {
        let cursor = self.cursor.lock();
        let EpochPosition { consumed, batches, .. } = cursor.position;
        self.shard.batches(cursor.mixture.epoch_rows(), consumed).saturating_sub(batches)
    }

    /// Begins the rest of this epoch, or the next epoch if all batches of this one were given. At the start of an
    /// epoch, a loader that follows its tables reads the newest version of each, or the one in `versions`. Returns the
    /// number under which [`next_within`](Self::next_within) gives the batches.
    ///
    /// # Errors
    /// As [`open`](Self::open); the position is unchanged.
    pub async fn begin(&self, versions: Option<&[Version]>) -> Result<u64> {
        {
            let mut cursor = self.cursor.lock();
            if cursor.finished {
                cursor.end_epoch(self.options.follow);
            }
        }
        self.follow(versions).await?;
        Ok(self.cursor.lock().iteration)
    }

    /// Returns whether [`begin`](Self::begin) will read the newest versions, because it begins an epoch of a loader
    /// that follows its tables.
    pub fn reads_anew(&self) -> bool {
        let cursor = self.cursor.lock();
        cursor.unread || (cursor.finished && self.options.follow)
    }

    /// Reads the sources again if the epoch has not begun.
    async fn follow(&self, versions: Option<&[Version]>) -> Result<()> {
        if !self.cursor.lock().unread {
            return Ok(());
        }
        let selections = read_all(&self.sources, versions, self.options.buckets.as_ref()).await?;
        let mixture = mixture(&selections, self.weights.as_deref(), self.options.epoch_rows)?;
        columns(&selections, Some(&self.columns))?;
        let mut cursor = self.cursor.lock();
        if cursor.unread {
            (cursor.selections, cursor.mixture, cursor.unread) = (Arc::new(selections), mixture, false);
        }
        Ok(())
    }

    /// Returns the next batch of `iteration`, a number that [`begin`](Self::begin) returned, if it is ready within
    /// `wait`. Where an epoch follows its sources, its first call reads them, however long that takes, and waits for
    /// the rest of `wait`. The batch counts as given when it is accepted. After [`Next::End`] the iteration gives no
    /// more batches, whatever other threads begin. Must not be called on the threads of the async runtime.
    ///
    /// # Errors
    /// Those of reading, and `InvalidInput` for a row that cannot be decoded (see [`OnError`](crate::OnError)); the
    /// position is unchanged.
    pub fn next_within(&self, iteration: u64, wait: Duration) -> Result<Next> {
        let start = Instant::now();
        if self.cursor.lock().unread {
            self.handle.block_on(self.follow(None))?;
        }
        let Some(pipeline) = self.pipeline(iteration)? else { return Ok(Next::End) };
        let next = pipeline.next_within(start, wait);
        let mut cursor = self.cursor.lock();
        // If another thread has moved the cursor meanwhile, the result does not concern the current position.
        if cursor.pipeline.as_ref().is_some_and(|current| Arc::ptr_eq(current, &pipeline)) {
            match &next {
                Ok(Next::End) => cursor.end_epoch(self.options.follow),
                Err(_) => cursor.stop(),
                _ => {}
            }
        }
        next
    }

    /// Counts the batch as given if it is still the next one. A caller that gets `false` asks again.
    pub fn accept(&self, offer: &Offer) -> bool {
        let mut cursor = self.cursor.lock();
        let current = cursor.pipeline.as_ref().is_some_and(|current| Arc::ptr_eq(current, &offer.pipeline));
        if !current || !offer.pipeline.take(offer.number) {
            return false;
        }
        cursor.position.batches += 1;
        cursor.finished = offer.pipeline.is_over();
        true
    }

    /// Returns the next batch of this epoch; `None` at its end, after which the next call begins the next epoch. Only
    /// for a single thread: several could run into the next epoch.
    ///
    /// # Errors
    /// As [`next_within`](Self::next_within).
    pub fn next_batch(&self) -> Result<Option<Batch>> {
        let iteration = self.cursor.lock().iteration;
        loop {
            match self.next_within(iteration, Duration::from_secs(60))? {
                Next::Batch(offer) if self.accept(&offer) => return Ok(Some(offer.batch)),
                Next::End => return Ok(None),
                Next::Batch(_) | Next::NotYet => {}
            }
        }
    }

    fn maker(&self, sources: &Arc<Vec<SourceSelection>>, epoch: u64) -> BatchMaker {
        BatchMaker {
            sources: Arc::clone(sources),
            columns: self.columns.clone(),
            nullable: self.columns.iter().map(|name| is_nullable(sources, name)).collect(),
            chains: self.chains.clone(),
            packings: self.packings.clone(),
            on_error: self.options.on_error,
            seed: self.options.shuffle.unwrap_or(0),
            epoch,
            pools: self.pools.clone(),
        }
    }

    /// Returns the pipeline of `iteration`; `None` if that is over.
    fn pipeline(&self, iteration: u64) -> Result<Option<Arc<Pipeline>>> {
        let mut cursor = self.cursor.lock();
        if cursor.iteration != iteration {
            return Ok(None);
        }
        if let Some(pipeline) = &cursor.pipeline {
            return Ok(Some(Arc::clone(pipeline)));
        }
        let EpochPosition { epoch, consumed, batches } = cursor.position;
        let maker = self.maker(&cursor.selections, epoch);
        let mut order = Order::new(&cursor.mixture, cursor.shuffle.as_ref(), epoch);
        if let Some(buckets) = &self.options.buckets {
            let lengths = cursor.selections.iter().map(|selection| Arc::clone(selection.lengths())).collect();
            order = order.by_length(buckets, lengths);
        }
        let plan = EpochPlan { maker, order, shard: self.shard, consumed, given: batches };
        let threads = match self.options.threads {
            // Workers share the cores.
            0 => (std::thread::available_parallelism().map_or(1, usize::from) / self.options.workers).max(1),
            threads => threads,
        };
        let pipeline = Pipeline::start(plan, threads, self.options.prefetch_bytes_max.0, &self.handle)?;
        Ok(Some(Arc::clone(cursor.pipeline.insert(Arc::new(pipeline)))))
    }

    /// Goes to the start of `epoch`. A loader that follows its tables will read them again, unless it is there already.
    pub fn set_epoch(&self, epoch: u64) {
        let mut cursor = self.cursor.lock();
        let start = EpochPosition::start_of(epoch);
        let unread = self.options.follow && (cursor.unread || cursor.position != start);
        cursor.move_to(start, unread);
    }

    /// Returns the epoch of the next batch.
    pub fn epoch(&self) -> u64 {
        self.cursor.lock().position.epoch
    }

    /// Returns the position of the loader. Batches that are ready but were not given do not count.
    pub fn state(&self) -> LoaderState {
        let cursor = self.cursor.lock();
        let source = |(source, selection): (&SampleSource, &SourceSelection)| SourceState {
            table: source.table.name().to_owned(),
            identity: Some(selection.snapshot().identity()),
            version: selection.snapshot().version().0,
            filter: source.filter.clone(),
            rows: selection.rows(),
            weight: source.weight,
        };
        LoaderState {
            format: FORMAT,
            epoch: cursor.position.epoch,
            unread: cursor.unread,
            consumed: cursor.position.consumed,
            batches: cursor.position.batches,
            batch_rows: self.shard.batch_rows,
            world_size: self.shard.world_size,
            workers: self.shard.workers,
            worker: self.shard.worker,
            shuffle: cursor.shuffle.clone(),
            buckets: self.options.buckets.clone(),
            epoch_rows: cursor.mixture.epoch_rows(),
            sources: self.sources.iter().zip(cursor.selections.iter()).map(source).collect(),
        }
    }

    /// Goes to the position in `state`: every sample that was not taken there comes once, whatever the batches, ranks
    /// and workers of this loader are. A source without a given version goes back to the version in the state; in a
    /// loader that follows its tables, until the epoch is over.
    ///
    /// # Errors
    /// `InvalidInput` for a state of other tables, filters, weights, versions or another seed, or of one worker among
    /// several; `NotFound` if its version was collected; `Unsupported` for another format.
    pub async fn restore(&self, state: &LoaderState) -> Result<()> {
        state.check(self.options.shuffle, self.options.buckets.as_ref(), self.sources.len())?;
        if state.unread && self.options.follow {
            self.cursor.lock().move_to(EpochPosition::start_of(state.epoch), true);
            return Ok(());
        }
        let held = Arc::clone(&self.cursor.lock().selections);
        let mut selections = Vec::new();
        for ((source, then), now) in self.sources.iter().zip(&state.sources).zip(held.iter()) {
            selections.push(selection_of(source, then, now, self.options.buckets.as_ref()).await?);
        }
        let mixture = mixture(&selections, self.weights.as_deref(), self.options.epoch_rows)?;
        if mixture.epoch_rows() != state.epoch_rows {
            return Err(Error::invalid_input(format!(
                "the state is of epochs of {} samples, and this loader's have {}",
                state.epoch_rows,
                mixture.epoch_rows()
            )));
        }
        let (consumed, batches) = match state.fits(&self.shard) {
            true => (state.consumed, state.batches),
            false => (state.taken()?, 0),
        };
        let mut cursor = self.cursor.lock();
        cursor.selections = Arc::new(selections);
        cursor.mixture = mixture;
        cursor.shuffle = state.shuffle.clone();
        cursor.move_to(EpochPosition { epoch: state.epoch, consumed, batches }, false);
        Ok(())
    }

    /// Returns the rows with these numbers, counted in the order of sources and keys, as a batch of their own; chance
    /// in transforms is that of the current epoch. For callers that choose rows themselves.
    ///
    /// # Errors
    /// `InvalidInput` for a number beyond the rows.
    pub async fn take(&self, rows: &[u64]) -> Result<Batch> {
        let (sources, epoch) = {
            let cursor = self.cursor.lock();
            (Arc::clone(&cursor.selections), cursor.position.epoch)
        };
        let sample = |wanted: &u64| {
            let mut row = *wanted;
            for (source, selection) in sources.iter().enumerate() {
                match row.checked_sub(selection.rows()) {
                    None => return Ok(Sample { source, row, pass: 0 }),
                    Some(rest) => row = rest,
                }
            }
            let rows: u64 = sources.iter().map(SourceSelection::rows).sum();
            Err(Error::invalid_input(format!("there is no row {wanted}: the {rows} rows are numbered from 0")))
        };
        let samples = rows.iter().map(sample).collect::<Result<Vec<_>>>()?;
        let plan = BatchPlan { step: 0, samples, repeated: 0 };
        let maker = self.maker(&sources, epoch);
        let handle = Handle::current();
        // Decoding would block the threads of the runtime.
        let made = tokio::task::spawn_blocking(move || {
            handle.block_on(async {
                let rows = maker.read(&plan.samples).await?;
                maker.finish(&rows, &plan, &mut DecodeScratch::default()).await
            })
        });
        made.await.map_err(|source| Error::internal("make a batch").with_source(source))?
    }

    /// Returns the rows of all sources.
    pub fn rows(&self) -> u64 {
        self.cursor.lock().selections.iter().map(SourceSelection::rows).sum()
    }

    /// Returns the usage of the local block cache of the first table's store; `None` if the store is local.
    pub fn cache(&self) -> Option<BlockCacheUsage> {
        self.sources.first().and_then(|source| source.table.block_cache())
    }

    /// Returns the costs of all batches given so far.
    pub fn stats(&self) -> Stats {
        let cursor = self.cursor.lock();
        cursor.pipeline.as_ref().map_or(cursor.stats, |pipeline| cursor.stats.plus(pipeline.stats()))
    }
}

impl Cursor {
    /// Stops the pipeline and keeps its statistics.
    fn stop(&mut self) {
        if let Some(pipeline) = self.pipeline.take() {
            self.stats = Stats { ready_bytes: 0, ..self.stats.plus(pipeline.stats()) };
        }
    }

    /// Moves to `position`; `unread` says whether the sources must be read again there.
    fn move_to(&mut self, position: EpochPosition, unread: bool) {
        self.stop();
        self.position = position;
        (self.finished, self.unread) = (false, unread);
    }

    /// Moves to the start of the next epoch.
    fn end_epoch(&mut self, unread: bool) {
        self.iteration += 1;
        self.move_to(EpochPosition::start_of(self.position.epoch.saturating_add(1)), unread);
    }
}

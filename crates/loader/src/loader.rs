//! The loader: a cursor over epochs of samples.

use std::sync::Arc;
use std::time::Duration;

use cenote_base::sync::Mutex;
use cenote_base::{ByteSize, Error, Result};
use cenote_store::{BlockCacheUsage, Version};
use tokio::runtime::Handle;

use crate::batch::columns::{chains, columns, is_nullable, packings};
use crate::batch::maker::{Maker, Scratch};
use crate::batch::memory::Spares;
use crate::batch::packing::Packing;
use crate::batch::transform::{Chain, Transform};
use crate::batch::{Batch, OnError};
use crate::order::buckets::Buckets;
use crate::order::mixture::Mixture;
use crate::order::sample::Sample;
use crate::order::{Order, Shuffle};
use crate::pipeline::{Next, Offer, Pipeline, Plan, Stats};
use crate::shard::{Shard, Tail};
use crate::sources::selection::{Selection, Source};
use crate::sources::{mixture, read_all, row_bytes, selection_of};
use crate::state::{FORMAT, LoaderState, SourceState};

/// How a loader works.
#[derive(Debug, Clone)]
pub struct LoaderOptions {
    /// Columns of the batches, in order; `None`: all visible ones.
    pub columns: Option<Vec<String>>,
    /// Rows a batch.
    pub batch_rows: usize,
    /// Seed of the order, and of chance in transforms. `None`: rows come in the order of their keys.
    pub shuffle: Option<u64>,
    /// Bytes of rows within which the order mixes; `None`: all. See [`Shuffle::window_rows`].
    pub window: Option<ByteSize>,
    /// Puts samples of about one length next to each other.
    pub buckets: Option<Buckets>,
    /// This process among those that train together, and how many those are.
    pub rank: usize,
    /// See `rank`.
    pub world_size: usize,
    /// This worker among the rank's, and how many those are. Threads need no workers: they are for a host that has them
    /// anyway.
    pub worker: usize,
    /// See `worker`.
    pub workers: usize,
    /// The end of an epoch.
    pub tail: Tail,
    /// What is done to media columns.
    pub transforms: Vec<(String, Vec<Transform>)>,
    /// Samples an epoch, when sources have weights; `None`: as many as there are rows.
    pub epoch_rows: Option<u64>,
    /// What becomes of a row that cannot be decoded.
    pub on_error: OnError,
    /// Bytes of batches that are ready or being made; one batch may hold more.
    pub prefetch_bytes_max: ByteSize,
    /// Threads that make batches; 0: this worker's share of the cores. Each reads the next batch while it decodes one.
    pub threads: usize,
    /// Whether each epoch reads the newest version, rather than all the one that the first began with.
    pub follow: bool,
}

impl Default for LoaderOptions {
    fn default() -> Self {
        Self {
            columns: None,
            batch_rows: 64,
            shuffle: None,
            window: None,
            buckets: None,
            rank: 0,
            world_size: 1,
            worker: 0,
            workers: 1,
            tail: Tail::default(),
            transforms: Vec::new(),
            epoch_rows: None,
            on_error: OnError::default(),
            prefetch_bytes_max: ByteSize::mib(256),
            threads: 0,
            follow: false,
        }
    }
}

/// Gives batches of one epoch after the other. It is a cursor: whoever asks gets what comes next, and an epoch that was
/// left in its middle goes on there. Safe to share between threads.
pub struct Loader {
    sources: Vec<Source>,
    options: LoaderOptions,
    columns: Vec<String>,
    chains: Vec<(String, Chain)>,
    packings: Vec<(String, Packing)>,
    shard: Shard,
    weights: Option<Vec<f64>>,
    handle: Handle,
    spare: Spares,
    cursor: Mutex<Cursor>,
}

/// Where the loader stands.
struct Cursor {
    selections: Arc<Vec<Selection>>,
    mixture: Mixture,
    shuffle: Option<Shuffle>,
    epoch: u64,
    consumed: u64,
    batches: u64,
    /// Counts epochs that came to their end here, so that who reads one does not run into the next.
    iteration: u64,
    /// Whether all batches of the epoch were given; its end was not seen yet.
    finished: bool,
    /// Whether the sources are to be read anew before the next batch.
    unread: bool,
    pipeline: Option<Arc<Pipeline>>,
    /// Of pipelines that are gone.
    stats: Stats,
}

impl std::fmt::Debug for Loader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loader").field("columns", &self.columns).field("shard", &self.shard).finish_non_exhaustive()
    }
}

impl Loader {
    /// A loader over `sources`, at the start of epoch 0. Reads their keys. Its threads live on the runtime that this is
    /// called on.
    ///
    /// # Errors
    /// `InvalidInput` for options that make no sense or sources without rows; `NotFound` for an unknown column or
    /// version.
    pub async fn open(sources: Vec<Source>, options: LoaderOptions) -> Result<Self> {
        Self::open_at(sources, options, None).await
    }

    /// The same with `versions`, one a source, in the place of the newest ones: what the ranks of a training agreed on.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub async fn open_at(sources: Vec<Source>, options: LoaderOptions, versions: Option<&[Version]>) -> Result<Self> {
        let shard = Shard {
            batch_rows: options.batch_rows as u64,
            rank: options.rank as u64,
            world_size: options.world_size as u64,
            worker: options.worker as u64,
            workers: options.workers as u64,
            tail: options.tail,
        };
        shard.check()?;
        options.buckets.as_ref().map_or(Ok(()), Buckets::check)?;
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
            epoch: 0,
            consumed: 0,
            batches: 0,
            iteration: 0,
            finished: false,
            unread: false,
            pipeline: None,
            stats: Stats::default(),
        };
        let handle = Handle::current();
        let (spare, cursor) = (Spares::default(), Mutex::new(cursor));
        Ok(Self { sources, options, columns, chains, packings, shard, weights, handle, spare, cursor })
    }

    /// Samples an epoch, over all ranks.
    pub fn epoch_rows(&self) -> u64 {
        self.cursor.lock().mixture.epoch_rows()
    }

    /// Batches that this worker gives in a whole epoch.
    pub fn epoch_batches(&self) -> u64 {
        let steps = self.shard.steps(self.epoch_rows(), 0);
        steps.saturating_sub(self.shard.worker).div_ceil(self.shard.workers)
    }

    /// Batches that are left of this epoch.
    pub fn batches_left(&self) -> u64 {
        let cursor = self.cursor.lock();
        let steps = self.shard.steps(cursor.mixture.epoch_rows(), cursor.consumed);
        steps.saturating_sub(self.shard.worker).div_ceil(self.shard.workers).saturating_sub(cursor.batches)
    }

    /// Begins to read what is left of this epoch, or the next epoch where all batches of this one were given. A loader
    /// that follows its tables reads the newest version of each when an epoch begins, or the one in `versions`. What is
    /// read is asked for by the number that this returns.
    ///
    /// # Errors
    /// As [`open`](Self::open); the loader stays where it is.
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

    /// Whether [`begin`](Self::begin) reads the newest versions, because it begins an epoch of a loader that follows
    /// its tables.
    pub fn reads_anew(&self) -> bool {
        let cursor = self.cursor.lock();
        cursor.unread || (cursor.finished && self.options.follow)
    }

    /// Reads the sources anew, if the epoch has not begun.
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

    /// The next batch of what was begun under the number `iteration`, if it is ready within `wait`; it counts when it
    /// is accepted. After its [`Next::End`] that number has no more, whatever other threads begin. Not for the async
    /// runtime's threads.
    ///
    /// # Errors
    /// What reading met, and `InvalidInput` for a row that cannot be decoded (see [`OnError`]); the loader stays where
    /// it is.
    pub fn next_within(&self, iteration: u64, wait: Duration) -> Result<Next> {
        if self.cursor.lock().unread {
            self.handle.block_on(self.follow(None))?;
        }
        let Some(pipeline) = self.pipeline(iteration)? else { return Ok(Next::End) };
        let next = pipeline.next_within(wait);
        let mut cursor = self.cursor.lock();
        // Another thread may have moved the cursor meanwhile: then this is of the past.
        if cursor.pipeline.as_ref().is_some_and(|current| Arc::ptr_eq(current, &pipeline)) {
            match &next {
                Ok(Next::End) => cursor.end_epoch(self.options.follow),
                Err(_) => cursor.stop(),
                _ => {}
            }
        }
        next
    }

    /// Counts the batch as given, if it is still the next one: whoever gets `false` asks again.
    pub fn accept(&self, offer: &Offer) -> bool {
        let mut cursor = self.cursor.lock();
        let current = cursor.pipeline.as_ref().is_some_and(|current| Arc::ptr_eq(current, &offer.pipeline));
        if !current || !offer.pipeline.take(offer.number) {
            return false;
        }
        cursor.batches += 1;
        cursor.finished = offer.pipeline.is_over();
        true
    }

    /// The next batch of this epoch; `None` at its end, after which the next one is the first of the next epoch. For
    /// one thread: others may run into that.
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

    fn maker(&self, sources: &Arc<Vec<Selection>>, epoch: u64) -> Maker {
        Maker {
            sources: Arc::clone(sources),
            columns: self.columns.clone(),
            nullable: self.columns.iter().map(|name| is_nullable(sources, name)).collect(),
            chains: self.chains.clone(),
            packings: self.packings.clone(),
            on_error: self.options.on_error,
            seed: self.options.shuffle.unwrap_or(0),
            epoch,
            spare: self.spare.clone(),
        }
    }

    /// What makes the batches of `iteration`; `None` when that is over.
    fn pipeline(&self, iteration: u64) -> Result<Option<Arc<Pipeline>>> {
        let mut cursor = self.cursor.lock();
        if cursor.iteration != iteration {
            return Ok(None);
        }
        if let Some(pipeline) = &cursor.pipeline {
            return Ok(Some(Arc::clone(pipeline)));
        }
        let maker = self.maker(&cursor.selections, cursor.epoch);
        let mut order = Order::new(&cursor.mixture, cursor.shuffle.as_ref(), cursor.epoch);
        if let Some(buckets) = &self.options.buckets {
            let lengths = cursor.selections.iter().map(|selection| Arc::clone(&selection.lengths)).collect();
            order = order.by_length(buckets, lengths);
        }
        let plan = Plan { maker, order, shard: self.shard, consumed: cursor.consumed, given: cursor.batches };
        let threads = match self.options.threads {
            // Workers share the cores.
            0 => (std::thread::available_parallelism().map_or(1, usize::from) / self.options.workers).max(1),
            threads => threads,
        };
        let pipeline = Pipeline::start(plan, threads, self.options.prefetch_bytes_max.0, &self.handle)?;
        Ok(Some(Arc::clone(cursor.pipeline.insert(Arc::new(pipeline)))))
    }

    /// Goes to the start of `epoch`, which is a new one for a loader that follows its tables, unless it stands there
    /// already.
    pub fn set_epoch(&self, epoch: u64) {
        let mut cursor = self.cursor.lock();
        let there = (cursor.epoch, cursor.consumed, cursor.batches) == (epoch, 0, 0);
        let unread = self.options.follow && (cursor.unread || !there);
        cursor.move_to(epoch, 0, 0, unread);
    }

    /// Which epoch the next batch is of.
    pub fn epoch(&self) -> u64 {
        self.cursor.lock().epoch
    }

    /// Where the loader stands. Batches that are ready and were not asked for do not count.
    pub fn state(&self) -> LoaderState {
        let cursor = self.cursor.lock();
        let source = |(source, selection): (&Source, &Selection)| SourceState {
            table: source.table.name().to_owned(),
            identity: Some(selection.snapshot.identity()),
            version: selection.snapshot.version().0,
            filter: source.filter.clone(),
            rows: selection.row_ids.len() as u64,
            weight: source.weight,
        };
        LoaderState {
            format: FORMAT,
            epoch: cursor.epoch,
            unread: cursor.unread,
            consumed: cursor.consumed,
            batches: cursor.batches,
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

    /// Goes to where `state` says: the samples that were not taken there come, each once, whatever this loader's
    /// batches, ranks and workers are. A source that is not held at a version goes back to that of the state; a loader
    /// that follows its tables, until the epoch is over.
    ///
    /// # Errors
    /// `InvalidInput` for a state of other tables, filters, weights, versions or of another seed, or of one worker of
    /// several; `NotFound` when its version was collected.
    pub async fn restore(&self, state: &LoaderState) -> Result<()> {
        if state.format != FORMAT {
            return Err(Error::unsupported(format!(
                "the state has format {}, and this Cenote reads {FORMAT}",
                state.format
            )));
        }
        let seeds = (state.shuffle.as_ref().map(|shuffle| shuffle.seed), self.options.shuffle);
        if seeds.0 != seeds.1 {
            let name = |seed: Option<u64>| seed.map_or("no shuffle".to_owned(), |seed| format!("seed {seed}"));
            return Err(Error::invalid_input(format!(
                "the state is of an order with {}, and this loader has {}",
                name(seeds.0),
                name(seeds.1)
            )));
        }
        if state.buckets != self.options.buckets {
            let name = |buckets: &Option<Buckets>| match buckets {
                Some(Buckets { column, window_rows, run_rows }) => {
                    format!("by the lengths of `{column}` in windows of {window_rows} and runs of {run_rows}")
                }
                None => "by no lengths".to_owned(),
            };
            let (then, now) = (name(&state.buckets), name(&self.options.buckets));
            return Err(Error::invalid_input(format!("the state is of an order {then}, and this loader's is {now}")));
        }
        if state.sources.len() != self.sources.len() {
            return Err(Error::invalid_input(format!(
                "the state is of {} sources, and this loader has {}",
                state.sources.len(),
                self.sources.len()
            )));
        }
        if state.unread && self.options.follow {
            self.cursor.lock().move_to(state.epoch, 0, 0, true);
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
        cursor.move_to(state.epoch, consumed, batches, false);
        Ok(())
    }

    /// The rows with these numbers, in the order of keys and of sources, as a batch of their own; chance in transforms
    /// is that of the epoch at hand. For readers that choose rows themselves.
    ///
    /// # Errors
    /// `InvalidInput` for a number beyond the rows.
    pub async fn take(&self, rows: &[u64]) -> Result<Batch> {
        let (sources, epoch) = {
            let cursor = self.cursor.lock();
            (Arc::clone(&cursor.selections), cursor.epoch)
        };
        let sample = |wanted: &u64| {
            let mut row = *wanted;
            for (source, selection) in sources.iter().enumerate() {
                match row.checked_sub(selection.row_ids.len() as u64) {
                    None => return Ok(Sample { source, row, pass: 0 }),
                    Some(rest) => row = rest,
                }
            }
            Err(Error::invalid_input(format!("there is no row {wanted}: rows count from 0")))
        };
        let samples = rows.iter().map(sample).collect::<Result<Vec<_>>>()?;
        let maker = self.maker(&sources, epoch);
        let handle = Handle::current();
        // Decoding is work for a thread that may be busy.
        let made = tokio::task::spawn_blocking(move || {
            handle.block_on(async {
                let rows = maker.read(&samples).await?;
                maker.finish(&rows, &samples, 0, 0, &mut Scratch::default()).await
            })
        });
        made.await.map_err(|source| Error::internal("make a batch").with_source(source))?
    }

    /// Rows of all sources.
    pub fn rows(&self) -> u64 {
        self.cursor.lock().selections.iter().map(|selection| selection.row_ids.len() as u64).sum()
    }

    /// What of the first table's store is kept on the local disk, and how much was read there; `None` for a store that
    /// is local.
    pub fn cache(&self) -> Option<BlockCacheUsage> {
        self.sources.first().and_then(|source| source.table.block_cache())
    }

    /// What was given so far, and what it cost.
    pub fn stats(&self) -> Stats {
        let cursor = self.cursor.lock();
        cursor.pipeline.as_ref().map_or(cursor.stats, |pipeline| add(cursor.stats, pipeline.stats()))
    }
}

impl Cursor {
    fn stop(&mut self) {
        if let Some(pipeline) = self.pipeline.take() {
            self.stats = Stats { ready_bytes: 0, ..add(self.stats, pipeline.stats()) };
        }
    }

    fn move_to(&mut self, epoch: u64, consumed: u64, batches: u64, unread: bool) {
        self.stop();
        (self.epoch, self.consumed, self.batches) = (epoch, consumed, batches);
        (self.finished, self.unread) = (false, unread);
    }

    fn end_epoch(&mut self, unread: bool) {
        self.iteration += 1;
        self.move_to(self.epoch + 1, 0, 0, unread);
    }
}

fn add(a: Stats, b: Stats) -> Stats {
    Stats {
        batches: a.batches + b.batches,
        rows: a.rows + b.rows,
        errors: a.errors + b.errors,
        bytes: a.bytes + b.bytes,
        wait: a.wait + b.wait,
        read: a.read + b.read,
        decode: a.decode + b.decode,
        ready_bytes: b.ready_bytes,
    }
}

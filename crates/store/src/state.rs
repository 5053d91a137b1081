//! A table in this process: its base and change store as of the newest version known, the log behind them, and the group
//! commit.
//!
//! Lock order: `base_turn` (who changes the base), then `log` (who writes), then `inner` and `queue` (never across `.await`).
//! The first two come with a file lock each, because other processes write too.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use cenote_base::{Error, ErrorKind, Result, Timestamp};
use futures::FutureExt;
use lance::Dataset;
use lance::session::Session;
use parking_lot::Mutex;
use tokio::sync::{OwnedMutexGuard, oneshot};

use crate::base;
use crate::changes::{Changes, Counts};
use crate::fault::lance_error;
use crate::fold::{Direct, Folded, Sealed};
use crate::history::{BaseMark, Checkpoint, History, Note};
use crate::key::PrimaryKey;
use crate::key_index::KeyIndex;
use crate::lease::{self, Lease};
use crate::log::{Frame, Log, Record};
use crate::snapshot::Snapshot;
use crate::store::StoreOptions;
use crate::table::DURABILITY_PROPERTY;
use crate::{Faults, Version, WriteReport, upkeep};

/// A group of writes is synced once it holds so many bytes, or nobody waits.
const GROUP_BYTES_MAX: usize = 8 << 20;
/// A writer waits for a fold when the change store holds so many times what starts one.
const BACKPRESSURE: u64 = 4;

/// Where the parts of a table lie.
#[derive(Debug, Clone)]
pub(crate) struct Paths {
    pub(crate) base: PathBuf,
    pub(crate) log: PathBuf,
    pub(crate) keys: PathBuf,
    writer_lease: PathBuf,
    base_lease: PathBuf,
}

impl Paths {
    pub(crate) fn new(directory: &Path, name: &str) -> Self {
        let log = directory.join(format!("{name}.changes"));
        Self {
            base: directory.join(format!("{name}.lance")),
            keys: log.join("keys"),
            log,
            writer_lease: directory.join(format!("{name}.lock")),
            base_lease: directory.join(format!("{name}.base.lock")),
        }
    }

    pub(crate) fn uri(&self) -> String {
        self.base.to_string_lossy().into_owned()
    }
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) paths: Paths,
    pub(crate) options: StoreOptions,
    session: Arc<Session>,
    pub(crate) key: PrimaryKey,
    inner: Mutex<Inner>,
    log: Arc<tokio::sync::Mutex<Tail>>,
    base_turn: Arc<tokio::sync::Mutex<()>>,
    queue: Mutex<Queue>,
    folding: AtomicBool,
    /// Whether the base may have a version that was not logged, because who committed it died or failed.
    suspect: AtomicBool,
    /// The versions of the base that snapshots of this process may hold.
    bases: Mutex<Vec<(u64, Weak<Dataset>)>>,
}

/// What the newest version is made of.
#[derive(Debug)]
struct Inner {
    version: u64,
    time: Timestamp,
    history: Arc<History>,
    base: Arc<Dataset>,
    base_rows: usize,
    keys: KeyIndex,
    changes: Changes,
}

#[derive(Debug)]
struct Tail {
    log: Log,
    /// Whether the newest frame is one of ours.
    ours: bool,
}

#[derive(Debug, Default)]
struct Queue {
    requests: VecDeque<Request>,
    /// Whether somebody is committing: who finds nobody has to.
    led: bool,
}

/// A write that waits for its group.
#[derive(Debug)]
struct Request {
    write: RowWrite,
    reply: oneshot::Sender<Result<WriteReport>>,
}

/// Rows to put or keys to delete, with the hashes of their keys.
#[derive(Debug)]
pub(crate) struct RowWrite {
    pub(crate) record: Record,
    pub(crate) hashes: Vec<u128>,
}

impl RowWrite {
    fn bytes(&self) -> usize {
        match &self.record {
            Record::Upsert(batch) | Record::Delete(batch) => batch.get_array_memory_size(),
            _ => 0,
        }
    }
}

/// The right to write the log.
pub(crate) struct Writing {
    tail: OwnedMutexGuard<Tail>,
    _lease: Lease,
}

/// The right to change the base.
pub(crate) struct Changing {
    _turn: OwnedMutexGuard<()>,
    _lease: Lease,
}

/// What a log adds up to.
struct Replayed {
    version: u64,
    time: Timestamp,
    history: History,
    /// The writes that are not folded.
    rows: Vec<Frame>,
}

/// Runs blocking work of this crate off the executor.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|source| Error::internal("a storage task ended early").with_source(source))?
}

/// Runs `work` to its end even when the caller gives up waiting: what is half done on disk must be finished in memory.
pub(crate) async fn detached<T: Send + 'static>(work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
    let done = tokio::spawn(work.boxed()).await;
    done.map_err(|source| Error::internal("a storage task ended early").with_source(source))?
}

impl State {
    /// Opens a table; its log is made when it has none yet.
    pub(crate) async fn open(paths: Paths, session: Arc<Session>, options: StoreOptions) -> Result<Arc<Self>> {
        if !tokio::fs::try_exists(&paths.log).await? {
            let _lease = lease::acquire(&paths.writer_lease, options.writer_wait_max).await?;
            if !tokio::fs::try_exists(&paths.log).await? {
                Self::start_log(&paths, &session, &options).await?;
            }
        }
        let (log, replayed) = replay(&paths, &options).await?;
        let mark = replayed.history.current()?;
        let base = base::load(&paths.uri(), &session, Some(mark.base)).await?;
        let key = PrimaryKey::of_stored(&Schema::from(base.schema()))?;
        let inner = Inner::new(&paths, &key, base, replayed).await?;
        Ok(Arc::new(Self {
            paths,
            options,
            session,
            key,
            inner: Mutex::new(inner),
            log: Arc::new(tokio::sync::Mutex::new(Tail { log, ours: false })),
            base_turn: Arc::default(),
            queue: Mutex::default(),
            folding: AtomicBool::new(false),
            suspect: AtomicBool::new(true),
            bases: Mutex::default(),
        }))
    }

    async fn start_log(paths: &Paths, session: &Arc<Session>, options: &StoreOptions) -> Result<()> {
        let base = base::load(&paths.uri(), session, None).await?.version().version;
        let time = options.clock.now();
        let mark = BaseMark { base, since: base, version: base, folded: base, keys: base, time: time.0 };
        let checkpoint = Checkpoint::new(base, History::new(mark));
        let (directory, faults) = (paths.log.clone(), options.faults.clone());
        blocking(move || Log::create(&directory, checkpoint, time, faults)).await
    }

    /// The newest version: everything this process wrote, and what others had written when it was asked for.
    pub(crate) async fn snapshot(self: &Arc<Self>) -> Result<Snapshot> {
        // When the log is taken, this process is writing: then nobody else is.
        if let Ok(mut tail) = Arc::clone(&self.log).try_lock_owned()
            && tail.log.has_news()?
        {
            self.catch_up(&mut tail).boxed().await?;
        }
        self.view()
    }

    fn view(&self) -> Result<Snapshot> {
        let snapshot = self.inner.lock().view(self.key.clone())?;
        self.note_use(&snapshot);
        Ok(snapshot)
    }

    fn note_use(&self, snapshot: &Snapshot) {
        let version = snapshot.base().version().version;
        let mut bases = self.bases.lock();
        let is_noted =
            bases.iter().any(|(noted, base)| *noted == version && base.ptr_eq(&Arc::downgrade(snapshot.base())));
        if !is_noted {
            bases.retain(|(_, base)| base.strong_count() > 0);
            bases.push((version, Arc::downgrade(snapshot.base())));
        }
    }

    /// The oldest version of the base that a snapshot of this process reads.
    pub(crate) fn oldest_base_in_use(&self) -> Option<u64> {
        self.bases.lock().iter().filter(|(_, base)| base.strong_count() > 0).map(|(version, _)| *version).min()
    }

    /// The table as it was at `version`.
    pub(crate) async fn snapshot_at(self: &Arc<Self>, version: Version) -> Result<Snapshot> {
        let newest = self.snapshot().await?;
        if version == newest.version() {
            return Ok(newest);
        }
        let oldest = self.history().oldest();
        if version > newest.version() || version.0 < oldest {
            let newest = newest.version();
            let what = format!("there is no version {version}: versions {oldest} to {newest} can be read");
            return Err(Error::not_found(what));
        }
        let replayed = replay_to(&self.paths, &self.options, version).await?;
        let base = base::load(&self.paths.uri(), &self.session, Some(replayed.history.current()?.base)).await?;
        let snapshot = Inner::new(&self.paths, &self.key, base, replayed).await?.view(self.key.clone())?;
        self.note_use(&snapshot);
        Ok(snapshot)
    }

    pub(crate) fn history(&self) -> Arc<History> {
        Arc::clone(&self.inner.lock().history)
    }

    /// Takes in what other processes wrote.
    async fn catch_up(self: &Arc<Self>, tail: &mut Tail) -> Result<()> {
        if tail.log.is_gone()? {
            return self.reopen(tail).await;
        }
        loop {
            let frames = tail.log.read()?;
            if frames.is_empty() {
                return Ok(());
            }
            tail.ours = false;
            self.suspect.store(true, Ordering::Release);
            for frame in frames {
                if !self.take_in(frame).await? {
                    return self.reopen(tail).await;
                }
            }
        }
    }

    /// Applies a frame of another process; false when the state must be built anew.
    async fn take_in(self: &Arc<Self>, frame: Frame) -> Result<bool> {
        match frame.record {
            Record::Checkpoint(_) => self.inner.lock().changes.seal(),
            Record::Upsert(ref batch) | Record::Delete(ref batch) => {
                let hashes = self.key.hash(&self.key.project(batch)?, self.hash_key())?;
                let bases = self.resolve(&hashes)?;
                self.inner.lock().apply(frame.version, frame.time, frame.record, hashes, &bases);
            }
            Record::Base { mark, .. } => {
                let base = base::load(&self.paths.uri(), &self.session, Some(mark.base)).await?;
                let keys = key_index(&self.paths, &self.key, self.hash_key(), &base, mark.keys).await?;
                return self.install(frame.version, frame.time, mark, base, keys).await;
            }
            Record::Note(note) => Arc::make_mut(&mut self.inner.lock().history).note(&note),
            Record::Sealed(_) => {}
        }
        Ok(true)
    }

    /// Reads the whole state again: the log went on somewhere that does not follow from where this process stood.
    async fn reopen(self: &Arc<Self>, tail: &mut Tail) -> Result<()> {
        let (log, replayed) = replay(&self.paths, &self.options).await?;
        let base = base::load(&self.paths.uri(), &self.session, Some(replayed.history.current()?.base)).await?;
        let inner = Inner::new(&self.paths, &self.key, base, replayed).await?;
        *tail = Tail { log, ours: false };
        self.suspect.store(true, Ordering::Release);
        *self.inner.lock() = inner;
        Ok(())
    }

    /// The rows of the base with these keys, as far as the change store does not know the keys itself. The only part of a
    /// write that can fail, and so done before it is logged.
    fn resolve(&self, hashes: &[u128]) -> Result<HashMap<u128, u64>> {
        let (unknown, keys) = {
            let inner = self.inner.lock();
            (inner.changes.unknown(hashes), inner.keys.clone())
        };
        let rows = keys.get_many(&unknown)?;
        Ok(unknown.into_iter().zip(rows).filter_map(|(hash, row)| Some((hash, row?))).collect())
    }

    /// Makes `mark` the current base; false when the change store cannot be cut there.
    async fn install(
        self: &Arc<Self>,
        version: u64,
        time: Timestamp,
        mark: BaseMark,
        base: Dataset,
        keys: KeyIndex,
    ) -> Result<bool> {
        let base_rows = base.count_rows(None).await.map_err(lance_error)?;
        let state = Arc::clone(self);
        blocking(move || {
            let mut inner = state.inner.lock();
            let Some(changes) = inner.changes.folded(mark.folded, &keys)? else { return Ok(false) };
            let mut history = Arc::clone(&inner.history);
            Arc::make_mut(&mut history).add(mark);
            let (version, time) = (inner.version.max(version), inner.time.max(time));
            *inner = Inner { version, time, history, base: Arc::new(base), base_rows, keys, changes };
            Ok(true)
        })
        .await
    }

    /// Waits for the turn to write the log, with everything that others wrote taken in.
    pub(crate) async fn writing(self: &Arc<Self>) -> Result<Writing> {
        let mut tail = Arc::clone(&self.log).lock_owned().await;
        let lease = lease::acquire(&self.paths.writer_lease, self.options.writer_wait_max).await?;
        if tail.log.has_news()? {
            self.catch_up(&mut tail).boxed().await?;
            let torn = tail.log.repair()?;
            if torn > 0 {
                tracing::warn!(bytes = torn, log = %self.paths.log.display(), "cut off a write that was never acknowledged");
            }
        }
        let mut writing = Writing { tail, _lease: lease };
        // Before rows are read in order to write them: what an unlogged version holds is older. Whoever holds the base is
        // alive and logs what they commit.
        if self.suspect.load(Ordering::Acquire)
            && let Ok(_turn) = Arc::clone(&self.base_turn).try_lock_owned()
            && let Some(_lease) = lease::try_acquire(&self.paths.base_lease)?
        {
            self.adopt(&mut writing).boxed().await?;
        }
        Ok(writing)
    }

    /// Waits for the turn to change the base.
    pub(crate) async fn changing(&self) -> Result<Changing> {
        let turn = Arc::clone(&self.base_turn).lock_owned().await;
        let lease = lease::acquire(&self.paths.base_lease, self.options.writer_wait_max).await?;
        // Until what is done with it is logged.
        self.suspect.store(true, Ordering::Release);
        Ok(Changing { _turn: turn, _lease: lease })
    }

    /// Writes rows or deletions; durable when it returns. Writes that wait together are synced together.
    pub(crate) async fn write(self: &Arc<Self>, write: RowWrite) -> Result<WriteReport> {
        let room = self.options.fold_bytes.0 * BACKPRESSURE;
        while self.inner.lock().changes.bytes() as u64 > room {
            self.fold().await?;
        }
        let (reply, answer) = oneshot::channel();
        let lead = {
            let mut queue = self.queue.lock();
            queue.requests.push_back(Request { write, reply });
            !std::mem::replace(&mut queue.led, true)
        };
        if lead {
            // A task of its own: a caller that gives up must not leave a group half committed.
            tokio::spawn(Arc::clone(self).lead().boxed());
        }
        let report = answer.await.map_err(|_| Error::internal("a write was dropped before it was done"))??;
        self.fold_if_due();
        Ok(report)
    }

    async fn lead(self: Arc<Self>) {
        loop {
            let writing = self.writing().await;
            let group = self.queue.lock().take_group();
            if group.is_empty() {
                return;
            }
            let (writes, replies): (Vec<RowWrite>, Vec<_>) =
                group.into_iter().map(|request| (request.write, request.reply)).unzip();
            let outcome = match writing {
                Ok(writing) => self.commit(writing, writes).await.map(|(_, reports)| reports),
                Err(error) => Err(error),
            };
            // A receiver that is gone belongs to a caller that gave up: its write is done all the same.
            match outcome {
                Ok(reports) => {
                    replies.into_iter().zip(reports).for_each(|(reply, report)| drop(reply.send(Ok(report))))
                }
                Err(error) => {
                    let each = || Error::new(error.kind(), error.to_string());
                    replies.into_iter().for_each(|reply| drop(reply.send(Err(each()))));
                }
            }
        }
    }

    /// Logs `writes` as one group and applies them, each as a version of its own.
    pub(crate) async fn commit(
        self: &Arc<Self>,
        mut writing: Writing,
        writes: Vec<RowWrite>,
    ) -> Result<(Writing, Vec<WriteReport>)> {
        let state = Arc::clone(self);
        blocking(move || {
            let (mut version, time) = state.next();
            let sync = state.inner.lock().base.config().get(DURABILITY_PROPERTY).is_none_or(|value| value != "relaxed");
            let mut frames = Vec::with_capacity(writes.len());
            let mut resolved = Vec::with_capacity(writes.len());
            for RowWrite { record, hashes } in writes {
                resolved.push((state.resolve(&hashes)?, hashes));
                frames.push(Frame { version, time, record });
                version += 1;
            }
            writing.append(&frames, sync)?;
            let mut inner = state.inner.lock();
            let applied = frames.into_iter().zip(resolved).map(|(frame, (bases, hashes))| {
                let counts = inner.apply(frame.version, frame.time, frame.record, hashes, &bases);
                counts.report(frame.version)
            });
            let reports = applied.collect();
            drop(inner);
            Ok((writing, reports))
        })
        .await
    }

    /// Logs what is kept or not.
    pub(crate) async fn note(&self, writing: &mut Writing, note: Note) -> Result<()> {
        let (version, time) = self.now();
        writing.append(&[Frame { version, time, record: Record::Note(note.clone()) }], true)?;
        Arc::make_mut(&mut self.inner.lock().history).note(&note);
        Ok(())
    }

    /// The version and time of the next write.
    fn next(&self) -> (u64, Timestamp) {
        let (version, time) = self.now();
        (version + 1, time)
    }

    /// The newest version, and the time: never before that of the last write, whatever the clock says.
    fn now(&self) -> (u64, Timestamp) {
        let inner = self.inner.lock();
        (inner.version, inner.time.max(self.options.clock.now()))
    }

    /// Starts a fold in the background when the change store is large enough and none runs.
    pub(crate) fn fold_if_due(self: &Arc<Self>) {
        let due = {
            let inner = self.inner.lock();
            inner.changes.bytes() as u64 >= self.options.fold_bytes.0
                || inner.changes.entries() >= self.options.fold_rows
        };
        if due && !self.folding.swap(true, Ordering::AcqRel) {
            let state = Arc::clone(self);
            tokio::spawn(async move {
                let folded = match state.fold().await {
                    Ok(()) => state.collect_aged().await,
                    Err(error) => Err(error),
                };
                state.folding.store(false, Ordering::Release);
                if let Err(error) = folded {
                    // Nothing is lost: the next write tries again, and a full change store makes writers wait and see it.
                    tracing::warn!(%error, log = %state.paths.log.display(), "upkeep failed");
                }
            });
        }
    }

    /// Removes the past that the table's retention does not cover.
    async fn collect_aged(self: &Arc<Self>) -> Result<()> {
        let keep = upkeep::retention(self.view()?.properties())?;
        upkeep::collect(self, keep).boxed().await.map(drop)
    }

    /// Moves what was written so far into the base. Writers go on meanwhile.
    pub(crate) async fn fold(self: &Arc<Self>) -> Result<()> {
        let state = Arc::clone(self);
        detached(async move {
            let changing = state.changing().await?;
            let mut writing = state.writing().await?;
            state.adopt(&mut writing).await?;
            let Some(sealed) = state.seal(&mut writing)? else { return Ok(()) };
            drop(writing);
            let folded = sealed.fold(&state).await?;
            let mut writing = state.writing().await?;
            state.finish(&changing, &mut writing, folded).await
        })
        .await
    }

    /// Moves everything into the base while nobody writes.
    pub(crate) async fn fold_all(self: &Arc<Self>, changing: &Changing, writing: &mut Writing) -> Result<()> {
        self.adopt(writing).await?;
        let Some(sealed) = self.seal(writing)? else { return Ok(()) };
        let folded = sealed.fold(self).await?;
        self.finish(changing, writing, folded).await
    }

    /// Ends the log's segment and the layer of the change store that goes with it.
    fn seal(&self, writing: &mut Writing) -> Result<Option<Sealed>> {
        let (version, time) = self.now();
        let (history, is_empty) = {
            let inner = self.inner.lock();
            (Arc::clone(&inner.history), inner.changes.is_empty())
        };
        if is_empty {
            return Ok(None);
        }
        writing.claim();
        writing.tail.log.roll(Checkpoint::new(version, history.as_ref().clone()), time)?;
        let mut inner = self.inner.lock();
        let sealed = Sealed {
            version,
            base: Arc::clone(&inner.base),
            keys: inner.keys.clone(),
            chunks: Arc::clone(&inner.changes.chunks),
            fold: inner.changes.to_fold(),
        };
        inner.changes.seal();
        Ok(Some(sealed))
    }

    /// Ends the log's segment when everything in it is folded, so that it can be collected.
    pub(crate) fn roll_if_folded(&self, writing: &mut Writing) -> Result<()> {
        let (version, time) = self.now();
        let history = self.history();
        if history.current()?.folded < version {
            return Ok(());
        }
        writing.claim();
        writing.tail.log.roll(Checkpoint::new(version, history.as_ref().clone()), time)
    }

    /// Takes over base versions that a process committed and died before it could log them.
    pub(crate) async fn adopt(self: &Arc<Self>, writing: &mut Writing) -> Result<()> {
        let (base, mark, secret) = {
            let inner = self.inner.lock();
            (Arc::clone(&inner.base), inner.history.current()?, inner.history.hash_key)
        };
        let latest = base.latest_version_id().await.map_err(lance_error)?;
        if latest <= mark.base {
            self.suspect.store(false, Ordering::Release);
            return Ok(());
        }
        tracing::warn!(base = latest, path = %self.paths.base.display(), "took over a base version that was not logged");
        let old = base;
        let base = base::load(&self.paths.uri(), &self.session, Some(latest)).await?;
        let (written, deleted) = base::difference(&old, &base, &self.key, secret).boxed().await?;
        let keys = key_index(&self.paths, &self.key, secret, &base, latest).await?;
        let (version, time) = self.next();
        let mark = BaseMark { base: latest, version, keys: latest, time: time.0, ..mark };
        self.log_base(writing, version, time, mark, base, keys, written, deleted).await
    }

    /// Logs and installs the base that a fold made.
    async fn finish(self: &Arc<Self>, _changing: &Changing, writing: &mut Writing, folded: Folded) -> Result<()> {
        let (version, time) = self.now();
        let mark = self.history().current()?;
        let mark = BaseMark {
            base: folded.base.version().version,
            since: folded.base.version().version,
            version: mark.version.max(folded.version),
            folded: folded.version,
            keys: folded.base.version().version,
            time: time.0,
        };
        self.log_base(writing, version, time, mark, folded.base, folded.keys, None, None).await
    }

    /// Logs and installs a base that was written directly: with the keys it `written` and `deleted`, or neither when its rows
    /// are the same.
    pub(crate) async fn finish_direct(
        self: &Arc<Self>,
        _changing: &Changing,
        writing: &mut Writing,
        direct: Direct,
    ) -> Result<Version> {
        let mark = self.history().current()?;
        let is_write = direct.is_write;
        let (version, time) = if is_write { self.next() } else { self.now() };
        let base = direct.base.version().version;
        let state = Arc::clone(self);
        let has_entries = !direct.entries.is_empty();
        let keys = blocking(move || {
            state.options.faults.check("keys.save")?;
            let keys = state.inner.lock().keys.clone();
            if has_entries { keys.advance(base, direct.entries) } else { Ok(keys) }
        })
        .await?;
        let all_folded = self.inner.lock().changes.is_empty();
        let mark = BaseMark {
            base,
            version: if is_write { version } else { mark.version },
            folded: if all_folded { version } else { mark.folded },
            keys: if has_entries { base } else { mark.keys },
            time: time.0,
            ..mark
        };
        self.log_base(writing, version, time, mark, direct.base, keys, direct.written, direct.deleted).await?;
        Ok(Version(version))
    }

    #[allow(clippy::too_many_arguments)] // The fields of one frame and what it stands for.
    async fn log_base(
        self: &Arc<Self>,
        writing: &mut Writing,
        version: u64,
        time: Timestamp,
        mark: BaseMark,
        base: Dataset,
        keys: KeyIndex,
        written: Option<RecordBatch>,
        deleted: Option<RecordBatch>,
    ) -> Result<()> {
        writing.append(&[Frame { version, time, record: Record::Base { mark, written, deleted } }], true)?;
        self.suspect.store(false, Ordering::Release);
        match self.install(version, time, mark, base, keys).await? {
            true => Ok(()),
            false => Err(Error::internal("the change store cannot be cut where it was sealed")),
        }
    }

    pub(crate) fn hash_key(&self) -> (u64, u64) {
        self.inner.lock().history.hash_key
    }

    /// Every version that can be read, with its time.
    pub(crate) async fn versions(self: &Arc<Self>) -> Result<Vec<(Version, i64)>> {
        self.snapshot().await?;
        let history = self.history();
        let Some(oldest) = history.marks.first().copied() else { return Ok(Vec::new()) };
        let (directory, faults) = (self.paths.log.clone(), self.options.faults.clone());
        blocking(move || {
            let mut versions = BTreeMap::from([(Version(oldest.version), oldest.time)]);
            let mut log = Log::open(&directory, oldest.version + 1, faults)?;
            loop {
                let frames = log.read()?;
                if frames.is_empty() {
                    return Ok(versions.into_iter().collect());
                }
                for frame in frames.into_iter().filter(|frame| frame.version > oldest.version) {
                    // Records that change no row repeat a version: its time is that of the write.
                    versions.entry(Version(frame.version)).or_insert(frame.time.0);
                }
            }
        })
        .await
    }

    /// The state of the change store: keys and bytes that are not folded.
    pub(crate) fn unfolded(&self) -> (usize, usize) {
        let inner = self.inner.lock();
        (inner.changes.entries(), inner.changes.bytes())
    }

    /// Whether the change store has a word on any of these keys.
    pub(crate) fn knows_any(&self, hashes: &[u128]) -> bool {
        let inner = self.inner.lock();
        hashes.iter().any(|hash| inner.changes.contains(*hash))
    }

    pub(crate) fn view_while(&self, _writing: &Writing) -> Result<Snapshot> {
        self.view()
    }
}

impl Writing {
    fn append(&mut self, frames: &[Frame], sync: bool) -> Result<()> {
        self.claim();
        self.tail.log.append(frames, sync)
    }

    /// Makes what follows in the log ours.
    fn claim(&mut self) {
        if !std::mem::replace(&mut self.tail.ours, true) {
            self.tail.log.next_epoch();
        }
    }

    pub(crate) fn log(&self) -> &Log {
        &self.tail.log
    }
}

impl Queue {
    /// The requests of the next group; without any, nobody leads.
    fn take_group(&mut self) -> Vec<Request> {
        let mut group = Vec::new();
        let mut bytes = 0;
        while let Some(request) =
            self.requests.pop_front_if(|next| bytes == 0 || bytes + next.write.bytes() <= GROUP_BYTES_MAX)
        {
            bytes += request.write.bytes().max(1);
            group.push(request);
        }
        self.led = !group.is_empty();
        group
    }
}

impl Counts {
    pub(crate) fn report(self, version: u64) -> WriteReport {
        WriteReport { version: Version(version), inserted: self.inserted, updated: self.updated, deleted: self.deleted }
    }
}

impl Inner {
    async fn new(paths: &Paths, key: &PrimaryKey, base: Dataset, replayed: Replayed) -> Result<Self> {
        let Replayed { version, time, history, rows } = replayed;
        let base_rows = base.count_rows(None).await.map_err(lance_error)?;
        let keys = key_index(paths, key, history.hash_key, &base, history.current()?.keys).await?;
        let key = key.clone();
        let history = Arc::new(history);
        let mut inner =
            Self { version, time, history, base: Arc::new(base), base_rows, keys, changes: Changes::default() };
        blocking(move || {
            for frame in rows {
                let (Record::Upsert(batch) | Record::Delete(batch)) = &frame.record else { continue };
                let hashes = key.hash(&key.project(batch)?, inner.history.hash_key)?;
                let unknown = inner.changes.unknown(&hashes);
                let found = inner.keys.get_many(&unknown)?;
                let bases = unknown.into_iter().zip(found).filter_map(|(hash, row)| Some((hash, row?))).collect();
                inner.apply(frame.version, frame.time, frame.record, hashes, &bases);
            }
            inner.version = inner.version.max(version);
            Ok(inner)
        })
        .await
    }

    fn view(&self, key: PrimaryKey) -> Result<Snapshot> {
        Snapshot::new(Version(self.version), &self.base, self.base_rows, key, &self.keys, &self.history, &self.changes)
    }

    fn apply(
        &mut self,
        version: u64,
        time: Timestamp,
        record: Record,
        hashes: Vec<u128>,
        bases: &HashMap<u128, u64>,
    ) -> Counts {
        self.version = version;
        self.time = self.time.max(time);
        match record {
            Record::Upsert(batch) => self.changes.upsert(version, batch, hashes, bases),
            Record::Delete(_) => self.changes.delete(version, &hashes, bases),
            _ => Counts::default(),
        }
    }
}

/// The log from some segment on, read to its end.
struct Scan {
    log: Log,
    /// Every write from this version on was seen.
    from: u64,
    replayed: Replayed,
}

/// Reads the log: the newest base, and the writes that it does not hold.
async fn replay(paths: &Paths, options: &StoreOptions) -> Result<(Log, Replayed)> {
    let (directory, faults) = (paths.log.clone(), options.faults.clone());
    blocking(move || {
        let mut scanned = scan(&directory, u64::MAX, &faults)?;
        let mut folded = scanned.replayed.history.current()?.folded;
        if scanned.from > folded + 1 {
            scanned = scan(&directory, folded + 1, &faults)?;
            folded = scanned.replayed.history.current()?.folded;
        }
        if scanned.from > folded + 1 {
            let what = format!("the log in {} lacks the writes from version {}", directory.display(), folded + 1);
            return Err(Error::corrupt(what));
        }
        scanned.replayed.rows.retain(|frame| frame.version > folded);
        Ok((scanned.log, scanned.replayed))
    })
    .await
}

/// Reads the log as far as `version`: the newest base that holds nothing newer, and the writes from there to `version`.
async fn replay_to(paths: &Paths, options: &StoreOptions, version: Version) -> Result<Replayed> {
    let (directory, faults) = (paths.log.clone(), options.faults.clone());
    blocking(move || {
        let gone = || Error::not_found(format!("version {version} was collected"));
        let mut history = scan(&directory, u64::MAX, &faults)?.replayed.history;
        let mark = history.at(version).ok_or_else(gone)?;
        let mut scanned = scan(&directory, mark.folded + 1, &faults)?;
        if scanned.from > mark.folded + 1 {
            return Err(gone());
        }
        scanned.replayed.rows.retain(|frame| frame.version > mark.folded && frame.version <= version.0);
        history.marks = vec![mark];
        Ok(Replayed { version: version.0, history, ..scanned.replayed })
    })
    .await
}

fn scan(directory: &Path, start: u64, faults: &Faults) -> Result<Scan> {
    let mut log = Log::open(directory, start, faults.clone())?;
    let mut replayed = Replayed { version: 0, time: Timestamp(0), history: History::default(), rows: Vec::new() };
    let mut from = None;
    loop {
        let frames = log.read()?;
        if frames.is_empty() {
            break;
        }
        for frame in frames {
            replayed.version = replayed.version.max(frame.version);
            replayed.time = replayed.time.max(frame.time);
            match &frame.record {
                Record::Checkpoint(checkpoint) => {
                    from.get_or_insert(checkpoint.version + 1);
                    replayed.history = checkpoint.history.clone();
                }
                Record::Upsert(_) | Record::Delete(_) => replayed.rows.push(frame),
                Record::Base { mark, .. } => replayed.history.add(*mark),
                Record::Note(note) => replayed.history.note(note),
                Record::Sealed(_) => {}
            }
        }
    }
    let missing = || Error::corrupt(format!("the log in {} does not begin with a checkpoint", directory.display()));
    Ok(Scan { log, from: from.ok_or_else(missing)?, replayed })
}

/// The key index of `base`, built anew when it is not there.
async fn key_index(
    paths: &Paths,
    key: &PrimaryKey,
    secret: (u64, u64),
    base: &Dataset,
    version: u64,
) -> Result<KeyIndex> {
    // A collection by another process may remove the files of an index that is being made; it does so once.
    for _ in 0..2 {
        let directory = paths.keys.clone();
        if let Some(keys) = blocking(move || KeyIndex::open(&directory, version)).await? {
            return Ok(keys);
        }
        let entries = base::keys(base, None, key, secret).await?;
        let directory = paths.keys.clone();
        match blocking(move || KeyIndex::empty(&directory)?.advance(version, entries)).await {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            made => return made,
        }
    }
    Err(Error::unavailable(format!("the key index in {} is removed again and again", paths.keys.display())))
}

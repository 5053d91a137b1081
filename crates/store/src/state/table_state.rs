//! A table in this process: the base and change store of the newest known version, and the log behind them.
//!
//! Lock order: `base_turn` (changing the base), `write_turn` (writing), `log`, then `inner` and `queue` (these two
//! never across `.await`). The first two come with a lease each, because other processes write too. `commit` does the
//! writing; `install` and `fold` change the base.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::datatypes::Schema;
use cenote_base::sync::Mutex;
use cenote_base::{Error, ErrorKind, Result, Timestamp};
use futures::{FutureExt, TryStreamExt};
use lance::Dataset;
use lance_table::io::commit::CommitHandler;
use tokio::sync::watch;

use crate::base::dataset;
use crate::base::fence::Fence;
use crate::base::pages::{Pages, RowReader};
use crate::base::readers::{Readers, Reading};
use crate::base::sessions::{Identity, Sessions, new_identity};
use crate::changes::change_store::{ByHash, Changes, Counts};
use crate::errors::lance_error;
use crate::keys::key_files::{BATCH_ENTRIES, KeyFiles};
use crate::keys::key_index::KeyIndex;
use crate::log::history::{BaseMark, Checkpoint, History};
use crate::log::replay::{Replayed, replay, replay_to};
use crate::log::{COLLECTED_TRIES, Frame, Log, News, Record, Unseen};
use crate::reading::snapshot::Snapshot;
use crate::rows::primary_key::PrimaryKey;
use crate::state::location::TablePlace;
use crate::state::presence::Presence;
use crate::store::{StoreOptions, WeakStore};
use crate::upkeep::schedule::Upkeep;
use crate::writing::commit::Queue;
use crate::{Table, Version, WriteReport};

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) name: String,
    store: WeakStore,
    pub(crate) place: TablePlace,
    pub(crate) options: StoreOptions,
    sessions: Arc<Sessions>,
    /// Detects that the table was dropped; `is_gone` records that it was.
    presence: Presence,
    is_gone: AtomicBool,
    pub(crate) pages: Arc<Pages>,
    pub(crate) fence: Arc<Fence>,
    pub(crate) key: PrimaryKey,
    pub(crate) inner: Mutex<Inner>,
    pub(crate) write_turn: Arc<tokio::sync::Mutex<()>>,
    pub(crate) log: Arc<tokio::sync::Mutex<Tail>>,
    /// Whether this process has the right to write and has applied everything that others wrote before. While it is
    /// true, nobody else can write, and memory holds everything that was acknowledged in any process.
    pub(crate) is_writing: watch::Sender<bool>,
    pub(crate) base_turn: Arc<tokio::sync::Mutex<()>>,
    pub(crate) queue: Mutex<Queue>,
    pub(crate) upkeep: Upkeep,
    /// Whether the base may have a version that was not logged, because the process that committed it died or failed.
    pub(crate) suspect: AtomicBool,
    /// The versions of the base that are being read in this process.
    pub(crate) readers: Arc<Readers>,
    /// Cloned by snapshots and feeds.
    uses: Arc<()>,
}

/// The newest version known in memory.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) version: u64,
    pub(crate) time: Timestamp,
    pub(crate) history: Arc<History>,
    pub(crate) base: Arc<Dataset>,
    pub(crate) base_rows: usize,
    pub(crate) reader: Arc<RowReader>,
    pub(crate) keys: KeyIndex,
    pub(crate) changes: Changes,
    /// Bytes of rows that were written since the last fold.
    pub(crate) accepted: u64,
    /// Time of the oldest write that is not folded.
    pub(crate) since: Option<Timestamp>,
}

/// The position in the log up to which this process has read.
#[derive(Debug)]
pub(crate) struct Tail {
    pub(crate) log: Log,
    /// Whether this process wrote the newest frame.
    pub(crate) ours: bool,
    /// Whether frames were read and not applied, because that failed or was cancelled.
    behind: bool,
}

/// Runs blocking work of this crate off the executor.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|source| Error::internal("a storage task ended early").with_source(source))?
}

/// Maximum rows that are looked up or applied on the caller's thread: waking another thread costs several times as
/// much.
pub(crate) const SHORT_ROWS: usize = 256;

/// Runs short work on the caller's thread, other work off the executor.
pub(crate) async fn blocking_unless<T: Send + 'static>(
    is_short: bool,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    if is_short { work() } else { blocking(work).await }
}

/// Runs `work` to its end even when the caller is cancelled: what is half done on disk must be finished in memory.
pub(crate) async fn detached<T: Send + 'static>(work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
    let done = tokio::spawn(work.boxed()).await;
    done.map_err(|source| Error::internal("a storage task ended early").with_source(source))?
}

impl State {
    /// Opens a table, and creates its log if it has none yet.
    pub(crate) async fn open(
        name: String,
        store: WeakStore,
        place: TablePlace,
        sessions: Arc<Sessions>,
        pages: Arc<Pages>,
        options: StoreOptions,
    ) -> Result<Arc<Self>> {
        if !place.log.exists().await? {
            let lease = place.leases.writer(options.writer_wait_max).await?;
            if !place.log.exists().await? {
                start_log(&place, &sessions, &options).await?;
            }
            drop(lease);
            // A process that only reads must not keep others from writing.
            place.leases.release().await?;
        }
        let fence = Arc::new(Fence::new(&place.base, &options.object_store).await.map_err(lance_error)?);
        // Opened before anything is read, so that a table which takes this one's place meanwhile is recognised as
        // another.
        let presence = place.presence().await?;
        let readers = Arc::new(place.readers());
        let (log, key, inner) = loop {
            let (mut log, replayed, base) = newest(&place, &sessions, &fence).await?;
            let key = PrimaryKey::of_stored(&Schema::from(base.schema()))?;
            match Inner::new(&place.keys, &pages, &key, Arc::new(base), replayed).await {
                // The base was replaced and collected since the log was read.
                Err(error) if error.kind() == ErrorKind::NotFound && log.news().await? != News::None => {}
                inner => break (log, key, inner?),
            }
        };
        Ok(Arc::new(Self {
            name,
            store,
            place,
            options,
            sessions,
            presence,
            is_gone: AtomicBool::new(false),
            pages,
            fence,
            key,
            inner: Mutex::new(inner),
            write_turn: Arc::default(),
            log: Arc::new(tokio::sync::Mutex::new(Tail { log, ours: false, behind: false })),
            is_writing: watch::Sender::new(false),
            base_turn: Arc::default(),
            queue: Mutex::default(),
            upkeep: Upkeep::default(),
            suspect: AtomicBool::new(true),
            readers,
            uses: Arc::default(),
        }))
    }

    /// Returns whether the table was dropped, as far as is known without a request.
    pub(crate) fn is_gone(&self) -> Result<bool> {
        Ok(self.is_gone.load(Ordering::Acquire) || self.presence.is_gone()?)
    }

    /// # Errors
    /// `NotFound` when the table was dropped.
    pub(crate) async fn check_presence(&self) -> Result<()> {
        if self.is_gone.load(Ordering::Acquire) || self.presence.ask().await? { Err(self.gone()) } else { Ok(()) }
    }

    fn gone(&self) -> Error {
        self.is_gone.store(true, Ordering::Release);
        Error::not_found(format!(
            "table `{}` was dropped; if another one was made under its name, try again",
            self.name
        ))
    }

    /// Returns whether nothing in this process uses the table, given that `this` is the only handle of its state.
    pub(crate) fn is_idle(this: &Arc<Self>) -> bool {
        Arc::strong_count(this) == 1 && Arc::strong_count(&this.uses) == 1
    }

    /// Marks the table as used until the returned value is dropped.
    pub(crate) fn note_user(&self) -> Arc<()> {
        Arc::clone(&self.uses)
    }

    /// Returns a handle of this table, unless the store was dropped.
    pub(crate) fn table(&self) -> Option<Table> {
        self.store.upgrade().map(|store| Table::new(store, &self.name))
    }

    /// Loads version `base` of the base.
    pub(crate) async fn load_base(&self, base: u64) -> Result<Dataset> {
        self.load_base_through(base, Arc::clone(&self.fence) as _).await
    }

    /// Loads version `base` of the base, with `handler` to commit changes to it.
    pub(crate) async fn load_base_through(&self, base: u64, handler: Arc<dyn CommitHandler>) -> Result<Dataset> {
        let session = self.sessions.of(self.hash_key());
        dataset::load(&self.place.base, &session, &self.place.params, Some(base), Some(handler)).await
    }

    /// Returns a snapshot of the newest version, which holds every write that any process had acknowledged before the
    /// call.
    pub(crate) async fn snapshot(self: &Arc<Self>) -> Result<Snapshot> {
        let mut is_writing = self.is_writing.subscribe();
        loop {
            let (is_ours, leases) = (*is_writing.borrow_and_update(), &self.place.leases);
            if leases.is_sole() {
                return self.view();
            }
            if is_ours && leases.is_certain() {
                let snapshot = self.view()?;
                // Otherwise another process may have removed the snapshot's base before its lock was taken.
                if is_writing.has_changed().is_ok_and(|has_changed| !has_changed) {
                    return Ok(snapshot);
                }
                continue;
            }
            let tail = Arc::clone(&self.log).lock_owned();
            let mut tail = tokio::select! {
                biased;
                tail = tail => tail,
                // A writer of this process holds the log and has read it to its end.
                _ = is_writing.changed() => continue,
            };
            loop {
                // Pinned before the log is read: see `readers`.
                let reading = self.read_current();
                self.catch_up(&mut tail).boxed().await?;
                if let Some(snapshot) = self.view_of(reading)? {
                    return Ok(snapshot);
                }
            }
        }
    }

    /// Returns a snapshot of the newest version known in memory. Its files are certain to exist only if nobody else can
    /// write or change the base during the call.
    pub(crate) fn view(&self) -> Result<Snapshot> {
        loop {
            if let Some(snapshot) = self.view_of(self.read_current())? {
                return Ok(snapshot);
            }
        }
    }

    /// Pins the newest base known in memory.
    fn read_current(&self) -> Reading {
        let base = Arc::clone(&self.inner.lock().base);
        self.readers.read(&base)
    }

    /// Returns a snapshot of the newest version known in memory, or `None` if its base is not the one that is pinned.
    fn view_of(&self, reading: Reading) -> Result<Option<Snapshot>> {
        let inner = self.inner.lock();
        let is_current = Arc::ptr_eq(&inner.base, reading.base());
        is_current.then(|| Snapshot::new(&inner, self.key.clone(), self.note_user(), reading)).transpose()
    }

    /// Returns the table as it was at `version`.
    pub(crate) async fn snapshot_at(self: &Arc<Self>, version: Version) -> Result<Snapshot> {
        let newest = self.snapshot().await?;
        if version == newest.version() {
            return Ok(newest);
        }
        drop(newest);
        loop {
            self.check_version(version)?;
            let read_from = |history: &History| history.at(version).map(|mark| mark.base);
            let before = read_from(&self.history());
            let then = self.replayed_to(version).boxed().await;
            // The base may have been collected before it was pinned; the log says so by now: see `readers`.
            self.snapshot().await?;
            let now = read_from(&self.history());
            match then {
                Ok(then) if self.check_version(version).is_ok() && Some(then.base().version().version) == now => {
                    return Ok(then);
                }
                Err(error) if self.check_version(version).is_ok() && before == now => return Err(error),
                _ => {}
            }
        }
    }

    /// Returns the table as it was at `version`, provided that the base it starts from is not collected meanwhile.
    async fn replayed_to(&self, version: Version) -> Result<Snapshot> {
        let replayed = replay_to(&self.place.log, version).await?;
        let base = Arc::new(self.load_base(replayed.history.current()?.base).await?);
        let reading = self.readers.read(&base);
        let then = Inner::new(&self.place.keys, &self.pages, &self.key, base, replayed).await?;
        Snapshot::new(&then, self.key.clone(), self.note_user(), reading)
    }

    /// # Errors
    /// `NotFound` when `version` cannot be read.
    pub(crate) fn check_version(&self, version: Version) -> Result<()> {
        let (newest, history) = {
            let inner = self.inner.lock();
            (inner.version, Arc::clone(&inner.history))
        };
        if version.0 <= newest && history.has(version) {
            return Ok(());
        }
        let oldest = history.oldest();
        let tagged = if history.tagged_before(oldest).is_empty() { "" } else { ", and older ones that have a tag" };
        let what = format!("there is no version {version}: versions {oldest} to {newest} can be read{tagged}");
        Err(Error::not_found(what))
    }

    pub(crate) fn history(&self) -> Arc<History> {
        Arc::clone(&self.inner.lock().history)
    }

    /// Applies what other processes wrote. Returns whether an incomplete write is left at the end of the log.
    pub(crate) async fn catch_up(self: &Arc<Self>, tail: &mut Tail) -> Result<bool> {
        loop {
            let news = if tail.behind { News::Gone } else { tail.log.news().await? };
            let is_taken_in = match news {
                News::None => return Ok(false),
                News::Gone => false,
                News::More => {
                    tail.behind = true;
                    let frames = tail.log.read().await?;
                    if frames.as_ref().is_some_and(Vec::is_empty) {
                        tail.behind = false;
                        return Ok(true);
                    }
                    self.take_in_all(tail, frames).await?
                }
            };
            if !is_taken_in {
                self.reopen(tail).await?;
            }
        }
    }

    /// Applies frames that were read from `tail`. Returns false when the state must be rebuilt.
    async fn take_in_all(self: &Arc<Self>, tail: &mut Tail, frames: Option<Vec<Frame>>) -> Result<bool> {
        let Some(frames) = frames else { return Ok(false) };
        tail.ours = false;
        self.suspect.store(true, Ordering::Release);
        for frame in frames {
            if !self.take_in(frame).await? {
                return Ok(false);
            }
        }
        tail.behind = false;
        Ok(true)
    }

    /// Applies a frame of another process. Returns false when the state must be rebuilt.
    async fn take_in(self: &Arc<Self>, frame: Frame) -> Result<bool> {
        match frame.record {
            Record::Checkpoint(_) => self.inner.lock().changes.seal(),
            Record::Upsert(_) | Record::Delete(_) => {
                let (state, secret) = (Arc::clone(self), self.hash_key());
                let hash = move || frame.record.hashes(&state.key, secret).map(|hashes| (frame, hashes));
                let (frame, hashes) = blocking(hash).await?;
                let (state, bases) = (Arc::clone(self), self.resolve(&hashes).await?);
                let apply = move || {
                    state.inner.lock().apply(frame.version, frame.time, frame.record, hashes, &bases);
                    Ok(())
                };
                blocking(apply).await?;
            }
            Record::Base { mark, parts, keys: concerned } => {
                let base = match self.load_base(mark.base).await {
                    // The base was replaced and collected since.
                    Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
                    base => base?,
                };
                let installed = async {
                    let keys = key_index(&self.place.keys, &self.key, self.hash_key(), &base, mark.keys).await?;
                    let touched = parts.is_none().then_some(concerned);
                    let unseen = Unseen::default();
                    self.install(frame.version, frame.time, mark, base, keys, touched, unseen).await
                };
                return match installed.boxed().await {
                    Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
                    installed => installed,
                };
            }
            Record::Note(note) => Arc::make_mut(&mut self.inner.lock().history).note(&note),
            Record::Keys { .. } | Record::Sealed(_) => {}
        }
        Ok(true)
    }

    /// Rebuilds the state: the log does not continue from where this process stood.
    ///
    /// # Errors
    /// `NotFound` when the table was dropped, and perhaps another one made under its name.
    async fn reopen(self: &Arc<Self>, tail: &mut Tail) -> Result<()> {
        self.check_presence().await?;
        if !self.place.log.exists().await? {
            // A new table of the same name has no log until it is opened.
            return Err(self.gone());
        }
        let (log, inner) = loop {
            let (mut log, replayed, base) = newest(&self.place, &self.sessions, &self.fence).await?;
            if replayed.history.hash_key != self.hash_key() {
                return Err(self.gone());
            }
            match Inner::new(&self.place.keys, &self.pages, &self.key, Arc::new(base), replayed).await {
                // The base was replaced and collected since the log was read.
                Err(error) if error.kind() == ErrorKind::NotFound && log.news().await? != News::None => {}
                inner => break (log, inner?),
            }
        };
        *tail = Tail { log, ours: false, behind: false };
        self.suspect.store(true, Ordering::Release);
        *self.inner.lock() = inner;
        Ok(())
    }

    /// Looks up the base rows with these keys, except for keys that the change store knows. Called before a write is
    /// logged, because it is the only part of applying one that can fail.
    pub(crate) async fn resolve(self: &Arc<Self>, hashes: &[u128]) -> Result<ByHash<u64>> {
        let (unknown, keys) = {
            let inner = self.inner.lock();
            (inner.changes.unknown(hashes), inner.keys.clone())
        };
        let cached = if unknown.len() <= SHORT_ROWS { keys.get_many_cached(&unknown)? } else { None };
        let (unknown, rows) = match cached {
            Some(rows) => (unknown, rows),
            None => blocking(move || keys.get_many(&unknown).map(|rows| (unknown, rows))).await?,
        };
        Ok(unknown.into_iter().zip(rows).filter_map(|(hash, row)| Some((hash, row?))).collect())
    }

    pub(crate) fn hash_key(&self) -> Identity {
        self.inner.lock().history.hash_key
    }

    /// Returns the version and time for the next write.
    pub(crate) fn next(&self) -> (u64, Timestamp) {
        let (version, time) = self.now();
        (version + 1, time)
    }

    /// Returns the newest version, and the current time: never before that of the last write, even if the clock goes
    /// back.
    pub(crate) fn now(&self) -> (u64, Timestamp) {
        let inner = self.inner.lock();
        (inner.version, inner.time.max(self.options.clock.now()))
    }

    /// Lists every version that can be read, with its time.
    pub(crate) async fn versions(self: &Arc<Self>) -> Result<Vec<(Version, i64)>> {
        for _ in 0..COLLECTED_TRIES {
            self.snapshot().await?;
            let history = self.history();
            let Some(oldest) = history.at(Version(history.oldest())) else { return Ok(Vec::new()) };
            let tagged = history.tagged_before(oldest.version).into_iter();
            let ranges = tagged.map(|(version, mark)| (mark, version..=version));
            let mut versions = BTreeMap::new();
            let mut is_whole = true;
            for (mark, wanted) in ranges.chain([(oldest, oldest.version..=u64::MAX)]) {
                is_whole &= self.add_versions(mark, wanted, &mut versions).await?;
            }
            if is_whole {
                return Ok(versions.into_iter().collect());
            }
        }
        Err(self.log.lock().await.log.gap())
    }

    /// Adds the `wanted` versions that can be read from base `mark` and the log after it. Returns false when some of
    /// them were collected meanwhile.
    async fn add_versions(
        &self,
        mark: BaseMark,
        wanted: RangeInclusive<u64>,
        versions: &mut BTreeMap<Version, i64>,
    ) -> Result<bool> {
        if wanted.contains(&mark.version) {
            versions.insert(Version(mark.version), mark.time);
        }
        if *wanted.end() <= mark.version {
            return Ok(true);
        }
        let mut log = Log::open(&self.place.log, mark.version + 1).await?;
        while let Some(frames) = log.read().await? {
            for frame in frames.iter().filter(|frame| frame.version > mark.version && wanted.contains(&frame.version)) {
                // Records that change no row repeat the version of the write before them: the write's time counts.
                versions.entry(Version(frame.version)).or_insert(frame.time.0);
            }
            // The log after a tagged version may have been collected.
            if frames.last().is_none_or(|frame| frame.version >= *wanted.end()) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Returns whether the change store has a row or a deletion for any of these keys.
    pub(crate) fn knows_any(&self, hashes: &[u128]) -> bool {
        let inner = self.inner.lock();
        hashes.iter().any(|hash| inner.changes.contains(*hash))
    }
}

impl Counts {
    pub(crate) fn report(self, version: u64) -> WriteReport {
        WriteReport { version: Version(version), inserted: self.inserted, updated: self.updated, deleted: self.deleted }
    }
}

impl Inner {
    async fn new(
        files: &KeyFiles,
        pages: &Arc<Pages>,
        key: &PrimaryKey,
        base: Arc<Dataset>,
        replayed: Replayed,
    ) -> Result<Self> {
        let Replayed { version, time, history, rows } = replayed;
        let base_rows = base.count_rows(None).await.map_err(lance_error)?;
        let keys = key_index(files, key, history.hash_key, &base, history.current()?.keys).await?;
        let key = key.clone();
        let history = Arc::new(history);
        let changes = Changes::default();
        let reader = Arc::new(RowReader::new(&base, pages));
        let mut inner =
            Self { version, time, history, base, base_rows, reader, keys, changes, accepted: 0, since: None };
        blocking(move || {
            for frame in rows {
                let hashes = frame.record.hashes(&key, inner.history.hash_key)?;
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

    pub(crate) fn apply(
        &mut self,
        version: u64,
        time: Timestamp,
        record: Record,
        hashes: Vec<u128>,
        bases: &ByHash<u64>,
    ) -> Counts {
        self.version = version;
        self.time = self.time.max(time);
        self.accepted += record.bytes() as u64;
        self.since.get_or_insert(time);
        match record {
            Record::Upsert(batch) => self.changes.upsert(version, batch, hashes, bases),
            Record::Delete(_) => self.changes.delete(version, &hashes, bases),
            _ => Counts::default(),
        }
    }
}

/// Replays the log and loads its newest base.
async fn newest(place: &TablePlace, sessions: &Sessions, fence: &Arc<Fence>) -> Result<(Log, Replayed, Dataset)> {
    loop {
        let (mut log, replayed) = replay(&place.log).await?;
        let base = replayed.history.current()?.base;
        fence.learn(base);
        let session = sessions.of(replayed.history.hash_key);
        match dataset::load(&place.base, &session, &place.params, Some(base), Some(Arc::clone(fence) as _)).await {
            // The base was replaced and collected since the log was read.
            Err(error) if error.kind() == ErrorKind::NotFound && log.news().await? != News::None => {}
            base => return Ok((log, replayed, base?)),
        }
    }
}

async fn start_log(place: &TablePlace, sessions: &Sessions, options: &StoreOptions) -> Result<()> {
    let session = sessions.of(new_identity());
    let base = dataset::load(&place.base, &session, &place.params, None, None).await?.version().version;
    let time = options.clock.now();
    let mark =
        BaseMark { base, since: base, version: base, folded: base, keys: base, time: time.0, ..BaseMark::default() };
    place.log.create(Checkpoint::new(base, History::new(mark)), time).await
}

/// Opens the key index of `base`, and builds it if it does not exist.
pub(crate) async fn key_index(
    files: &KeyFiles,
    key: &PrimaryKey,
    secret: (u64, u64),
    base: &Dataset,
    version: u64,
) -> Result<KeyIndex> {
    // A collection by another process may remove files of the index while it is built, but only once.
    for _ in 0..2 {
        if let Some(keys) = files.open(version).await? {
            return Ok(keys);
        }
        match build_key_index(files, key, secret, base, version).await {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            made => return made,
        }
    }
    Err(Error::unavailable(format!("the key index in {} keeps being removed while it is built", files.name())))
}

async fn build_key_index(
    files: &KeyFiles,
    key: &PrimaryKey,
    secret: (u64, u64),
    base: &Dataset,
    version: u64,
) -> Result<KeyIndex> {
    let mut keys = files.empty().await?;
    let mut batches = dataset::keys(base, None, key, secret).await?;
    let mut entries = Vec::new();
    while let Some(batch) = batches.try_next().await? {
        entries.extend(batch);
        if entries.len() >= BATCH_ENTRIES {
            let batch = std::mem::take(&mut entries);
            keys = blocking(move || keys.advance(version, batch)).await?;
        }
    }
    keys = blocking(move || keys.advance(version, entries)).await?;
    files.save(keys, version).await
}

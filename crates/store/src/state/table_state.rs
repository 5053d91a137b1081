//! A table in this process: the base and change store of the newest known version, and the log behind them.
//!
//! Lock order: the base's turn (changing the base), the writer's turn (writing), the log's tail, then the newest
//! version and the queue of writes (these two never across `.await`). The first two come with a lease each, because
//! other processes write too. `writing::commit` does the writing; `writing::log_base` and `upkeep::fold` change the
//! base.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::Schema;
use cenote_base::sync::{Mutex, MutexGuard};
use cenote_base::{ByteSize, Clock, Error, ErrorKind, Result, Timestamp, both};
use futures::future::BoxFuture;
use lance::Dataset;
use lance_table::io::commit::CommitHandler;

use super::base_turn::BaseTurn;
use super::location::TableLocation;
use super::presence::Presence;
use super::progress::UpkeepProgress;
use super::writer::Writer;
use crate::base::dataset;
use crate::base::fence::Fence;
use crate::base::pages::Pages;
use crate::base::readers::Readers;
use crate::base::sessions::Sessions;
use crate::base::staging::{Claim, ClaimedWork};
use crate::blocking::{SHORT_ROWS, blocking};
use crate::changes::change_store::ByHash;
use crate::changes::newest::Newest;
use crate::faults::Faults;
use crate::identity::{Identity, new_identity};
use crate::log::history::{BaseMark, Checkpoint, History};
use crate::log::replay::{Replayed, replay};
use crate::log::{Log, News};
use crate::rows::primary_key::PrimaryKey;
use crate::version::Version;

/// The store options that apply to each table.
#[derive(Debug, Clone)]
pub(crate) struct TableOptions {
    /// See [`StoreOptions::writer_wait_max`](crate::StoreOptions::writer_wait_max); likewise for the other fields.
    pub(crate) writer_wait_max: Duration,
    pub(crate) fold_bytes: ByteSize,
    pub(crate) fold_rows: usize,
    pub(crate) fold_age: Duration,
    pub(crate) bulk_bytes: ByteSize,
    pub(crate) file_bytes: ByteSize,
    pub(crate) file_rows: usize,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) faults: Faults,
}

/// A hook of the store that runs after a fold of one of its tables.
pub(crate) trait FoldFollower: Debug + Send + Sync {
    /// Does the work that follows a fold of table `name`; `None` when the store was dropped.
    fn follow(&self, name: &str) -> Option<BoxFuture<'static, Result<()>>>;
}

/// The state of a table in this process, which all its handles share.
#[derive(Debug)]
pub(crate) struct TableState {
    pub(super) name: String,
    pub(super) location: TableLocation,
    pub(super) options: TableOptions,
    follower: Option<Arc<dyn FoldFollower>>,
    pub(super) sessions: Arc<Sessions>,
    presence: Presence,
    pub(super) pages: Arc<Pages>,
    pub(super) fence: Arc<Fence>,
    pub(super) key: PrimaryKey,
    pub(super) newest: Mutex<Newest>,
    pub(super) writer: Writer,
    pub(super) base_turn: BaseTurn,
    upkeep: UpkeepProgress,
    /// The versions of the base that are being read in this process.
    pub(super) readers: Arc<Readers>,
    /// Cloned by snapshots and feeds.
    uses: Arc<()>,
}

/// A log that was read to its end, the state it replays to, and its newest base.
pub(super) struct LogEnd {
    pub(super) log: Log,
    pub(super) replayed: Replayed,
    pub(super) base: Dataset,
}

impl TableState {
    /// Opens a table, and creates its log if it has none yet.
    pub(crate) async fn open(
        name: String,
        location: TableLocation,
        sessions: Arc<Sessions>,
        pages: Arc<Pages>,
        options: TableOptions,
        follower: Option<Arc<dyn FoldFollower>>,
    ) -> Result<Arc<Self>> {
        if !location.log.exists().await? {
            let lease = location.leases.writer(options.writer_wait_max).await?;
            let started = async {
                if location.log.exists().await? { Ok(()) } else { start_log(&location, &sessions, &options).await }
            };
            let started = started.await;
            drop(lease);
            // A process that only reads, or that fails, must not keep others from writing.
            both(started, location.leases.release().await)?;
        }
        let fence = Arc::new(location.fence().await?);
        // Opened before anything is read, so that a table which takes this one's place meanwhile is recognised as
        // another.
        let presence = location.presence().await?;
        let readers = Arc::new(location.readers());
        let (log, key, newest) = loop {
            let LogEnd { mut log, replayed, base } = log_end(&location, &sessions, &fence).await?;
            let key = PrimaryKey::of_stored(&Schema::from(base.schema()))?;
            match Newest::load(&location.keys, &pages, &key, Arc::new(base), replayed).await {
                // The base was replaced and collected since the log was read.
                Err(error) if error.kind() == ErrorKind::NotFound && log.news().await? != News::None => {}
                newest => break (log, key, newest?),
            }
        };
        Ok(Arc::new(Self {
            name,
            location,
            options,
            follower,
            sessions,
            presence,
            pages,
            fence,
            key,
            newest: Mutex::new(newest),
            writer: Writer::new(log),
            base_turn: BaseTurn::new(),
            upkeep: UpkeepProgress::default(),
            readers,
            uses: Arc::default(),
        }))
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn location(&self) -> &TableLocation {
        &self.location
    }

    pub(crate) fn options(&self) -> &TableOptions {
        &self.options
    }

    pub(crate) fn key(&self) -> &PrimaryKey {
        &self.key
    }

    pub(crate) fn fence(&self) -> &Fence {
        &self.fence
    }

    /// Locks the newest version.
    pub(crate) fn newest(&self) -> MutexGuard<'_, Newest> {
        self.newest.lock()
    }

    pub(crate) fn writer(&self) -> &Writer {
        &self.writer
    }

    pub(crate) fn base_turn(&self) -> &BaseTurn {
        &self.base_turn
    }

    pub(crate) fn upkeep(&self) -> &UpkeepProgress {
        &self.upkeep
    }

    pub(crate) fn readers(&self) -> &Arc<Readers> {
        &self.readers
    }

    /// Runs the store's hook after a fold; `None` without a hook, or when the store was dropped.
    pub(crate) fn follow_fold(&self) -> Option<BoxFuture<'static, Result<()>>> {
        self.follower.as_ref()?.follow(&self.name)
    }

    /// Returns whether the table was dropped, as far as is known without a request.
    pub(crate) fn is_gone(&self) -> Result<bool> {
        self.presence.is_gone()
    }

    /// Checks that the table was not dropped, with a request if the store is remote.
    ///
    /// # Errors
    /// `NotFound` when the table was dropped.
    pub(crate) async fn check_presence(&self) -> Result<()> {
        if self.presence.ask().await? { Err(self.gone()) } else { Ok(()) }
    }

    /// Records that the table was dropped, and returns the error for that.
    pub(super) fn gone(&self) -> Error {
        self.presence.note_gone();
        Error::not_found(format!(
            "table `{}` was dropped; if another one was made under its name, try again",
            self.name
        ))
    }

    /// Runs `work` under a claim on what it writes and on version `base`, which it reads. If it fails because the table
    /// was dropped, or because another process took this one for dead, the error says so, rather than which file is
    /// missing.
    pub(crate) async fn claimed<T, F>(
        &self,
        kind: ClaimedWork,
        base: u64,
        work: impl FnOnce(Arc<Claim>) -> F,
    ) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let claim = Arc::new(self.location.staging.claim(kind, base).await?);
        match work(Arc::clone(&claim)).await {
            Ok(done) => {
                claim.end().await;
                Ok(done)
            }
            Err(error) if matches!(self.presence.ask().await, Ok(true)) => Err(self.gone().with_source(error)),
            Err(error) => Err(claim.check().await.err().unwrap_or(error)),
        }
    }

    /// Returns whether nothing in this process uses the table, given that `this` is the only handle of its state.
    pub(crate) fn is_idle(this: &Arc<Self>) -> bool {
        Arc::strong_count(this) == 1 && Arc::strong_count(&this.uses) == 1
    }

    /// Marks the table as used until the returned value is dropped.
    pub(crate) fn note_user(&self) -> Arc<()> {
        Arc::clone(&self.uses)
    }

    /// Loads version `base` of the base.
    pub(crate) async fn load_base(&self, base: u64) -> Result<Dataset> {
        self.load_base_through(base, Arc::clone(&self.fence) as _).await
    }

    /// Loads version `base` of the base, with `handler` to commit changes to it.
    pub(crate) async fn load_base_through(&self, base: u64, handler: Arc<dyn CommitHandler>) -> Result<Dataset> {
        let session = self.sessions.of(self.hash_key());
        dataset::load(&self.location.base, &session, &self.location.params, Some(base), Some(handler)).await
    }

    /// Checks that `version` can be read.
    ///
    /// # Errors
    /// `NotFound`, with the versions that can be read.
    pub(crate) fn check_version(&self, version: Version) -> Result<()> {
        let (newest, history) = {
            let newest = self.newest();
            (newest.version(), Arc::clone(newest.history()))
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
        Arc::clone(self.newest().history())
    }

    /// Looks up the base rows with these keys, except for keys that the change store knows. Called before a write is
    /// logged, because it is the only part of applying one that can fail.
    pub(crate) async fn resolve(self: &Arc<Self>, hashes: &[u128]) -> Result<ByHash<u64>> {
        let (unknown, keys) = {
            let newest = self.newest();
            (newest.changes().unknown(hashes), newest.keys().clone())
        };
        let cached = if unknown.len() <= SHORT_ROWS { keys.get_many_cached(&unknown)? } else { None };
        let (unknown, rows) = match cached {
            Some(rows) => (unknown, rows),
            None => blocking(move || keys.get_many(&unknown).map(|rows| (unknown, rows))).await?,
        };
        Ok(unknown.into_iter().zip(rows).filter_map(|(hash, row)| Some((hash, row?))).collect())
    }

    pub(crate) fn hash_key(&self) -> Identity {
        self.newest().history().hash_key
    }

    /// Returns the version and time for the next write.
    pub(crate) fn next(&self) -> (u64, Timestamp) {
        let (version, time) = self.now();
        (version + 1, time)
    }

    /// Returns the newest version, and the current time: never before that of the last write, even if the clock goes
    /// back.
    pub(crate) fn now(&self) -> (u64, Timestamp) {
        let newest = self.newest();
        (newest.version(), newest.time().max(self.options.clock.now()))
    }

    /// Returns whether there are writes that the base does not hold.
    pub(crate) fn has_changes(&self) -> bool {
        !self.newest().changes().is_empty()
    }

    /// Returns whether the change store has a row or a deletion for any of these keys.
    pub(crate) fn knows_any(&self, hashes: &[u128]) -> bool {
        let newest = self.newest();
        hashes.iter().any(|hash| newest.changes().contains(*hash))
    }
}

/// Replays the log and loads the newest base that it names.
pub(super) async fn log_end(location: &TableLocation, sessions: &Sessions, fence: &Arc<Fence>) -> Result<LogEnd> {
    loop {
        let (mut log, replayed) = replay(&location.log).await?;
        let base = replayed.history.current()?.base;
        fence.learn(base);
        let session = sessions.of(replayed.history.hash_key);
        match dataset::load(&location.base, &session, &location.params, Some(base), Some(Arc::clone(fence) as _)).await
        {
            // The base was replaced and collected since the log was read.
            Err(error) if error.kind() == ErrorKind::NotFound && log.news().await? != News::None => {}
            base => return Ok(LogEnd { log, replayed, base: base? }),
        }
    }
}

/// Creates the log of a table that has a base alone: a new table, or one whose creation was interrupted.
async fn start_log(location: &TableLocation, sessions: &Sessions, options: &TableOptions) -> Result<()> {
    let session = sessions.of(new_identity());
    let base = dataset::load(&location.base, &session, &location.params, None, None).await?.version().version;
    let time = options.clock.now();
    let mark =
        BaseMark { base, since: base, version: base, folded: base, keys: base, time: time.0, ..BaseMark::default() };
    location.log.create(Checkpoint::new(base, History::new(mark)), time).await
}

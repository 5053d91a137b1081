//! Catching up with the log: applies what other processes wrote, and takes snapshots of versions.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;

use cenote_base::{ErrorKind, Result, Timestamp};
use futures::FutureExt;

use super::install::BaseChange;
use super::table_state::{LogEnd, TableState, log_end};
use super::writer::Tail;
use crate::base::key_build::open_or_build;
use crate::base::readers::Reading;
use crate::blocking::blocking;
use crate::changes::newest::Newest;
use crate::log::history::{BaseMark, History};
use crate::log::replay::replay_to;
use crate::log::{COLLECTED_TRIES, Frame, Log, News, Record, Unseen};
use crate::reading::snapshot::Snapshot;
use crate::version::{Version, VersionInfo};

impl TableState {
    /// Returns a snapshot of the newest version, which holds every write that any process had acknowledged before the
    /// call.
    pub(crate) async fn snapshot(self: &Arc<Self>) -> Result<Snapshot> {
        let mut is_writing = self.writer.is_writing();
        loop {
            let (is_ours, leases) = (*is_writing.borrow_and_update(), &self.location.leases);
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
            let mut tail = tokio::select! {
                biased;
                tail = self.writer.tail() => tail,
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
        let base = Arc::clone(self.newest().base());
        self.readers.read(&base)
    }

    /// Returns a snapshot of the newest version known in memory, or `None` if its base is not the one that is pinned.
    fn view_of(&self, reading: Reading) -> Result<Option<Snapshot>> {
        let newest = self.newest();
        let is_current = Arc::ptr_eq(newest.base(), reading.base());
        is_current.then(|| Snapshot::new(&newest, self.key.clone(), self.note_user(), reading)).transpose()
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
        let replayed = replay_to(&self.location.log, version).await?;
        let base = Arc::new(self.load_base(replayed.history.current()?.base).await?);
        let reading = self.readers.read(&base);
        let then = Newest::load(&self.location.keys, &self.pages, &self.key, base, replayed).await?;
        Snapshot::new(&then, self.key.clone(), self.note_user(), reading)
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
        self.base_turn.set_suspect(true);
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
            Record::Checkpoint(_) => self.newest().seal(),
            Record::Upsert(_) | Record::Delete(_) => {
                let (state, secret) = (Arc::clone(self), self.hash_key());
                let hash = move || frame.record.hashes(&state.key, secret).map(|hashes| (frame, hashes));
                let (frame, hashes) = blocking(hash).await?;
                let (state, bases) = (Arc::clone(self), self.resolve(&hashes).await?);
                let apply = move || {
                    state.newest().apply(frame, hashes, &bases);
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
                    let keys = open_or_build(&self.location.keys, &self.key, self.hash_key(), &base, mark.keys).await?;
                    let touched = parts.is_none().then_some(concerned);
                    let change = BaseChange { version: frame.version, time: frame.time, mark, base, keys };
                    self.install(change, touched, Unseen::default()).await
                };
                return match installed.boxed().await {
                    Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
                    installed => installed,
                };
            }
            Record::Note(note) => self.newest().note(&note),
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
        if !self.location.log.exists().await? {
            // A new table of the same name has no log until it is opened.
            return Err(self.gone());
        }
        let (log, newest) = loop {
            let LogEnd { mut log, replayed, base } = log_end(&self.location, &self.sessions, &self.fence).await?;
            if replayed.history.hash_key != self.hash_key() {
                return Err(self.gone());
            }
            match Newest::load(&self.location.keys, &self.pages, &self.key, Arc::new(base), replayed).await {
                // The base was replaced and collected since the log was read.
                Err(error) if error.kind() == ErrorKind::NotFound && log.news().await? != News::None => {}
                newest => break (log, newest?),
            }
        };
        *tail = Tail::new(log);
        self.base_turn.set_suspect(true);
        *self.newest() = newest;
        Ok(())
    }

    /// Lists every version that can be read, with its time.
    pub(crate) async fn versions(self: &Arc<Self>) -> Result<Vec<VersionInfo>> {
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
                return Ok(versions.into_iter().map(|(version, time)| VersionInfo { version, time }).collect());
            }
        }
        Err(self.writer.tail().await.log.gap())
    }

    /// Adds the `wanted` versions that can be read from base `mark` and the log after it. Returns false when some of
    /// them were collected meanwhile.
    async fn add_versions(
        &self,
        mark: BaseMark,
        wanted: RangeInclusive<u64>,
        versions: &mut BTreeMap<Version, Timestamp>,
    ) -> Result<bool> {
        if wanted.contains(&mark.version) {
            versions.insert(Version(mark.version), Timestamp(mark.time));
        }
        if *wanted.end() <= mark.version {
            return Ok(true);
        }
        let mut log = Log::open(&self.location.log, mark.version + 1).await?;
        while let Some(frames) = log.read().await? {
            for frame in frames.iter().filter(|frame| frame.version > mark.version && wanted.contains(&frame.version)) {
                // Records that change no row repeat the version of the write before them: the write's time counts.
                versions.entry(Version(frame.version)).or_insert(frame.time);
            }
            // The log after a tagged version may have been collected.
            if frames.last().is_none_or(|frame| frame.version >= *wanted.end()) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

//! New versions of the base: the right to make one, and its log record.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;

use cenote_base::{Error, Result, Timestamp};
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt, TryStreamExt};
use lance::Dataset;
use tokio::sync::OwnedMutexGuard;

use crate::base::dataset;
use crate::base::key_build::open_or_build;
use crate::base::version_files::sync_adopted;
use crate::blocking::blocking;
use crate::errors::lance_error;
use crate::keys::key_index::KeyIndex;
use crate::leases::lease::Lease;
use crate::log::concerned::{Concerned, KeyParts};
use crate::log::history::BaseMark;
use crate::log::{Frame, Record, Unseen};
use crate::state::install::BaseChange;
use crate::state::table_state::TableState;
use crate::version::Version;
use crate::writing::commit::Writing;

/// Bytes of keys from which a direct write ends its log segment, so that opening the table need not read them.
const LONG_RECORD_BYTES: usize = 1 << 20;

/// Bounds of the bytes of keys in one record, which holds about as many as a write to the change store.
const PART_BYTES_MIN: u64 = 64 << 10;
const PART_BYTES_MAX: u64 = 64 << 20;

/// The right to change the base.
#[derive(Debug)]
pub(crate) struct Changing {
    _turn: OwnedMutexGuard<()>,
    _lease: Lease,
}

/// A base that holds everything up to `version`, which was written at `time`.
#[derive(Debug)]
pub(crate) struct Folded {
    pub(crate) version: u64,
    pub(crate) time: Timestamp,
    pub(crate) base: Dataset,
    pub(crate) keys: KeyIndex,
}

/// A base that was changed by a direct write.
#[derive(Debug)]
pub(crate) struct Direct {
    pub(crate) base: Dataset,
    /// Hashes of new keys with their row ids, and of deleted keys (`None`).
    pub(crate) entries: Vec<(u128, Option<u64>)>,
    /// The keys of rows with new values, and the deleted keys.
    pub(crate) concerned: Vec<Concerned>,
    /// Whether readers see a difference, so that it is a new version.
    pub(crate) is_write: bool,
}

/// The outcome of logging a new base, which readers do not see yet.
struct Logged {
    /// Bytes of the keys that it concerns.
    bytes: usize,
    /// These keys, if they fit in one record.
    touched: Option<Concerned>,
    /// The guard that keeps the record unseen.
    unseen: Unseen,
}

impl TableState {
    /// Waits for the right to change the base.
    pub(crate) async fn changing(&self) -> Result<Changing> {
        let turn = self.base_turn().take().await;
        let lease = self.location().leases.base(self.options().writer_wait_max).await?;
        lease.say(self.upkeep().doing().as_deref().unwrap_or("writing to the base"))?;
        // It stays suspect until what is done with the right is logged.
        self.base_turn().set_suspect(true);
        Ok(Changing { _turn: turn, _lease: lease })
    }

    /// Adopts base versions that a process committed but did not log before it died.
    pub(crate) async fn adopt(self: &Arc<Self>, writing: &mut Writing) -> Result<()> {
        let (old, mark, secret) = {
            let newest = self.newest();
            (Arc::clone(newest.base()), newest.history().current()?, newest.history().hash_key)
        };
        let latest = old.latest_version_id().await.map_err(lance_error)?;
        if latest <= mark.base {
            return Ok(());
        }
        tracing::warn!(base = latest, path = self.location().base, "adopted a base version that was not logged");
        let base = self.load_base(latest).await?;
        sync_adopted(&old, &base).boxed().await?;
        let keys = open_or_build(&self.location().keys, self.key(), secret, &base, latest).await?;
        let concerned = dataset::difference(&old, &base, self.key(), secret, &keys).boxed().await?;
        let (version, time) = self.next();
        let mark = BaseMark {
            base: latest,
            version,
            keys: latest,
            time: time.0,
            made: time.0,
            ..self.account(mark, &base, true).await
        };
        self.log_base(writing, BaseChange { version, time, mark, base, keys }, concerned).await.map(drop)
    }

    /// Logs and installs the base that a fold made.
    pub(crate) async fn finish(
        self: &Arc<Self>,
        _changing: &Changing,
        writing: &mut Writing,
        folded: Folded,
    ) -> Result<()> {
        let (version, time) = self.now();
        let mark = self.history().current()?;
        let base = folded.base.version().version;
        let mark = BaseMark {
            base,
            version: mark.version.max(folded.version),
            folded: folded.version,
            keys: base,
            time: folded.time.0,
            made: time.0,
            ..self.account(mark, &folded.base, false).await
        };
        let change = BaseChange { version, time, mark, base: folded.base, keys: folded.keys };
        self.log_base(writing, change, stream::empty().boxed()).await.map(drop)
    }

    /// Logs and installs a base that was written directly, with the keys that it concerned; there are none if its rows
    /// are unchanged.
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
        let has_entries = !direct.entries.is_empty();
        let mut keys = self.newest().keys().clone();
        if has_entries {
            self.options().faults.check("keys.save")?;
            keys = blocking(move || keys.advance(base, direct.entries)).await?;
            keys = self.location().keys.save(keys, base).await?;
        }
        let all_folded = self.newest().changes().is_empty();
        let mark = BaseMark {
            base,
            version: if is_write { version } else { mark.version },
            folded: if all_folded { version } else { mark.folded },
            keys: if has_entries { base } else { mark.keys },
            time: if is_write { time.0 } else { mark.time },
            made: time.0,
            ..self.account(mark, &direct.base, is_write).await
        };
        let concerned = stream::iter(direct.concerned).map(Ok).boxed();
        let change = BaseChange { version, time, mark, base: direct.base, keys };
        let logged = self.log_base(writing, change, concerned).await?;
        let is_long = logged >= LONG_RECORD_BYTES;
        if is_long && let Err(error) = self.roll_if_folded(writing).await {
            // The write is committed; only opening the table takes longer.
            tracing::warn!(%error, log = writing.log().name(), "a segment of the log cannot be ended");
        }
        Ok(Version(version))
    }

    /// Returns `mark` with the bytes of `new` added to its counts: as accepted if `is_write`, otherwise as rewritten
    /// only.
    async fn account(&self, mark: BaseMark, new: &Dataset, is_write: bool) -> BaseMark {
        let old = Arc::clone(self.newest().base());
        let files = self.upkeep().file_bytes().added(&old, new).await.unwrap_or_else(|error| {
            // A committed write must not fail because of a statistic about it.
            tracing::warn!(%error, table = self.name(), "the size of a write cannot be measured");
            0
        });
        let logged = self.newest().accepted();
        let accepted = mark.accepted + logged + if is_write { files } else { 0 };
        BaseMark { accepted, stored: mark.stored + logged + files, ..mark }
    }

    /// Logs and installs a base. Returns the bytes of the keys that were logged.
    async fn log_base(
        self: &Arc<Self>,
        writing: &mut Writing,
        change: BaseChange,
        concerned: BoxStream<'_, Result<Concerned>>,
    ) -> Result<usize> {
        let Logged { bytes, touched, unseen } = self.append_base(writing, &change, concerned).await?;
        self.base_turn().set_suspect(false);
        match self.install(change, touched, unseen).await? {
            true => Ok(bytes),
            false => Err(Error::internal("the change store cannot be cut where it was sealed")),
        }
    }

    /// Logs the new base of `change` and, before it, the keys that it concerns.
    async fn append_base(
        &self,
        writing: &mut Writing,
        change: &BaseChange,
        mut concerned: BoxStream<'_, Result<Concerned>>,
    ) -> Result<Logged> {
        let BaseChange { version, time, mark, .. } = *change;
        let part_bytes = self.options().bulk_bytes.0.clamp(PART_BYTES_MIN, PART_BYTES_MAX) as usize;
        let mut parts = KeyParts { id: RandomState::new().build_hasher().finish(), count: 0 };
        // A part makes no version of the table.
        let before = self.now().0;
        let (mut pieces, mut piece_bytes, mut all_bytes) = (Vec::new(), 0, 0);
        while let Some(keys) = concerned.try_next().await? {
            let mut added = Vec::new();
            keys.split(part_bytes, &mut added);
            for piece in added.into_iter().filter(|piece| !piece.is_empty()) {
                let bytes = piece.bytes();
                if piece_bytes > 0 && piece_bytes + bytes > part_bytes {
                    let keys = Concerned::join(&std::mem::take(&mut pieces))?;
                    let record = Record::Keys { parts: parts.id, keys };
                    writing.append(vec![Frame { version: before, time, record }], true).await?;
                    parts.count += 1;
                    piece_bytes = 0;
                }
                pieces.push(piece);
                piece_bytes += bytes;
                all_bytes += bytes;
            }
        }
        let parts = (parts.count > 0).then_some(parts);
        let keys = Concerned::join(&pieces)?;
        let touched = parts.is_none().then(|| keys.clone());
        let record = Record::Base { mark, parts, keys };
        let (_, unseen) = writing.append(vec![Frame { version, time, record }], true).await?;
        Ok(Logged { bytes: all_bytes, touched, unseen })
    }
}

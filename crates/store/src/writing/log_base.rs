//! New versions of the base: who may make one, and how it is logged.

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

/// Keys of so many bytes end their segment of the log: whoever opens the table need not read it.
const LONG_RECORD_BYTES: usize = 1 << 20;

/// Bytes of keys in one record: as many as a write to the log holds, within these.
const PART_BYTES_MIN: u64 = 64 << 10;
const PART_BYTES_MAX: u64 = 64 << 20;

/// The right to change the base.
#[derive(Debug)]
pub(crate) struct Changing {
    _turn: OwnedMutexGuard<()>,
    _lease: Lease,
}

/// A base with everything up to `version`, which was written at `time`, in it.
#[derive(Debug)]
pub(crate) struct Folded {
    pub(crate) version: u64,
    pub(crate) time: Timestamp,
    pub(crate) base: Dataset,
    pub(crate) keys: KeyIndex,
}

/// A base that was changed without the change store.
#[derive(Debug)]
pub(crate) struct Direct {
    pub(crate) base: Dataset,
    /// Where keys are that were not there before, and those that are gone.
    pub(crate) entries: Vec<(u128, Option<u64>)>,
    /// The keys of rows that have new values, and of those that are gone.
    pub(crate) concerned: Vec<Concerned>,
    /// Whether readers see another table: a new version.
    pub(crate) is_write: bool,
}

/// A base that was logged, and that readers do not see yet.
struct Logged {
    /// Bytes of the keys that it concerns.
    bytes: usize,
    /// Those keys, if they are few.
    touched: Option<Concerned>,
    unseen: Unseen,
}

impl TableState {
    /// Waits for the turn to change the base.
    pub(crate) async fn changing(&self) -> Result<Changing> {
        let turn = self.base_turn().take().await;
        let lease = self.location().leases.base(self.options().writer_wait_max).await?;
        lease.say(self.upkeep().doing().as_deref().unwrap_or("writing to the base"))?;
        // Until what is done with it is logged.
        self.base_turn().set_suspect(true);
        Ok(Changing { _turn: turn, _lease: lease })
    }

    /// Takes over base versions that a process committed and died before it could log them.
    pub(crate) async fn adopt(self: &Arc<Self>, writing: &mut Writing) -> Result<()> {
        let (old, mark, secret) = {
            let newest = self.newest();
            (Arc::clone(newest.base()), newest.history().current()?, newest.history().hash_key)
        };
        let latest = old.latest_version_id().await.map_err(lance_error)?;
        if latest <= mark.base {
            return Ok(());
        }
        tracing::warn!(base = latest, path = self.location().base, "took over a base version that was not logged");
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

    /// Logs and installs a base that was written directly, with the keys that it concerned: none when its rows are the
    /// same.
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
            // What was written is there; only opening the table takes longer.
            tracing::warn!(%error, log = writing.log().name(), "the segment of the log cannot be ended");
        }
        Ok(Version(version))
    }

    /// `mark` with the bytes counted that went into `new`, which are new to Cenote when `is_write`, else written again.
    async fn account(&self, mark: BaseMark, new: &Dataset, is_write: bool) -> BaseMark {
        let old = Arc::clone(self.newest().base());
        let files = self.upkeep().file_bytes().added(&old, new).await.unwrap_or_else(|error| {
            // A write that is done does not fail for a figure about it.
            tracing::warn!(%error, table = self.name(), "what was written cannot be measured");
            0
        });
        let logged = self.newest().accepted();
        let accepted = mark.accepted + logged + if is_write { files } else { 0 };
        BaseMark { accepted, stored: mark.stored + logged + files, ..mark }
    }

    /// Returns the bytes of the keys that were logged.
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

    /// Logs a new base, unseen, and before it the keys that it concerns.
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

//! Taking in a new version of the base: who may make one, how it is logged, and how it replaces the one before.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrow::array::RecordBatch;
use cenote_base::{Error, Result, Timestamp};
use futures::FutureExt;
use lance::Dataset;
use tokio::sync::OwnedMutexGuard;

use crate::changes::ByHash;
use crate::commit::Writing;
use crate::fault::lance_error;
use crate::history::BaseMark;
use crate::key_index::KeyIndex;
use crate::lease::Lease;
use crate::log::{Frame, Record};
use crate::pages::RowReader;
use crate::state::{State, blocking, key_index};
use crate::{Version, base};

/// A record of so many bytes ends its segment of the log: whoever opens the table need not read it.
const LONG_RECORD_BYTES: usize = 1 << 20;

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
    /// Keys that have new values.
    pub(crate) written: Option<RecordBatch>,
    /// Keys that are gone.
    pub(crate) deleted: Option<RecordBatch>,
    /// Whether readers see another table: a new version.
    pub(crate) is_write: bool,
}

impl State {
    /// Waits for the turn to change the base.
    pub(crate) async fn changing(&self) -> Result<Changing> {
        let turn = Arc::clone(&self.base_turn).lock_owned().await;
        let lease = self.place.leases.base(self.options.writer_wait_max).await?;
        lease.say(self.upkeep.doing().as_deref().unwrap_or("writing to the base"))?;
        // Until what is done with it is logged.
        self.suspect.store(true, Ordering::Release);
        Ok(Changing { _turn: turn, _lease: lease })
    }

    /// Makes `mark` the current base, with direct writes of the keys of `touched` in it; false when the change store cannot be
    /// cut there. For who has the end of the log: nothing is written meanwhile.
    pub(crate) async fn install(
        self: &Arc<Self>,
        version: u64,
        time: Timestamp,
        mark: BaseMark,
        base: Dataset,
        keys: KeyIndex,
        touched: Vec<RecordBatch>,
    ) -> Result<bool> {
        self.fence.learn(mark.base);
        let base_rows = base.count_rows(None).await.map_err(lance_error)?;
        let state = Arc::clone(self);
        blocking(move || {
            let mut hashes = Vec::new();
            for keys in &touched {
                hashes.extend(state.key.hash(keys, state.hash_key())?);
            }
            let later = {
                let inner = state.inner.lock();
                let is_cut = inner.changes.is_cut_by(mark.folded, &hashes);
                is_cut.then(|| inner.changes.keys_after(mark.folded))
            };
            // Read from the disk while readers go on.
            let bases: Option<ByHash<u64>> = match later {
                Some(later) => {
                    let rows = keys.get_many(&later)?;
                    Some(later.into_iter().zip(rows).filter_map(|(hash, row)| Some((hash, row?))).collect())
                }
                None => None,
            };
            let base = Arc::new(base);
            let reader = Arc::new(RowReader::new(&base, &state.pages));
            let mut inner = state.inner.lock();
            if let Some(bases) = bases {
                let Some(changes) = inner.changes.folded(mark.folded, &bases) else { return Ok(false) };
                // What is left came while the fold went on.
                inner.since = (!changes.is_empty()).then_some(time);
                inner.changes = changes;
            }
            Arc::make_mut(&mut inner.history).add(mark);
            inner.version = inner.version.max(version);
            inner.time = inner.time.max(time);
            inner.accepted = 0;
            (inner.base, inner.base_rows, inner.reader, inner.keys) = (base, base_rows, reader, keys);
            Ok(true)
        })
        .await
    }

    /// Takes over base versions that a process committed and died before it could log them.
    pub(crate) async fn adopt(self: &Arc<Self>, writing: &mut Writing) -> Result<()> {
        let (old, mark, secret) = {
            let inner = self.inner.lock();
            (Arc::clone(&inner.base), inner.history.current()?, inner.history.hash_key)
        };
        let latest = old.latest_version_id().await.map_err(lance_error)?;
        if latest <= mark.base {
            self.suspect.store(false, Ordering::Release);
            return Ok(());
        }
        tracing::warn!(base = latest, path = self.place.base, "took over a base version that was not logged");
        let base = self.load_base(latest).await?;
        let (written, deleted) = base::difference(&old, &base, &self.key, secret).boxed().await?;
        let keys = key_index(&self.place.keys, &self.key, secret, &base, latest).await?;
        let (version, time) = self.next();
        let mark = BaseMark {
            base: latest,
            version,
            keys: latest,
            time: time.0,
            made: time.0,
            ..self.account(mark, &base, true).await
        };
        self.log_base(writing, version, time, mark, base, keys, written, deleted).await
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
        let has_entries = !direct.entries.is_empty();
        let mut keys = self.inner.lock().keys.clone();
        if has_entries {
            self.options.faults.check("keys.save")?;
            keys = blocking(move || keys.advance(base, direct.entries)).await?;
            keys = self.place.keys.save(keys, base).await?;
        }
        let all_folded = self.inner.lock().changes.is_empty();
        let mark = BaseMark {
            base,
            version: if is_write { version } else { mark.version },
            folded: if all_folded { version } else { mark.folded },
            keys: if has_entries { base } else { mark.keys },
            time: if is_write { time.0 } else { mark.time },
            made: time.0,
            ..self.account(mark, &direct.base, is_write).await
        };
        let logged = [&direct.written, &direct.deleted].into_iter().flatten();
        let is_long = logged.map(RecordBatch::get_array_memory_size).sum::<usize>() >= LONG_RECORD_BYTES;
        self.log_base(writing, version, time, mark, direct.base, keys, direct.written, direct.deleted).await?;
        if is_long && let Err(error) = self.roll_if_folded(writing).await {
            // What was written is there; only opening the table takes longer.
            tracing::warn!(%error, log = writing.log().name(), "the segment of the log cannot be ended");
        }
        Ok(Version(version))
    }

    /// `mark` with the bytes counted that went into `new`, which are new to Cenote when `is_write`, else written again.
    async fn account(&self, mark: BaseMark, new: &Dataset, is_write: bool) -> BaseMark {
        let old = Arc::clone(&self.inner.lock().base);
        let files = self.upkeep.file_bytes.added(&old, new).await.unwrap_or_else(|error| {
            // A write that is done does not fail for a figure about it.
            tracing::warn!(%error, table = self.name, "what was written cannot be measured");
            0
        });
        let logged = self.inner.lock().accepted;
        let accepted = mark.accepted + logged + if is_write { files } else { 0 };
        BaseMark { accepted, stored: mark.stored + logged + files, ..mark }
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
        let touched = [&written, &deleted].into_iter().flatten().cloned().collect();
        writing.append(vec![Frame { version, time, record: Record::Base { mark, written, deleted } }], true).await?;
        self.suspect.store(false, Ordering::Release);
        match self.install(version, time, mark, base, keys, touched).await? {
            true => Ok(()),
            false => Err(Error::internal("the change store cannot be cut where it was sealed")),
        }
    }
}

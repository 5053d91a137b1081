//! Leases: one writer per table, across all processes.
//!
//! On a local disk, they are advisory locks on two files beside the table, one for writing the log and one for changing
//! the base. The operating system releases them when their holder ends, however it ends.
//!
//! One lease serves both in an object store. It is the object with the highest number among a table's leases; creating
//! the next number, which only one process can do, takes the lease over. Its holder sends heartbeats by replacing the
//! object, and releases the lease when it has not written for a while. A process that wants the lease and sees no
//! heartbeat for a while, by its own clock alone, considers it abandoned. A holder that was merely slow finds out at
//! its next write to the log or the base, which its successor has fenced.

use std::fs::{File, TryLockError};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use cenote_base::sync::Mutex;
use cenote_base::{Context, Error, Result};
use serde::{Deserialize, Serialize};

use crate::files::objects::Objects;

const FILE_POLL: Duration = Duration::from_millis(2);
const OBJECT_POLL: Duration = Duration::from_millis(100);

/// An exclusive right on a table, held until it is dropped. Within a process, waiters must queue at a mutex first,
/// because a file lock does not order them.
#[derive(Debug)]
pub(crate) struct Lease {
    file: Option<File>,
    /// The number of the lease in an object store, and a mark that it is in use.
    number: u64,
    _use: Option<Arc<()>>,
}

impl Lease {
    /// Records what is done under the lease, for other processes to report.
    pub(crate) fn say(&self, what: &str) -> Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        let said = format!("process {}: {what}", std::process::id());
        let written = file.set_len(0).and_then(|()| file.write_all_at(said.as_bytes(), 0));
        written.context(|| format!("record `{what}` in a lock file"))
    }
}

/// The source of leases on a table.
#[derive(Debug)]
pub(crate) enum Leases {
    Files { writer: PathBuf, base: PathBuf },
    Objects(Arc<TableLease>),
}

impl Leases {
    /// Waits for the right to write the log.
    ///
    /// # Errors
    /// `Conflict` when another process holds it for longer than `wait_max`.
    pub(crate) async fn writer(&self, wait_max: Duration) -> Result<Lease> {
        match self {
            Self::Files { writer, .. } => lock(writer, wait_max).await,
            Self::Objects(lease) => lease.hold(wait_max).await,
        }
    }

    /// Waits for the right to change the base.
    ///
    /// # Errors
    /// Those of [`writer`](Self::writer).
    pub(crate) async fn base(&self, wait_max: Duration) -> Result<Lease> {
        match self {
            Self::Files { base, .. } => lock(base, wait_max).await,
            Self::Objects(lease) => lease.hold(wait_max).await,
        }
    }

    /// Takes the right to change the base, unless another process has it.
    pub(crate) async fn try_base(&self) -> Result<Option<Lease>> {
        match self {
            Self::Files { base, .. } => try_lock(base),
            Self::Objects(lease) => Ok(lease.held().map(|number| lease.lend(number))),
        }
    }

    /// Returns what another process is doing to the base, if it recorded that.
    pub(crate) fn elsewhere(&self) -> Result<Option<String>> {
        match self {
            // A lock that cannot be taken for other reasons, such as a read-only file system, tells nothing.
            Self::Files { base, .. } if matches!(try_lock(base), Ok(None)) => {
                let said = std::fs::read_to_string(base).context(|| format!("read {}", base.display()))?;
                Ok(Some(said).filter(|said| !said.is_empty()))
            }
            _ => Ok(None),
        }
    }

    /// Returns whether no other process can have written since [`settle`](Self::settle).
    pub(crate) fn is_sole(&self) -> bool {
        match self {
            Self::Files { .. } => false,
            Self::Objects(lease) => lease.is_settled(),
        }
    }

    /// Returns whether a lease that was given out and not returned is certainly still ours, however long ago that was.
    pub(crate) fn is_certain(&self) -> bool {
        match self {
            Self::Files { .. } => true,
            Self::Objects(lease) => lease.held().is_some(),
        }
    }

    /// Returns whether another process may have held the right to write between this lease and the one of the last
    /// call.
    pub(crate) fn is_new(&self, lease: &Lease) -> bool {
        match self {
            Self::Files { .. } => true,
            Self::Objects(table) => table.asked.swap(lease.number, Ordering::AcqRel) != lease.number,
        }
    }

    /// Returns whether nobody has taken over since `lease` was given out, however long ago that was.
    pub(crate) async fn is_newest(&self, lease: &Lease) -> Result<bool> {
        match self {
            Self::Files { .. } => Ok(true),
            Self::Objects(table) => Ok(TableLease::latest(&table.objects.list().await?) == Some(lease.number)),
        }
    }

    /// Records that everything was applied that was in the log when `lease` was given out.
    pub(crate) fn settle(&self, lease: &Lease) {
        if let Self::Objects(table) = self {
            table.settled.store(lease.number, Ordering::Release);
        }
    }

    /// Records that the end of the log is unknown, because a write to it failed; and that the lease was lost, if
    /// `is_lost`.
    pub(crate) fn unsettle(&self, is_lost: bool) {
        if let Self::Objects(table) = self {
            table.settled.store(0, Ordering::Release);
            if is_lost {
                *table.held.lock() = None;
            }
        }
    }

    /// Releases the lease, so that others can write at once.
    pub(crate) async fn release(&self) -> Result<()> {
        match self {
            Self::Files { .. } => Ok(()),
            Self::Objects(lease) => lease.release().await,
        }
    }
}

/// Waits for the lock on `path` while another process holds it.
async fn lock(path: &Path, wait_max: Duration) -> Result<Lease> {
    let start = Instant::now();
    loop {
        if let Some(lease) = try_lock(path)? {
            return Ok(lease);
        }
        if start.elapsed() >= wait_max {
            return Err(busy("another process", wait_max));
        }
        tokio::time::sleep(FILE_POLL).await;
    }
}

/// Takes the lock on `path`, unless it is held.
fn try_lock(path: &Path) -> Result<Option<Lease>> {
    let file = File::options().create(true).truncate(false).write(true).open(path);
    let file = file.context(|| format!("open lock file {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(Lease { file: Some(file), number: 0, _use: None })),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(source)) => Err(Error::from(source).context(format!("lock {}", path.display()))),
    }
}

fn busy(who: &str, waited: Duration) -> Error {
    let seconds = waited.as_secs();
    Error::conflict(format!("{who} has held this table for {seconds} s; wait for it to end and try again"))
}

/// The lease of a table in an object store: see the module's description.
#[derive(Debug)]
pub(crate) struct TableLease {
    objects: Objects,
    /// The unique name of the holder: process, machine, and a random number.
    holder: String,
    /// How long a lease may go without a heartbeat before it counts as abandoned.
    patience: Duration,
    held: Mutex<Option<Held>>,
    /// The number of the lease under which the log was last read to its end.
    settled: AtomicU64,
    /// The number of the lease that [`Leases::is_new`] was last asked about.
    asked: AtomicU64,
    /// Cloned by leases that are lent; `used` is when one last was.
    uses: Arc<()>,
    used: Mutex<Instant>,
    /// Held while the lease is taken, renewed or released.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Debug, Clone, Copy)]
struct Held {
    number: u64,
    beat: u64,
    /// When the newest heartbeat that arrived was sent.
    since: Instant,
}

/// The content of a lease object.
#[derive(Debug, Serialize, Deserialize, PartialEq)]
struct LeaseRecord {
    holder: String,
    beat: u64,
    released: bool,
}

impl TableLease {
    pub(crate) fn new(objects: Objects, patience: Duration) -> Self {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let which = RandomState::new().build_hasher().finish() as u32;
        let holder = format!("process {} on {} ({which:08x})", std::process::id(), host.trim());
        Self {
            objects,
            holder,
            patience,
            held: Mutex::default(),
            settled: AtomicU64::new(0),
            asked: AtomicU64::new(0),
            uses: Arc::default(),
            used: Mutex::new(Instant::now()),
            turn: tokio::sync::Mutex::default(),
        }
    }

    /// Returns the number of the lease if this process holds it and nobody can have found it abandoned.
    fn held(&self) -> Option<u64> {
        self.held.lock().filter(|held| held.since.elapsed() < self.patience / 2).map(|held| held.number)
    }

    fn is_settled(&self) -> bool {
        self.held().is_some_and(|number| number == self.settled.load(Ordering::Acquire))
    }

    fn lend(&self, number: u64) -> Lease {
        *self.used.lock() = Instant::now();
        Lease { file: None, number, _use: Some(Arc::clone(&self.uses)) }
    }

    /// Returns whether nothing in this process has written for a while.
    fn is_idle(&self) -> bool {
        Arc::strong_count(&self.uses) == 1 && self.used.lock().elapsed() > self.patience
    }

    /// Returns the highest of the numbers that are names of leases.
    fn latest(names: &[String]) -> Option<u64> {
        names.iter().filter_map(|name| name.parse().ok()).max()
    }

    async fn hold(self: &Arc<Self>, wait_max: Duration) -> Result<Lease> {
        if let Some(number) = self.held() {
            return Ok(self.lend(number));
        }
        let _turn = self.turn.lock().await;
        // The previous holder of the turn may have taken the lease.
        let number = match self.held() {
            Some(number) => number,
            None => self.take(wait_max).await?,
        };
        Ok(self.lend(number))
    }

    async fn take(self: &Arc<Self>, wait_max: Duration) -> Result<u64> {
        let start = Instant::now();
        let mut seen: Option<(u64, Option<Bytes>, Instant)> = None;
        loop {
            let numbers = self.objects.list().await?;
            let latest = Self::latest(&numbers);
            let claim = match latest {
                Some(number) => self.objects.get(&number.to_string()).await?,
                None => None,
            };
            let said = claim.as_ref().and_then(|bytes| serde_json::from_slice::<LeaseRecord>(bytes).ok());
            let number = latest.unwrap_or(0);
            let is_free = match &seen {
                _ if claim.is_none() || said.as_ref().is_some_and(|claim| claim.released) => true,
                Some((known, bytes, since)) if (*known, bytes) == (number, &claim) => since.elapsed() >= self.patience,
                _ => {
                    seen = Some((number, claim, Instant::now()));
                    false
                }
            };
            if is_free {
                let since = Instant::now();
                if self.objects.create(&(number + 1).to_string(), self.claim(0, false)?).await? {
                    *self.held.lock() = Some(Held { number: number + 1, beat: 0, since });
                    for name in numbers {
                        self.objects.delete(&name).await?;
                    }
                    self.keep_beating(number + 1);
                    return Ok(number + 1);
                }
                continue;
            }
            if start.elapsed() >= wait_max {
                return Err(busy(&said.map_or_else(|| "another process".to_owned(), |claim| claim.holder), wait_max));
            }
            tokio::time::sleep(OBJECT_POLL).await;
        }
    }

    /// Sends heartbeats in the background until lease `number` is released, lost or idle.
    fn keep_beating(self: &Arc<Self>, number: u64) {
        let lease = Arc::downgrade(self);
        let pause = self.patience / 6;
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(pause).await;
                let Some(lease) = lease.upgrade() else { return };
                match lease.beat(number).await {
                    Ok(true) => {}
                    Ok(false) => return,
                    // The next one may arrive; if none does in time, the lease is taken again before the next write.
                    Err(error) => tracing::warn!(%error, "a heartbeat of a lease was lost"),
                }
            }
        });
    }

    /// Replaces the object of lease `number`. Returns false if this process no longer holds it.
    async fn beat(&self, number: u64) -> Result<bool> {
        let _turn = self.turn.lock().await;
        let Some(held) = self.held.lock().filter(|held| held.number == number) else { return Ok(false) };
        if held.since.elapsed() >= self.patience / 2 {
            // Another process may hold it by now.
            *self.held.lock() = None;
            return Ok(false);
        }
        if self.is_idle() {
            *self.held.lock() = None;
            self.objects.put(&held.number.to_string(), self.claim(held.beat, true)?).await?;
            return Ok(false);
        }
        let next = Held { beat: held.beat + 1, since: Instant::now(), ..held };
        self.objects.put(&held.number.to_string(), self.claim(next.beat, false)?).await?;
        *self.held.lock() = Some(next);
        Ok(true)
    }

    async fn release(&self) -> Result<()> {
        let _turn = self.turn.lock().await;
        let Some(held) = self.held.lock().take() else { return Ok(()) };
        self.objects.put(&held.number.to_string(), self.claim(held.beat, true)?).await
    }

    fn claim(&self, beat: u64, released: bool) -> Result<Bytes> {
        let claim = LeaseRecord { holder: self.holder.clone(), beat, released };
        let bytes =
            serde_json::to_vec(&claim).map_err(|source| Error::internal("write a lease").with_source(source))?;
        Ok(bytes.into())
    }
}

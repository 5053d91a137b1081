//! Claims on files that no version of the base names yet, and on versions that long work reads.
//!
//! A process that writes files without the right to change the base first leaves a claim, and then sends heartbeats.
//! Rows that were staged for a later commit leave a claim with the names of their files, valid for [`KEPT`]. A
//! collection spares what is claimed. It lists the files first and reads the claims afterwards, so that each file on
//! its list is claimed, belongs to an earlier commit, or belongs to nobody.
//!
//! A process judges the owners of claims by its own clock alone: an owner without a heartbeat for a while is dead. That
//! is recorded beside the claim before anything that it protects is removed, because an owner that was merely suspended
//! goes on, and its next heartbeat brings the claim back. So an owner commits only if no such record exists.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use cenote_base::sync::Mutex;
use cenote_base::{Error, Result, Timestamp};
use serde::{Deserialize, Serialize};
use tokio::task::AbortHandle;

use crate::files::objects::Objects;

/// The extension of the record that the owner of a claim was taken for dead: the time, in microseconds since 1970.
const DEAD: &str = ".dead";
/// How long staged rows are kept for their commit, and records of the dead for owners that were suspended.
pub(crate) const KEPT: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// Heartbeats per patience: a silent owner counts as dead after this many intervals.
const BEATS: u32 = 6;
/// Maximum interval of checks for a heartbeat of a claim's owner.
const POLL_MAX: Duration = Duration::from_millis(100);

/// The kind of work that a claim is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ClaimedWork {
    /// Writing rows.
    Rows,
    /// Reading the base to build something from its files, such as an index.
    Build,
    /// Joining files of the base.
    Join,
}

/// A claim as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Claimed {
    owner: String,
    beat: u64,
    work: ClaimedWork,
    /// The version of the base that the work reads.
    base: u64,
    /// When all files were written, in microseconds since 1970; and the names of the files.
    staged: Option<i64>,
    files: Vec<String>,
}

/// The claims on a table. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Staging {
    objects: Objects,
    patience: Duration,
    /// The live claims of this process.
    ours: Arc<Mutex<HashSet<String>>>,
}

/// The files and work that claims protect.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    /// Claims of work in progress, whose files are not known yet.
    writing: Vec<Claimed>,
    /// Files that wait for their commit.
    pub(crate) files: HashSet<String>,
}

impl Claims {
    /// Returns whether files are being written whose names are not known yet.
    pub(crate) fn is_writing(&self) -> bool {
        !self.writing.is_empty()
    }

    /// Returns whether something is being built from the files of the base.
    pub(crate) fn is_building(&self) -> bool {
        self.writing.iter().any(|claimed| claimed.work == ClaimedWork::Build)
    }

    /// Returns the oldest version of the base that work in progress reads.
    pub(crate) fn oldest_base(&self) -> Option<u64> {
        self.writing.iter().map(|claimed| claimed.base).min()
    }
}

/// A claim of this process. If it is dropped without being ended, it is withdrawn: its files belong to nobody.
#[derive(Debug)]
pub(crate) struct Claim {
    staging: Staging,
    name: String,
    claimed: Claimed,
    beating: AbortHandle,
    /// Whether the claim has ended, or waits for a commit. Locked while the claim is written, so that no heartbeat
    /// follows its end.
    is_over: Arc<tokio::sync::Mutex<bool>>,
}

impl Staging {
    pub(crate) fn new(objects: Objects, patience: Duration) -> Self {
        Self { objects, patience, ours: Arc::default() }
    }

    /// Claims what `work` writes from now on, and version `base`, which it reads.
    pub(crate) async fn claim(&self, work: ClaimedWork, base: u64) -> Result<Claim> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let random = RandomState::new().hash_one(std::process::id());
        let name = format!("{random:016x}-{}", COUNTER.fetch_add(1, Ordering::Relaxed));
        let owner = format!("process {}", std::process::id());
        let claimed = Claimed { owner, beat: 0, work, base, staged: None, files: Vec::new() };
        self.ours.lock().insert(name.clone());
        let is_over: Arc<tokio::sync::Mutex<bool>> = Arc::default();
        let beat = self.clone().beat(name.clone(), claimed.clone(), Arc::clone(&is_over));
        let beating = tokio::spawn(beat).abort_handle();
        let claim = Claim { staging: self.clone(), name, claimed, beating, is_over };
        self.write(&claim.name, &claim.claimed).await?;
        Ok(claim)
    }

    async fn beat(self, name: String, mut claimed: Claimed, is_over: Arc<tokio::sync::Mutex<bool>>) {
        loop {
            tokio::time::sleep(self.patience / BEATS).await;
            let is_over = is_over.lock().await;
            if *is_over {
                return;
            }
            claimed.beat += 1;
            if let Err(error) = self.write(&name, &claimed).await {
                // The next one may arrive; if none does in time, the commit fails.
                tracing::warn!(%error, "a heartbeat of a claim was lost");
            }
        }
    }

    async fn write(&self, name: &str, claimed: &Claimed) -> Result<()> {
        let bytes =
            serde_json::to_vec(claimed).map_err(|source| Error::internal("write a claim").with_source(source))?;
        self.objects.put(name, bytes.into()).await
    }

    /// Withdraws a claim, if it exists. One that cannot be removed expires.
    pub(crate) async fn forget(&self, name: &str) {
        if let Err(error) = self.objects.delete(name).await {
            tracing::warn!(%error, "a claim on files stays until it expires");
        }
    }

    /// Removes all claims.
    pub(crate) async fn remove(&self) -> Result<()> {
        self.objects.delete_all().await
    }

    /// Checks that staged rows wait for their commit under the claim called `name`. Requires the right to change the
    /// base, without which nothing is removed.
    ///
    /// # Errors
    /// `Conflict` when the claim has ended: its files were committed, or are removed.
    pub(crate) async fn check_kept(&self, name: &str) -> Result<()> {
        if self.objects.exists(name).await? {
            return Ok(());
        }
        Err(Error::conflict(
            "staged rows no longer exist: they were committed already, or waited for more than seven days; stage them \
             again",
        ))
    }

    /// Removes the claims of dead owners, and those whose rows were not committed in time. Takes the whole patience
    /// where an owner is dead, and one heartbeat's interval where one is alive in another process.
    pub(crate) async fn bury(&self, now: Timestamp) -> Result<()> {
        let start = Instant::now();
        let is_old = |time: i64| now.0.saturating_sub(time) > KEPT.as_micros() as i64;
        for name in self.objects.list().await?.iter().filter(|name| name.ends_with(DEAD)) {
            let died = self.objects.get(name).await?;
            if died.is_some_and(|died| serde_json::from_slice(&died).is_ok_and(is_old)) {
                self.objects.delete(name).await?;
            }
        }
        let mut silent: BTreeMap<String, Claimed> = BTreeMap::new();
        for (name, claimed) in self.read().await? {
            match claimed.staged {
                Some(staged) if is_old(staged) => self.objects.delete(&name).await?,
                Some(_) => {}
                None if self.ours.lock().contains(&name) => {}
                None => drop(silent.insert(name, claimed)),
            }
        }
        while !silent.is_empty() {
            tokio::time::sleep(POLL_MAX.min(self.patience / BEATS)).await;
            let claims: BTreeMap<String, Claimed> = self.read().await?.into_iter().collect();
            silent.retain(|name, claimed| claims.get(name) == Some(claimed));
            if start.elapsed() >= self.patience {
                for name in silent.keys() {
                    self.objects.put(&format!("{name}{DEAD}"), now.0.to_string().into()).await?;
                    self.objects.delete(name).await?;
                }
                break;
            }
        }
        Ok(())
    }

    /// Returns all claims.
    pub(crate) async fn claims(&self) -> Result<Claims> {
        let mut claims = Claims::default();
        for (_, claimed) in self.read().await? {
            match claimed.staged {
                Some(_) => claims.files.extend(claimed.files),
                None => claims.writing.push(claimed),
            }
        }
        Ok(claims)
    }

    /// Reads the claims of owners that nobody took for dead.
    async fn read(&self) -> Result<Vec<(String, Claimed)>> {
        let mut found = Vec::new();
        let names: BTreeSet<String> = self.objects.list().await?.into_iter().collect();
        for name in names.iter().filter(|name| !name.ends_with(DEAD) && !names.contains(&format!("{name}{DEAD}"))) {
            // It was withdrawn meanwhile, or half written; then its owner writes it again.
            let bytes: Option<Bytes> = self.objects.get(name).await?;
            let claimed = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
            found.extend(claimed.map(|claimed| (name.clone(), claimed)));
        }
        Ok(found)
    }
}

impl Claim {
    /// Checks that what the claim protects is there, before a version names it. Requires the right to change the base,
    /// without which nothing is removed.
    ///
    /// # Errors
    /// `Conflict` when another process took this one for dead.
    pub(crate) async fn check(&self) -> Result<()> {
        if self.staging.objects.exists(&format!("{}{DEAD}", self.name)).await? {
            return Err(Error::conflict(
                "this process stopped sending heartbeats for a while, and what it was writing may have been removed: \
                 try again",
            ));
        }
        Ok(())
    }

    /// Ends the claim: a version names its files now, or they belong to nobody.
    pub(crate) async fn end(&self) {
        let was_over = std::mem::replace(&mut *self.is_over.lock().await, true);
        if !was_over {
            self.staging.forget(&self.name).await;
        }
    }

    /// Converts the claim into one for `files`, which wait for a commit, and returns its name. The claim outlives its
    /// work then.
    pub(crate) async fn keep(&self, files: Vec<String>, now: Timestamp) -> Result<String> {
        *self.is_over.lock().await = true;
        let kept = Claimed { staged: Some(now.0), files, ..self.claimed.clone() };
        self.staging.write(&self.name, &kept).await?;
        Ok(self.name.clone())
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.beating.abort();
        self.staging.ours.lock().remove(&self.name);
        if self.is_over.try_lock().is_ok_and(|is_over| *is_over) {
            return;
        }
        // Without a runtime, the claim's heartbeats just stop.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let (staging, name) = (self.staging.clone(), std::mem::take(&mut self.name));
            runtime.spawn(async move { staging.forget(&name).await });
        }
    }
}

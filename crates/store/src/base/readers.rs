//! The versions of a base that are being read, in this process and in others. A collection spares them.
//!
//! On a local disk, a process holds a shared lock on the manifest of a version as long as it has a snapshot of that
//! version, or a scan begun on one. A collection tries to take an exclusive lock on each version that it wants to
//! remove, and spares a version if that fails. Neither side ever waits for a lock.
//!
//! A reader locks the version that it considers current, *then* reads the log to its end, and starts again if the log
//! names another version. A collection logs what it removes, *then* tries the locks. So either the collection finds the
//! lock, or the reader finds the record, as in Dekker's algorithm. It does not matter if the manifest is removed before
//! it is locked.
//!
//! The operating system releases the locks of a process that ends, however it ends. A forked child shares them: what
//! the parent releases is released for both, what the child drops releases nothing, and what the parent held when it
//! ended is held until the child ends or executes another program.
//!
//! An object store has no locks. There a collection knows only the readers of its own process, and a reader in another
//! process fails with `NotFound` when it reaches a removed file.

use std::collections::BTreeSet;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use cenote_base::sync::Mutex;
use cenote_base::{Context, Error, Result};
use lance::Dataset;
use lance_table::io::commit::ManifestNamingScheme;

/// The versions of a base that this process reads.
#[derive(Debug)]
pub(crate) struct Readers {
    /// The directory of the manifests; `None` in an object store.
    manifests: Option<PathBuf>,
    known: Mutex<Vec<KnownVersion>>,
    /// The id of the process that holds the locks.
    process: u32,
}

/// A version of the base that is in memory.
#[derive(Debug)]
struct KnownVersion {
    base: Weak<Dataset>,
    version: u64,
    readings: usize,
    /// Opened by the first reading, and kept open for the next ones.
    manifest: Option<File>,
    is_locked: bool,
}

/// A pinned version of the base: its files are kept as long as this value exists.
#[derive(Debug)]
pub(crate) struct Reading {
    readers: Arc<Readers>,
    base: Arc<Dataset>,
}

impl Readers {
    /// Makes an empty registry for the base whose manifests are in the directory `manifests`.
    pub(crate) fn new(manifests: Option<PathBuf>) -> Self {
        Self { manifests, known: Mutex::default(), process: std::process::id() }
    }

    /// Pins the files of `base`, unless a collection that was logged has already removed them: the module's description
    /// says what to check afterwards. Costs one system call for the first reading of a version, and one when its last
    /// reading ends.
    pub(crate) fn read(self: &Arc<Self>, base: &Arc<Dataset>) -> Reading {
        let mut known = self.known.lock();
        let at = known.iter().position(|known| known.is_of(base)).unwrap_or_else(|| {
            known.retain(|known| known.base.strong_count() > 0);
            known.push(KnownVersion::new(base));
            known.len() - 1
        });
        let version = &mut known[at];
        version.readings += 1;
        if let Some(manifests) = &self.manifests {
            version.lock(base, manifests);
        }
        Reading { readers: Arc::clone(self), base: Arc::clone(base) }
    }

    /// Returns the versions before `end` that are being read. Does blocking I/O.
    pub(crate) fn versions_before(&self, end: u64) -> Result<BTreeSet<u64>> {
        let mut found: BTreeSet<u64> = {
            let known = self.known.lock();
            let used = known.iter().filter(|known| known.base.strong_count() > 0 && known.version < end);
            used.map(|known| known.version).collect()
        };
        let Some(manifests) = &self.manifests else { return Ok(found) };
        for entry in std::fs::read_dir(manifests).context(|| format!("list {}", manifests.display()))? {
            let entry = entry?;
            let version = entry.file_name().to_str().and_then(version_of);
            if let Some(version) = version
                && version < end
                && !found.contains(&version)
                && is_locked(&entry.path())?
            {
                found.insert(version);
            }
        }
        Ok(found)
    }
}

impl KnownVersion {
    fn new(base: &Arc<Dataset>) -> Self {
        let version = base.version().version;
        Self { base: Arc::downgrade(base), version, readings: 0, manifest: None, is_locked: false }
    }

    fn is_of(&self, base: &Arc<Dataset>) -> bool {
        std::ptr::eq(self.base.as_ptr(), Arc::as_ptr(base))
    }

    fn lock(&mut self, base: &Dataset, manifests: &Path) {
        if self.is_locked {
            return;
        }
        if self.manifest.is_none() {
            let name = base.manifest_location().path.filename();
            self.manifest = name.and_then(|name| File::open(manifests.join(name)).ok());
        }
        // If the manifest is gone or a collection is trying its lock, the version is not current any more, and the log
        // says so. On systems without locks, nobody collects.
        self.is_locked = self.manifest.as_ref().is_some_and(|manifest| manifest.try_lock_shared().is_ok());
    }

    fn unlock(&mut self) {
        if self.is_locked && self.manifest.as_ref().is_none_or(|manifest| manifest.unlock().is_err()) {
            // Closing the file releases the lock too.
            self.manifest = None;
        }
        self.is_locked = false;
    }
}

impl Reading {
    /// Returns the pinned version.
    pub(crate) fn base(&self) -> &Arc<Dataset> {
        &self.base
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        if self.readers.process != std::process::id() {
            return;
        }
        let mut known = self.readers.known.lock();
        let Some(version) = known.iter_mut().find(|known| known.is_of(&self.base)) else { return };
        version.readings -= 1;
        if version.readings == 0 {
            version.unlock();
        }
    }
}

/// Returns the version whose manifest is called `name`.
fn version_of(name: &str) -> Option<u64> {
    ManifestNamingScheme::detect_scheme(name)?.parse_version(name)
}

/// Returns whether any process has locked the manifest at `path`.
fn is_locked(path: &Path) -> Result<bool> {
    let failed = || format!("check for readers of {}", path.display());
    // Opened for writing, because network file systems grant no exclusive lock on a file opened for reading only.
    let manifest = match File::options().read(true).write(true).open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        manifest => manifest.context(failed)?,
    };
    match manifest.try_lock() {
        // Released at once, with the file.
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(source)) => Err(Error::from(source).context(failed())),
    }
}

//! Who reads which version of the base, in this process and in others: a collection leaves those alone.
//!
//! On a local disk a process holds a shared lock on the manifest of a version as long as it has a snapshot of it, or a
//! scan that was begun on one. A collection tries for an exclusive lock on each version that it wants to remove, and
//! leaves one that it does not get. Nobody waits: the lock is had or not.
//!
//! A reader locks the version that it takes for the current one, *then* finds the log at its end, and starts again when
//! the log names another version. A collection logs what it removes, *then* tries the locks. So the collection finds
//! the lock, or the reader finds the record, as in Dekker's algorithm; that the manifest may be gone by the time that
//! it is locked does not matter.
//!
//! The operating system gives back the locks of a process that ends, however it ends. A child made by a fork shares
//! them: what the parent gives back is given back for both, what the child drops gives back nothing, and what the
//! parent held when it ended is held until the child ends or runs another program.
//!
//! An object store has no locks. There a collection knows the readers of its own process alone, and a reader in another
//! one fails with `NotFound` when it comes to a file that was removed.

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
    /// The process whose locks these are.
    process: u32,
}

/// A version of the base that is in memory.
#[derive(Debug)]
struct KnownVersion {
    base: Weak<Dataset>,
    version: u64,
    readings: usize,
    /// Open from the first reading on, for the next one.
    manifest: Option<File>,
    is_locked: bool,
}

/// A version of the base whose files are kept as long as this is.
#[derive(Debug)]
pub(crate) struct Reading {
    readers: Arc<Readers>,
    base: Arc<Dataset>,
}

impl Readers {
    /// Knows of no reader yet, of the base whose manifests are in the directory `manifests`.
    pub(crate) fn new(manifests: Option<PathBuf>) -> Self {
        Self { manifests, known: Mutex::default(), process: std::process::id() }
    }

    /// Keeps the files of `base`, if a collection that was logged has not removed them already: see the module's
    /// description for what has to be asked after it. It takes a system call where nobody reads the version yet, and
    /// another one when nobody reads it any more.
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

    /// Returns the versions before `end` that somebody reads. Blocks.
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
        // One that is gone or that a collection tries is not current any more, which the log says. Where there are no
        // locks at all, nobody collects.
        self.is_locked = self.manifest.as_ref().is_some_and(|manifest| manifest.try_lock_shared().is_ok());
    }

    fn unlock(&mut self) {
        if self.is_locked && self.manifest.as_ref().is_none_or(|manifest| manifest.unlock().is_err()) {
            // Closing it gives the lock back too.
            self.manifest = None;
        }
        self.is_locked = false;
    }
}

impl Reading {
    /// The version that is read.
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

/// The version whose manifest is called `name`.
fn version_of(name: &str) -> Option<u64> {
    ManifestNamingScheme::detect_scheme(name)?.parse_version(name)
}

/// Whether somebody has locked the manifest at `path`.
fn is_locked(path: &Path) -> Result<bool> {
    let failed = || format!("ask who reads {}", path.display());
    // To be written: a network file system takes no exclusive lock on what is open for reading alone.
    let manifest = match File::options().read(true).write(true).open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        manifest => manifest.context(failed)?,
    };
    match manifest.try_lock() {
        // Given back at once.
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(source)) => Err(Error::from(source).context(failed())),
    }
}

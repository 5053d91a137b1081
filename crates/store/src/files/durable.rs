//! Durability on local disks: files and directories reach the disk before anything names them.
//!
//! A name that survives a power cut without its content is worse than neither: the table that follows it does not open.
//! So a file's content is synced before its name becomes permanent. Everything that a version of the base or a log
//! record names is synced, with the directories that lead to it, before the version or the record is written.
//!
//! Lance syncs nothing by itself. The files that it finds by listing directories (manifests, tags) it writes through
//! the object store that [`syncing_store`] gives it. Its other files bypass that store; they are synced by [`sync`]
//! when a version is about to name them (`version_files.rs`).

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use cenote_base::{Context, Error, Result};
use futures::{StreamExt, TryStreamExt};
use lance::io::WrappingObjectStore;
use object_store::ObjectStore;
use object_store::list::PaginatedListStore;
use object_store::local::LocalFileSystem;
use tokio::sync::Notify;

use crate::blocking::blocking;

/// Files or directories synced in parallel: a disk merges several requests into one barrier.
const PARALLEL: usize = 8;

/// The extension of a file that is still being written.
pub(crate) const PART: &str = "part";

/// A file is synced while it is written each time it has grown by this many bytes.
const SYNC_BYTES: u64 = 4 << 20;
/// Interval of checks for files that have grown.
const SYNC_PERIOD: Duration = Duration::from_millis(10);

/// Syncs the content of the file at `path`.
fn sync_file(path: &Path) -> Result<()> {
    File::open(path).and_then(|file| file.sync_data()).context(|| format!("sync {}", path.display()))
}

/// Syncs the entries of the directory at `path`.
pub(crate) fn sync_directory(path: &Path) -> Result<()> {
    File::open(path).and_then(|file| file.sync_all()).context(|| format!("sync {}", path.display()))
}

/// Creates the directory at `path` and its parents durably; existing directories are left alone.
pub(crate) fn make_directory(path: &Path) -> Result<()> {
    let failed = || format!("make directory {}", path.display());
    if path.is_dir() {
        return Ok(());
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    make_directory(parent)?;
    match std::fs::create_dir(path) {
        // Another process created it meanwhile.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        made => made.context(failed)?,
    }
    sync_directory(parent)
}

/// Syncs `files`, then `directories`.
pub(crate) async fn sync(files: Vec<PathBuf>, directories: BTreeSet<PathBuf>) -> Result<()> {
    let sync = |path: PathBuf, sync: fn(&Path) -> Result<()>| blocking(move || sync(&path));
    let files = futures::stream::iter(files).map(|path| sync(path, sync_file));
    files.buffer_unordered(PARALLEL).try_collect::<()>().await?;
    let directories = futures::stream::iter(directories).map(|path| sync(path, sync_directory));
    directories.buffer_unordered(PARALLEL).try_collect().await
}

/// Runs `work`, which writes new files to `directory`, and syncs them as they grow.
///
/// One sync at the end would delay all other syncs for as long, because a disk has one queue.
///
/// # Errors
/// Those of `work`, or of a sync: the operating system reports a failed write only once.
pub(crate) async fn syncing<T>(directory: PathBuf, work: impl Future<Output = Result<T>>) -> Result<T> {
    let growing = blocking(move || Growing::new(directory)).await?;
    let ended = Notify::new();
    let work = async {
        let done = work.await;
        ended.notify_one();
        done
    };
    let sync_on = async {
        let mut growing = growing;
        loop {
            let start = Instant::now();
            growing = blocking(move || growing.sync()).await?;
            // Listing takes a while where there are many files.
            let pause = SYNC_PERIOD.max(9 * start.elapsed());
            if tokio::time::timeout(pause, ended.notified()).await.is_ok() {
                return Ok(());
            }
        }
    };
    // A sync that is under way when the work ends is waited for: it may be the one that is told of a failed write.
    tokio::try_join!(work, sync_on).map(|(done, ())| done)
}

/// The files of a directory that are new since this value was made.
struct Growing {
    directory: PathBuf,
    old: HashSet<OsString>,
    /// The synced bytes of each file.
    synced: HashMap<OsString, u64>,
}

impl Growing {
    fn new(directory: PathBuf) -> Result<Self> {
        let mut growing = Self { directory, old: HashSet::new(), synced: HashMap::new() };
        growing.old = growing.names()?.into_iter().collect();
        Ok(growing)
    }

    fn names(&self) -> Result<Vec<OsString>> {
        let entries = std::fs::read_dir(&self.directory);
        let names: io::Result<_> = entries.and_then(|entries| entries.map(|entry| Ok(entry?.file_name())).collect());
        match names {
            // Whoever writes the first file makes it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            names => names.context(|| format!("list {}", self.directory.display())),
        }
    }

    /// Syncs the files that have grown enough.
    fn sync(mut self) -> Result<Self> {
        for name in self.names()? {
            if self.old.contains(&name) {
                continue;
            }
            let path = self.directory.join(&name);
            let failed = || format!("sync {}", path.display());
            let file = match File::open(&path) {
                // A file that was renamed or removed meanwhile is found under its new name, or not needed.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                file => file.context(failed)?,
            };
            let metadata = file.metadata().context(failed)?;
            let synced = self.synced.entry(name).or_default();
            if metadata.is_file() && metadata.len() >= *synced + SYNC_BYTES {
                file.sync_data().context(failed)?;
                *synced = metadata.len();
            }
        }
        Ok(self)
    }
}

/// Returns a wrapper for Lance's store of a local disk that syncs what is put, copied and renamed: content first, then
/// the name.
pub(crate) fn syncing_store() -> Arc<dyn WrappingObjectStore> {
    // One per process: Lance shares stores that were opened through the same wrapper.
    static SYNCING: LazyLock<Arc<dyn WrappingObjectStore>> = LazyLock::new(|| Arc::new(Syncing));
    Arc::clone(&SYNCING)
}

#[derive(Debug)]
struct Syncing;

impl WrappingObjectStore for Syncing {
    fn wrap(&self, _: &str, _: Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore> {
        Arc::new(LocalFileSystem::new().with_fsync(true))
    }

    fn wrap_paginated(&self, _: &str, original: Arc<dyn PaginatedListStore>) -> Option<Arc<dyn PaginatedListStore>> {
        Some(original)
    }
}

/// Removes the directory at `path` durably, if it exists.
pub(crate) async fn remove_directory(path: PathBuf) -> Result<()> {
    blocking(move || match std::fs::remove_dir_all(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::from(error).context(format!("remove {}", path.display()))),
        Ok(()) => path.parent().map_or(Ok(()), sync_directory),
    })
    .await
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn files_are_synced_once_they_have_grown_and_old_ones_never() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let grow = |name: &str, bytes: u64| {
            File::options().create(true).append(true).open(path(name)).unwrap().set_len(bytes).unwrap();
        };
        grow("old", 2 * SYNC_BYTES);
        let mut growing = Growing::new(directory.path().to_owned()).unwrap();
        grow("new", SYNC_BYTES - 1);
        growing = growing.sync().unwrap();
        assert_eq!(growing.synced, HashMap::from([("new".into(), 0)]));
        grow("new", SYNC_BYTES);
        growing = growing.sync().unwrap();
        assert_eq!(growing.synced["new".as_ref() as &std::ffi::OsStr], SYNC_BYTES);
        grow("new", 2 * SYNC_BYTES - 1);
        std::fs::rename(path("new"), path("renamed")).unwrap();
        std::fs::create_dir(path("folder")).unwrap();
        growing = growing.sync().unwrap();
        assert_eq!(growing.synced["new".as_ref() as &std::ffi::OsStr], SYNC_BYTES);
        assert_eq!(growing.synced["renamed".as_ref() as &std::ffi::OsStr], 2 * SYNC_BYTES - 1);
        assert!(!growing.synced.contains_key("old".as_ref() as &std::ffi::OsStr));
    }

    #[tokio::test]
    async fn work_that_makes_its_directory_ends_with_its_own_result() {
        let directory = tempfile::tempdir().unwrap();
        let below = directory.path().join("data");
        let write = async {
            make_directory(&below)?;
            File::create(below.join("a")).and_then(|file| file.set_len(2 * SYNC_BYTES)).context(|| "write")?;
            tokio::time::sleep(3 * SYNC_PERIOD).await;
            Ok(7)
        };
        assert_eq!(syncing(below.clone(), write).await.unwrap(), 7);
        let failed = syncing(below, async { Err::<(), _>(Error::conflict("the work failed")) }).await;
        assert_eq!(failed.unwrap_err().message(), "the work failed");
    }
}

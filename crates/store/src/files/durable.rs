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
use std::fs::{DirEntry, File};
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

/// Bytes of a growing file that are written to the disk at a time. A sync of another file waits for the current step.
const STEP_BYTES: u64 = 1 << 20;
/// Interval of checks for files that have grown.
const PERIOD: Duration = Duration::from_millis(10);

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

/// Runs `work`, which makes new files in `directories` and in new folders of these, and writes them to the disk in
/// small steps as they grow. They must be synced afterwards, which then takes little time.
///
/// Without the steps, that sync would delay all other syncs, because a disk has one queue, and a file system one
/// journal.
///
/// # Errors
/// Those of `work`, or of a step: the operating system reports a failed write only once.
pub(crate) async fn flushing<T>(directories: Vec<PathBuf>, work: impl Future<Output = Result<T>>) -> Result<T> {
    let growing = blocking(move || Growing::new(directories)).await?;
    let ended = Notify::new();
    let work = async {
        let done = work.await;
        ended.notify_one();
        done
    };
    let write_out = async {
        let mut growing = growing;
        let mut has_ended = false;
        while !has_ended {
            // Listing takes a while where there are many files.
            let pause = PERIOD.max(9 * growing.listing);
            has_ended = tokio::time::timeout(pause, ended.notified()).await.is_ok();
            growing = blocking(move || growing.write_out().map(|()| growing)).await?;
        }
        Ok(())
    };
    tokio::try_join!(work, write_out).map(|(done, ())| done)
}

/// The files of directories that are new since this value was made.
struct Growing {
    directories: Vec<PathBuf>,
    /// Earlier files and folders.
    old: HashSet<PathBuf>,
    /// The bytes of each file that were written to the disk.
    written: HashMap<PathBuf, u64>,
    /// Duration of the last listing.
    listing: Duration,
}

impl Growing {
    fn new(directories: Vec<PathBuf>) -> Result<Self> {
        let mut old = HashSet::new();
        for directory in &directories {
            old.extend(entries(directory)?.into_iter().map(|entry| entry.path()));
        }
        Ok(Self { directories, old, written: HashMap::new(), listing: Duration::ZERO })
    }

    fn files(&self) -> Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        for directory in &self.directories {
            for entry in entries(directory)?.into_iter().filter(|entry| !self.old.contains(&entry.path())) {
                match entry.file_type() {
                    Ok(kind) if kind.is_dir() => files.extend(entries(&entry.path())?.iter().map(DirEntry::path)),
                    _ => files.push(entry.path()),
                }
            }
        }
        Ok(files)
    }

    /// Writes the files that have grown to the disk, in whole steps.
    fn write_out(&mut self) -> Result<()> {
        let start = Instant::now();
        let files = self.files()?;
        self.listing = start.elapsed();
        for path in files {
            let failed = || format!("write {} to the disk", path.display());
            let file = match File::open(&path) {
                // A file that was renamed or removed meanwhile is found under its new name, or not needed.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                file => file.context(failed)?,
            };
            let metadata = file.metadata().context(failed)?;
            if !metadata.is_file() {
                continue;
            }
            let mut written = self.written.get(&path).copied().unwrap_or(0);
            while written + STEP_BYTES <= metadata.len() {
                write_step(&file, written).context(failed)?;
                written += STEP_BYTES;
            }
            self.written.insert(path, written);
        }
        Ok(())
    }
}

/// Lists a directory, which need not exist.
fn entries(directory: &Path) -> Result<Vec<DirEntry>> {
    match std::fs::read_dir(directory).and_then(Iterator::collect) {
        // Whoever writes the first file makes it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        entries => entries.context(|| format!("list {}", directory.display())),
    }
}

/// Writes the `STEP_BYTES` at `start` to the disk. Unlike a sync, this neither commits the file system's journal nor
/// flushes the disk's cache, so nobody else waits for more than these bytes.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "the standard library syncs whole files only")]
fn write_step(file: &File, start: u64) -> io::Result<()> {
    use std::os::fd::AsRawFd;

    use libc::{SYNC_FILE_RANGE_WAIT_AFTER, SYNC_FILE_RANGE_WAIT_BEFORE, SYNC_FILE_RANGE_WRITE};

    let flags = SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER;
    let (start, bytes) = (start.cast_signed(), STEP_BYTES.cast_signed());
    // SAFETY: the descriptor is open, and the call touches no memory.
    match unsafe { libc::sync_file_range(file.as_raw_fd(), start, bytes, flags) } {
        0 => Ok(()),
        _ => match io::Error::last_os_error() {
            // A file system without such steps (or a container that does not allow them) writes all at the sync.
            error if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EINVAL | libc::ESPIPE | libc::EPERM)) => {
                Ok(())
            }
            error => Err(error),
        },
    }
}

/// Writes the file to the disk.
#[cfg(not(target_os = "linux"))]
fn write_step(file: &File, _start: u64) -> io::Result<()> {
    file.sync_data()
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
    fn files_are_written_out_in_steps_and_old_ones_never() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let grow = |name: &str, bytes: u64| {
            File::options().create(true).append(true).open(path(name)).unwrap().set_len(bytes).unwrap();
        };
        grow("old", 2 * STEP_BYTES);
        let directories = vec![directory.path().to_owned(), path("absent")];
        let mut growing = Growing::new(directories).unwrap();
        let mut written = || {
            growing.write_out().unwrap();
            let mut written: Vec<_> = growing.written.iter().map(|(path, bytes)| (path.clone(), *bytes)).collect();
            written.sort();
            written
        };
        grow("new", STEP_BYTES - 1);
        assert_eq!(written(), [(path("new"), 0)]);
        grow("new", STEP_BYTES);
        assert_eq!(written(), [(path("new"), STEP_BYTES)]);
        grow("new", 3 * STEP_BYTES - 1);
        std::fs::rename(path("new"), path("renamed")).unwrap();
        std::fs::create_dir(path("folder")).unwrap();
        grow("folder/inside", STEP_BYTES + 1);
        let expected = [("folder/inside", STEP_BYTES), ("new", STEP_BYTES), ("renamed", 2 * STEP_BYTES)];
        assert_eq!(written(), expected.map(|(name, bytes)| (path(name), bytes)));
    }

    #[tokio::test]
    async fn work_that_makes_its_directory_ends_with_its_own_result() {
        let directory = tempfile::tempdir().unwrap();
        let below = directory.path().join("data");
        let write = async {
            make_directory(&below)?;
            File::create(below.join("a")).and_then(|file| file.set_len(2 * STEP_BYTES)).context(|| "write")?;
            tokio::time::sleep(3 * PERIOD).await;
            Ok(7)
        };
        assert_eq!(flushing(vec![below.clone()], write).await.unwrap(), 7);
        let failed = flushing(vec![below], async { Err::<(), _>(Error::conflict("the work failed")) }).await;
        assert_eq!(failed.unwrap_err().message(), "the work failed");
    }
}

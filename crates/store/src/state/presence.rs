//! Detects that a table in use was dropped: another process may drop it, and make another one under its name.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use cenote_base::{Context, Result};

use crate::blocking::blocking;
use crate::files::objects::Objects;

/// A detector of whether the table was dropped, which remembers that it was.
#[derive(Debug)]
pub(crate) struct Presence {
    traces: Traces,
    is_gone: AtomicBool,
}

/// The places that a drop empties first and last, as they were when the table was opened.
#[derive(Debug)]
enum Traces {
    Directories {
        /// The base, which a drop moves away first.
        base: PathBuf,
        device: u64,
        inode: u64,
        /// The log, kept open so that its inode number is not reused.
        log: File,
    },
    /// The versions of a base in an object store, which a drop removes first.
    Objects(Objects),
}

impl Presence {
    fn new(traces: Traces) -> Self {
        Self { traces, is_gone: AtomicBool::new(false) }
    }

    /// Watches the table whose base has these `versions` in an object store.
    pub(super) fn of_objects(versions: Objects) -> Self {
        Self::new(Traces::Objects(versions))
    }

    /// Watches the table in these directories.
    pub(super) async fn of_directories(base: PathBuf, log: PathBuf) -> Result<Self> {
        blocking(move || {
            let metadata = std::fs::metadata(&base).context(|| format!("look at {}", base.display()))?;
            let log = File::open(&log).context(|| format!("open {}", log.display()))?;
            Ok(Self::new(Traces::Directories { base, device: metadata.dev(), inode: metadata.ino(), log }))
        })
        .await
    }

    /// Returns whether the table is known to be gone without a request. On a local disk this costs two system calls,
    /// which do not wait; for an object store it always returns false.
    pub(crate) fn is_gone(&self) -> Result<bool> {
        if self.is_gone.load(Ordering::Acquire) {
            return Ok(true);
        }
        let Traces::Directories { base, device, inode, log } = &self.traces else { return Ok(false) };
        if log.metadata().context(|| format!("look at the log of {}", base.display()))?.nlink() == 0 {
            return Ok(true);
        }
        match std::fs::metadata(base) {
            Ok(metadata) => Ok((metadata.dev(), metadata.ino()) != (*device, *inode)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(true),
            Err(error) => Err(cenote_base::Error::from(error).context(format!("look at {}", base.display()))),
        }
    }

    /// Records that the table is gone, even if another one exists under its name.
    pub(super) fn note_gone(&self) {
        self.is_gone.store(true, Ordering::Release);
    }

    /// Returns whether the table is gone, asking the object store if it is in one.
    pub(crate) async fn ask(&self) -> Result<bool> {
        match &self.traces {
            Traces::Objects(versions) if !self.is_gone.load(Ordering::Acquire) => Ok(!versions.any().await?),
            _ => self.is_gone(),
        }
    }
}

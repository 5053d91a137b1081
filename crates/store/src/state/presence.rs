//! Whether a table that is in use is still there: another process may drop it, and make another one under its name.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use cenote_base::{Context, Result};

use crate::blocking::blocking;
use crate::files::objects::Objects;

/// Sees whether the table is still there, and remembers whether it was seen to be gone.
#[derive(Debug)]
pub(crate) struct Presence {
    traces: Traces,
    is_gone: AtomicBool,
}

/// The directories or objects that a drop removes first and last, as they were when the table was opened.
#[derive(Debug)]
enum Traces {
    Directories {
        /// The base, which a drop moves away first.
        base: PathBuf,
        device: u64,
        inode: u64,
        /// The log, open: its number is given to no other directory meanwhile.
        log: File,
    },
    /// The versions of a base in an object store, which a drop removes first.
    Objects(Objects),
}

impl Presence {
    fn new(traces: Traces) -> Self {
        Self { traces, is_gone: AtomicBool::new(false) }
    }

    /// Sees the table whose base has these `versions` in an object store.
    pub(super) fn of_objects(versions: Objects) -> Self {
        Self::new(Traces::Objects(versions))
    }

    /// Sees the table in these directories.
    pub(super) async fn of_directories(base: PathBuf, log: PathBuf) -> Result<Self> {
        blocking(move || {
            let metadata = std::fs::metadata(&base).context(|| format!("look at {}", base.display()))?;
            let log = File::open(&log).context(|| format!("open {}", log.display()))?;
            Ok(Self::new(Traces::Directories { base, device: metadata.dev(), inode: metadata.ino(), log }))
        })
        .await
    }

    /// Whether the table is seen to be gone without asking an object store, where it never is: on a disk that takes two
    /// system calls, which wait for nothing.
    pub(crate) fn is_gone(&self) -> Result<bool> {
        if self.is_gone.load(Ordering::Acquire) {
            return Ok(true);
        }
        let Traces::Directories { base, device, inode, log } = &self.traces else { return Ok(false) };
        if log.metadata()?.nlink() == 0 {
            return Ok(true);
        }
        match std::fs::metadata(base) {
            Ok(metadata) => Ok((metadata.dev(), metadata.ino()) != (*device, *inode)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(true),
            Err(error) => Err(cenote_base::Error::from(error).context(format!("look at {}", base.display()))),
        }
    }

    /// Takes note that the table is gone: another one of its name is not it.
    pub(super) fn note_gone(&self) {
        self.is_gone.store(true, Ordering::Release);
    }

    /// Returns whether the table is gone, wherever it is.
    pub(crate) async fn ask(&self) -> Result<bool> {
        match &self.traces {
            Traces::Objects(versions) if !self.is_gone.load(Ordering::Acquire) => Ok(!versions.any().await?),
            _ => self.is_gone(),
        }
    }
}

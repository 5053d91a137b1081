//! Detects that a table in use was dropped: another process may drop it, and make another one under its name.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use cenote_base::{Context, Result};

use crate::files::objects::Objects;
use crate::state::table_state::blocking;

/// The places that a drop empties first and last, as they were when the table was opened.
#[derive(Debug)]
pub(crate) enum Presence {
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
    pub(crate) async fn of_directories(base: PathBuf, log: PathBuf) -> Result<Self> {
        blocking(move || {
            let metadata = std::fs::metadata(&base).context(|| format!("look at {}", base.display()))?;
            let log = File::open(&log).context(|| format!("open {}", log.display()))?;
            Ok(Self::Directories { base, device: metadata.dev(), inode: metadata.ino(), log })
        })
        .await
    }

    /// Returns whether the table is known to be gone without a request. On a local disk this costs two system calls,
    /// which do not wait; for an object store it always returns false.
    pub(crate) fn is_gone(&self) -> Result<bool> {
        let Self::Directories { base, device, inode, log } = self else { return Ok(false) };
        if log.metadata()?.nlink() == 0 {
            return Ok(true);
        }
        match std::fs::metadata(base) {
            Ok(metadata) => Ok((metadata.dev(), metadata.ino()) != (*device, *inode)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(true),
            Err(error) => Err(cenote_base::Error::from(error).context(format!("look at {}", base.display()))),
        }
    }

    /// Returns whether the table is gone, asking the object store if it is in one.
    pub(crate) async fn ask(&self) -> Result<bool> {
        match self {
            Self::Directories { .. } => self.is_gone(),
            Self::Objects(versions) => Ok(!versions.any().await?),
        }
    }
}

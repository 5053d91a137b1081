//! Whether a table that is in use is still there: another process may drop it, and make another one under its name.

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
        /// The log, open: its number is given to no other directory meanwhile.
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

    /// Whether the table is seen to be gone without asking an object store, where it never is: on a disk that takes two
    /// system calls, which wait for nothing.
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

    /// Whether the table is gone, wherever it is.
    pub(crate) async fn ask(&self) -> Result<bool> {
        match self {
            Self::Directories { .. } => self.is_gone(),
            Self::Objects(versions) => Ok(!versions.any().await?),
        }
    }
}

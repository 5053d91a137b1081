//! A cache of open media files.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cenote_base::sync::Mutex;
use cenote_base::{Error, Result};

/// Maximum number of open files.
const FILES_MAX: usize = 256;

/// Open files with media of one version of a base.
#[derive(Debug, Default)]
pub(crate) struct MediaFiles(Mutex<HashMap<PathBuf, Arc<MediaFile>>>);

#[derive(Debug)]
pub(super) struct MediaFile {
    path: PathBuf,
    pub(super) file: File,
    bytes: u64,
}

impl MediaFiles {
    pub(super) fn get(&self, path: &Path) -> Result<Arc<MediaFile>> {
        if let Some(file) = self.0.lock().get(path) {
            return Ok(Arc::clone(file));
        }
        let file = Arc::new(MediaFile::open(path)?);
        let mut files = self.0.lock();
        if files.len() >= FILES_MAX {
            files.clear();
        }
        files.insert(path.to_owned(), Arc::clone(&file));
        Ok(file)
    }
}

impl MediaFile {
    fn open(path: &Path) -> Result<Self> {
        let opened = File::open(path).and_then(|file| Ok((file.metadata()?.len(), file)));
        let (bytes, file) = opened.map_err(|error| failed(path, error))?;
        Ok(Self { path: path.to_owned(), file, bytes })
    }

    /// Checks that the file has `bytes` bytes at `position`, before memory is allocated for them.
    pub(super) fn check(&self, position: u64, bytes: u64) -> Result<()> {
        match position.checked_add(bytes) {
            Some(end) if end <= self.bytes => Ok(()),
            _ => Err(self.failed(io::ErrorKind::UnexpectedEof.into())),
        }
    }

    pub(super) fn failed(&self, error: io::Error) -> Error {
        failed(&self.path, error)
    }
}

fn failed(path: &Path, error: io::Error) -> Error {
    let path = path.display();
    match error.kind() {
        io::ErrorKind::NotFound => Error::corrupt(format!("{path} is missing, and holds the media of some rows")),
        io::ErrorKind::UnexpectedEof => Error::corrupt(format!("{path} ends before the media of some rows")),
        _ => Error::from(error).context(format!("read {path}")),
    }
}

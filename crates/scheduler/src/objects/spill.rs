//! Objects on disk, one file each.

use std::fs;
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cenote_base::{ByteSize, Context, Error, Result};
use crc32fast::Hasher;

use super::ipc::{decode, encode};
use super::value::Value;

/// A directory for spilled objects that this process alone uses: created with the first file, removed when dropped.
#[derive(Debug)]
pub(crate) struct SpillDirectory {
    path: PathBuf,
    bytes_max: u64,
    used_bytes: AtomicU64,
    files_written: AtomicU64,
}

/// An object on disk. Dropping it removes the file.
#[derive(Debug)]
pub(crate) struct SpillFile {
    directory: Arc<SpillDirectory>,
    path: PathBuf,
    bytes: u64,
    checksum: u32,
}

impl SpillDirectory {
    pub(crate) fn new(parent: &Path, bytes_max: ByteSize) -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let name = format!("cenote-spill-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        Self {
            path: parent.join(name),
            bytes_max: bytes_max.0,
            used_bytes: AtomicU64::new(0),
            files_written: AtomicU64::new(0),
        }
    }

    /// Returns the bytes of the files in the directory.
    pub(crate) fn used_bytes(&self) -> u64 {
        self.used_bytes.load(Ordering::Relaxed)
    }

    /// Writes `value` to a new file.
    ///
    /// # Errors
    /// `ResourceExhausted` when the disk is full or the directory has reached its limit. The partial file is removed.
    pub(crate) fn write(self: &Arc<Self>, value: &Value) -> Result<SpillFile> {
        let path = self.path.join(format!("{}.arrow", self.files_written.fetch_add(1, Ordering::Relaxed)));
        let doing = || format!("spill {} bytes to {}", value.size_bytes(), path.display());
        let write = || -> Result<SpillFile> {
            fs::create_dir_all(&self.path)?;
            let file = fs::File::create(&path)?;
            let mut spilled = SpillFile { directory: Arc::clone(self), path: path.clone(), bytes: 0, checksum: 0 };
            let mut to = SpillWriter { to: BufWriter::new(file), file: &mut spilled, hasher: Hasher::new() };
            encode(value, &mut to)?;
            to.flush()?;
            spilled.checksum = to.hasher.finalize();
            Ok(spilled)
        };
        write().context(doing)
    }
}

/// A writer that charges the bytes of a spill file to its directory and computes the file's checksum.
struct SpillWriter<'a> {
    to: BufWriter<fs::File>,
    file: &'a mut SpillFile,
    hasher: Hasher,
}

impl Write for SpillWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let directory = &self.file.directory;
        let (more, bytes_max) = (bytes.len() as u64, directory.bytes_max);
        let used = directory.used_bytes.fetch_add(more, Ordering::Relaxed);
        self.file.bytes += more;
        if used + more > bytes_max {
            let full = format!("{used} of {bytes_max} bytes of the spill directory are used");
            return Err(io::Error::new(io::ErrorKind::QuotaExceeded, full));
        }
        self.to.write_all(bytes)?;
        self.hasher.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

impl Drop for SpillDirectory {
    fn drop(&mut self) {
        // The directory may never have been created; a leftover directory is harmless.
        let _ = fs::remove_dir_all(&self.path);
    }
}

impl SpillFile {
    /// Reads the object.
    ///
    /// # Errors
    /// `NotFound` when the file is gone; `Corrupt` when its bytes differ from what was written.
    pub(crate) fn read(&self) -> Result<Value> {
        let read = || -> Result<Value> {
            let mut file = fs::File::open(&self.path)?;
            let mut hasher = Hasher::new();
            let mut buffer = vec![0; 64 << 10];
            loop {
                match file.read(&mut buffer)? {
                    0 => break,
                    bytes => hasher.update(&buffer[..bytes]),
                }
            }
            if hasher.finalize() != self.checksum {
                return Err(Error::corrupt("the bytes are not those that were written"));
            }
            file.rewind()?;
            decode(&mut BufReader::new(file))
        };
        read().context(|| format!("read a spilled object from {}", self.path.display()))
    }
}

impl Drop for SpillFile {
    fn drop(&mut self) {
        self.directory.used_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        // A file that cannot be removed now is removed with the directory.
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use arrow::array::{Array, RecordBatch, StringArray};
    use cenote_base::ErrorKind;

    use super::*;

    fn rows() -> Value {
        let column: Arc<dyn Array> = Arc::new(StringArray::from(vec![Some("a"), None, Some("ccc")]));
        Value::Batch(RecordBatch::try_from_iter([("text", column)]).unwrap().slice(1, 2))
    }

    #[test]
    fn what_is_spilled_comes_back_and_leaves_nothing() {
        let parent = tempfile::tempdir().unwrap();
        let directory = Arc::new(SpillDirectory::new(parent.path(), ByteSize::mib(1)));
        for value in [rows(), Value::from(vec![1, 2, 3]), Value::from(Vec::new())] {
            let file = directory.write(&value).unwrap();
            assert!(directory.used_bytes() > 0);
            assert_eq!(file.read().unwrap(), value);
        }
        assert_eq!(directory.used_bytes(), 0);
        drop(directory);
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
    }

    #[test]
    fn every_changed_bit_and_every_cut_is_noticed() {
        let parent = tempfile::tempdir().unwrap();
        let directory = Arc::new(SpillDirectory::new(parent.path(), ByteSize::mib(1)));
        let file = directory.write(&rows()).unwrap();
        let good = fs::read(&file.path).unwrap();
        for position in 0..good.len() {
            let mut bad = good.clone();
            bad[position] ^= 1 << (position % 8);
            fs::write(&file.path, &bad).unwrap();
            assert_eq!(file.read().unwrap_err().kind(), ErrorKind::Corrupt, "byte {position}");
            fs::write(&file.path, &good[..position]).unwrap();
            assert_eq!(file.read().unwrap_err().kind(), ErrorKind::Corrupt, "cut at {position}");
        }
    }

    #[test]
    fn a_full_directory_is_said_with_its_numbers() {
        let parent = tempfile::tempdir().unwrap();
        let directory = Arc::new(SpillDirectory::new(parent.path(), ByteSize(10)));
        let error = directory.write(&rows()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ResourceExhausted);
        assert!(error.message().contains("of 10 bytes of the spill directory are used"), "{error}");
        assert_eq!(directory.used_bytes(), 0);
    }
}

//! Objects on disk, as Arrow IPC streams.

use std::fs;
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::{AsArray, LargeBinaryArray, RecordBatch};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, Schema};
use arrow::error::ArrowError;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use cenote_base::{ByteSize, Context, Error, Result};
use crc32fast::Hasher;

use crate::objects::value::Value;

/// The column that plain bytes travel in.
const BYTES_COLUMN: &str = "_cenote_bytes";

/// A directory of this process's own, made with the first file and removed with the last owner.
#[derive(Debug)]
pub(crate) struct SpillDirectory {
    path: PathBuf,
    bytes_max: u64,
    used: AtomicU64,
    written: AtomicU64,
}

/// One object on disk; the file goes with it.
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
        Self { path: parent.join(name), bytes_max: bytes_max.0, used: AtomicU64::new(0), written: AtomicU64::new(0) }
    }

    /// Bytes on disk now.
    pub(crate) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Writes `value` to a new file.
    ///
    /// # Errors
    /// `ResourceExhausted` when the disk or the directory's bound is full; nothing is left of the file then.
    pub(crate) fn write(self: &Arc<Self>, value: &Value) -> Result<SpillFile> {
        let path = self.path.join(format!("{}.arrow", self.written.fetch_add(1, Ordering::Relaxed)));
        let doing = || format!("spill {} bytes to {}", value.size_bytes(), path.display());
        let write = || -> Result<SpillFile> {
            fs::create_dir_all(&self.path)?;
            let file = fs::File::create(&path)?;
            let mut spilled = SpillFile { directory: Arc::clone(self), path: path.clone(), bytes: 0, checksum: 0 };
            let mut to = Counted { to: BufWriter::new(file), file: &mut spilled, hasher: Hasher::new() };
            encode(value, &mut to)?;
            to.flush()?;
            spilled.checksum = to.hasher.finalize();
            Ok(spilled)
        };
        write().context(doing)
    }
}

/// Counts and sums up what passes to a spill file.
struct Counted<'a> {
    to: BufWriter<fs::File>,
    file: &'a mut SpillFile,
    hasher: Hasher,
}

impl Write for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let directory = &self.file.directory;
        let (more, bytes_max) = (bytes.len() as u64, directory.bytes_max);
        let used = directory.used.fetch_add(more, Ordering::Relaxed);
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
        // It may never have been made, and what stays behind harms nobody.
        let _ = fs::remove_dir_all(&self.path);
    }
}

impl SpillFile {
    /// The object.
    ///
    /// # Errors
    /// `NotFound` or `Corrupt` when the file is not what was written.
    pub(crate) fn read(&self) -> Result<Value> {
        let read = || -> Result<Value> {
            let mut file = fs::File::open(&self.path)?;
            let mut hasher = Hasher::new();
            let mut piece = vec![0; 64 << 10];
            loop {
                match file.read(&mut piece)? {
                    0 => break,
                    bytes => hasher.update(&piece[..bytes]),
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
        self.directory.used.fetch_sub(self.bytes, Ordering::Relaxed);
        // A file that cannot be removed goes with the directory.
        let _ = fs::remove_file(&self.path);
    }
}

/// Writes `value` as an Arrow IPC stream.
pub(crate) fn encode(value: &Value, to: &mut dyn Write) -> Result<()> {
    let batch = match value {
        Value::Batch(batch) => batch.clone(),
        Value::Bytes(bytes) => {
            let column = LargeBinaryArray::new(OffsetBuffer::from_lengths([bytes.len()]), bytes.clone(), None);
            let schema = Schema::new(vec![Field::new(BYTES_COLUMN, DataType::LargeBinary, false)]);
            RecordBatch::try_new(Arc::new(schema), vec![Arc::new(column)]).map_err(unencoded)?
        }
    };
    let mut writer = StreamWriter::try_new(to, batch.schema_ref()).map_err(unencoded)?;
    writer.write(&batch).and_then(|()| writer.finish()).map_err(unencoded)
}

fn unencoded(source: ArrowError) -> Error {
    match source {
        ArrowError::IoError(_, source) => Error::from(source),
        source => Error::unsupported("the object cannot be written as Arrow IPC").with_source(source),
    }
}

/// Reads the object that [`encode`] wrote.
pub(crate) fn decode(from: &mut dyn Read) -> Result<Value> {
    let corrupt = |source| Error::corrupt("the bytes are no Arrow IPC stream").with_source(source);
    let mut batches = StreamReader::try_new(from, None).map_err(corrupt)?;
    let Some(batch) = batches.next().transpose().map_err(corrupt)? else {
        return Err(Error::corrupt("the Arrow IPC stream holds no batch"));
    };
    if batch.num_columns() == 1 && batch.schema_ref().field(0).name() == BYTES_COLUMN && batch.num_rows() == 1 {
        let column = batch.column(0).as_binary_opt::<i64>();
        let column = column.ok_or_else(|| Error::corrupt("the column of plain bytes is of another type"))?;
        let (start, end) = (column.value_offsets()[0] as usize, column.value_offsets()[1] as usize);
        return Ok(Value::Bytes(column.values().slice_with_length(start, end - start)));
    }
    Ok(Value::Batch(batch))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use arrow::array::{Array, StringArray};
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
            assert!(directory.used() > 0);
            assert_eq!(file.read().unwrap(), value);
        }
        assert_eq!(directory.used(), 0);
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
        assert_eq!(directory.used(), 0);
    }
}

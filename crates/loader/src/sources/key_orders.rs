//! The key order of large selections, kept on the local disk so that a loader that restarts need not read and sort
//! keys.
//!
//! A file is named after a hash of everything that the order depends on: the rows and their placement, the filter and
//! the column of lengths. It holds row ids and lengths, but no keys. A file that is damaged or missing costs only time.

use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use cenote_base::{ByteSize, Clock, Context, Error, Result, SystemClock};
use cenote_store::Snapshot;

/// Rows of the smallest order that is kept: fewer are sorted in milliseconds.
pub(super) const ROWS_MIN: usize = 100_000;
/// Bytes of all orders in a directory. The least recently used ones are removed.
const BYTES_MAX: ByteSize = ByteSize(1 << 30);
const EXTENSION: &str = "order";
/// Extension of a file that is being written, or was when its process died.
const PART: &str = "part";
const MAGIC: u64 = u64::from_le_bytes(*b"CNKEYS\0\x01");
/// Bytes read or written at once: a multiple of the size of a row.
const CHUNK_BYTES: usize = 1 << 20;

/// The row ids of a selection in the order of keys, and their lengths: one for each row, or none at all.
#[derive(Debug, Default, PartialEq)]
pub(super) struct OrderedRows {
    pub(super) row_ids: Vec<u64>,
    pub(super) lengths: Vec<u32>,
}

/// The place of one order on disk.
#[derive(Debug, Clone)]
pub(super) struct KeyOrder {
    file: PathBuf,
}

impl KeyOrder {
    /// Returns the place in `directory` for the rows of `snapshot` that satisfy `filter`, with their lengths in column
    /// `length`.
    pub(super) fn new(directory: &Path, snapshot: &Snapshot, filter: Option<&str>, length: Option<&str>) -> Self {
        let mut name = DefaultHasher::new();
        (snapshot.placement(), filter, length).hash(&mut name);
        Self { file: directory.join(format!("{:016x}.{EXTENSION}", name.finish())) }
    }

    /// Reads the rows; `None` if they are not kept.
    ///
    /// # Errors
    /// `Corrupt` for a file that is damaged.
    pub(super) fn read(&self) -> Result<Option<OrderedRows>> {
        let mut file = match File::open(&self.file) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::from(error).context(self.about("read"))),
        };
        // The least recently used orders are removed first.
        file.set_modified(now()).context(|| self.about("touch"))?;
        let damaged = || Error::corrupt(self.about("damaged:"));
        let mut header = [[0; 8]; 4];
        file.read_exact(header.as_flattened_mut()).map_err(|source| damaged().with_source(source))?;
        let [magic, rows, length_count, sum] = header.map(u64::from_le_bytes);
        let bytes = file.metadata().context(|| self.about("look at"))?.len();
        let wanted = rows.checked_mul(8).and_then(|ids| ids.checked_add(length_count.checked_mul(4)?)?.checked_add(32));
        if magic != MAGIC || wanted != Some(bytes) || (length_count != 0 && length_count != rows) {
            return Err(damaged());
        }
        let mut read = Checksum::default();
        let mut row_ids = Vec::with_capacity(rows as usize);
        self.read_part(&mut file, rows * 8, |chunk| {
            read.add(chunk);
            row_ids.extend(words(chunk));
        })?;
        let mut lengths = Vec::with_capacity(length_count as usize);
        self.read_part(&mut file, length_count * 4, |chunk| {
            read.add(chunk);
            lengths.extend(chunk.as_chunks().0.iter().map(|bytes| u32::from_le_bytes(*bytes)));
        })?;
        if read.0 != sum {
            return Err(damaged());
        }
        Ok(Some(OrderedRows { row_ids, lengths }))
    }

    /// Reads `bytes` bytes in chunks.
    fn read_part(&self, file: &mut File, mut bytes: u64, mut take: impl FnMut(&[u8])) -> Result<()> {
        let mut chunk = vec![0; CHUNK_BYTES.min(bytes as usize)];
        while bytes > 0 {
            let now = (CHUNK_BYTES as u64).min(bytes) as usize;
            file.read_exact(&mut chunk[..now]).context(|| self.about("read"))?;
            take(&chunk[..now]);
            bytes -= now as u64;
        }
        Ok(())
    }

    /// Writes `rows`, and removes other orders to make room. Rows that exceed the limit are not kept.
    pub(super) fn write(&self, rows: &OrderedRows) -> Result<()> {
        let OrderedRows { row_ids, lengths } = rows;
        let needed = size_of_val(row_ids.as_slice()) as u64 + size_of_val(lengths.as_slice()) as u64;
        let (Some(directory), true) = (self.file.parent(), needed <= BYTES_MAX.0) else { return Ok(()) };
        std::fs::create_dir_all(directory).context(|| format!("make {}", directory.display()))?;
        make_room(directory, BYTES_MAX.0 - needed)?;
        let ids =
            || row_ids.chunks(CHUNK_BYTES / 8).map(|chunk| chunk.iter().flat_map(|id| id.to_le_bytes()).collect());
        let rest = || lengths.chunks(CHUNK_BYTES / 4).map(|chunk| chunk.iter().flat_map(|n| n.to_le_bytes()).collect());
        let chunks = || ids().chain(rest());
        let mut sum = Checksum::default();
        chunks().for_each(|chunk: Vec<u8>| sum.add(&chunk));
        // A concurrent reader finds all of the file or nothing.
        let part = self.file.with_extension(format!("{}.{PART}", std::process::id()));
        let write = || {
            let mut file = BufWriter::with_capacity(CHUNK_BYTES, File::create(&part)?);
            for word in [MAGIC, row_ids.len() as u64, lengths.len() as u64, sum.0] {
                file.write_all(&word.to_le_bytes())?;
            }
            chunks().try_for_each(|chunk: Vec<u8>| file.write_all(&chunk))?;
            file.into_inner().map_err(std::io::IntoInnerError::into_error)?;
            std::fs::rename(&part, &self.file)
        };
        write().context(|| self.about("write")).inspect_err(|_| drop(std::fs::remove_file(&part)))
    }

    fn about(&self, what: &str) -> String {
        format!("{what} {}", self.file.display())
    }
}

/// Removes the least recently used orders in `directory` until the others have at most `bytes_max`.
fn make_room(directory: &Path, bytes_max: u64) -> Result<()> {
    let failed = || format!("look through {}", directory.display());
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).context(failed)? {
        let path = entry.context(failed)?.path();
        // Another process may have removed it.
        if let (true, Ok(found)) =
            (path.extension().is_some_and(|end| end == EXTENSION || end == PART), path.metadata())
        {
            files.push((found.modified().unwrap_or(SystemTime::UNIX_EPOCH), found.len(), path));
        }
    }
    files.sort();
    let mut bytes: u64 = files.iter().map(|(_, bytes, _)| bytes).sum();
    for (_, own, path) in &files {
        if bytes <= bytes_max {
            break;
        }
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::from(error).context(format!("remove {}", path.display())));
            }
            _ => bytes -= own,
        }
    }
    Ok(())
}

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_micros(SystemClock.now().0.unsigned_abs())
}

fn words(bytes: &[u8]) -> impl Iterator<Item = u64> {
    bytes.as_chunks().0.iter().map(|bytes| u64::from_le_bytes(*bytes))
}

/// A checksum against damage, not against malice: FNV-1a (Fowler, Noll, Vo) over eight bytes at a time.
struct Checksum(u64);

impl Default for Checksum {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Checksum {
    fn add(&mut self, bytes: &[u8]) {
        let (whole, rest) = bytes.as_chunks();
        for word in whole {
            self.add_word(u64::from_le_bytes(*word));
        }
        for byte in rest {
            self.add_word(u64::from(*byte));
        }
    }

    fn add_word(&mut self, word: u64) {
        self.0 = (self.0 ^ word).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(29);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn order(directory: &Path, name: &str) -> KeyOrder {
        KeyOrder { file: directory.join(name).with_extension(EXTENSION) }
    }

    #[test]
    fn an_order_is_read_as_it_was_written_and_a_damaged_one_refused() {
        let directory = tempfile::tempdir().unwrap();
        let orders = directory.path().join("orders");
        for (rows, has_lengths) in [(0, false), (1, true), (300_000, false), (300_001, true)] {
            let order = order(&orders, "a");
            let row_ids: Vec<u64> = (0..rows).map(|row| row * 7).collect();
            let lengths: Vec<u32> = (0..if has_lengths { rows as u32 } else { 0 }).map(|row| row % 5).collect();
            let written = OrderedRows { row_ids, lengths };
            order.write(&written).unwrap();
            assert!(order.read().unwrap() == Some(written), "{rows}");
            let whole = std::fs::read(&order.file).unwrap();
            for (at, keep) in
                [(0, whole.len()), (9, whole.len()), (whole.len() - 1, whole.len()), (0, 31), (0, whole.len() - 1)]
            {
                let mut bytes = whole[..keep].to_vec();
                if keep == whole.len() {
                    bytes[at] ^= 1;
                }
                std::fs::write(&order.file, bytes).unwrap();
                assert_eq!(order.read().unwrap_err().kind(), cenote_base::ErrorKind::Corrupt, "{rows} rows, byte {at}");
            }
        }
        assert!(order(&orders, "b").read().unwrap().is_none());
        assert_eq!(std::fs::read_dir(&orders).unwrap().count(), 1, "no partial file is left");
    }

    #[test]
    fn the_least_recently_used_orders_make_room() {
        let directory = tempfile::tempdir().unwrap();
        let orders: Vec<KeyOrder> = ["a", "b", "c"].map(|name| order(directory.path(), name)).into();
        // A file that a dead process left behind is removed too.
        let part = directory.path().join("d.7.part");
        std::fs::write(&part, [0; 56]).unwrap();
        File::open(&part).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
        for (age, order) in [30, 20, 10].into_iter().zip(&orders) {
            order.write(&OrderedRows { row_ids: vec![1, 2, 3], lengths: Vec::new() }).unwrap();
            let then = now() - Duration::from_secs(age);
            File::open(&order.file).unwrap().set_modified(then).unwrap();
        }
        std::fs::write(directory.path().join("other"), [0; 999]).unwrap();
        // Reading the oldest makes it the newest.
        assert!(orders[0].read().unwrap().is_some());
        make_room(directory.path(), 120).unwrap();
        let there = orders.iter().map(|order| order.file.exists()).collect::<Vec<_>>();
        assert_eq!(there, [true, false, true]);
        assert!(directory.path().join("other").exists() && !part.exists());
    }
}

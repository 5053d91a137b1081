//! The key order of large selections, kept on the local disk: so that a loader that starts again need not read and sort keys.
//!
//! What is kept is named by all that it depends on: the rows and where they are, the filter and the column of lengths. It is row ids and lengths, no keys. A file that is damaged or missing costs time alone.

use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use cenote_base::{ByteSize, Clock, Context, Error, Result, SystemClock};
use cenote_store::Snapshot;

/// Fewer rows are sorted in milliseconds.
pub(crate) const ROWS_MIN: usize = 100_000;
/// All of them take so much at most: the ones unused for longest go.
const BYTES_MAX: ByteSize = ByteSize(1 << 30);
const EXTENSION: &str = "order";
/// Of one that is being written, or was when its process died.
const PART: &str = "part";
const MAGIC: u64 = u64::from_le_bytes(*b"CNKEYS\0\x01");
/// Bytes that are read or written at once: a whole number of rows.
const CHUNK_BYTES: usize = 1 << 20;

/// Where one order is, or is to be.
#[derive(Debug, Clone)]
pub(crate) struct KeyOrder {
    file: PathBuf,
}

impl KeyOrder {
    /// That of the rows of `snapshot` that satisfy `filter`, with their lengths in column `length`, in `directory`.
    pub(crate) fn new(directory: &Path, snapshot: &Snapshot, filter: Option<&str>, length: Option<&str>) -> Self {
        let mut name = DefaultHasher::new();
        (snapshot.placement(), filter, length).hash(&mut name);
        Self { file: directory.join(format!("{:016x}.{EXTENSION}", name.finish())) }
    }

    /// Row ids and lengths; `None` when they are not kept.
    ///
    /// # Errors
    /// `Corrupt` for a file that is damaged.
    pub(crate) fn read(&self) -> Result<Option<(Vec<u64>, Vec<u32>)>> {
        let mut file = match File::open(&self.file) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::from(error).context(self.about("read"))),
        };
        // The ones used last are kept longest.
        file.set_modified(now()).context(|| self.about("touch"))?;
        let damaged = || Error::corrupt(self.about("damaged:"));
        let mut header = [0; 32];
        file.read_exact(&mut header).map_err(|_| damaged())?;
        let mut header = words(&header);
        let mut next = || header.next().unwrap_or_default();
        let (magic, rows, lengths, sum) = (next(), next(), next(), next());
        let bytes = file.metadata().context(|| self.about("look at"))?.len();
        let wanted = rows.checked_mul(8).and_then(|ids| ids.checked_add(lengths.checked_mul(4)?)?.checked_add(32));
        if magic != MAGIC || wanted != Some(bytes) || (lengths != 0 && lengths != rows) {
            return Err(damaged());
        }
        let mut read = Sum::default();
        let mut row_ids = Vec::with_capacity(rows as usize);
        self.read_part(&mut file, rows * 8, |chunk| {
            read.add(chunk);
            row_ids.extend(words(chunk));
        })?;
        let mut all = Vec::with_capacity(lengths as usize);
        self.read_part(&mut file, lengths * 4, |chunk| {
            read.add(chunk);
            all.extend(chunk.as_chunks().0.iter().map(|bytes| u32::from_le_bytes(*bytes)));
        })?;
        if read.0 != sum {
            return Err(damaged());
        }
        Ok(Some((row_ids, all)))
    }

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

    /// Keeps `row_ids` and `lengths`, which are as many or none, and makes room for them.
    pub(crate) fn write(&self, row_ids: &[u64], lengths: &[u32]) -> Result<()> {
        let needed = size_of_val(row_ids) as u64 + size_of_val(lengths) as u64;
        let (Some(directory), true) = (self.file.parent(), needed <= BYTES_MAX.0) else { return Ok(()) };
        std::fs::create_dir_all(directory).context(|| format!("make {}", directory.display()))?;
        make_room(directory, BYTES_MAX.0 - needed)?;
        let ids =
            || row_ids.chunks(CHUNK_BYTES / 8).map(|chunk| chunk.iter().flat_map(|id| id.to_le_bytes()).collect());
        let rest = || lengths.chunks(CHUNK_BYTES / 4).map(|chunk| chunk.iter().flat_map(|n| n.to_le_bytes()).collect());
        let chunks = || ids().chain(rest());
        let mut sum = Sum::default();
        chunks().for_each(|chunk: Vec<u8>| sum.add(&chunk));
        // Whoever reads meanwhile finds all of it or nothing.
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

/// Removes the orders in `directory` that were unused for longest, until the others have `bytes_max` at most.
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

/// A sum over words, against damage and not against malice: FNV-1a (Fowler, Noll, Vo) by eight bytes at a time.
struct Sum(u64);

impl Default for Sum {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Sum {
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
            order.write(&row_ids, &lengths).unwrap();
            assert!(order.read().unwrap() == Some((row_ids, lengths)), "{rows}");
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
        assert_eq!(std::fs::read_dir(&orders).unwrap().count(), 1, "nothing half written is left");
    }

    #[test]
    fn what_was_unused_for_longest_makes_room() {
        let directory = tempfile::tempdir().unwrap();
        let orders: Vec<KeyOrder> = ["a", "b", "c"].map(|name| order(directory.path(), name)).into();
        // What a process that died left behind goes too.
        let part = directory.path().join("d.7.part");
        std::fs::write(&part, [0; 56]).unwrap();
        File::open(&part).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
        for (age, order) in [30, 20, 10].into_iter().zip(&orders) {
            order.write(&[1, 2, 3], &[]).unwrap();
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

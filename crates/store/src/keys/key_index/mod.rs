//! The key index: hashes of keys to row ids of the base, in files that never change.
//!
//! It is a log-structured merge tree (O'Neil, Cheng, Gawlick, O'Neil, 1996) of few levels, newest first. A level is one
//! file: entries sorted by hash, and a directory of buckets by the top bits of the hash. Only the directory is kept in
//! memory. Hashes are uniform, so a lookup is one small read per level whatever the table's size.
//!
//! ```text
//! level     = entry* directory footer
//! entry     = hash u128 (big-endian) · row id u64 (little-endian); the largest row id marks a deleted key
//! directory = number of the first entry of each bucket, and the number of entries: u64*; crc32 of each bucket: u32*
//! footer    = entries u64 · bucket bits u32 · format u32 · crc32 of directory and these three u32 · magic "CENOTEKI"
//! ```
//!
//! A bucket's checksum is verified on every read: with damaged entries, a table could end up with one key twice. Format
//! 1 has no checksums of buckets.

use std::collections::BTreeSet;
use std::fs::{DirEntry, File};
use std::io::{BufWriter, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cenote_base::{Context, Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

use crate::files::durable::{PART, make_directory, sync_directory};
use crate::files::os_cache::read_cached;

const MAGIC: &[u8; 8] = b"CENOTEKI";
const FORMAT: u32 = 2;
const ENTRY_BYTES: usize = 24;
const FOOTER_BYTES: usize = 28;
const BUCKET_ENTRIES: u64 = 128;
/// Buckets per read when a whole level is read.
const BUCKETS_READ: usize = 64;
/// The age from which a file that is still being written counts as left behind.
const ABANDONED_AGE: Duration = Duration::from_secs(3600);
/// The row id that marks a deleted key.
const GONE: u64 = u64::MAX;
/// The newest level is merged into the next one when it has at least `1 / MERGE_RATIO` as many entries.
const MERGE_RATIO: u64 = 4;

/// The key index of one base version: see the module's description. Cheap to clone; its calls block.
#[derive(Debug, Clone)]
pub(crate) struct KeyIndex {
    directory: Arc<Path>,
    /// Newest first.
    levels: Vec<Arc<Level>>,
}

#[derive(Debug)]
struct Level {
    name: String,
    path: PathBuf,
    file: File,
    entries: u64,
    bucket_bits: u32,
    /// The number of the first entry of each bucket, followed by the number of entries.
    buckets: Vec<u64>,
    /// The checksum of each bucket; empty in format 1.
    checksums: Vec<u32>,
}

/// The file that lists the levels of the index of one base version.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Manifest {
    format: u32,
    /// File names, newest level first.
    pub(crate) levels: Vec<String>,
}

impl Manifest {
    /// Parses the manifest `bytes` of the file `name`.
    pub(crate) fn parse(bytes: &[u8], name: &str) -> Result<Self> {
        let manifest: Self = serde_json::from_slice(bytes)
            .map_err(|source| Error::corrupt(format!("{name} is unreadable")).with_source(source))?;
        check_format(manifest.format, Path::new(name))?;
        Ok(manifest)
    }
}

impl KeyIndex {
    /// Makes an index without entries in `directory`, which is created if it does not exist.
    pub(crate) fn empty(directory: &Path) -> Result<Self> {
        make_directory(directory)?;
        Ok(Self { directory: directory.into(), levels: Vec::new() })
    }

    /// Opens the index of base version `version`; `None` when none was written for it, or one of its files is missing.
    pub(crate) fn open(directory: &Path, version: u64) -> Result<Option<Self>> {
        let Some(manifest) = read_manifest(directory, version)? else { return Ok(None) };
        let mut levels = Vec::with_capacity(manifest.levels.len());
        for name in manifest.levels {
            match Level::open(directory, name)? {
                Some(level) => levels.push(Arc::new(level)),
                None => return Ok(None),
            }
        }
        Ok(Some(Self { directory: directory.into(), levels }))
    }

    /// Returns the row id of each key, in the order of `hashes`; `None` for an absent key.
    pub(crate) fn get_many(&self, hashes: &[u128]) -> Result<Vec<Option<u64>>> {
        let found = self.search(hashes, read_waiting)?;
        found.ok_or_else(|| Error::internal("a blocking read returned nothing"))
    }

    /// Looks keys up as [`get_many`](Self::get_many) does, without waiting for the disk; `None` unless the operating
    /// system has everything in memory.
    pub(crate) fn get_many_cached(&self, hashes: &[u128]) -> Result<Option<Vec<Option<u64>>>> {
        self.search(hashes, read_cached)
    }

    fn search(&self, hashes: &[u128], read: ReadAt) -> Result<Option<Vec<Option<u64>>>> {
        let mut found = vec![None; hashes.len()];
        if self.levels.is_empty() {
            return Ok(Some(found));
        }
        // Look keys up in the order of the files, so that neighbours share a read.
        let mut open: Vec<usize> = (0..hashes.len()).collect();
        open.sort_unstable_by_key(|at| hashes[*at]);
        for level in &self.levels {
            let mut bucket = Bucket::default();
            let mut missing = Vec::with_capacity(open.len());
            for at in open {
                if !level.read_bucket(hashes[at], &mut bucket, read)? {
                    return Ok(None);
                }
                match bucket.get(hashes[at]) {
                    Some(GONE) => {}
                    Some(row) => found[at] = Some(row),
                    None => missing.push(at),
                }
            }
            open = missing;
        }
        Ok(Some(found))
    }

    /// Returns this index with `entries` added as its newest level (`None`: the key was deleted), each key once; new
    /// files are named after base version `version`.
    pub(crate) fn advance(&self, version: u64, entries: Vec<(u128, Option<u64>)>) -> Result<Self> {
        let mut levels = self.levels.clone();
        if !entries.is_empty() {
            let mut sorted: Vec<(u128, u64)> =
                entries.into_iter().map(|(hash, row)| (hash, row.unwrap_or(GONE))).collect();
            sorted.sort_unstable();
            let expected = sorted.len() as u64;
            let keep_gone = !levels.is_empty();
            let written = sorted.into_iter().filter(|(_, row)| keep_gone || *row != GONE).map(Ok);
            levels.splice(..0, Level::write(&self.directory, version, expected, written)?.map(Arc::new));
        }
        while let [newest, next, rest @ ..] = levels.as_slice() {
            if newest.entries * MERGE_RATIO < next.entries {
                break;
            }
            let expected = newest.entries + next.entries;
            let merged = Merge { newer: newest.entries(), older: next.entries(), pending: [None, None] };
            let keep_gone = !rest.is_empty();
            let merged = merged.filter(|entry| keep_gone || !matches!(entry, Ok((_, GONE))));
            let merged = Level::write(&self.directory, version, expected, merged)?;
            levels.splice(..2, merged.map(Arc::new));
        }
        Ok(Self { directory: Arc::clone(&self.directory), levels })
    }

    /// Returns whether the file `name` exists and is intact; removes it if it is damaged.
    pub(crate) fn is_whole(directory: &Path, name: &str) -> Result<bool> {
        let read = Level::open(directory, name.to_owned()).and_then(|level| match level {
            Some(level) => Arc::new(level).entries().try_for_each(|entry| entry.map(drop)).map(|()| true),
            None => Ok(false),
        });
        match read {
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                tracing::warn!(%error, "removed a damaged key file");
                remove(&directory.join(name))?;
                Ok(false)
            }
            read => read,
        }
    }

    /// Removes damaged files of the index of base version `version`.
    pub(crate) fn discard_damaged(directory: &Path, version: u64) -> Result<()> {
        match read_manifest(directory, version) {
            Err(error) if error.kind() == ErrorKind::Corrupt => remove(&directory.join(manifest_name(version))),
            manifest => {
                let levels = manifest?.into_iter().flat_map(|manifest| manifest.levels);
                levels.into_iter().try_for_each(|name| Self::is_whole(directory, &name).map(drop))
            }
        }
    }

    /// Returns the names of the level files, newest first.
    pub(crate) fn level_names(&self) -> impl Iterator<Item = &str> {
        self.levels.iter().map(|level| level.name.as_str())
    }

    /// Saves this as the index of base version `version`; durable when it returns.
    pub(crate) fn save(&self, version: u64) -> Result<()> {
        let names = self.level_names().map(str::to_owned).collect();
        let text = serde_json::to_vec(&Manifest { format: FORMAT, levels: names })
            .map_err(|source| Error::internal("write a key index").with_source(source))?;
        let path = self.directory.join(manifest_name(version));
        let part = self.directory.join(unique_name(version, PART));
        let mut file = File::create_new(&part).context(|| format!("make {}", part.display()))?;
        file.write_all(&text).and_then(|()| file.sync_all()).context(|| format!("write {}", part.display()))?;
        std::fs::rename(&part, &path).context(|| format!("write {}", path.display()))?;
        // Makes durable the manifest's name and those of the levels in it.
        sync_directory(&self.directory)
    }

    /// Removes files that belong to no base version in `keep`.
    pub(crate) fn collect(directory: &Path, keep: &BTreeSet<u64>) -> Result<()> {
        let mut needed = BTreeSet::new();
        for version in keep {
            if let Some(manifest) = read_manifest(directory, *version)? {
                needed.extend(manifest.levels);
                needed.insert(manifest_name(*version));
            }
        }
        let entries = match std::fs::read_dir(directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(Error::from(error).context(format!("list {}", directory.display()))),
        };
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            // Another process may be writing this file.
            let is_part = name.to_string_lossy().ends_with(PART) && !is_abandoned(&entry);
            if !is_part && !needed.contains(name.to_string_lossy().as_ref()) {
                remove(&entry.path())?;
            }
        }
        Ok(())
    }

    /// Removes files that are not in `known` and were not written recently: copies of what was collected elsewhere.
    pub(crate) fn tidy(directory: &Path, known: &BTreeSet<String>) -> Result<()> {
        for entry in std::fs::read_dir(directory).context(|| format!("list {}", directory.display()))? {
            let entry = entry?;
            if !known.contains(entry.file_name().to_string_lossy().as_ref()) && is_abandoned(&entry) {
                remove(&entry.path())?;
            }
        }
        Ok(())
    }
}

/// The entries of the bucket that was read last.
#[derive(Default)]
struct Bucket {
    number: Option<usize>,
    bytes: Vec<u8>,
}

impl Bucket {
    fn get(&self, hash: u128) -> Option<u64> {
        let entry = |at: usize| &self.bytes[at * ENTRY_BYTES..(at + 1) * ENTRY_BYTES];
        let (mut low, mut high) = (0, self.bytes.len() / ENTRY_BYTES);
        let wanted = hash.to_be_bytes();
        while low < high {
            let middle = low.midpoint(high);
            match entry(middle)[..16].cmp(&wanted) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Equal => return Some(read_u64(&entry(middle)[16..])),
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        None
    }
}

/// Fills a buffer from an offset of a file. Returns false if it would have to wait for the disk and must not.
type ReadAt = fn(&File, &mut [u8], u64) -> std::io::Result<bool>;

fn read_waiting(file: &File, bytes: &mut [u8], at: u64) -> std::io::Result<bool> {
    file.read_exact_at(bytes, at).map(|()| true)
}

impl Level {
    fn open(directory: &Path, name: String) -> Result<Option<Self>> {
        let path = directory.join(&name);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::from(error).context(format!("open {}", path.display()))),
        };
        let damaged = || Error::corrupt(format!("{} is damaged: remove it, and it is rebuilt", path.display()));
        let length = file.metadata()?.len();
        let at = length.checked_sub(FOOTER_BYTES as u64).ok_or_else(damaged)?;
        let mut footer = [0; FOOTER_BYTES];
        file.read_exact_at(&mut footer, at).context(|| format!("read {}", path.display()))?;
        let number = |at: usize| u32::from_le_bytes([footer[at], footer[at + 1], footer[at + 2], footer[at + 3]]);
        if &footer[20..] != MAGIC {
            return Err(damaged());
        }
        check_format(number(12), &path)?;
        let entries = u64::from(number(0)) | u64::from(number(4)) << 32;
        let bucket_bits = number(8);
        let checksum_bytes = if number(12) == 1 { 0 } else { 4 };
        let buckets = 1u64.checked_shl(bucket_bits).ok_or_else(damaged)?;
        let directory_bytes = buckets.checked_mul(8 + checksum_bytes).and_then(|bytes| bytes.checked_add(8));
        let start = directory_bytes.and_then(|bytes| at.checked_sub(bytes)).ok_or_else(damaged)?;
        if entries.checked_mul(ENTRY_BYTES as u64) != Some(start) {
            return Err(damaged());
        }
        let mut bytes = vec![0; (at - start) as usize];
        file.read_exact_at(&mut bytes, start).context(|| format!("read {}", path.display()))?;
        if checksum(&bytes, &footer[..16]) != number(16) {
            return Err(damaged());
        }
        let (firsts, checksums) = bytes.split_at(bytes.len() - (buckets * checksum_bytes) as usize);
        let buckets = firsts.chunks_exact(8).map(read_u64).collect();
        let checksums = checksums.chunks_exact(4).map(|bytes| read_u64(bytes) as u32).collect();
        Ok(Some(Self { name, path, file, entries, bucket_bits, buckets, checksums }))
    }

    /// Writes sorted entries, about `expected` of them; returns `None` if there are none.
    fn write(
        directory: &Path,
        version: u64,
        expected: u64,
        sorted: impl Iterator<Item = Result<(u128, u64)>>,
    ) -> Result<Option<Self>> {
        let name = unique_name(version, "keys");
        let path = directory.join(&name);
        let failed = || format!("write {}", path.display());
        let mut file = BufWriter::new(File::create_new(&path).context(failed)?);
        let bucket_bits = (expected / BUCKET_ENTRIES).max(1).ilog2();
        let mut buckets: Vec<u64> = Vec::with_capacity((1 << bucket_bits) + 1);
        let mut checksums: Vec<u32> = Vec::with_capacity(1 << bucket_bits);
        let mut hasher = crc32fast::Hasher::new();
        let mut entries = 0;
        for entry in sorted {
            let (hash, row) = entry?;
            while buckets.len() <= bucket_of(hash, bucket_bits) {
                if !buckets.is_empty() {
                    checksums.push(std::mem::take(&mut hasher).finalize());
                }
                buckets.push(entries);
            }
            let mut bytes = [0; ENTRY_BYTES];
            bytes[..16].copy_from_slice(&hash.to_be_bytes());
            bytes[16..].copy_from_slice(&row.to_le_bytes());
            hasher.update(&bytes);
            file.write_all(&bytes).context(failed)?;
            entries += 1;
        }
        if entries == 0 {
            drop(file);
            std::fs::remove_file(&path).context(failed)?;
            return Ok(None);
        }
        buckets.resize((1 << bucket_bits) + 1, entries);
        checksums.push(hasher.finalize());
        checksums.resize(1 << bucket_bits, crc32fast::hash(&[]));
        let firsts = buckets.iter().flat_map(|number| number.to_le_bytes());
        let bytes: Vec<u8> = firsts.chain(checksums.iter().flat_map(|checksum| checksum.to_le_bytes())).collect();
        let mut footer = Vec::with_capacity(FOOTER_BYTES);
        footer.extend(entries.to_le_bytes());
        footer.extend(bucket_bits.to_le_bytes());
        footer.extend(FORMAT.to_le_bytes());
        footer.extend(checksum(&bytes, &footer).to_le_bytes());
        footer.extend(MAGIC);
        file.write_all(&bytes).and_then(|()| file.write_all(&footer)).context(failed)?;
        let file = file.into_inner().map_err(|error| Error::from(error.into_error()))?;
        file.sync_all().context(failed)?;
        let file = File::open(&path).context(failed)?;
        Ok(Some(Self { name, path, file, entries, bucket_bits, buckets, checksums }))
    }

    /// Makes `bucket` the one that would hold `hash`. Returns false if `read` would have to wait.
    fn read_bucket(&self, hash: u128, bucket: &mut Bucket, read: ReadAt) -> Result<bool> {
        let number = bucket_of(hash, self.bucket_bits);
        if bucket.number == Some(number) {
            return Ok(true);
        }
        bucket.number = None;
        if !self.read_buckets(number..number + 1, &mut bucket.bytes, read)? {
            return Ok(false);
        }
        bucket.number = Some(number);
        Ok(true)
    }

    /// Fills `bytes` with the entries of `buckets`. Returns false if `read` would have to wait.
    ///
    /// # Errors
    /// `Corrupt` when a checksum does not match. The file is then removed, so that opening the index rebuilds it.
    fn read_buckets(&self, buckets: Range<usize>, bytes: &mut Vec<u8>, read: ReadAt) -> Result<bool> {
        let (start, end) = (self.buckets[buckets.start], self.buckets[buckets.end]);
        bytes.resize((end - start) as usize * ENTRY_BYTES, 0);
        let is_read = read(&self.file, bytes, start * ENTRY_BYTES as u64);
        if !is_read.context(|| format!("read {}", self.path.display()))? {
            return Ok(false);
        }
        let mut rest = bytes.as_slice();
        for (number, checksum) in buckets.clone().zip(self.checksums.get(buckets).unwrap_or_default()) {
            let entries = (self.buckets[number + 1] - self.buckets[number]) as usize;
            let (bucket, after) = rest.split_at(entries * ENTRY_BYTES);
            rest = after;
            if crc32fast::hash(bucket) != *checksum {
                remove(&self.path)?;
                let what = format!("{} was damaged; it is rebuilt when the table is opened again", self.path.display());
                return Err(Error::corrupt(what));
            }
        }
        Ok(true)
    }

    fn entries(self: &Arc<Self>) -> Entries {
        Entries { level: Arc::clone(self), next: 0, bytes: Vec::new(), at: 0 }
    }
}

/// The entries of a level, in order.
struct Entries {
    level: Arc<Level>,
    /// The first bucket that has not been read.
    next: usize,
    bytes: Vec<u8>,
    /// The offset in `bytes` of the next entry.
    at: usize,
}

impl Entries {
    fn read(&mut self) -> Result<()> {
        while self.at == self.bytes.len() && self.next < self.level.buckets.len() - 1 {
            let end = (self.next + BUCKETS_READ).min(self.level.buckets.len() - 1);
            self.level.read_buckets(self.next..end, &mut self.bytes, read_waiting)?;
            (self.next, self.at) = (end, 0);
        }
        Ok(())
    }
}

impl Iterator for Entries {
    type Item = Result<(u128, u64)>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Err(error) = self.read() {
            return Some(Err(error));
        }
        let entry = self.bytes.get(self.at..self.at + ENTRY_BYTES)?;
        self.at += ENTRY_BYTES;
        let hash = entry[..16].iter().fold(0, |hash, byte| hash << 8 | u128::from(*byte));
        Some(Ok((hash, read_u64(&entry[16..]))))
    }
}

/// Merges two levels; where both have a key, the newer entry wins.
struct Merge {
    newer: Entries,
    older: Entries,
    pending: [Option<(u128, u64)>; 2],
}

impl Merge {
    fn fill(&mut self) -> Result<()> {
        let [newer, older] = &mut self.pending;
        if newer.is_none() {
            *newer = self.newer.next().transpose()?;
        }
        if older.is_none() {
            *older = self.older.next().transpose()?;
        }
        Ok(())
    }
}

impl Iterator for Merge {
    type Item = Result<(u128, u64)>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Err(error) = self.fill() {
            return Some(Err(error));
        }
        let [newer, older] = &mut self.pending;
        match (*newer, *older) {
            (Some((a, _)), Some((b, _))) if a > b => older.take().map(Ok),
            (Some((a, _)), Some((b, _))) => {
                if a == b {
                    older.take();
                }
                newer.take().map(Ok)
            }
            (Some(_), None) => newer.take().map(Ok),
            (None, _) => older.take().map(Ok),
        }
    }
}

fn bucket_of(hash: u128, bits: u32) -> usize {
    // Shifting by all 128 bits overflows and means bucket 0.
    hash.checked_shr(128 - bits).unwrap_or(0) as usize
}

fn read_u64(bytes: &[u8]) -> u64 {
    bytes.iter().take(8).rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn checksum(directory: &[u8], footer: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(directory);
    hasher.update(footer);
    hasher.finalize()
}

fn check_format(format: u32, path: &Path) -> Result<()> {
    if format > FORMAT {
        let what = format!("{} has format {format}, and this version of Cenote reads up to {FORMAT}", path.display());
        return Err(Error::unsupported(what));
    }
    Ok(())
}

/// Removes a file, unless another process already did.
fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::from(error).context(format!("remove {}", path.display())))
        }
        _ => Ok(()),
    }
}

/// Returns whether a file has not been written for so long that its writer must be gone.
fn is_abandoned(entry: &DirEntry) -> bool {
    let modified = entry.metadata().and_then(|metadata| metadata.modified());
    modified.is_ok_and(|modified| modified.elapsed().is_ok_and(|age| age >= ABANDONED_AGE))
}

/// Returns the name of the manifest of base version `version`.
pub(crate) fn manifest_name(version: u64) -> String {
    format!("{version}.json")
}

fn read_manifest(directory: &Path, version: u64) -> Result<Option<Manifest>> {
    let path = directory.join(manifest_name(version));
    match std::fs::read(&path) {
        Ok(text) => Manifest::parse(&text, &path.display().to_string()).map(Some),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::from(error).context(format!("read {}", path.display()))),
    }
}

/// Returns a name that no other process and no other call chooses.
fn unique_name(version: u64, extension: &str) -> String {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    // Process ids are reused, also by other containers, so a hasher seeded by the operating system adds randomness.
    let random = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), std::process::id());
    format!("{version}-{random:016x}-{}.{extension}", COUNTER.fetch_add(1, Ordering::Relaxed))
}

#[cfg(test)]
mod tests;

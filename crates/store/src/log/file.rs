//! A log on a local disk: one growing file per segment.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use cenote_base::{Context, Error, Result};

use super::segment::{News, Segment, Segments};
use super::unseen::{Unseen, seen_to};
use crate::blocking::blocking;
use crate::faults::Faults;
use crate::files::durable::sync_directory;

const EXTENSION: &str = "log";

/// The files of a log.
#[derive(Debug)]
pub(super) struct LogFiles {
    pub(super) directory: PathBuf,
    pub(super) faults: Faults,
}

#[derive(Debug)]
struct FileSegment {
    path: PathBuf,
    /// Opened for reading until the first write.
    file: Arc<File>,
    can_write: bool,
    /// Bytes that were read or written.
    end: u64,
    /// Bytes that are known to be durable.
    synced: u64,
    faults: Faults,
}

impl LogFiles {
    fn path(&self, number: u64) -> PathBuf {
        self.directory.join(format!("{number:020}.{EXTENSION}"))
    }
}

#[async_trait]
impl Segments for LogFiles {
    fn name(&self) -> String {
        self.directory.display().to_string()
    }

    async fn list(&self) -> Result<Vec<u64>> {
        let directory = self.directory.clone();
        blocking(move || {
            let entries = std::fs::read_dir(&directory).context(|| format!("list {}", directory.display()))?;
            let mut numbers = Vec::new();
            for entry in entries {
                let path = entry?.path();
                if path.extension().is_some_and(|extension| extension == EXTENSION) {
                    numbers.extend(path.file_stem().and_then(|stem| stem.to_str()?.parse::<u64>().ok()));
                }
            }
            numbers.sort_unstable();
            Ok(numbers)
        })
        .await
    }

    async fn create(&self, number: u64, bytes: Vec<u8>) -> Result<Box<dyn Segment>> {
        self.faults.check("log.create")?;
        let (path, faults) = (self.path(number), self.faults.clone());
        let mut segment = blocking(move || {
            let file = OpenOptions::new().create(true).truncate(true).read(true).write(true).open(&path);
            let file = Arc::new(file.context(|| format!("make log segment {}", path.display()))?);
            Ok(FileSegment { path, file, can_write: true, end: 0, synced: 0, faults })
        })
        .await?;
        segment.append(bytes, true).await?;
        self.sync().await?;
        Ok(Box::new(segment))
    }

    async fn open(&self, number: u64) -> Result<Option<Box<dyn Segment>>> {
        let (path, faults) = (self.path(number), self.faults.clone());
        blocking(move || {
            // A process that only reads may not be allowed to write.
            let file = match File::open(&path) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
                file => Arc::new(file.context(|| format!("open log segment {}", path.display()))?),
            };
            let segment = FileSegment { path, file, can_write: false, end: 0, synced: 0, faults };
            Ok(Some(Box::new(segment) as Box<dyn Segment>))
        })
        .await
    }

    async fn bytes(&self, number: u64) -> Result<u64> {
        let path = self.path(number);
        Ok(tokio::fs::metadata(&path).await.context(|| format!("look at {}", path.display()))?.len())
    }

    async fn remove(&self, numbers: &[u64]) -> Result<()> {
        self.faults.check("log.remove")?;
        let paths: Vec<PathBuf> = numbers.iter().map(|number| self.path(*number)).collect();
        blocking(move || {
            for path in paths {
                match std::fs::remove_file(&path) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                        return Err(Error::from(error).context(format!("remove {}", path.display())));
                    }
                    _ => {}
                }
            }
            Ok(())
        })
        .await
    }

    async fn sync(&self) -> Result<()> {
        let directory = self.directory.clone();
        blocking(move || sync_directory(&directory)).await
    }
}

impl FileSegment {
    /// Returns the file, opened for writing.
    async fn writable(&mut self) -> Result<Arc<File>> {
        if !self.can_write {
            let path = self.path.clone();
            let opened = move || {
                let file = OpenOptions::new().read(true).write(true).open(&path);
                let file = file.context(|| format!("open log segment {} to write it", path.display()))?;
                // The process that made the segment, or the log, may have died before their names were on the disk.
                path.ancestors().skip(1).take(2).try_for_each(sync_directory)?;
                Ok(file)
            };
            self.file = Arc::new(blocking(opened).await?);
            self.can_write = true;
        }
        Ok(Arc::clone(&self.file))
    }
}

#[async_trait]
impl Segment for FileSegment {
    fn position(&self, skip: usize) -> String {
        format!("log segment {} at byte {}", self.path.display(), self.end + skip as u64)
    }

    fn end(&self) -> u64 {
        self.end
    }

    fn synced(&self) -> u64 {
        self.synced
    }

    fn note_synced(&mut self, bytes: u64) {
        self.synced = self.synced.max(bytes);
    }

    async fn sync(&mut self) -> Result<()> {
        let (file, position, faults) = (Arc::clone(&self.file), self.position(0), self.faults.clone());
        let sync = move || faults.check("log.sync").and_then(|()| Ok(file.sync_data()?)).context(|| position);
        blocking(sync).await?;
        self.synced = self.end;
        Ok(())
    }

    fn can_be_torn(&self) -> bool {
        true
    }

    async fn news(&self) -> Result<News> {
        // Not worth another thread: a system call that does not touch the disk.
        let metadata = self.file.metadata().context(|| self.position(0))?;
        Ok(match () {
            // Removed, or cut off before the position.
            () if metadata.nlink() == 0 || metadata.len() < self.end => News::Gone,
            () if seen_to(&self.file, self.end, metadata.len()).context(|| self.position(0))? > self.end => News::More,
            () => News::None,
        })
    }

    async fn peek(&mut self, wanted: usize) -> Result<Bytes> {
        let (file, end, position) = (Arc::clone(&self.file), self.end, self.position(0));
        blocking(move || {
            let seen = |length| seen_to(&file, end, length).context(|| position.clone());
            let left = seen(file.metadata().context(|| position.clone())?.len())?.saturating_sub(end);
            let mut bytes = vec![0; wanted.min(usize::try_from(left).unwrap_or(usize::MAX))];
            // The file may shrink meanwhile, when another process cuts off an interrupted write.
            let mut filled = 0;
            while filled < bytes.len() {
                match file.read_at(&mut bytes[filled..], end + filled as u64).context(|| position.clone())? {
                    0 => break,
                    count => filled += count,
                }
            }
            // Another group may have replaced one that failed.
            bytes.truncate((seen(end + filled as u64)? - end) as usize);
            Ok(bytes.into())
        })
        .await
    }

    fn advance(&mut self, bytes: usize) {
        self.end += bytes as u64;
    }

    async fn append(&mut self, bytes: Vec<u8>, sync: bool) -> Result<Unseen> {
        let (file, end, position, faults) = (self.writable().await?, self.end, self.position(0), self.faults.clone());
        let length = bytes.len();
        let unseen = blocking(move || {
            let unseen = Unseen::behind(Arc::clone(&file), end).context(|| position.clone())?;
            write(&file, end, &bytes, sync, &faults).context(|| position.clone()).or_else(|error| {
                // After a failed sync, nobody knows what the disk holds: the write must not reappear as if
                // acknowledged.
                truncate(&file, end, &faults).context(|| position)?;
                Err(error)
            })?;
            Ok(unseen)
        })
        .await?;
        self.end += length as u64;
        if sync {
            self.synced = self.end;
        }
        Ok(unseen)
    }

    async fn truncate(&mut self) -> Result<u64> {
        let (file, end, position, faults) = (self.writable().await?, self.end, self.position(0), self.faults.clone());
        blocking(move || {
            let torn = file.metadata().context(|| position.clone())?.len().saturating_sub(end);
            if torn > 0 {
                truncate(&file, end, &faults).context(|| position)?;
            }
            Ok(torn)
        })
        .await
    }
}

fn write(file: &File, end: u64, bytes: &[u8], sync: bool, faults: &Faults) -> Result<()> {
    if let Err(error) = faults.check("log.write") {
        // An injected fault tears the write, as a crash would.
        file.write_all_at(&bytes[..bytes.len() / 2], end)?;
        return Err(error);
    }
    file.write_all_at(bytes, end)?;
    if sync {
        faults.check("log.sync")?;
        file.sync_data()?;
    }
    Ok(())
}

fn truncate(file: &File, end: u64, faults: &Faults) -> Result<()> {
    faults.check("log.truncate")?;
    file.set_len(end)?;
    Ok(file.sync_all()?)
}

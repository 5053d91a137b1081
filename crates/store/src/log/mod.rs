//! The write-ahead log of a table: acknowledged writes, in order, until the base holds them.
//!
//! A log is a chain of segments, each named by the first version it may hold. A segment is a sequence of frames. Its
//! first frame is a checkpoint of the table's history, so that older segments can be removed. Its last frame, once it
//! has ended, names the next segment, which is begun afterwards: if a crash comes between the two, the next writer
//! begins it. Readers in other processes follow the log as it grows. On a local disk a segment is a file; in an object
//! store it is one object per group of writes.
//!
//! The epoch in each frame counts changes of the writer. A frame with an older epoch than the frame before it is
//! damage.
//!
//! After a power failure, a disk may hold any part of what was written since the last sync, such as the end of a group
//! without its beginning. So each frame records how much of its segment was durable before it was written. A broken
//! frame is damage if a later intact frame vouches for it; otherwise it was never acknowledged, and the log ends there.

pub(crate) mod concerned;
mod file;
mod frame;
pub(crate) mod history;
mod object;
pub(crate) mod replay;
mod segment;
mod unseen;

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use cenote_base::{Context, Error, ErrorKind, Result, Timestamp};

use crate::blocking::{blocking, blocking_unless};
use crate::faults::Faults;
use crate::files::durable::{remove_directory, sync_directory};
use crate::files::objects::Objects;
use crate::log::history::Checkpoint;
pub(crate) use frame::{Frame, Record};
use frame::{HEADER_BYTES, Stamp, frame_bytes, whole_body};
pub(crate) use segment::News;
use segment::{Segment, Segments};
pub(crate) use unseen::Unseen;

/// Bytes of a segment per read; a single larger frame is read whole.
const READ_BYTES: usize = 8 << 20;
/// Bytes of a group that are encoded on the caller's thread: waking another thread costs as much.
const SHORT_BYTES: usize = 128 << 10;

/// How many times the log is read again from the start when segments were collected before they could be read.
pub(crate) const COLLECTED_TRIES: usize = 8;

/// The location of a table's log.
#[derive(Debug, Clone)]
pub(crate) enum LogLocation {
    Directory(PathBuf, Faults),
    Objects(Objects),
}

/// A position in a log, from which it is read and at whose end it is written.
#[derive(Debug)]
pub(crate) struct Log {
    segments: Arc<dyn Segments>,
    /// The first version that the segment may hold.
    number: u64,
    /// `None` while the segment does not exist: the one before has ended, and nobody has begun this one.
    segment: Option<Box<dyn Segment>>,
    epoch: u32,
}

/// Frames that were read, and how many bytes they took.
struct Parsed {
    frames: Vec<Frame>,
    bytes: usize,
    /// The stamp of the newest frame.
    stamp: Stamp,
    sealed: Option<u64>,
}

impl LogLocation {
    fn segments(&self) -> Arc<dyn Segments> {
        match self {
            Self::Directory(directory, faults) => {
                Arc::new(file::LogFiles { directory: directory.clone(), faults: faults.clone() })
            }
            Self::Objects(objects) => Arc::new(object::Groups { objects: objects.clone() }),
        }
    }

    /// Returns whether the log exists.
    pub(crate) async fn exists(&self) -> Result<bool> {
        match self {
            Self::Directory(directory, _) => Ok(tokio::fs::try_exists(directory).await?),
            Self::Objects(objects) => objects.any().await,
        }
    }

    /// Creates the log.
    pub(crate) async fn create(&self, checkpoint: Checkpoint, time: Timestamp) -> Result<()> {
        let number = checkpoint.version + 1;
        let bytes = encode(vec![checkpoint_frame(checkpoint, time)], Stamp { epoch: 1, synced: 0 }).await?.1;
        let (directory, faults) = match self {
            Self::Directory(directory, faults) => (directory, faults),
            Self::Objects(_) => {
                return match self.segments().create(number, bytes).await {
                    // Another process created it first.
                    Err(error) if error.kind() == ErrorKind::Conflict => Ok(()),
                    made => made.map(drop),
                };
            }
        };
        // Under another name until it is complete, so that a crash leaves a complete log or none.
        let part = directory.with_extension("part");
        let failed = || format!("make directory {}", directory.display());
        tokio::fs::create_dir_all(&part).await.context(failed)?;
        file::LogFiles { directory: part.clone(), faults: faults.clone() }.create(number, bytes).await?;
        tokio::fs::rename(&part, directory).await.context(failed)?;
        let Some(parent) = directory.parent().map(PathBuf::from) else { return Ok(()) };
        blocking(move || sync_directory(&parent)).await
    }

    /// Removes the log, if it exists.
    pub(crate) async fn remove(&self) -> Result<()> {
        match self {
            Self::Objects(objects) => objects.delete_all().await,
            Self::Directory(directory, _) => remove_directory(directory.clone()).await,
        }
    }
}

impl Log {
    /// Opens the log at the beginning of the segment that holds `version`, or of the oldest segment if that begins
    /// later.
    pub(crate) async fn open(location: &LogLocation, version: u64) -> Result<Self> {
        let segments = location.segments();
        let mut numbers = segments.list().await?;
        loop {
            let mut at = numbers.partition_point(|number| *number <= version).max(1);
            // The beginning of the newest segment may be incomplete: the end of the one before leads to it.
            while at > 0 && at <= numbers.len() {
                let number = numbers[at - 1];
                if let Some(mut segment) = segments.open(number).await? {
                    let wanted = frame_bytes(&segment.peek(HEADER_BYTES).await?).unwrap_or(HEADER_BYTES);
                    if at == 1 || whole_body(&segment.peek(wanted).await?).is_some() {
                        return Ok(Self { segments, number, segment: Some(segment), epoch: 0 });
                    }
                }
                at -= 1;
            }
            let now = segments.list().await?;
            if now == numbers {
                return Err(Error::corrupt(format!("the log in {} has no segment", segments.name())));
            }
            // They were collected after they were listed.
            numbers = now;
        }
    }

    /// Returns the error for segments that are missing however often the log is read.
    pub(crate) fn gap(&self) -> Error {
        Error::corrupt(format!("the log in {} lacks a segment between others; restore it", self.segments.name()))
    }

    /// Returns the location of the log, for messages.
    pub(crate) fn name(&self) -> String {
        self.segments.name()
    }

    /// Returns whether there is more to read.
    pub(crate) async fn news(&mut self) -> Result<News> {
        if self.segment.is_none() {
            self.segment = self.segments.open(self.number).await?;
        }
        if let Some(segment) = &self.segment {
            return segment.news().await;
        }
        // Another process may have begun this segment, ended it and collected it.
        let later = self.segments.list().await?.last().is_some_and(|last| *last > self.number);
        Ok(if later { News::Gone } else { News::None })
    }

    /// Returns the next complete frames, in order: an empty list at the end, `None` when what follows was collected. An
    /// incomplete frame is left for later.
    ///
    /// # Errors
    /// `Corrupt` when a frame that was durable is broken, which no interrupted write causes.
    pub(crate) async fn read(&mut self) -> Result<Option<Vec<Frame>>> {
        let frames = self.read_segments().await?;
        // If segments after this position are missing, the end of what exists is not the end of the log.
        let is_sound = !frames.is_empty() || self.news().await? != News::Gone;
        Ok(is_sound.then_some(frames))
    }

    /// Returns the next complete frames of consecutive segments.
    async fn read_segments(&mut self) -> Result<Vec<Frame>> {
        loop {
            if self.segment.is_none() {
                self.segment = self.segments.open(self.number).await?;
            }
            let Some(segment) = &mut self.segment else { return Ok(Vec::new()) };
            let mut bytes = segment.peek(READ_BYTES).await?;
            if let Some(length) = frame_bytes(&bytes)
                && length > bytes.len()
            {
                bytes = segment.peek(length).await?;
            }
            if bytes.is_empty() {
                return Ok(Vec::new());
            }
            let stamp = Stamp { epoch: self.epoch, synced: segment.synced() };
            let parsed = {
                let bytes = bytes.clone();
                blocking(move || parse(&bytes, stamp).map_err(|(at, error)| error.context(format!("byte {at}")))).await
            };
            let parsed = parsed.map_err(|error| error.context(segment.position(0)))?;
            if parsed.bytes == 0 {
                check_tail(segment.as_ref(), &bytes)?;
                return Ok(Vec::new());
            }
            segment.advance(parsed.bytes);
            segment.note_synced(parsed.stamp.synced);
            self.epoch = parsed.stamp.epoch;
            if let Some(next) = parsed.sealed {
                (self.number, self.segment) = (next, None);
            }
            if !parsed.frames.is_empty() {
                return Ok(parsed.frames);
            }
        }
    }

    /// Cuts off what an interrupted write left at the end, and returns its bytes. Requires the lease.
    pub(crate) async fn repair(&mut self) -> Result<u64> {
        let Some(segment) = &mut self.segment else { return Ok(0) };
        let rest = segment.peek(usize::MAX).await?;
        check_tail(segment.as_ref(), &rest)?;
        segment.truncate().await
    }

    /// Returns whether the segment lacks its beginning, so that [`begin`](Self::begin) must precede any write.
    pub(crate) fn lacks_beginning(&self) -> bool {
        self.segment.as_ref().is_none_or(|segment| segment.end() == 0)
    }

    /// Begins the segment that the end of the one before names.
    pub(crate) async fn begin(&mut self, checkpoint: Checkpoint, time: Timestamp) -> Result<()> {
        let stamp = Stamp { epoch: self.epoch, synced: 0 };
        let bytes = encode(vec![checkpoint_frame(checkpoint, time)], stamp).await?.1;
        self.segment = Some(self.segments.create(self.number, bytes).await?);
        Ok(())
    }

    /// Begins a new epoch, before the first write after another writer's.
    pub(crate) fn next_epoch(&mut self) {
        self.epoch += 1;
    }

    /// Appends `frames` as one group, and returns them. When it returns, they are durable (or with the operating
    /// system, unless `sync`), and unseen. If it fails on a local disk, they are not in the log; in an object store
    /// they may still arrive.
    pub(crate) async fn append(&mut self, frames: Vec<Frame>, sync: bool) -> Result<(Vec<Frame>, Unseen)> {
        let Some(segment) = &mut self.segment else {
            return Err(Error::internal("the log was written before its segment began"));
        };
        if sync && segment.synced() < segment.end() {
            // Sync what another process wrote, or this one without a sync: the new frames vouch for it.
            segment.sync().await?;
        }
        let stamp = Stamp { epoch: self.epoch, synced: segment.synced() };
        let (frames, bytes) = encode(frames, stamp).await?;
        let unseen = segment.append(bytes, sync).await?;
        Ok((frames, unseen))
    }

    /// Ends the segment after `checkpoint`'s version and begins the next one.
    pub(crate) async fn roll(&mut self, checkpoint: Checkpoint, time: Timestamp) -> Result<()> {
        let version = checkpoint.version;
        let next = version + 1;
        if next == self.number {
            // Nothing was written since the segment began.
            return Ok(());
        }
        self.append(vec![Frame { version, time, record: Record::Sealed(next) }], true).await?;
        (self.number, self.segment) = (next, None);
        self.begin(checkpoint, time).await
    }

    /// Returns the version before the longest run of newest segments that hold at most `bytes_max` bytes together.
    pub(crate) async fn version_before(&self, bytes_max: u64) -> Result<u64> {
        let mut left = bytes_max;
        let mut oldest = self.number;
        for number in self.segments.list().await?.into_iter().rev() {
            let Some(rest) = left.checked_sub(self.segments.bytes(number).await?) else { break };
            (left, oldest) = (rest, number);
        }
        Ok(oldest - 1)
    }

    /// Returns the segments before the newest one, which can be removed while others write.
    pub(crate) fn past(&self) -> Past {
        Past { segments: Arc::clone(&self.segments), end: self.number }
    }
}

/// The ended segments of a log.
#[derive(Debug)]
pub(crate) struct Past {
    segments: Arc<dyn Segments>,
    /// The number of the first segment that has not ended.
    end: u64,
}

impl Past {
    /// Removes the ended segments that hold no version of `needed`, and returns their number.
    pub(crate) async fn collect(&self, needed: &[RangeInclusive<u64>]) -> Result<usize> {
        let numbers = self.segments.list().await?;
        let pairs = numbers.windows(2).filter(|pair| pair[1] <= self.end);
        // A segment ends at or before the beginning of the next one.
        let is_needed = |pair: &[u64]| {
            needed.iter().any(|range| !range.is_empty() && *range.start() < pair[1] && *range.end() >= pair[0])
        };
        let unneeded: Vec<u64> = pairs.filter(|pair| !is_needed(pair)).map(|pair| pair[0]).collect();
        if !unneeded.is_empty() {
            self.segments.remove(&unneeded).await?;
            self.segments.sync().await?;
        }
        Ok(unneeded.len())
    }
}

fn checkpoint_frame(checkpoint: Checkpoint, time: Timestamp) -> Frame {
    Frame { version: checkpoint.version, time, record: Record::Checkpoint(checkpoint) }
}

async fn encode(frames: Vec<Frame>, stamp: Stamp) -> Result<(Vec<Frame>, Vec<u8>)> {
    let bytes: usize = frames.iter().map(|frame| frame.record.bytes()).sum();
    blocking_unless(bytes <= SHORT_BYTES, move || {
        let mut bytes = Vec::new();
        for frame in &frames {
            frame.encode(stamp, &mut bytes)?;
        }
        Ok((frames, bytes))
    })
    .await
}

/// Parses the complete frames at the start of `bytes`, up to the end of a segment; `stamp` is that of the frame before.
fn parse(bytes: &Bytes, stamp: Stamp) -> std::result::Result<Parsed, (usize, Error)> {
    let mut parsed = Parsed { frames: Vec::new(), bytes: 0, stamp, sealed: None };
    while parsed.sealed.is_none()
        && let Some(body) = whole_body(&bytes[parsed.bytes..])
    {
        let (stamp, frame) = Frame::decode(body).map_err(|error| (parsed.bytes, error))?;
        let (epoch, newest) = (stamp.epoch, parsed.stamp.epoch);
        if epoch < newest {
            let what = format!("a frame of epoch {epoch} follows one of epoch {newest}");
            return Err((parsed.bytes, Error::corrupt(what)));
        }
        parsed.stamp = stamp;
        parsed.bytes += HEADER_BYTES + body.len();
        match frame.record {
            Record::Sealed(next) => parsed.sealed = Some(next),
            _ => parsed.frames.push(frame),
        }
    }
    Ok(parsed)
}

/// Checks `bytes`, which begin with an incomplete frame. That is an interrupted write, unless such writes cannot occur
/// here, or a later frame vouches for it.
fn check_tail(segment: &dyn Segment, bytes: &[u8]) -> Result<()> {
    if bytes.is_empty() {
        return Ok(());
    }
    if !segment.can_be_torn() {
        return Err(Error::corrupt("the log is damaged: restore this object").context(segment.position(0)));
    }
    if frame::has_witness(&bytes[1..], segment.end()) {
        let what = "the log is damaged in the middle: whole writes follow a broken one; restore the file";
        return Err(Error::corrupt(what).context(segment.position(0)));
    }
    Ok(())
}

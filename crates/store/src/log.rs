//! The write-ahead log of a table: what was acknowledged, in order, before it is part of the base.
//!
//! A log is a directory of segments, each named by the first version it may hold. A segment is a sequence of frames; a frame
//! is one write, whole or not there. The first frame of a segment is a checkpoint of the table's history, so that older
//! segments can go; the last frame of a finished one names the next. Readers in other processes follow the file as it grows.
//!
//! ```text
//! frame = magic "CNLG" · length u32 · crc32 u32 · body        (little-endian; length and crc of the body)
//! body  = kind u8 · epoch u32 · version u64 · time i64 · payload
//! ```
//! The epoch counts changes of writer: a frame of an older epoch behind one of a newer one is no frame.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use arrow::array::RecordBatch;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use cenote_base::{Context, Error, Result, Timestamp};

use crate::Faults;
use crate::fault::arrow_error;
use crate::history::{BaseMark, Checkpoint, Note};

const MAGIC: [u8; 4] = *b"CNLG";
const HEADER_BYTES: usize = 12;
const BODY_HEADER_BYTES: usize = 21;
/// So much of a segment is read at once; a single larger frame is read whole.
const READ_BYTES: usize = 8 << 20;
const EXTENSION: &str = "log";

/// One entry of the log.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    /// The table's version from this write on; records that change no row repeat the version before.
    pub(crate) version: u64,
    pub(crate) time: Timestamp,
    pub(crate) record: Record,
}

#[derive(Debug, Clone)]
pub(crate) enum Record {
    /// The history up to here: the first frame of each segment.
    Checkpoint(Checkpoint),
    /// Whole rows in the table's logical schema, one a key.
    Upsert(RecordBatch),
    /// Keys whose rows are gone.
    Delete(RecordBatch),
    /// The base has a new version. For a write that went straight to it: the keys it inserted or replaced, and those it
    /// deleted.
    Base { mark: BaseMark, written: Option<RecordBatch>, deleted: Option<RecordBatch> },
    /// A tag or a consumer was set or removed.
    Note(Note),
    /// The end of the segment: the next one is named by this version.
    Sealed(u64),
}

impl Frame {
    fn encode(&self, epoch: u32) -> Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(256);
        bytes.extend(MAGIC);
        bytes.extend([0; 8]);
        let kind: u8 = match &self.record {
            Record::Checkpoint(_) => 0,
            Record::Upsert(_) => 1,
            Record::Delete(_) => 2,
            Record::Base { .. } => 3,
            Record::Note(_) => 4,
            Record::Sealed(_) => 5,
        };
        bytes.push(kind);
        bytes.extend(epoch.to_le_bytes());
        bytes.extend(self.version.to_le_bytes());
        bytes.extend(self.time.0.to_le_bytes());
        match &self.record {
            Record::Checkpoint(checkpoint) => bytes.extend(to_json(checkpoint)?),
            Record::Upsert(batch) | Record::Delete(batch) => write_batch(&mut bytes, batch)?,
            Record::Base { mark, written, deleted } => {
                for part in [Some(to_json(mark)?), optional_batch(written)?, optional_batch(deleted)?] {
                    let part = part.unwrap_or_default();
                    bytes.extend((part.len() as u64).to_le_bytes());
                    bytes.extend(part);
                }
            }
            Record::Note(note) => bytes.extend(to_json(note)?),
            Record::Sealed(next) => bytes.extend(next.to_le_bytes()),
        }
        let length = u32::try_from(bytes.len() - HEADER_BYTES)
            .map_err(|_| Error::resource_exhausted("one write holds more than 4 GiB: write it in several calls"))?;
        let crc = crc32fast::hash(&bytes[HEADER_BYTES..]);
        bytes[4..8].copy_from_slice(&length.to_le_bytes());
        bytes[8..12].copy_from_slice(&crc.to_le_bytes());
        Ok(bytes)
    }

    /// The frame that `body` holds, and its epoch.
    fn decode(body: &[u8]) -> Result<(u32, Self)> {
        let unreadable = || Error::corrupt("the frame's checksum is right and its content is not");
        let mut rest = body;
        let mut take = |count: usize| -> Result<&[u8]> {
            let (head, tail) = rest.split_at_checked(count).ok_or_else(unreadable)?;
            rest = tail;
            Ok(head)
        };
        let kind = take(1)?[0];
        let epoch = u32::from_le_bytes(to_array(take(4)?)?);
        let version = u64::from_le_bytes(to_array(take(8)?)?);
        let time = Timestamp(i64::from_le_bytes(to_array(take(8)?)?));
        let payload = &body[BODY_HEADER_BYTES..];
        let record = match kind {
            0 => Record::Checkpoint(Checkpoint::parse(payload)?),
            1 => Record::Upsert(read_batch(payload)?),
            2 => Record::Delete(read_batch(payload)?),
            3 => {
                let mut part = || -> Result<&[u8]> {
                    let length = u64::from_le_bytes(to_array(take(8)?)?);
                    take(usize::try_from(length).map_err(|_| unreadable())?)
                };
                let (mark, written, deleted) = (part()?, part()?, part()?);
                let batch = |bytes: &[u8]| if bytes.is_empty() { Ok(None) } else { read_batch(bytes).map(Some) };
                Record::Base { mark: from_json(mark)?, written: batch(written)?, deleted: batch(deleted)? }
            }
            4 => Record::Note(from_json(payload)?),
            5 => Record::Sealed(u64::from_le_bytes(to_array(payload)?)),
            other => {
                let what =
                    format!("a log record of kind {other} is of a newer version of Cenote: open it with that one");
                return Err(Error::unsupported(what));
            }
        };
        Ok((epoch, Self { version, time, record }))
    }
}

/// A place in a log, from which it is read on, and at whose end it is written.
#[derive(Debug)]
pub(crate) struct Log {
    directory: PathBuf,
    /// The first version that the open segment may hold.
    segment: u64,
    file: File,
    /// Bytes of the segment that were read or written.
    end: u64,
    epoch: u32,
    faults: Faults,
}

impl Log {
    /// Starts a log in `directory`, which does not exist yet.
    pub(crate) fn create(directory: &Path, checkpoint: Checkpoint, time: Timestamp, faults: Faults) -> Result<()> {
        // Under another name until it is whole, so that a crash leaves a log or none.
        let part = directory.with_extension("part");
        std::fs::create_dir_all(&part).context(|| format!("make directory {}", part.display()))?;
        let version = checkpoint.version;
        let mut log = Self::new_segment(&part, version + 1, 1, faults)?;
        log.append(&[Frame { version, time, record: Record::Checkpoint(checkpoint) }], true)?;
        sync_directory(&part)?;
        std::fs::rename(&part, directory).context(|| format!("make directory {}", directory.display()))?;
        directory.parent().map_or(Ok(()), sync_directory)
    }

    /// The log in `directory` from the beginning of the segment that holds `version`, or of the oldest one there is when it
    /// begins later.
    pub(crate) fn open(directory: &Path, version: u64, faults: Faults) -> Result<Self> {
        let segments = segments(directory)?;
        let mut at = segments.partition_point(|segment| *segment <= version).saturating_sub(1);
        // The newest segment may be what an interrupted roll left: writes went on in the one before.
        if at > 0 && at + 1 == segments.len() && !is_sealed(directory, segments[at - 1], segments[at])? {
            at -= 1;
        }
        let Some(segment) = segments.get(at) else {
            return Err(Error::corrupt(format!("the log in {} has no segment", directory.display())));
        };
        let file = open_segment(directory, *segment)?;
        Ok(Self { directory: directory.to_owned(), segment: *segment, file, end: 0, epoch: 0, faults })
    }

    fn new_segment(directory: &Path, segment: u64, epoch: u32, faults: Faults) -> Result<Self> {
        faults.check("log.create")?;
        let path = segment_path(directory, segment);
        let file = OpenOptions::new().create(true).truncate(true).read(true).write(true).open(&path);
        let file = file.context(|| format!("make log segment {}", path.display()))?;
        Ok(Self { directory: directory.to_owned(), segment, file, end: 0, epoch, faults })
    }

    /// Begins a new epoch: before the first write behind another writer's.
    pub(crate) fn next_epoch(&mut self) {
        self.epoch += 1;
    }

    /// Whether the file has grown beyond what was read, or was removed under us.
    pub(crate) fn has_news(&self) -> Result<bool> {
        let metadata = self.file.metadata().context(|| self.name())?;
        Ok(metadata.len() > self.end || metadata.nlink() == 0)
    }

    /// Whether the open segment was removed: what follows cannot be read on from here.
    pub(crate) fn is_gone(&self) -> Result<bool> {
        Ok(self.file.metadata().context(|| self.name())?.nlink() == 0)
    }

    /// The next whole frames, in order; empty at the end. A frame that is not whole yet is left for later.
    ///
    /// # Errors
    /// `Corrupt` when whole frames follow one that is not, which no interrupted write leaves behind.
    pub(crate) fn read(&mut self) -> Result<Vec<Frame>> {
        loop {
            let mut frames = Vec::new();
            let bytes = self.fill(READ_BYTES)?;
            let mut at = 0;
            let mut sealed = None;
            while let Some(body) = whole_body(&bytes[at..]) {
                let (epoch, frame) = Frame::decode(body).map_err(|error| error.context(self.place(at)))?;
                if epoch < self.epoch {
                    let what = format!("a frame of epoch {epoch} follows one of epoch {}", self.epoch);
                    return Err(Error::corrupt(what).context(self.place(at)));
                }
                self.epoch = epoch;
                at += HEADER_BYTES + body.len();
                match frame.record {
                    Record::Sealed(next) => sealed = Some(next),
                    _ => frames.push(frame),
                }
            }
            if at == 0 && !bytes.is_empty() {
                self.check_tail(&bytes)?;
            }
            self.end += at as u64;
            let Some(next) = sealed else { return Ok(frames) };
            self.file = open_segment(&self.directory, next)?;
            (self.segment, self.end) = (next, 0);
            if !frames.is_empty() {
                return Ok(frames);
            }
        }
    }

    /// Up to `size` bytes from where reading stands, or one whole frame when that is larger.
    fn fill(&self, size: usize) -> Result<Vec<u8>> {
        let length = self.file.metadata().context(|| self.name())?.len();
        let left = usize::try_from(length.saturating_sub(self.end)).unwrap_or(usize::MAX);
        let mut header = [0; HEADER_BYTES];
        let mut wanted = size;
        if left >= HEADER_BYTES {
            self.file.read_exact_at(&mut header, self.end).context(|| self.name())?;
            if header[..4] == MAGIC {
                wanted = wanted.max(HEADER_BYTES + body_length(&header));
            }
        }
        let mut bytes = vec![0; left.min(wanted)];
        // The file may shrink meanwhile, when another process cuts off a torn end.
        let mut filled = 0;
        while filled < bytes.len() {
            match self.file.read_at(&mut bytes[filled..], self.end + filled as u64).context(|| self.name())? {
                0 => break,
                count => filled += count,
            }
        }
        bytes.truncate(filled);
        Ok(bytes)
    }

    /// `bytes` begin with something that is no whole frame: an interrupted write, unless whole frames follow.
    fn check_tail(&self, bytes: &[u8]) -> Result<()> {
        let follows = memchr_all(bytes, &MAGIC).filter(|at| *at > 0).any(|at| whole_body(&bytes[at..]).is_some());
        if follows {
            let what = "the log is damaged in the middle: whole writes follow a broken one; restore the file";
            return Err(Error::corrupt(what).context(self.place(0)));
        }
        Ok(())
    }

    /// Cuts off what an interrupted write left at the end; how many bytes that were. Only the holder of the lease may.
    pub(crate) fn repair(&mut self) -> Result<u64> {
        let length = self.file.metadata().context(|| self.name())?.len();
        let torn = length.saturating_sub(self.end);
        if torn > 0 {
            self.check_tail(&self.fill(usize::MAX)?)?;
            self.truncate()?;
        }
        Ok(torn)
    }

    /// Adds `frames` as one group: on disk when it returns (or with the operating system, unless `sync`), and when it fails,
    /// not there.
    pub(crate) fn append(&mut self, frames: &[Frame], sync: bool) -> Result<()> {
        let mut bytes = Vec::new();
        for frame in frames {
            bytes.extend(frame.encode(self.epoch)?);
        }
        match self.write(&bytes, sync) {
            Ok(()) => {
                self.end += bytes.len() as u64;
                Ok(())
            }
            Err(error) => {
                // After a failed sync nobody knows what the disk holds: it must not come back as if acknowledged.
                self.truncate()?;
                Err(error)
            }
        }
    }

    fn write(&self, bytes: &[u8], sync: bool) -> Result<()> {
        if let Err(error) = self.faults.check("log.write") {
            // An injected fault tears the write, as a crash would.
            self.file.write_all_at(&bytes[..bytes.len() / 2], self.end).context(|| self.name())?;
            return Err(error);
        }
        self.file.write_all_at(bytes, self.end).context(|| self.name())?;
        if !sync {
            return Ok(());
        }
        self.faults.check("log.sync")?;
        self.file.sync_data().context(|| self.name())
    }

    fn truncate(&self) -> Result<()> {
        self.faults.check("log.truncate")?;
        self.file.set_len(self.end).and_then(|()| self.file.sync_all()).context(|| self.name())
    }

    /// Ends the segment after `version` and starts the next with `checkpoint`.
    pub(crate) fn roll(&mut self, checkpoint: Checkpoint, time: Timestamp) -> Result<()> {
        let version = checkpoint.version;
        let next = version + 1;
        if next == self.segment {
            // Nothing was written since the last one began.
            return Ok(());
        }
        // The new segment first: a seal that names a segment must not be durable before it.
        let mut segment = Self::new_segment(&self.directory, next, self.epoch, self.faults.clone())?;
        let frame = |record| Frame { version, time, record };
        segment.append(&[frame(Record::Checkpoint(checkpoint))], true)?;
        sync_directory(&self.directory)?;
        self.append(&[frame(Record::Sealed(next))], true)?;
        *self = segment;
        Ok(())
    }

    /// Removes the segments that hold only versions up to `version`; how many those were.
    pub(crate) fn collect(&self, version: u64) -> Result<usize> {
        let segments = segments(&self.directory)?;
        // A segment ends where the next one begins.
        let doomed = segments.windows(2).take_while(|pair| pair[1] <= version + 1 && pair[1] <= self.segment);
        let mut removed = 0;
        for pair in doomed {
            self.faults.check("log.remove")?;
            let path = segment_path(&self.directory, pair[0]);
            std::fs::remove_file(&path).context(|| format!("remove {}", path.display()))?;
            removed += 1;
        }
        Ok(removed)
    }

    fn name(&self) -> String {
        format!("log segment {}", segment_path(&self.directory, self.segment).display())
    }

    fn place(&self, at: usize) -> String {
        format!("{} at byte {}", self.name(), self.end + at as u64)
    }
}

fn segments(directory: &Path) -> Result<Vec<u64>> {
    let entries = std::fs::read_dir(directory).context(|| format!("list {}", directory.display()))?;
    let mut segments = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == EXTENSION) {
            segments.extend(path.file_stem().and_then(|stem| stem.to_str()?.parse::<u64>().ok()));
        }
    }
    segments.sort_unstable();
    Ok(segments)
}

/// Whether `segment` ends by naming `next`.
fn is_sealed(directory: &Path, segment: u64, next: u64) -> Result<bool> {
    let file = open_segment(directory, segment)?;
    let length = file.metadata()?.len();
    let mut frame = [0; HEADER_BYTES + BODY_HEADER_BYTES + 8];
    let Some(start) = length.checked_sub(frame.len() as u64) else { return Ok(false) };
    file.read_exact_at(&mut frame, start).context(|| format!("read {}", segment_path(directory, segment).display()))?;
    let Some(Ok((_, frame))) = whole_body(&frame).map(Frame::decode) else { return Ok(false) };
    Ok(matches!(frame.record, Record::Sealed(named) if named == next))
}

fn segment_path(directory: &Path, segment: u64) -> PathBuf {
    directory.join(format!("{segment:020}.{EXTENSION}"))
}

fn open_segment(directory: &Path, segment: u64) -> Result<File> {
    let path = segment_path(directory, segment);
    let file = OpenOptions::new().read(true).write(true).open(&path);
    file.context(|| format!("open log segment {}", path.display()))
}

fn sync_directory(directory: &Path) -> Result<()> {
    File::open(directory).and_then(|file| file.sync_all()).context(|| format!("sync {}", directory.display()))
}

/// The body of the frame that `bytes` begin with, if it is whole.
fn whole_body(bytes: &[u8]) -> Option<&[u8]> {
    let header = bytes.get(..HEADER_BYTES)?;
    if header[..4] != MAGIC {
        return None;
    }
    let length = body_length(header);
    let body = bytes.get(HEADER_BYTES..HEADER_BYTES.checked_add(length)?)?;
    let crc = u32::from_le_bytes(header[8..12].try_into().ok()?);
    (length >= BODY_HEADER_BYTES && crc32fast::hash(body) == crc).then_some(body)
}

fn body_length(header: &[u8]) -> usize {
    u32::from_le_bytes([header[4], header[5], header[6], header[7]]) as usize
}

fn memchr_all<'a>(bytes: &'a [u8], pattern: &'a [u8]) -> impl Iterator<Item = usize> + 'a {
    bytes.windows(pattern.len()).enumerate().filter(move |(_, window)| *window == pattern).map(|(at, _)| at)
}

fn write_batch(bytes: &mut Vec<u8>, batch: &RecordBatch) -> Result<()> {
    let mut writer = StreamWriter::try_new(bytes, batch.schema_ref()).map_err(arrow_error)?;
    writer.write(batch).and_then(|()| writer.finish()).map_err(arrow_error)
}

fn optional_batch(batch: &Option<RecordBatch>) -> Result<Option<Vec<u8>>> {
    let Some(batch) = batch else { return Ok(None) };
    let mut bytes = Vec::new();
    write_batch(&mut bytes, batch)?;
    Ok(Some(bytes))
}

fn read_batch(bytes: &[u8]) -> Result<RecordBatch> {
    let mut reader = StreamReader::try_new(bytes, None).map_err(arrow_error)?;
    let batch = reader.next().ok_or_else(|| Error::corrupt("a log record holds no rows"))?;
    batch.map_err(arrow_error)
}

fn to_json<T: serde::Serialize>(value: &T) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|source| Error::internal("write a log record").with_source(source))
}

fn from_json<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|source| Error::corrupt("a log record is unreadable").with_source(source))
}

fn to_array<const N: usize>(bytes: &[u8]) -> Result<[u8; N]> {
    bytes.try_into().map_err(|_| Error::corrupt("a log record is too short"))
}

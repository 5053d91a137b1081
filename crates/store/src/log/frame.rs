//! Frames: the entries of a log, each complete or absent.
//!
//! ```text
//! frame = magic "CNLG" · length u32 · crc32 u32 · body        (little-endian; length and crc of the body)
//! body  = kind u8 · epoch u32 · version u64 · time i64 · synced u64 · payload
//! ```
//!
//! Bodies of earlier versions of Cenote have no `synced`; their kind lacks the bit [`HAS_SYNCED`].

use arrow::array::RecordBatch;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use cenote_base::{Error, Result, Timestamp};

use crate::errors::arrow_error;
use crate::log::concerned::{Concerned, KeyParts};
use crate::log::history::{BaseMark, Checkpoint, Note};
use crate::rows::buffers;
use crate::rows::primary_key::PrimaryKey;

const MAGIC: [u8; 4] = *b"CNLG";
pub(super) const HEADER_BYTES: usize = 12;
const BODY_HEADER_BYTES: usize = 21;
const HAS_SYNCED: u8 = 0x80;

/// The state of the log that a frame records.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stamp {
    /// How many times the writer had changed.
    pub(super) epoch: u32,
    /// Bytes of the segment that were durable before the frame was written.
    pub(super) synced: u64,
}

/// One entry of the log.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    /// The table's version from this write on; records that change no row repeat the previous version.
    pub(crate) version: u64,
    pub(crate) time: Timestamp,
    pub(crate) record: Record,
}

#[derive(Debug, Clone)]
pub(crate) enum Record {
    /// The history up to here: the first frame of each segment.
    Checkpoint(Checkpoint),
    /// Whole rows in the table's logical schema, one per key.
    Upsert(RecordBatch),
    /// Keys whose rows are deleted.
    Delete(RecordBatch),
    /// A new version of the base. If a direct write made it: the keys that the write concerned, together with those in
    /// the preceding `parts`.
    Base { mark: BaseMark, parts: Option<KeyParts>, keys: Concerned },
    /// A tag or a consumer was set or removed.
    Note(Note),
    /// The end of the segment; the version that names the next one.
    Sealed(u64),
    /// Some of the keys of a later `Base` record that names these parts; meaningless without that record.
    Keys { parts: u64, keys: Concerned },
}

impl Record {
    /// Returns the hashes of the keys of its rows, under `secret`.
    pub(crate) fn hashes(&self, key: &PrimaryKey, secret: (u64, u64)) -> Result<Vec<u128>> {
        match self {
            Self::Upsert(batch) | Self::Delete(batch) => key.hash(&key.project(batch)?, secret),
            _ => Ok(Vec::new()),
        }
    }

    /// Returns the bytes of its rows in memory.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Upsert(batch) | Self::Delete(batch) => batch.get_array_memory_size(),
            Self::Base { keys, .. } | Self::Keys { keys, .. } => keys.bytes(),
            _ => 0,
        }
    }
}

impl Frame {
    /// Appends the frame to `bytes`.
    pub(super) fn encode(&self, stamp: Stamp, bytes: &mut Vec<u8>) -> Result<()> {
        let start = bytes.len();
        bytes.extend(MAGIC);
        bytes.extend([0; 8]);
        let kind: u8 = match &self.record {
            Record::Checkpoint(_) => 0,
            Record::Upsert(_) => 1,
            Record::Delete(_) => 2,
            Record::Base { .. } => 3,
            Record::Note(_) => 4,
            Record::Sealed(_) => 5,
            Record::Keys { .. } => 6,
        };
        bytes.push(kind | HAS_SYNCED);
        bytes.extend(stamp.epoch.to_le_bytes());
        bytes.extend(self.version.to_le_bytes());
        bytes.extend(self.time.0.to_le_bytes());
        bytes.extend(stamp.synced.to_le_bytes());
        match &self.record {
            Record::Checkpoint(checkpoint) => bytes.extend(to_json(checkpoint)?),
            Record::Upsert(batch) | Record::Delete(batch) => write_batch(bytes, batch)?,
            Record::Base { mark, parts, keys } => {
                write_part(bytes, Some(to_json(mark)?));
                write_keys(bytes, keys)?;
                write_part(bytes, parts.as_ref().map(to_json).transpose()?);
            }
            Record::Note(note) => bytes.extend(to_json(note)?),
            Record::Sealed(next) => bytes.extend(next.to_le_bytes()),
            Record::Keys { parts, keys } => {
                bytes.extend(parts.to_le_bytes());
                write_keys(bytes, keys)?;
            }
        }
        let frame = &mut bytes[start..];
        let length = u32::try_from(frame.len() - HEADER_BYTES)
            .map_err(|_| Error::resource_exhausted("one write holds more than 4 GiB: write it in several calls"))?;
        let crc = crc32fast::hash(&frame[HEADER_BYTES..]);
        frame[4..8].copy_from_slice(&length.to_le_bytes());
        frame[8..12].copy_from_slice(&crc.to_le_bytes());
        Ok(())
    }

    /// Decodes the frame in `body`, and its stamp.
    pub(super) fn decode(body: &[u8]) -> Result<(Stamp, Self)> {
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
        let synced = synced(body);
        let header = if synced.is_some() { take(8)?.len() + BODY_HEADER_BYTES } else { BODY_HEADER_BYTES };
        let payload = &body[header..];
        let record = match kind & !HAS_SYNCED {
            0 => Record::Checkpoint(Checkpoint::parse(payload)?),
            1 => Record::Upsert(read_batch(payload)?),
            2 => Record::Delete(read_batch(payload)?),
            3 => {
                let mut parts = PayloadParts(payload);
                let (mark, keys) = (from_json(parts.next()?)?, parts.keys()?);
                // Before keys came in parts, a record ended here.
                let parts = if parts.0.is_empty() { &[] } else { parts.next()? };
                let parts = if parts.is_empty() { None } else { Some(from_json(parts)?) };
                Record::Base { mark, parts, keys }
            }
            4 => Record::Note(from_json(payload)?),
            5 => Record::Sealed(u64::from_le_bytes(to_array(payload)?)),
            6 => {
                let (parts, keys) = payload.split_first_chunk().ok_or_else(unreadable)?;
                Record::Keys { parts: u64::from_le_bytes(*parts), keys: PayloadParts(keys).keys()? }
            }
            other => {
                let what =
                    format!("a log record of kind {other} was written by a newer version of Cenote: use that version");
                return Err(Error::unsupported(what));
            }
        };
        Ok((Stamp { epoch, synced: synced.unwrap_or(0) }, Self { version, time, record }))
    }
}

/// Returns the body of the frame at the start of `bytes`, if it is complete and its checksum matches.
pub(super) fn whole_body(bytes: &[u8]) -> Option<&[u8]> {
    let body = bytes.get(HEADER_BYTES..frame_bytes(bytes)?)?;
    let crc = u32::from_le_bytes(bytes[8..12].try_into().ok()?);
    (body.len() >= BODY_HEADER_BYTES && crc32fast::hash(body) == crc).then_some(body)
}

/// Returns the length of the frame at the start of `bytes`, if there is a frame's header.
pub(super) fn frame_bytes(bytes: &[u8]) -> Option<usize> {
    let header = bytes.get(..HEADER_BYTES).filter(|header| header[..4] == MAGIC)?;
    HEADER_BYTES.checked_add(u32::from_le_bytes(header[4..8].try_into().ok()?) as usize)
}

/// Returns whether `bytes` contain a complete frame that was written when `position` of the segment was durable.
pub(super) fn has_witness(bytes: &[u8], position: u64) -> bool {
    let starts = bytes.windows(MAGIC.len()).enumerate().filter(|(_, window)| *window == MAGIC);
    let mut bodies = starts.filter_map(|(at, _)| whole_body(&bytes[at..]));
    // Earlier versions of Cenote did not record this, and usually wrote one frame at a time.
    bodies.any(|body| synced(body).is_none_or(|synced| synced > position))
}

/// Returns how much of the segment was durable before the frame in `body` was written, if it records that.
fn synced(body: &[u8]) -> Option<u64> {
    let bytes = body.get(BODY_HEADER_BYTES..BODY_HEADER_BYTES + 8)?;
    (body[0] & HAS_SYNCED != 0).then(|| bytes.try_into().map(u64::from_le_bytes).ok())?
}

fn write_batch(bytes: &mut Vec<u8>, batch: &RecordBatch) -> Result<()> {
    let mut writer = StreamWriter::try_new(bytes, batch.schema_ref()).map_err(arrow_error)?;
    writer.write(batch).and_then(|()| writer.finish()).map_err(arrow_error)
}

/// Writes the length of a part of a record, then the part; an absent part is empty.
fn write_part(bytes: &mut Vec<u8>, part: Option<Vec<u8>>) {
    let part = part.unwrap_or_default();
    bytes.extend((part.len() as u64).to_le_bytes());
    bytes.extend(part);
}

fn write_keys(bytes: &mut Vec<u8>, keys: &Concerned) -> Result<()> {
    for batch in [&keys.written, &keys.deleted] {
        let mut part = Vec::new();
        if let Some(batch) = batch {
            write_batch(&mut part, batch)?;
        }
        write_part(bytes, Some(part));
    }
    Ok(())
}

/// The parts of a record that were not read yet.
struct PayloadParts<'a>(&'a [u8]);

impl<'a> PayloadParts<'a> {
    fn next(&mut self) -> Result<&'a [u8]> {
        let (length, rest) = self.0.split_first_chunk().ok_or_else(unreadable)?;
        let length = usize::try_from(u64::from_le_bytes(*length)).map_err(|source| unreadable().with_source(source))?;
        let (part, rest) = rest.split_at_checked(length).ok_or_else(unreadable)?;
        self.0 = rest;
        Ok(part)
    }

    fn keys(&mut self) -> Result<Concerned> {
        let batch = |bytes: &[u8]| if bytes.is_empty() { Ok(None) } else { read_batch(bytes).map(Some) };
        Ok(Concerned { written: batch(self.next()?)?, deleted: batch(self.next()?)? })
    }
}

fn unreadable() -> Error {
    Error::corrupt("the frame's checksum matches, but its content is invalid")
}

fn read_batch(bytes: &[u8]) -> Result<RecordBatch> {
    let mut reader = StreamReader::try_new(bytes, None).map_err(arrow_error)?;
    let batch = reader.next().ok_or_else(|| Error::corrupt("a log record holds no rows"))?;
    // Earlier versions of Cenote logged rows as they were given.
    buffers::canonical(batch.map_err(arrow_error)?)
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

//! What parent and child process say to each other: frames of a kind, a length and that many bytes.

use std::io::{Read, Write};

use cenote_base::{Error, ErrorKind, Result};

use crate::objects::spill::{decode, encode};
use crate::objects::value::Value;

/// What a child says first, so that another program is noticed at once. The last byte is the version of the protocol.
pub(crate) const GREETING: &[u8] = b"cenote child\x01";

/// A frame's header: its kind, and its length as a little-endian u64.
pub(crate) const HEADER_BYTES: usize = 9;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FrameKind {
    /// Child to parent, once.
    Greeting = 1,
    /// Parent to child: an object to work on.
    Call = 2,
    /// Child to parent: the object it made.
    Answer = 3,
    /// Child to parent: a byte for the kind of error, then its text.
    Failure = 4,
}

/// Kinds of error that a child may give, by number.
const KINDS: [ErrorKind; 10] = [
    ErrorKind::NotFound,
    ErrorKind::AlreadyExists,
    ErrorKind::InvalidInput,
    ErrorKind::Conflict,
    ErrorKind::Corrupt,
    ErrorKind::ResourceExhausted,
    ErrorKind::Unavailable,
    ErrorKind::Cancelled,
    ErrorKind::Unsupported,
    ErrorKind::Internal,
];

pub(crate) fn write_frame(to: &mut impl Write, kind: FrameKind, content: &[u8]) -> std::io::Result<()> {
    to.write_all(&[kind as u8])?;
    to.write_all(&(content.len() as u64).to_le_bytes())?;
    to.write_all(content)?;
    to.flush()
}

/// The kind and length that a header gives.
///
/// # Errors
/// `Corrupt` when it is no header, or the frame would be longer than `bytes_max`.
pub(crate) fn parse_header(header: &[u8; HEADER_BYTES], bytes_max: u64) -> Result<(FrameKind, u64)> {
    let [kind, length @ ..] = *header;
    let length = u64::from_le_bytes(length);
    let kind = match kind {
        1 => FrameKind::Greeting,
        2 => FrameKind::Call,
        3 => FrameKind::Answer,
        4 => FrameKind::Failure,
        _ => return Err(Error::corrupt(format!("a frame cannot begin with the bytes {header:02x?}"))),
    };
    if length > bytes_max {
        return Err(Error::corrupt(format!("a frame of {length} bytes is longer than the limit of {bytes_max}")));
    }
    Ok((kind, length))
}

/// An object as a frame's content.
pub(crate) fn content_of(value: &Value) -> Result<Vec<u8>> {
    let mut content = Vec::new();
    encode(value, &mut content)?;
    Ok(content)
}

pub(crate) fn failure_content(error: &Error) -> Vec<u8> {
    let kind = KINDS.iter().position(|kind| *kind == error.kind()).unwrap_or(KINDS.len() - 1);
    let mut content = vec![kind as u8];
    content.extend_from_slice(format!("{error:#}").as_bytes());
    content
}

/// What a child's last frame says.
pub(crate) fn outcome(kind: FrameKind, content: &[u8]) -> Result<Result<Value>> {
    match (kind, content) {
        (FrameKind::Answer, mut content) => decode(&mut content).map(Ok),
        (FrameKind::Failure, [kind, text @ ..]) => {
            let kind = KINDS.get(usize::from(*kind)).copied();
            let kind = kind.ok_or_else(|| Error::corrupt("an error of a kind that does not exist"))?;
            Ok(Err(Error::new(kind, String::from_utf8_lossy(text))))
        }
        _ => Err(Error::corrupt(format!("{kind:?} is no answer"))),
    }
}

/// Reads a frame, or `None` at the end of the stream.
pub(crate) fn read_frame(from: &mut impl Read) -> Result<Option<(FrameKind, Vec<u8>)>> {
    let mut header = [0; HEADER_BYTES];
    match from.read_exact(&mut header) {
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    let (kind, length) = parse_header(&header, u64::MAX)?;
    let mut content = Vec::new();
    if from.take(length).read_to_end(&mut content)? as u64 != length {
        return Ok(None);
    }
    Ok(Some((kind, content)))
}

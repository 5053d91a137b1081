//! The protocol between parent and child process: frames of a kind, the number of a call, a length and the content.

use std::io::{Read, Write};

use cenote_base::{Error, ErrorKind, Result};

use crate::objects::ipc::{decode, encode};
use crate::objects::value::Value;

/// The content of a child's first frame, which tells it from a program that does not speak the protocol. The last byte
/// is the version of the protocol.
pub(super) const GREETING: &[u8] = b"cenote child\x02";

/// Bytes of a frame's header: one for the kind, then the number of the call and the length as little-endian u64s.
pub(super) const HEADER_BYTES: usize = 17;

/// The kind of a frame. Its number is the first byte of the header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FrameKind {
    /// Child to parent, once.
    Greeting = 1,
    /// Parent to child: the input of a call.
    Call = 2,
    /// Child to parent: the output of the call.
    Answer = 3,
    /// Child to parent: the error of the call, one byte for its kind and then its text.
    Failure = 4,
}

/// A frame that was received.
pub(super) struct ReceivedFrame {
    pub(super) kind: FrameKind,
    /// The number of the call that it makes or answers, from 1; 0 for the greeting.
    pub(super) call: u64,
    pub(super) content: Vec<u8>,
}

/// The header of a frame that was received.
pub(super) struct FrameHeader {
    pub(super) kind: FrameKind,
    pub(super) call: u64,
    /// Bytes of the content.
    pub(super) length: u64,
}

/// The kinds of error by their number in a failure frame.
const ERROR_KINDS: [ErrorKind; 10] = [
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

/// Returns the header of a frame with `length` bytes of content.
pub(super) fn frame_header(kind: FrameKind, call: u64, length: usize) -> [u8; HEADER_BYTES] {
    let mut header = [kind as u8; HEADER_BYTES];
    header[1..9].copy_from_slice(&call.to_le_bytes());
    header[9..].copy_from_slice(&(length as u64).to_le_bytes());
    header
}

pub(super) fn write_frame(to: &mut impl Write, kind: FrameKind, call: u64, content: &[u8]) -> std::io::Result<()> {
    to.write_all(&frame_header(kind, call, content.len()))?;
    to.write_all(content)?;
    to.flush()
}

/// Parses the header of a frame.
///
/// # Errors
/// `Corrupt` when the kind is unknown, or the frame would be longer than `bytes_max`.
pub(super) fn parse_header(header: &[u8; HEADER_BYTES], bytes_max: u64) -> Result<FrameHeader> {
    let number = |at: usize| u64::from_le_bytes(std::array::from_fn(|byte| header[at + byte]));
    let (kind, call, length) = (header[0], number(1), number(9));
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
    Ok(FrameHeader { kind, call, length })
}

/// Encodes an object as the content of a frame.
pub(super) fn object_content(value: &Value) -> Result<Vec<u8>> {
    let mut content = Vec::new();
    encode(value, &mut content)?;
    Ok(content)
}

/// Encodes an error as the content of a failure frame.
pub(super) fn failure_content(error: &Error) -> Vec<u8> {
    let kind = ERROR_KINDS.iter().position(|kind| *kind == error.kind()).unwrap_or(ERROR_KINDS.len() - 1);
    let mut content = vec![kind as u8];
    content.extend_from_slice(format!("{error:#}").as_bytes());
    content
}

/// Decodes the input of a call.
///
/// # Errors
/// `Corrupt` when the frame is not a call.
pub(super) fn parse_call(call: &ReceivedFrame) -> Result<Value> {
    match call.kind {
        FrameKind::Call => decode(&mut call.content.as_slice()),
        kind => Err(Error::corrupt(format!("a frame of kind {} is not a call", kind as u8))),
    }
}

/// Decodes the answer to call `call`. The outer error is a breach of the protocol, the inner one is the child's.
pub(super) fn parse_answer(answer: &ReceivedFrame, call: u64) -> Result<Result<Value>> {
    if answer.call != call {
        return Err(Error::corrupt(format!("it answered call {} instead of call {call}", answer.call)));
    }
    match (answer.kind, answer.content.as_slice()) {
        (FrameKind::Answer, mut content) => decode(&mut content).map(Ok),
        (FrameKind::Failure, [kind, text @ ..]) => {
            let kind = ERROR_KINDS.get(usize::from(*kind)).copied();
            let kind = kind.ok_or_else(|| Error::corrupt("an error of a kind that does not exist"))?;
            Ok(Err(Error::new(kind, String::from_utf8_lossy(text))))
        }
        (kind, _) => Err(Error::corrupt(format!("a frame of kind {} is not an answer", kind as u8))),
    }
}

/// Reads a frame. Returns `None` at the end of the stream, also where it ends inside a frame.
pub(super) fn read_frame(from: &mut impl Read) -> Result<Option<ReceivedFrame>> {
    let mut header = [0; HEADER_BYTES];
    match from.read_exact(&mut header) {
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    let FrameHeader { kind, call, length } = parse_header(&header, u64::MAX)?;
    let mut content = Vec::new();
    if from.take(length).read_to_end(&mut content)? as u64 != length {
        return Ok(None);
    }
    Ok(Some(ReceivedFrame { kind, call, content }))
}

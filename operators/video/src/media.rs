//! Videos in memory, opened through FFmpeg.
//!
//! The bytes are read in place from the Arrow buffer, through a custom I/O context. Nothing is copied to a file, and
//! container formats that refer to other files or addresses (playlists, concatenations) are refused.

use std::io::Cursor;
use std::sync::Once;

use arrow::array::LargeBinaryArray;
use arrow::buffer::Buffer;
use ffmpeg::codec::packet::side_data::Type as SideData;
use ffmpeg::format::context::{Input, StreamIo};
use ffmpeg::format::stream::Disposition;
use ffmpeg::media::Type;
use ffmpeg::{Dictionary, Error, Packet, Rational, Stream, codec, ffi, format};
use ffmpeg_next as ffmpeg;

/// The container formats that are read: those that hold their media themselves.
const FORMATS: &str =
    "mov,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,gif,h264,hevc,av1,ivf,nut,mxf,wav,mp3,aac,flac";
/// Pixels of a picture, at most. Larger pictures are not decoded.
const PIXELS_MAX: &str = "67108864";

/// The bytes of a video, shared with FFmpeg's reader.
struct Shared(Buffer);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// An opened container and the number of the video stream that a player would show.
pub(crate) struct Media {
    pub(crate) input: Input,
    stream: usize,
}

/// Degrees, clockwise, by which a picture must be turned before it is shown: 0, 90, 180 or 270.
pub(crate) type Turn = u32;

/// Returns the bytes of one row, sharing the array's memory.
pub fn row_bytes(videos: &LargeBinaryArray, row: usize) -> Buffer {
    let offsets = videos.value_offsets();
    let (start, end) = (offsets[row] as usize, offsets[row + 1] as usize);
    videos.values().slice_with_length(start, end - start)
}

impl Media {
    /// Opens `bytes` and finds their video stream.
    ///
    /// # Errors
    /// A reason for the person who looks at the row.
    pub(crate) fn open(bytes: Buffer) -> Result<Self, String> {
        start_ffmpeg()?;
        if bytes.is_empty() {
            return Err("the video is empty: 0 bytes".to_owned());
        }
        let io =
            StreamIo::from_read_seek(Cursor::new(Shared(bytes))).map_err(|error| reason("cannot be read", error))?;
        let mut options = Dictionary::new();
        options.set("format_whitelist", FORMATS);
        let input = format::input_from_stream(io, None, Some(options)).map_err(|error| match error {
            Error::InvalidData | Error::Other { .. } => {
                format!("not a video container that is read here, or cut before its index ({error})")
            }
            error => reason("cannot be opened", error),
        })?;
        let best = input.streams().best(Type::Video).filter(|stream| !is_cover(stream));
        let stream = best.map(|stream| stream.index()).ok_or_else(|| "has no video stream".to_owned())?;
        Ok(Self { input, stream })
    }

    /// Returns the video stream.
    pub(crate) fn video(&self) -> Result<Stream<'_>, String> {
        self.input.stream(self.stream).ok_or_else(|| "has no video stream".to_owned())
    }

    /// Reads the next packet of the video stream. Returns `None` at the end, or where the file is cut. Damage is left
    /// in `trouble`.
    pub(crate) fn packet(&mut self, trouble: &mut Option<String>) -> Option<Packet> {
        loop {
            let mut packet = Packet::empty();
            match packet.read(&mut self.input) {
                Ok(()) if packet.stream() == self.stream => return Some(packet),
                Ok(()) => {}
                // The demuxer continues after a damaged packet.
                Err(Error::InvalidData) => *trouble = Some("the file is damaged".to_owned()),
                Err(Error::Eof) => return None,
                Err(error) => {
                    *trouble = Some(reason("the file is cut", error));
                    return None;
                }
            }
        }
    }

    /// Opens a decoder for the video stream that runs on the calling thread and skips the frames that `skip` names.
    pub(crate) fn decoder(&self, skip: codec::discard::Discard) -> Result<codec::decoder::Video, String> {
        let video = self.video()?;
        let mut context = codec::Context::from_parameters(video.parameters())
            .map_err(|error| reason("has a video stream without usable parameters", error))?;
        context.set_threading(codec::threading::Config { count: 1, ..Default::default() });
        let mut decoder = context.decoder();
        decoder.set_packet_time_base(video.time_base());
        decoder.skip_frame(skip);
        let codec = codec::decoder::find(video.parameters().id())
            .ok_or_else(|| format!("no decoder for the codec `{}`", video.parameters().id().name()))?;
        let mut options = Dictionary::new();
        options.set("max_pixels", PIXELS_MAX);
        let opened = decoder.open_as_with(codec, options).and_then(codec::decoder::Opened::video);
        opened.map_err(|error| reason("its video decoder does not start", error))
    }
}

/// Returns the width and height of the stream's pictures, before any turn.
#[allow(unsafe_code, reason = "ffmpeg-next offers these two fields only once a decoder has been opened")]
pub(crate) fn size(stream: &Stream<'_>) -> Result<(u32, u32), String> {
    let parameters = stream.parameters();
    // SAFETY: `parameters` keeps the AVCodecParameters it points to alive, which are initialised and not written to
    // while the input is only borrowed; two integers are read.
    let (width, height) = unsafe { ((*parameters.as_ptr()).width, (*parameters.as_ptr()).height) };
    match (u32::try_from(width), u32::try_from(height)) {
        (Ok(width @ 1..), Ok(height @ 1..)) => Ok((width, height)),
        _ => Err("has a video stream without a size: cut before its first picture".to_owned()),
    }
}

/// Returns whether the stream is not a film but the picture on an album's cover.
fn is_cover(stream: &Stream<'_>) -> bool {
    stream.disposition().contains(Disposition::ATTACHED_PIC)
}

/// Returns the turn that the container asks for: a phone that is held upright records a lying picture and the turn.
pub(crate) fn turn(stream: &Stream<'_>) -> Turn {
    let matrix = stream.side_data().find(|data| data.kind() == SideData::DisplayMatrix);
    matrix.map_or(0, |matrix| turn_of(matrix.data()))
}

/// Returns the turn in FFmpeg's display matrix: nine 32-bit numbers that begin with the cosine and the sine.
fn turn_of(matrix: &[u8]) -> Turn {
    let number = |index: usize| {
        let bytes = matrix.get(index * 4..index * 4 + 4).and_then(|bytes| <[u8; 4]>::try_from(bytes).ok());
        bytes.map_or(0.0, |bytes| f64::from(i32::from_ne_bytes(bytes)))
    };
    let degrees = number(1).atan2(number(0)).to_degrees();
    ((degrees / 90.0).round() as i32).rem_euclid(4) as u32 * 90
}

/// The times of a stream, which count from its first picture, as players show them.
pub(crate) struct Timeline {
    base: Rational,
    /// The time of the first picture, in ticks of `base`.
    origin: i64,
}

impl Timeline {
    pub(crate) fn of(stream: &Stream<'_>) -> Self {
        Self { base: stream.time_base(), origin: known(stream.start_time()).unwrap_or(0) }
    }

    /// Returns the time of the first picture in the container, in milliseconds.
    pub(crate) fn origin_ms(&self) -> i64 {
        millis(self.origin, self.base).unwrap_or(0)
    }

    /// Converts the ticks of a packet or a picture to milliseconds from the first picture.
    pub(crate) fn time_ms(&self, ticks: Option<i64>) -> Option<i64> {
        millis(ticks?.checked_sub(self.origin)?, self.base)
    }
}

/// Returns `ticks` unless they are FFmpeg's mark of an unknown time.
pub(crate) fn known(ticks: i64) -> Option<i64> {
    (ticks != ffi::AV_NOPTS_VALUE).then_some(ticks)
}

/// Converts `ticks` of `base` to milliseconds.
pub(crate) fn millis(ticks: i64, base: Rational) -> Option<i64> {
    let (numerator, denominator) = (i128::from(base.numerator()), i128::from(base.denominator()));
    if denominator == 0 {
        return None;
    }
    i64::try_from((i128::from(ticks) * numerator * 1000 + denominator / 2).div_euclid(denominator)).ok()
}

/// Returns `what` with the message of FFmpeg.
pub(crate) fn reason(what: &str, error: Error) -> String {
    format!("{what} ({error})")
}

/// Initialises FFmpeg once per process, and silences its log on standard error: row errors have the reasons.
fn start_ffmpeg() -> Result<(), String> {
    static SILENCE: Once = Once::new();
    ffmpeg::init().map_err(|error| reason("FFmpeg does not start", error))?;
    SILENCE.call_once(|| ffmpeg::log::set_level(ffmpeg::log::Level::Quiet));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_display_matrix_tells_quarter_turns() {
        let one = 1 << 16;
        for (first_row, turn) in [([one, 0], 0), ([0, one], 90), ([-one, 0], 180), ([0, -one], 270)] {
            let bytes: Vec<u8> = first_row.iter().flat_map(|number: &i32| number.to_ne_bytes()).collect();
            assert_eq!(turn_of(&bytes), turn);
        }
        assert_eq!(turn_of(&[1, 2]), 0);
    }

    #[test]
    fn ticks_become_milliseconds() {
        assert_eq!(millis(90_000, Rational(1, 90_000)), Some(1000));
        assert_eq!(millis(1, Rational(1, 3)), Some(333));
        assert_eq!(millis(1, Rational(1, 0)), None);
    }
}

//! Videos for tests: generated, or read from the folder of assets if it is there.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use arrow::array::{ArrayRef, LargeBinaryArray};
use cenote_operator::{BoundOperator, OperatorSpec, Output, Registry, Rows};
use ffmpeg_next::format::Pixel;
use ffmpeg_next::format::context::StreamIo;
use ffmpeg_next::{Dictionary, Packet, Rational, codec, encoder, format, frame};

/// Binds the operator of `spec`.
pub(crate) fn bind(spec: &OperatorSpec) -> BoundOperator {
    let mut registry = Registry::default();
    crate::register(&mut registry);
    registry.bind(spec).unwrap()
}

/// Makes a column of `rows`.
pub(crate) fn column(rows: &[&[u8]]) -> ArrayRef {
    Arc::new(LargeBinaryArray::from_vec(rows.to_vec()))
}

/// Runs the operator of `spec` over `rows`.
pub(crate) fn run(spec: &OperatorSpec, rows: &[&[u8]]) -> Output {
    bind(spec).worker().unwrap().process(&Rows::new(&[column(rows)])).unwrap()
}

/// Reads a video of the folder of assets. Says so and returns `None` if it is not there.
pub(crate) fn asset(name: &str) -> Option<Vec<u8>> {
    let root = std::env::var_os("CENOTE_ASSETS").map_or_else(|| "../../../shared/assets".into(), PathBuf::from);
    let bytes = std::fs::read(root.join("video").join(name)).ok();
    if bytes.is_none() {
        eprintln!("skipped: video/{name} is not there; set CENOTE_ASSETS to the folder of assets");
    }
    bytes
}

/// The memory that a muxer writes to.
#[derive(Clone, Default)]
struct Sink(Arc<Mutex<std::io::Cursor<Vec<u8>>>>);

impl std::io::Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl std::io::Seek for Sink {
    fn seek(&mut self, to: std::io::SeekFrom) -> std::io::Result<u64> {
        self.0.lock().unwrap().seek(to)
    }
}

/// Encodes `frames` pictures of 64 × 48, from dark to light, at 10 a second with a keyframe every `gop`: MPEG-4 in
/// `container`, with encoders that every build of FFmpeg has.
pub(crate) fn clip(container: &str, frames: i64, gop: u32) -> Vec<u8> {
    ffmpeg_next::init().unwrap();
    let sink = Sink::default();
    let io = StreamIo::from_write_seek(sink.clone()).unwrap();
    let mut output = format::output_to_stream(io, None, Some(container)).unwrap();
    let codec = encoder::find(codec::Id::MPEG4).unwrap();
    let mut encoder = codec::Context::new_with_codec(codec).encoder().video().unwrap();
    encoder.set_width(64);
    encoder.set_height(48);
    encoder.set_format(Pixel::YUV420P);
    encoder.set_time_base(Rational(1, 10));
    encoder.set_frame_rate(Some(Rational(10, 1)));
    encoder.set_gop(gop);
    encoder.set_flags(codec::Flags::GLOBAL_HEADER);
    // No keyframes besides the regular ones.
    let mut options = Dictionary::new();
    options.set("sc_threshold", "1000000000");
    let mut encoder = encoder.open_with(options).unwrap();
    let mut stream = output.add_stream(codec).unwrap();
    stream.set_time_base(Rational(1, 10));
    stream.set_avg_frame_rate(Rational(10, 1));
    stream.set_parameters(&encoder);
    output.write_header().unwrap();
    let base = output.stream(0).unwrap().time_base();
    let mut write = |encoder: &mut encoder::Video| {
        let mut packet = Packet::empty();
        while encoder.receive_packet(&mut packet).is_ok() {
            packet.set_stream(0);
            packet.set_duration(1);
            packet.rescale_ts(Rational(1, 10), base);
            packet.write_interleaved(&mut output).unwrap();
        }
    };
    for number in 0..frames {
        let mut picture = frame::Video::new(Pixel::YUV420P, 64, 48);
        picture.data_mut(0).fill((16 + number * 200 / frames) as u8);
        picture.data_mut(1).fill(128);
        picture.data_mut(2).fill(128);
        picture.set_pts(Some(number));
        encoder.send_frame(&picture).unwrap();
        write(&mut encoder);
    }
    encoder.send_eof().unwrap();
    write(&mut encoder);
    output.write_trailer().unwrap();
    drop(output);
    sink.0.lock().unwrap().get_ref().clone()
}

/// Makes a WAV file of one second of silence.
pub(crate) fn silence() -> Vec<u8> {
    let samples = vec![0u8; 16_000];
    let mut wav = b"RIFF".to_vec();
    wav.extend((36 + samples.len() as u32).to_le_bytes());
    wav.extend(b"WAVEfmt \x10\0\0\0\x01\0\x01\0");
    wav.extend(8000u32.to_le_bytes());
    wav.extend(16_000u32.to_le_bytes());
    wav.extend(b"\x02\0\x10\0data");
    wav.extend((samples.len() as u32).to_le_bytes());
    wav.extend(samples);
    wav
}

/// Gives `mp4` the matrix that turns its picture by a quarter, clockwise.
pub(crate) fn turned(mut mp4: Vec<u8>) -> Vec<u8> {
    let header = mp4.windows(4).position(|window| window == b"tkhd").unwrap();
    let matrix = header + 4 + 40;
    for (index, number) in [0i32, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30].iter().enumerate() {
        mp4[matrix + index * 4..matrix + index * 4 + 4].copy_from_slice(&number.to_be_bytes());
    }
    mp4
}

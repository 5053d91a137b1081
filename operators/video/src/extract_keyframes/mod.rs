//! `extract_keyframes`: the frames of a video that stand on their own, as JPEGs.
//!
//! Only keyframes are decoded, one at a time; the packets between them are skipped. A video that was cut gives the
//! keyframes before the cut; it is a bad row only if none could be decoded.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Int64Builder, LargeBinaryBuilder, UInt32Builder, cast::AsArray};
use arrow::buffer::Buffer;
use arrow::datatypes::{DataType, Field};
use cenote_base::Result;
use cenote_operator::{Definition, Output, ParamType, Params, Port, PortType, RowError, Rows, Shape, row_wise};
use ffmpeg_next::{Packet, codec, frame};

use crate::frame::Renderer;
use crate::media::{self, Media, Timeline};

pub(crate) fn definition() -> Definition {
    Definition::new("extract_keyframes", 1, "The keyframes of a video as JPEGs, with their times", |params| {
        let options = KeyframeOptions::from_params(params)?;
        let fields =
            vec![Field::new("timestamp_ms", DataType::Int64, true), Field::new("frame", DataType::LargeBinary, true)];
        Ok(row_wise(fields, move |rows: &Rows<'_>| {
            let videos = rows.column(0).as_binary::<i64>();
            let (mut times, mut frames) = (Int64Builder::new(), LargeBinaryBuilder::new());
            let (mut parents, mut errors) = (UInt32Builder::new(), Vec::new());
            for row in (0..videos.len()).filter(|&row| videos.is_valid(row)) {
                rows.check()?;
                match extract(media::row_bytes(videos, row), &options) {
                    Ok(keyframes) => {
                        for keyframe in keyframes {
                            times.append_value(keyframe.timestamp_ms);
                            frames.append_value(keyframe.jpeg);
                            parents.append_value(row as u32);
                        }
                    }
                    Err(reason) => errors.push(RowError { row, reason }),
                }
            }
            let columns: Vec<ArrayRef> = vec![Arc::new(times.finish()), Arc::new(frames.finish())];
            Ok(Output { columns, parents: Some(parents.finish()), errors })
        }))
    })
    .shape(Shape::OneToMany)
    .input(Port::new("video", PortType::Bytes))
    .param("max_frames", ParamType::Unsigned, 32, "Keyframes of a video, at most, from its start; from 1 to 4096")
    .param(
        "min_gap_ms",
        ParamType::Unsigned,
        500,
        "Milliseconds between two keyframes, at least; closer ones are skipped",
    )
    .param(
        "size",
        ParamType::Unsigned,
        320,
        "The longer side in pixels, from 16 to 4096; smaller frames keep their size",
    )
}

/// The keyframes to extract.
struct KeyframeOptions {
    frames_max: usize,
    gap_min_ms: i64,
    side: u32,
}

impl KeyframeOptions {
    fn from_params(params: &Params) -> Result<Self> {
        Ok(Self {
            frames_max: params.unsigned_in("max_frames", 1..=4096)? as usize,
            gap_min_ms: params.unsigned_in("min_gap_ms", 0..=1 << 40)? as i64,
            side: params.unsigned_in("size", 16..=4096)? as u32,
        })
    }
}

struct Keyframe {
    timestamp_ms: i64,
    jpeg: Vec<u8>,
}

/// Extracts the keyframes of one video, in the order of their times.
fn extract(bytes: Buffer, options: &KeyframeOptions) -> Result<Vec<Keyframe>, String> {
    let mut media = Media::open(bytes)?;
    let decoder = media.decoder(codec::discard::Discard::NonKey)?;
    let video = media.video()?;
    let renderer = Renderer::new(options.side, media::turn(&video));
    let timeline = Timeline::of(&video);
    let mut extraction =
        Extraction { decoder, renderer, timeline, last_ms: None, keyframes: Vec::new(), trouble: None, options };
    extraction.run(&mut media);
    match (extraction.keyframes.is_empty(), extraction.trouble) {
        (false, _) => Ok(extraction.keyframes),
        (true, Some(trouble)) => Err(format!("no keyframe could be decoded: {trouble}")),
        (true, None) => Err("no keyframe could be decoded: the video stream holds none".to_owned()),
    }
}

/// The extraction of the keyframes of one video.
struct Extraction<'a> {
    decoder: codec::decoder::Video,
    renderer: Renderer,
    timeline: Timeline,
    /// The time of the last keyframe admitted.
    last_ms: Option<i64>,
    keyframes: Vec<Keyframe>,
    /// The reason why frames are missing, if some are.
    trouble: Option<String>,
    options: &'a KeyframeOptions,
}

impl Extraction<'_> {
    fn run(&mut self, media: &mut Media) {
        while let Some(packet) = media.packet(&mut self.trouble) {
            if !packet.is_key() || !self.admit(&packet) {
                continue;
            }
            if packet.is_corrupt() {
                self.trouble = Some("the file is cut inside a keyframe".to_owned());
                continue;
            }
            match self.decoder.send_packet(&packet) {
                Ok(()) => self.take_frames(),
                Err(error) => self.trouble = Some(media::reason("a keyframe is damaged", error)),
            }
            if self.is_full() {
                return;
            }
        }
        // A decoder that reorders frames still holds the last ones.
        if self.decoder.send_eof().is_ok() {
            self.take_frames();
        }
    }

    fn is_full(&self) -> bool {
        self.keyframes.len() >= self.options.frames_max
    }

    /// Admits the keyframe in `packet` if it is far enough from the last one admitted, and returns whether it is.
    fn admit(&mut self, packet: &Packet) -> bool {
        let Some(at) = self.timeline.time_ms(packet.pts().or(packet.dts())) else { return true };
        if self.last_ms.is_some_and(|last| at.saturating_sub(last) < self.options.gap_min_ms) {
            return false;
        }
        self.last_ms = Some(at);
        true
    }

    /// Keeps the frames that the decoder has, as long as there is room.
    fn take_frames(&mut self) {
        let mut picture = frame::Video::empty();
        while !self.is_full() && self.decoder.receive_frame(&mut picture).is_ok() {
            if picture.is_corrupt() {
                self.trouble = Some("a keyframe is damaged".to_owned());
                continue;
            }
            match self.renderer.jpeg(&picture) {
                Ok(jpeg) => {
                    let timestamp_ms = self.timeline.time_ms(picture.timestamp().or(picture.pts())).unwrap_or(0);
                    self.keyframes.push(Keyframe { timestamp_ms, jpeg });
                }
                Err(trouble) => self.trouble = Some(trouble),
            }
        }
    }
}

#[cfg(test)]
mod tests;

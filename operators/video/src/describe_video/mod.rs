//! `describe_video`: the metadata of a video, read from its container without decoding.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, Float32Array, Int32Array, Int64Array, StringArray, cast::AsArray};
use arrow::buffer::Buffer;
use arrow::datatypes::{DataType, Field};
use cenote_operator::{Definition, Output, Port, PortType, RowError, Rows, row_wise};
use ffmpeg_next::media::Type;
use ffmpeg_next::{Rational, ffi};

use crate::media::{self, Media};

pub(crate) fn definition() -> Definition {
    Definition::new("describe_video", 1, "Duration, size, frame rate, codec and sound, without decoding", |_params| {
        let fields = vec![
            Field::new("duration_ms", DataType::Int64, true),
            Field::new("width", DataType::Int32, true),
            Field::new("height", DataType::Int32, true),
            Field::new("fps", DataType::Float32, true),
            Field::new("codec", DataType::Utf8, true),
            Field::new("has_audio", DataType::Boolean, true),
            Field::new("frames", DataType::Int64, true),
        ];
        Ok(row_wise(fields, |rows: &Rows<'_>| {
            let videos = rows.column(0).as_binary::<i64>();
            let mut errors = Vec::new();
            let about: Vec<Option<About>> = (0..videos.len())
                .map(|row| {
                    let bytes = videos.is_valid(row).then(|| media::row_bytes(videos, row))?;
                    describe(bytes).map_err(|reason| errors.push(RowError { row, reason })).ok()
                })
                .collect();
            let each = || about.iter().map(Option::as_ref);
            let columns: Vec<ArrayRef> = vec![
                Arc::new(each().map(|about| about?.duration_ms).collect::<Int64Array>()),
                Arc::new(each().map(|about| Some(about?.width)).collect::<Int32Array>()),
                Arc::new(each().map(|about| Some(about?.height)).collect::<Int32Array>()),
                Arc::new(each().map(|about| about?.fps).collect::<Float32Array>()),
                Arc::new(each().map(|about| Some(about?.codec)).collect::<StringArray>()),
                Arc::new(each().map(|about| Some(about?.has_audio)).collect::<BooleanArray>()),
                Arc::new(each().map(|about| about?.frames).collect::<Int64Array>()),
            ];
            Ok(Output::from(columns).with_errors(errors))
        }))
    })
    .input(Port::new("video", PortType::Bytes))
}

/// The metadata of one video.
struct About {
    duration_ms: Option<i64>,
    /// The width as displayed: a quarter turn swaps width and height.
    width: i32,
    height: i32,
    fps: Option<f32>,
    codec: &'static str,
    has_audio: bool,
    /// The number of frames; `None` where the container does not state it.
    frames: Option<i64>,
}

fn describe(bytes: Buffer) -> Result<About, String> {
    let media = Media::open(bytes)?;
    let video = media.video()?;
    let (width, height) = media::size(&video)?;
    let (width, height) = if media::turn(&video).is_multiple_of(180) { (width, height) } else { (height, width) };
    let ticks = media.input.duration();
    let in_container = (ticks > 0).then(|| media::millis(ticks, Rational(1, ffi::AV_TIME_BASE))).flatten();
    let in_stream = (video.duration() > 0).then(|| media::millis(video.duration(), video.time_base())).flatten();
    let rate = video.avg_frame_rate();
    Ok(About {
        duration_ms: in_container.or(in_stream),
        width: width as i32,
        height: height as i32,
        fps: (rate.numerator() > 0 && rate.denominator() > 0).then(|| f64::from(rate) as f32),
        codec: video.parameters().id().name(),
        has_audio: media.input.streams().best(Type::Audio).is_some(),
        frames: (video.frames() > 0).then(|| video.frames()),
    })
}

#[cfg(test)]
mod tests;

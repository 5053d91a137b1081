//! Clips: frames of a video at even distances.
//!
//! The reader seeks to the keyframe before the first frame and decodes no further than the last.

use arrow::buffer::Buffer;
use ffmpeg_next::{codec, frame};

use crate::frame::Renderer;
use crate::media::{self, Media, Timeline};

/// The frames of a clip.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ClipFrames {
    /// The number of frames, one or more.
    pub count: usize,
    /// Milliseconds from one frame to the next; `None` spreads the frames over the whole video.
    pub gap_ms: Option<u64>,
}

/// Calls `take` with each frame of a clip from `video`: its number, its upright RGB pixels, row by row, and its width
/// and height.
///
/// A clip that is shorter than the video begins at `place`, from 0 for the earliest start to 1 for the latest. If the
/// video is shorter than the clip, its last frame is repeated.
///
/// # Errors
/// A reason for the person who looks at the row, or what `take` failed with.
pub fn read_clip(
    video: Buffer,
    frames: ClipFrames,
    place: f64,
    take: impl FnMut(usize, &[u8], (u32, u32)) -> Result<(), String>,
) -> Result<(), String> {
    let mut media = Media::open(video)?;
    let decoder = media.decoder(codec::discard::Discard::Default)?;
    let stream = media.video()?;
    let timeline = Timeline::of(&stream);
    let of_stream = media::known(stream.duration()).and_then(|ticks| media::millis(ticks, stream.time_base()));
    // The container counts in microseconds.
    let of_whole = media::known(media.input.duration()).map(|micros| micros / 1000);
    let duration_ms = of_stream.or(of_whole).unwrap_or(0).max(0) as f64;
    let count = frames.count.max(1);
    let (start_ms, gap_ms) = match frames.gap_ms {
        Some(gap_ms) => {
            let length_ms = (count - 1) as f64 * gap_ms as f64;
            ((duration_ms - length_ms).max(0.0) * place.clamp(0.0, 1.0), gap_ms as f64)
        }
        // The middle of each of `count` equal parts.
        None => (duration_ms / count as f64 / 2.0, duration_ms / count as f64),
    };
    let renderer = Renderer::new(u32::MAX, media::turn(&stream));
    let times_ms = (0..count).map(|number| (start_ms + number as f64 * gap_ms) as i64).collect();
    if start_ms > 0.0 {
        let start_us = timeline.origin_ms() * 1000 + (start_ms * 1000.0) as i64;
        // Seeking fails without an index; the video is then read from its start.
        let _is_at_start = media.input.seek(start_us, ..start_us.saturating_add(1)).is_err();
    }
    let mut reader = ClipReader { decoder, renderer, timeline, times_ms, next: 0, shown: None, take };
    reader.run(&mut media)
}

/// The reading of one clip.
struct ClipReader<F> {
    decoder: codec::decoder::Video,
    renderer: Renderer,
    timeline: Timeline,
    /// The times of the frames to take, ascending.
    times_ms: Vec<i64>,
    /// The number of the next frame to take.
    next: usize,
    /// The newest decoded frame, which is on screen until the next one.
    shown: Option<frame::Video>,
    take: F,
}

impl<F: FnMut(usize, &[u8], (u32, u32)) -> Result<(), String>> ClipReader<F> {
    fn run(&mut self, media: &mut Media) -> Result<(), String> {
        let mut trouble = None;
        while self.next < self.times_ms.len() {
            let Some(packet) = media.packet(&mut trouble) else { break };
            match self.decoder.send_packet(&packet) {
                Ok(()) => self.show_frames()?,
                Err(error) => trouble = Some(media::reason("a frame is damaged", error)),
            }
        }
        // A decoder that reorders frames still holds the last ones.
        if self.next < self.times_ms.len() && self.decoder.send_eof().is_ok() {
            self.show_frames()?;
        }
        if self.shown.is_none() {
            let trouble = trouble.unwrap_or_else(|| "the video stream holds none".to_owned());
            return Err(format!("no frame could be decoded: {trouble}"));
        }
        self.take_until(i64::MAX)
    }

    fn show_frames(&mut self) -> Result<(), String> {
        let mut picture = frame::Video::empty();
        while self.next < self.times_ms.len() && self.decoder.receive_frame(&mut picture).is_ok() {
            let at = self.timeline.time_ms(picture.timestamp().or(picture.pts()));
            if let (Some(at), true) = (at, self.shown.is_some()) {
                self.take_until(at)?;
            }
            self.shown = Some(std::mem::replace(&mut picture, frame::Video::empty()));
        }
        Ok(())
    }

    /// Takes the frame on screen for each time before `end_ms`.
    fn take_until(&mut self, end_ms: i64) -> Result<(), String> {
        let Some(shown) = &self.shown else { return Ok(()) };
        let mut rendered = None;
        while self.times_ms.get(self.next).is_some_and(|time| *time < end_ms) {
            let picture = match &rendered {
                Some(picture) => picture,
                None => rendered.insert(self.renderer.upright(shown)?),
            };
            (self.take)(self.next, picture.as_raw(), picture.dimensions())?;
            self.next += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::testing;

    use super::*;

    /// Returns the numbers of the taken frames in the video of 50, from dark to light, as their grey tells.
    fn numbers(video: &[u8], frames: ClipFrames, place: f64) -> Vec<i64> {
        let mut numbers = Vec::new();
        read_clip(Buffer::from(video), frames, place, |number, pixels, size| {
            assert_eq!((number, size, pixels.len()), (numbers.len(), (64, 48), 64 * 48 * 3));
            let grey = pixels.iter().map(|value| f64::from(*value)).sum::<f64>() / pixels.len() as f64;
            numbers.push((grey * 219.0 / 255.0 / 4.0).round() as i64);
            Ok(())
        })
        .unwrap();
        numbers
    }

    #[test]
    fn frames_are_those_that_are_shown_at_their_times() {
        for container in ["mp4", "matroska"] {
            let video = testing::clip(container, 50, 12);
            let every = |gap_ms, count| ClipFrames { count, gap_ms: Some(gap_ms) };
            let near = |found: Vec<i64>, expected: &[i64]| {
                let apart = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).max().unwrap();
                assert!(found.len() == expected.len() && apart <= 1, "{container}: {found:?}, not {expected:?}");
            };
            near(numbers(&video, every(500, 4), 0.0), &[0, 5, 10, 15]);
            near(numbers(&video, every(500, 4), 1.0), &[35, 40, 45, 49]);
            near(numbers(&video, every(100, 3), 0.5), &[24, 25, 26]);
            // More frames than the video has in that time, and a clip longer than the video.
            near(numbers(&video, every(50, 4), 0.0), &[0, 0, 1, 1]);
            near(numbers(&video, every(2000, 5), 0.7), &[0, 20, 40, 49, 49]);
            near(numbers(&video, ClipFrames { count: 5, gap_ms: None }, 0.0), &[5, 15, 25, 35, 45]);
            near(numbers(&video, ClipFrames { count: 1, gap_ms: None }, 0.0), &[25]);
        }
    }

    #[test]
    fn what_is_no_clip_has_a_reason() {
        let read = |bytes: &[u8]| {
            read_clip(Buffer::from(bytes), ClipFrames { count: 2, gap_ms: None }, 0.0, |_, _, _| Ok(())).unwrap_err()
        };
        assert!(read(b"plain words").contains("not a video"));
        assert!(read(&testing::silence()).contains("no video stream"));
        let video = testing::clip("mp4", 10, 5);
        let refused = read_clip(Buffer::from(video), ClipFrames { count: 2, gap_ms: None }, 0.0, |_, _, _| {
            Err("too dark".to_owned())
        });
        assert_eq!(refused.unwrap_err(), "too dark");
    }
}

//! A decoded frame as an upright picture, small or whole.

use ffmpeg_next::format::Pixel;
use ffmpeg_next::frame;
use ffmpeg_next::software::scaling::{Context, Flags};
use image::codecs::jpeg::JpegEncoder;
use image::{ExtendedColorType, ImageEncoder, RgbImage, imageops};

use crate::media::{Turn, reason};

/// JPEG quality of frames, from 1 to 100.
const QUALITY: u8 = 85;

/// Scales, turns and compresses frames. Keeps its scaler as long as the size and pixel format of frames stay the same.
pub(crate) struct Renderer {
    side: u32,
    turn: Turn,
    scaler: Option<Context>,
}

impl Renderer {
    /// Creates a renderer of pictures whose longer side is at most `side` pixels, turned clockwise by `turn` degrees.
    pub(crate) fn new(side: u32, turn: Turn) -> Self {
        Self { side, turn, scaler: None }
    }

    /// Renders `picture` as a JPEG.
    ///
    /// # Errors
    /// A reason for the person who looks at the row.
    pub(crate) fn jpeg(&mut self, picture: &frame::Video) -> Result<Vec<u8>, String> {
        let pixels = self.upright(picture)?;
        let mut jpeg = Vec::new();
        JpegEncoder::new_with_quality(&mut jpeg, QUALITY)
            .write_image(&pixels, pixels.width(), pixels.height(), ExtendedColorType::Rgb8)
            .map_err(|error| format!("a frame cannot be compressed ({error})"))?;
        Ok(jpeg)
    }

    /// Renders `picture` as upright RGB pixels.
    ///
    /// # Errors
    /// A reason for the person who looks at the row.
    pub(crate) fn upright(&mut self, picture: &frame::Video) -> Result<RgbImage, String> {
        let pixels = self.pixels(picture)?;
        Ok(match self.turn {
            90 => imageops::rotate90(&pixels),
            180 => imageops::rotate180(&pixels),
            270 => imageops::rotate270(&pixels),
            _ => pixels,
        })
    }

    fn pixels(&mut self, picture: &frame::Video) -> Result<RgbImage, String> {
        let (width, height) = (picture.width(), picture.height());
        if width == 0 || height == 0 || picture.format() == Pixel::None {
            return Err("a frame has no pixels".to_owned());
        }
        let (small_width, small_height) = fit(width, height, self.side);
        let scaled = |error| reason("a frame cannot be scaled", error);
        let same = |scaler: &Context| {
            let input = scaler.input();
            (input.format, input.width, input.height) == (picture.format(), width, height)
        };
        if !self.scaler.as_ref().is_some_and(same) {
            let output = (Pixel::RGB24, small_width, small_height);
            let scaler = Context::get(picture.format(), width, height, output.0, output.1, output.2, Flags::AREA)
                .map_err(scaled)?;
            self.scaler = Some(scaler);
        }
        let scaler = self.scaler.as_mut().ok_or_else(|| "a frame cannot be scaled".to_owned())?;
        let mut small = frame::Video::empty();
        scaler.run(picture, &mut small).map_err(scaled)?;
        // FFmpeg pads its lines; `RgbImage` has no padding.
        let line = small_width as usize * 3;
        let lines = small.data(0).chunks(small.stride(0)).take(small_height as usize);
        let pixels: Vec<u8> = lines.flat_map(|padded| padded.get(..line).unwrap_or_default()).copied().collect();
        RgbImage::from_raw(small_width, small_height, pixels).ok_or_else(|| "a frame is incomplete".to_owned())
    }
}

/// Returns the size of a picture shrunk, in its proportions, so that its longer side is at most `side`.
fn fit(width: u32, height: u32, side: u32) -> (u32, u32) {
    let ratio = (f64::from(side) / f64::from(width.max(height))).min(1.0);
    let scaled = |length: u32| ((f64::from(length) * ratio).round() as u32).max(1);
    (scaled(width), scaled(height))
}

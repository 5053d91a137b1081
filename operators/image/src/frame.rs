//! Pictures for models: any part of an encoded picture, at any size, with one decoding and one resampling.

use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{PixelType, Resizer};

use crate::decode::{self, Decoder, Target};
use crate::scale;

/// A part of a picture, in its upright pixels; fractions of pixels count.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Part {
    /// Pixels left of it.
    pub left: f64,
    /// Pixels above it.
    pub top: f64,
    /// Its width in pixels.
    pub width: f64,
    /// Its height in pixels.
    pub height: f64,
}

/// Decodes pictures into frames, keeping its buffers from one to the next.
#[derive(Default)]
pub struct Framer {
    decoder: Decoder,
    resizer: Resizer,
}

impl Framer {
    /// The width and height of an encoded picture, upright, from its header alone.
    ///
    /// # Errors
    /// A reason for the person who looks at the row.
    pub fn size(&self, bytes: &[u8]) -> Result<(u32, u32), String> {
        decode::upright_size(bytes)
    }

    /// Writes `part` of the picture into `frame`, RGB of `width` × `height`, row by row. `size` is the picture's own, as
    /// [`size`](Self::size) gave it. A JPEG is decoded no larger than need be; the filter is a triangle that widens with the
    /// reduction, as Pillow's `BILINEAR` is.
    ///
    /// # Errors
    /// A reason for the person who looks at the row.
    pub fn fill(
        &mut self,
        bytes: &[u8],
        size: (u32, u32),
        part: Part,
        frame: &mut [u8],
        (width, height): (u32, u32),
    ) -> Result<(), String> {
        // So large that the part has at least as many pixels as the frame, if the picture has them.
        let whole = |side: u32, out: u32, part: f64| (f64::from(side) * f64::from(out) / part).ceil() as u32;
        let target = Target::Cover(whole(size.0, width, part.width), whole(size.1, height, part.height));
        let picture = self.decoder.decode(bytes, target)?;
        let outcome = self.resample(picture.as_raw(), picture.dimensions(), size, part, frame, (width, height));
        self.decoder.recycle(picture);
        outcome
    }

    /// As [`fill`](Self::fill), of a picture that is decoded: RGB, row by row.
    ///
    /// # Errors
    /// A reason for the person who looks at the row.
    pub fn fill_decoded(
        &mut self,
        pixels: &[u8],
        size: (u32, u32),
        part: Part,
        frame: &mut [u8],
        (width, height): (u32, u32),
    ) -> Result<(), String> {
        self.resample(pixels, size, size, part, frame, (width, height))
    }

    fn resample(
        &mut self,
        pixels: &[u8],
        (source_width, source_height): (u32, u32),
        size: (u32, u32),
        part: Part,
        frame: &mut [u8],
        (width, height): (u32, u32),
    ) -> Result<(), String> {
        let text = |error: &dyn std::fmt::Display| format!("cannot be resized: {error}");
        let (across, down) =
            (f64::from(source_width) / f64::from(size.0), f64::from(source_height) / f64::from(size.1));
        let source = ImageRef::new(source_width, source_height, pixels, PixelType::U8x3);
        let source = source.map_err(|error| text(&error))?;
        let mut target = Image::from_slice_u8(width, height, frame, PixelType::U8x3).map_err(|error| text(&error))?;
        // Rounding may put an edge beyond the picture by less than a pixel's millionth.
        let left = (part.left * across).clamp(0.0, f64::from(source_width) - 1e-3);
        let top = (part.top * down).clamp(0.0, f64::from(source_height) - 1e-3);
        let cut_width = (part.width * across).min(f64::from(source_width) - left);
        let cut_height = (part.height * down).min(f64::from(source_height) - top);
        let options = scale::options().crop(left, top, cut_width, cut_height);
        self.resizer.resize(&source, &mut target, &options).map_err(|error| text(&error))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use image::{Rgb, RgbImage};

    use super::*;
    use crate::testing;

    /// Left half red, right half blue.
    fn halves(width: u32, height: u32) -> Vec<u8> {
        let picture =
            RgbImage::from_fn(width, height, |x, _| if x < width / 2 { Rgb([250, 0, 0]) } else { Rgb([0, 0, 250]) });
        testing::encode(picture, image::ImageFormat::Png)
    }

    #[test]
    fn a_part_is_cut_and_scaled() {
        let bytes = halves(400, 200);
        let mut framer = Framer::default();
        assert_eq!(framer.size(&bytes).unwrap(), (400, 200));
        let mut frame = vec![0; 10 * 10 * 3];
        let right = Part { left: 220.0, top: 0.0, width: 180.0, height: 200.0 };
        framer.fill(&bytes, (400, 200), right, &mut frame, (10, 10)).unwrap();
        assert!(frame.chunks(3).all(|pixel| pixel == [0, 0, 250]), "{frame:?}");
        let whole = Part { left: 0.0, top: 0.0, width: 400.0, height: 200.0 };
        framer.fill(&bytes, (400, 200), whole, &mut frame, (10, 10)).unwrap();
        assert_eq!(&frame[..3], [250, 0, 0]);
        assert_eq!(&frame[27..30], [0, 0, 250]);
    }

    #[test]
    fn what_is_no_picture_has_a_reason() {
        assert!(!Framer::default().size(b"plain words").unwrap_err().is_empty());
    }
}

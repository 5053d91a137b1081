//! Pictures for models: any part of an encoded picture, at any size, with one decoding and one resampling.

use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{PixelType, Resizer};

use crate::decode::{self, Decoded, Decoder};
use crate::geometry::{Crop, ImageSize, View};
use crate::scale;

/// Pixels of a picture, or of a part of it.
struct SourcePixels<'a> {
    pixels: &'a [u8],
    size: ImageSize,
    /// The column of the picture, at the scale of the pixels, at which they begin.
    left: u32,
    /// The line at which they begin.
    top: u32,
    /// The size of the whole picture at the scale of the pixels.
    whole: ImageSize,
}

/// Decodes pictures into frames, and keeps its buffers from one to the next.
#[derive(Default)]
pub struct Framer {
    decoder: Decoder,
    resizer: Resizer,
}

impl Framer {
    /// Reads the upright size of an encoded picture from its header.
    ///
    /// # Errors
    /// A reason for the person who looks at the row.
    pub fn size(&self, bytes: &[u8]) -> Result<ImageSize, String> {
        decode::upright_size(bytes)
    }

    /// Writes `crop` of the picture, in upright pixels, into `frame`: RGB of `frame_size`, row by row. `size` is the
    /// picture's own, as returned by [`size`](Self::size).
    ///
    /// A JPEG is decoded no larger than necessary, and damage outside the crop may go unnoticed unless the file is cut.
    /// The filter is a triangle that widens with the reduction, as Pillow's `BILINEAR` does.
    ///
    /// # Errors
    /// A reason for the person who looks at the row.
    pub fn fill(
        &mut self,
        bytes: &[u8],
        size: ImageSize,
        crop: Crop,
        frame: &mut [u8],
        frame_size: ImageSize,
    ) -> Result<(), String> {
        let view = View { crop, size, frame: frame_size };
        let Decoded { pixels, left, top, whole } = self.decoder.decode_part(bytes, &view)?;
        let source = SourcePixels { pixels: pixels.as_raw(), size: pixels.dimensions().into(), left, top, whole };
        let outcome = self.resample(&source, &view, frame);
        self.decoder.recycle(pixels);
        outcome
    }

    /// Does what [`fill`](Self::fill) does for a picture that is decoded: RGB, row by row.
    ///
    /// # Errors
    /// A reason for the person who looks at the row.
    pub fn fill_decoded(
        &mut self,
        pixels: &[u8],
        size: ImageSize,
        crop: Crop,
        frame: &mut [u8],
        frame_size: ImageSize,
    ) -> Result<(), String> {
        let source = SourcePixels { pixels, size, left: 0, top: 0, whole: size };
        self.resample(&source, &View { crop, size, frame: frame_size }, frame)
    }

    fn resample(&mut self, source: &SourcePixels<'_>, view: &View, frame: &mut [u8]) -> Result<(), String> {
        let View { crop, size, frame: ImageSize { width, height } } = *view;
        let across = f64::from(source.whole.width) / f64::from(size.width);
        let down = f64::from(source.whole.height) / f64::from(size.height);
        let ImageSize { width: source_width, height: source_height } = source.size;
        let (first_column, first_line) = (f64::from(source.left), f64::from(source.top));
        let source = ImageRef::new(source_width, source_height, source.pixels, PixelType::U8x3);
        let source = source.map_err(scale::reason)?;
        let mut target = Image::from_slice_u8(width, height, frame, PixelType::U8x3).map_err(scale::reason)?;
        // Rounding may put an edge beyond the picture by less than a millionth of a pixel.
        let left = (crop.left * across - first_column).clamp(0.0, f64::from(source_width) - 1e-3);
        let top = (crop.top * down - first_line).clamp(0.0, f64::from(source_height) - 1e-3);
        let cut_width = (crop.width * across).min(f64::from(source_width) - left);
        let cut_height = (crop.height * down).min(f64::from(source_height) - top);
        let options = scale::options().crop(left, top, cut_width, cut_height);
        self.resizer.resize(&source, &mut target, &options).map_err(scale::reason)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use image::{Rgb, RgbImage};

    use super::*;
    use crate::decode::DecodeTarget;
    use crate::testing;

    /// Encodes a picture whose left half is red and whose right half is blue.
    fn halves(width: u32, height: u32) -> Vec<u8> {
        let picture =
            RgbImage::from_fn(width, height, |x, _| if x < width / 2 { Rgb([250, 0, 0]) } else { Rgb([0, 0, 250]) });
        testing::encode(picture, image::ImageFormat::Png)
    }

    #[test]
    fn a_part_is_cut_and_scaled() {
        let bytes = halves(400, 200);
        let mut framer = Framer::default();
        let size = framer.size(&bytes).unwrap();
        assert_eq!(size, (400, 200).into());
        let mut frame = vec![0; 10 * 10 * 3];
        let right = Crop { left: 220.0, top: 0.0, width: 180.0, height: 200.0 };
        framer.fill(&bytes, size, right, &mut frame, (10, 10).into()).unwrap();
        assert!(frame.chunks(3).all(|pixel| pixel == [0, 0, 250]), "{frame:?}");
        let whole = Crop { left: 0.0, top: 0.0, width: 400.0, height: 200.0 };
        framer.fill(&bytes, size, whole, &mut frame, (10, 10).into()).unwrap();
        assert_eq!(&frame[..3], [250, 0, 0]);
        assert_eq!(&frame[27..30], [0, 0, 250]);
    }

    /// Compares parts of JPEGs of every kind with the same parts of their whole pictures.
    #[test]
    fn a_part_of_a_jpeg_is_what_the_whole_picture_has_there() {
        let scene = testing::scene(637, 421);
        let mut compressor = turbojpeg::Compressor::new().unwrap();
        let mut files = Vec::new();
        for subsamp in [turbojpeg::Subsamp::None, turbojpeg::Subsamp::Sub2x1, turbojpeg::Subsamp::Sub2x2] {
            for is_progressive in [false, true] {
                compressor.set_subsamp(subsamp).unwrap();
                compressor.set_progressive(is_progressive).unwrap();
                let image = turbojpeg::Image {
                    pixels: scene.as_raw().as_slice(),
                    width: 637,
                    pitch: 637 * 3,
                    height: 421,
                    format: turbojpeg::PixelFormat::RGB,
                };
                files.push(compressor.compress_to_vec(image).unwrap());
            }
        }
        let mut random = cenote_base::Random::new(7);
        let mut partly = 0;
        for _ in 0..300 {
            let bytes = &files[random.below(files.len() as u64) as usize];
            let (width, height) = (1.0 + random.unit() * 636.0, 1.0 + random.unit() * 420.0);
            let (left, top) = (random.unit() * (637.0 - width), random.unit() * (421.0 - height));
            let crop = Crop { left, top, width, height };
            let out = ImageSize { width: 1 + random.below(200) as u32, height: 1 + random.below(200) as u32 };
            let mut framer = Framer::default();
            let mut found = vec![0; out.width as usize * out.height as usize * 3];
            let size = ImageSize { width: 637, height: 421 };
            framer.fill(bytes, size, crop, &mut found, out).unwrap();

            let view = View { crop, size, frame: out };
            let ImageSize { width, height } = view.size_min();
            let pixels = Decoder::default().decode(bytes, DecodeTarget::Cover(width, height)).unwrap();
            let some = Decoder::default().decode_part(bytes, &view).unwrap();
            let size = ImageSize::from(pixels.dimensions());
            assert_eq!(some.whole, size);
            partly += u32::from(ImageSize::from(some.pixels.dimensions()) != some.whole);
            let source = SourcePixels { pixels: pixels.as_raw(), size, left: 0, top: 0, whole: size };
            let mut expected = vec![0; found.len()];
            framer.resample(&source, &view, &mut expected).unwrap();
            let off = found.iter().zip(&expected).map(|(found, expected)| found.abs_diff(*expected)).max();
            assert!(off <= Some(1), "{crop:?} to {out:?}: {off:?}");
        }
        assert!(partly > 200, "{partly} of 300 were decoded in part");
    }

    #[test]
    fn a_cut_jpeg_is_refused_whatever_part_is_asked_for() {
        let bytes = testing::jpeg(&testing::scene(640, 480), 90);
        let crop = Crop { left: 0.0, top: 0.0, width: 100.0, height: 100.0 };
        let mut frame = vec![0; 10 * 10 * 3];
        // An application segment of the second holds an end marker, as a thumbnail does.
        let marked = [&bytes[..2], &[0xff, 0xe9, 0, 4, 0xff, 0xd9], &bytes[2..]].concat();
        for bytes in [&bytes, &marked] {
            Framer::default().fill(bytes, (640, 480).into(), crop, &mut frame, (10, 10).into()).unwrap();
            let half = &bytes[..bytes.len() / 2];
            let reason = Framer::default().fill(half, (640, 480).into(), crop, &mut frame, (10, 10).into());
            assert!(reason.unwrap_err().contains("truncated"));
        }
    }

    #[test]
    fn what_is_no_picture_has_a_reason() {
        assert!(!Framer::default().size(b"plain words").unwrap_err().is_empty());
    }
}

//! Decoding any image to upright RGB8 pixels, within hard limits, with a reason for everything that is refused.
//!
//! JPEG goes through libjpeg-turbo, scaled down inside its inverse DCT when the caller needs fewer pixels; everything
//! else goes through `image`. Alpha is composited over white, 16-bit and palette images become RGB8, an animation is
//! its first frame, and EXIF orientation is applied.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, Limits, RgbImage};
use turbojpeg::{Colorspace, DecompressHeader, Decompressor, PixelFormat, ScalingFactor, Subsamp};

use crate::container;
use crate::geometry::{ImageSize, View, fit_within};
use crate::jpeg::{Region, decode_region};

/// Pixels of an image, at most. Larger images are refused before anything is allocated for them.
const PIXELS_MAX: u64 = 100_000_000;
/// Bytes that a decoder of `image` may hold. Bounds 16-bit images, whose pixels are twice as large.
const DECODED_BYTES_MAX: u64 = 512 << 20;
/// Pixels decoded on each side of a part beyond the reach of the filter: libjpeg-turbo has no neighbours beyond the
/// edge to smooth colours with.
const PART_MARGIN: f64 = 3.0;
/// Scans of a progressive JPEG, at most: each one is a pass over the whole picture.
const JPEG_SCANS_MAX: u32 = 500;

/// The least size that suffices for a caller, in displayed orientation. A JPEG may come out larger, and never smaller
/// than both this and its own size.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum DecodeTarget {
    /// At least this width and this height.
    Cover(u32, u32),
    /// At least the size of the picture when shrunk, in its proportions, into this width and height.
    Within(u32, u32),
}

/// Upright RGB8 pixels of a part of a picture.
pub(crate) struct Decoded {
    pub(crate) pixels: RgbImage,
    /// The column of the whole picture, at the scale of the pixels, at which they begin.
    pub(crate) left: u32,
    /// The line at which they begin.
    pub(crate) top: u32,
    /// The size of the whole picture at the scale of the pixels.
    pub(crate) whole: ImageSize,
}

/// Decodes images into one pixel buffer, as long as callers [`recycle`](Self::recycle) it.
///
/// The JPEG decompressor is not kept: libjpeg carries tables, and after an error its position, from one image to the
/// next, so that a row would depend on the rows before it. A new one costs microseconds.
#[derive(Default)]
pub(crate) struct Decoder {
    scratch: Vec<u8>,
}

impl Decoder {
    /// Decodes `bytes` to upright RGB8 pixels, at least as large as `target` asks.
    ///
    /// # Errors
    /// A reason for the person who looks at the row.
    pub(crate) fn decode(&mut self, bytes: &[u8], target: DecodeTarget) -> Result<RgbImage, String> {
        match container::format(bytes)? {
            ImageFormat::Jpeg => self.decode_jpeg(bytes, target),
            format => decode_other(bytes, format),
        }
    }

    /// Decodes the pixels that count when the part of `view` is resized to its frame, and possibly others.
    ///
    /// # Errors
    /// A reason for the person who looks at the row.
    pub(crate) fn decode_part(&mut self, bytes: &[u8], view: &View) -> Result<Decoded, String> {
        let ImageSize { width, height } = view.size_min();
        let target = DecodeTarget::Cover(width, height);
        if let Some(decoded) = self.decode_jpeg_part(bytes, target, view) {
            return Ok(decoded);
        }
        let pixels = self.decode(bytes, target)?;
        Ok(Decoded { left: 0, top: 0, whole: pixels.dimensions().into(), pixels })
    }

    /// Decodes a part of a JPEG. Returns `None` if that saves little, or if decoding the whole picture must tell what
    /// is wrong.
    fn decode_jpeg_part(&mut self, bytes: &[u8], target: DecodeTarget, view: &View) -> Option<Decoded> {
        let orientation = container::jpeg_exif(bytes).and_then(Orientation::from_exif_chunk);
        let is_upright = orientation.is_none_or(|orientation| orientation == Orientation::NoTransforms);
        if container::format(bytes) != Ok(ImageFormat::Jpeg) || !is_upright {
            return None;
        }
        let header = new_decompressor().ok()?.read_header(bytes).ok()?;
        check_pixels(header.width as u64, header.height as u64).ok()?;
        let is_rgb = matches!(header.colorspace, Colorspace::YCbCr | Colorspace::RGB | Colorspace::Gray);
        // The file is not read below the part, so only its last bytes tell that it is not cut: an end marker elsewhere
        // may be that of a thumbnail.
        let is_whole = bytes.ends_with(&[0xff, 0xd9]);
        if !is_rgb || header.is_lossless || header.subsamp == Subsamp::Unknown || !is_whole {
            return None;
        }
        let scale = jpeg_scale(&header, Orientation::NoTransforms, target);
        let (width, height) = (scale.scale(header.width) as u32, scale.scale(header.height) as u32);
        let block = scale.scale(header.subsamp.mcu_width()) as u32;
        let View { crop, size, frame } = *view;
        let across = Axis { side: size.width, scaled: width, out: frame.width, step: block };
        let down = Axis { side: size.height, scaled: height, out: frame.height, step: 1 };
        let (columns, lines) = (across.span(crop.left, crop.width), down.span(crop.top, crop.height));
        let (left, top) = (columns.start, lines.start);
        let region = Region { left, top, width: columns.len() as u32, height: lines.len() as u32 };
        if u64::from(region.width) * u64::from(region.height) * 10 > u64::from(width) * u64::from(height) * 9 {
            return None;
        }
        let mut pixels = std::mem::take(&mut self.scratch);
        if decode_region(bytes, scale, region, JPEG_SCANS_MAX, &mut pixels).is_none() {
            self.scratch = pixels;
            return None;
        }
        let pixels = RgbImage::from_raw(region.width, region.height, pixels)?;
        Some(Decoded { pixels, left, top, whole: ImageSize { width, height } })
    }

    /// Takes back pixels after use, so that the next image needs no allocation.
    pub(crate) fn recycle(&mut self, pixels: RgbImage) {
        self.scratch = pixels.into_raw();
    }

    fn decode_jpeg(&mut self, bytes: &[u8], target: DecodeTarget) -> Result<RgbImage, String> {
        let mut jpeg = new_decompressor()?;
        let header = match jpeg.read_header(bytes) {
            Ok(header) => header,
            Err(error) if is_benign(&error.to_string()) && ends_properly(bytes) => {
                // libjpeg-turbo refuses a header after a mere warning; the other decoder does not.
                return decode_other(bytes, ImageFormat::Jpeg);
            }
            Err(error) => return Err(jpeg_reason(&error.to_string())),
        };
        check_pixels(header.width as u64, header.height as u64)?;
        let orientation = container::jpeg_exif(bytes).and_then(Orientation::from_exif_chunk);
        let orientation = orientation.unwrap_or(Orientation::NoTransforms);
        let scale = jpeg_scale(&header, orientation, target);
        let size = header.scaled(scale);
        jpeg.set_scaling_factor(scale).map_err(|error| jpeg_reason(&error.to_string()))?;

        let is_cmyk = matches!(header.colorspace, Colorspace::CMYK | Colorspace::YCCK);
        let format = if is_cmyk { PixelFormat::CMYK } else { PixelFormat::RGB };
        let mut pixels = std::mem::take(&mut self.scratch);
        pixels.resize(size.width * size.height * format.size(), 0);
        let output = turbojpeg::Image {
            pixels: pixels.as_mut_slice(),
            width: size.width,
            pitch: size.width * format.size(),
            height: size.height,
            format,
        };
        if let Err(error) = jpeg.decompress(bytes, output) {
            // libjpeg-turbo reports only the first warning: a benign one could hide a cut.
            let message = error.to_string();
            if !(is_benign(&message) && ends_properly(bytes)) {
                self.scratch = pixels;
                return Err(jpeg_reason(&message));
            }
        }
        if is_cmyk {
            cmyk_to_rgb(&mut pixels, container::jpeg_is_adobe(bytes));
        }
        let image = RgbImage::from_raw(size.width as u32, size.height as u32, pixels)
            .ok_or_else(|| "JPEG pixels do not match its size".to_owned())?;
        Ok(upright(image, orientation))
    }
}

/// One direction of a picture that is decoded in part.
struct Axis {
    /// Pixels of the picture.
    side: u32,
    /// Pixels of the picture at the scale of decoding.
    scaled: u32,
    /// Pixels of the frame.
    out: u32,
    /// The pixels to decode begin at a multiple of this.
    step: u32,
}

impl Axis {
    /// Returns the scaled pixels that `extent` pixels from `begin` depend on.
    fn span(&self, begin: f64, extent: f64) -> Range<u32> {
        let factor = f64::from(self.scaled) / f64::from(self.side);
        let reach = (extent * factor / f64::from(self.out)).max(1.0) + PART_MARGIN;
        let first = (begin * factor - reach).max(0.0) as u32 / self.step * self.step;
        let end = (((begin + extent) * factor + reach).ceil() as u32).min(self.scaled);
        first..end.max(first)
    }
}

/// Reads the upright size of an encoded picture from its header.
///
/// # Errors
/// A reason for the person who looks at the row.
pub(crate) fn upright_size(bytes: &[u8]) -> Result<ImageSize, String> {
    let format = container::format(bytes)?;
    if format == ImageFormat::Jpeg
        && let Ok(header) = new_decompressor()?.read_header(bytes)
    {
        check_pixels(header.width as u64, header.height as u64)?;
        let orientation = container::jpeg_exif(bytes).and_then(Orientation::from_exif_chunk);
        let (width, height) = (header.width as u32, header.height as u32);
        return Ok(turned(ImageSize { width, height }, orientation.is_some_and(turns)));
    }
    let read = || {
        let mut decoder =
            container::reader(bytes, format).into_decoder().map_err(|error| image_reason(format, &error))?;
        let (width, height) = decoder.dimensions();
        check_pixels(u64::from(width), u64::from(height))?;
        Ok(turned(ImageSize { width, height }, decoder.orientation().is_ok_and(turns)))
    };
    catch_unwind(AssertUnwindSafe(read))
        .unwrap_or_else(|_| Err(format!("the {} decoder failed on this file", name(format))))
}

fn new_decompressor() -> Result<Decompressor, String> {
    let mut jpeg = Decompressor::new().map_err(|error| error.to_string())?;
    jpeg.set_scan_limit(JPEG_SCANS_MAX).map_err(|error| error.to_string())?;
    Ok(jpeg)
}

/// Returns the smallest scale at which the image is still as large as `target` asks. Only scales for which
/// libjpeg-turbo has vector instructions are considered: with the others, decoding twice the pixels is faster.
fn jpeg_scale(header: &DecompressHeader, orientation: Orientation, target: DecodeTarget) -> ScalingFactor {
    if header.is_lossless {
        return ScalingFactor::ONE;
    }
    let stored = ImageSize { width: header.width as u32, height: header.height as u32 };
    let turns = turns(orientation);
    let needed = match target {
        DecodeTarget::Cover(width, height) => ImageSize { width, height },
        DecodeTarget::Within(width, height) => fit_within(turned(stored, turns), ImageSize { width, height }),
    };
    let needed = turned(needed, turns);
    [8, 4, 2]
        .map(|part| ScalingFactor::new(1, part))
        .into_iter()
        .find(|scale| {
            scale.scale(header.width) >= needed.width as usize && scale.scale(header.height) >= needed.height as usize
        })
        .unwrap_or(ScalingFactor::ONE)
}

/// Returns `size` with width and height swapped if the picture `turns`.
fn turned(size: ImageSize, turns: bool) -> ImageSize {
    if turns { ImageSize { width: size.height, height: size.width } } else { size }
}

/// Returns whether `orientation` swaps width and height.
pub(crate) fn turns(orientation: Orientation) -> bool {
    matches!(
        orientation,
        Orientation::Rotate90 | Orientation::Rotate270 | Orientation::Rotate90FlipH | Orientation::Rotate270FlipH
    )
}

fn upright(image: RgbImage, orientation: Orientation) -> RgbImage {
    if orientation == Orientation::NoTransforms {
        return image;
    }
    let mut image = DynamicImage::ImageRgb8(image);
    image.apply_orientation(orientation);
    image.into_rgb8()
}

/// Returns whether `message` is a warning of libjpeg after which every pixel is nonetheless there.
fn is_benign(message: &str) -> bool {
    const BENIGN: [&str; 4] = [
        "extraneous bytes before marker 0xd9",
        "Invalid SOS parameters for sequential JPEG",
        "unknown JFIF revision number",
        "Unknown Adobe color transform code",
    ];
    BENIGN.iter().any(|text| message.contains(text))
}

/// Returns whether a JPEG has its end marker. Bytes after it, such as a second picture, are ignored.
fn ends_properly(bytes: &[u8]) -> bool {
    bytes.windows(2).rev().any(|pair| pair == [0xff, 0xd9])
}

fn jpeg_reason(message: &str) -> String {
    let message = message.strip_prefix("TurboJPEG error: ").unwrap_or(message);
    let lower = message.to_ascii_lowercase();
    // A file without a frame header has a size of -1, which libjpeg-turbo reports as an overflow.
    if lower.contains("premature end") || lower.contains("missing sos") || lower.contains("overflowed") {
        format!("the JPEG is truncated ({message})")
    } else {
        format!("the JPEG is corrupt or unsupported ({message})")
    }
}

/// Converts CMYK pixels to RGB in place, by the plain formula: colour profiles are not applied.
fn cmyk_to_rgb(pixels: &mut Vec<u8>, inverted: bool) {
    let count = pixels.len() / 4;
    for index in 0..count {
        let ink = |offset: usize| {
            let value = u32::from(pixels[index * 4 + offset]);
            if inverted { value } else { 255 - value }
        };
        let black = ink(3);
        let rgb = [0, 1, 2].map(|offset| ((ink(offset) * black + 127) / 255) as u8);
        pixels[index * 3..index * 3 + 3].copy_from_slice(&rgb);
    }
    pixels.truncate(count * 3);
}

fn check_pixels(width: u64, height: u64) -> Result<(), String> {
    if width.saturating_mul(height) > PIXELS_MAX {
        let megapixels = PIXELS_MAX / 1_000_000;
        return Err(format!("the image has {width} × {height} pixels; at most {megapixels} megapixels are decoded"));
    }
    if width == 0 || height == 0 {
        return Err(format!("the image has no pixels: {width} × {height}"));
    }
    Ok(())
}

fn decode_other(bytes: &[u8], format: ImageFormat) -> Result<RgbImage, String> {
    // These decoders are memory-safe, yet an odd file may still make them panic: then the row is bad.
    catch_unwind(AssertUnwindSafe(|| decode_with_image(bytes, format)))
        .unwrap_or_else(|_| Err(format!("the {} decoder failed on this file", name(format))))
}

fn decode_with_image(bytes: &[u8], format: ImageFormat) -> Result<RgbImage, String> {
    let wrong = |error: ImageError| image_reason(format, &error);
    let mut limits = Limits::default();
    limits.max_alloc = Some(DECODED_BYTES_MAX);
    let mut reader = container::reader(bytes, format);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(wrong)?;
    let (width, height) = decoder.dimensions();
    check_pixels(u64::from(width), u64::from(height))?;
    if decoder.total_bytes() > DECODED_BYTES_MAX {
        return Err(format!(
            "the image needs {} bytes when decoded; at most {DECODED_BYTES_MAX} are given",
            decoder.total_bytes()
        ));
    }
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let mut image = DynamicImage::from_decoder(decoder).map_err(wrong)?;
    image.apply_orientation(orientation);
    if !image.color().has_alpha() {
        return Ok(image.into_rgb8());
    }
    let mut pixels = image.into_rgba8();
    let (width, height) = pixels.dimensions();
    let mut rgb = std::mem::take(&mut pixels).into_raw();
    over_white(&mut rgb);
    RgbImage::from_raw(width, height, rgb).ok_or_else(|| "pixels do not match the image's size".to_owned())
}

/// Composites RGBA pixels over white, in place.
fn over_white(pixels: &mut Vec<u8>) {
    let count = pixels.len() / 4;
    for index in 0..count {
        let alpha = u32::from(pixels[index * 4 + 3]);
        let rgb = [0, 1, 2].map(|offset| {
            let value = u32::from(pixels[index * 4 + offset]);
            ((value * alpha + 255 * (255 - alpha) + 127) / 255) as u8
        });
        pixels[index * 3..index * 3 + 3].copy_from_slice(&rgb);
    }
    pixels.truncate(count * 3);
}

/// Returns the common name of `format`.
pub(crate) fn name(format: ImageFormat) -> &'static str {
    match format {
        ImageFormat::Jpeg => "JPEG",
        ImageFormat::Png => "PNG",
        ImageFormat::Gif => "GIF",
        ImageFormat::WebP => "WebP",
        ImageFormat::Tiff => "TIFF",
        ImageFormat::Bmp => "BMP",
        ImageFormat::Ico => "ICO",
        _ => "image",
    }
}

/// Returns the reason why `image` refused a file.
pub(crate) fn image_reason(format: ImageFormat, error: &ImageError) -> String {
    let name = name(format);
    let truncated = || format!("the {name} is truncated ({error})");
    match error {
        ImageError::IoError(io) if io.kind() == std::io::ErrorKind::UnexpectedEof => truncated(),
        ImageError::Limits(_) => format!("the {name} is too large to decode ({error})"),
        ImageError::Unsupported(_) => format!("this kind of {name} is not supported ({error})"),
        _ if error.to_string().to_ascii_lowercase().contains("unexpected end") => truncated(),
        _ => format!("the {name} is corrupt ({error})"),
    }
}

#[cfg(test)]
mod tests;

//! Video frames in RGB, from YUV 4:2:0 in three planes, by BT.601 or BT.709.
//!
//! Four pixels share a chroma sample, without interpolation. The arithmetic is fixed-point with 16 fractional bits, so
//! CPU and device agree in every bit, and values are within one of those computed without rounding.

use cenote_base::{Error, Result};

use crate::device::{Device, Kernel};
use crate::kernels::grid;
use crate::simd::vectorised;
use crate::work::{Pending, Work};

/// Pixels per work group; see the WGSL.
const GROUP_PIXELS: usize = 256;

const CONVERT: Kernel = Kernel { source: include_str!("yuv.wgsl"), entry: "convert", constants: &[] };

/// A frame of video. Lines may be padded at their end. The chroma planes have half the width and height of the luma
/// plane, rounded up.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    /// The luma plane.
    pub y: Plane<'a>,
    /// The blue-difference chroma plane.
    pub u: Plane<'a>,
    /// The red-difference chroma plane.
    pub v: Plane<'a>,
}

/// A plane of samples, line by line.
#[derive(Debug, Clone, Copy)]
pub struct Plane<'a> {
    /// The samples. The last line need not be padded.
    pub bytes: &'a [u8],
    /// Bytes from the start of a line to the start of the next.
    pub stride: usize,
}

/// The format that all frames of a batch share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Format {
    /// The width in pixels.
    pub width: u32,
    /// The height in pixels.
    pub height: u32,
    /// The weights of the colours in the luma.
    pub matrix: ColourMatrix,
    /// The range of sample values from black to white.
    pub range: Range,
}

/// The weights of red, green and blue in the luma.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ColourMatrix {
    /// ITU-R BT.601, of standard definition.
    Bt601,
    /// ITU-R BT.709, of high definition.
    Bt709,
}

/// The range of sample values from black to white.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Range {
    /// Luma from 16 to 235, chroma from 16 to 240: most video.
    Limited,
    /// Luma and chroma from 0 to 255: JPEG and some cameras.
    Full,
}

/// The coefficients of the conversion, fixed-point with 16 fractional bits.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct Coefficients {
    luma: i32,
    luma_base: i32,
    red_of_v: i32,
    green_of_u: i32,
    green_of_v: i32,
    blue_of_u: i32,
}

impl Coefficients {
    fn new(format: &Format) -> Self {
        let (red, blue) = match format.matrix {
            ColourMatrix::Bt601 => (0.299, 0.114),
            ColourMatrix::Bt709 => (0.2126, 0.0722),
        };
        let green = 1.0 - red - blue;
        let (luma, chroma, luma_base) = match format.range {
            Range::Limited => (255.0 / 219.0, 255.0 / 224.0, 16),
            Range::Full => (1.0, 1.0, 0),
        };
        let fixed = |value: f64| (value * 65536.0).round() as i32;
        let (red_of_v, blue_of_u) = (2.0 * (1.0 - red), 2.0 * (1.0 - blue));
        Self {
            luma: fixed(luma),
            luma_base,
            red_of_v: fixed(chroma * red_of_v),
            green_of_u: fixed(chroma * blue_of_u * blue / green),
            green_of_v: fixed(chroma * red_of_v * red / green),
            blue_of_u: fixed(chroma * blue_of_u),
        }
    }

    #[inline(always)]
    fn rgb(&self, y: u8, u: u8, v: u8) -> [u8; 3] {
        let y = (i32::from(y) - self.luma_base) * self.luma;
        let (u, v) = (i32::from(u) - 128, i32::from(v) - 128);
        let level = |fixed: i32| ((fixed + 0x8000) >> 16).clamp(0, 255) as u8;
        [
            level(y + self.red_of_v * v),
            level(y - self.green_of_u * u - self.green_of_v * v),
            level(y + self.blue_of_u * u),
        ]
    }
}

impl Format {
    fn pixels(&self) -> usize {
        self.width as usize * self.height as usize
    }

    /// Returns the width and height of a chroma plane.
    fn chroma(&self) -> (usize, usize) {
        (self.width.div_ceil(2) as usize, self.height.div_ceil(2) as usize)
    }
}

/// Converts `frames` to RGB bytes, as frames × lines × columns × 3 (NHWC).
///
/// # Errors
/// `InvalidInput` when a plane is too small for the format; the message names the frame by its index in the batch.
pub fn on_cpu(frames: &[Frame<'_>], format: &Format) -> Result<Vec<u8>> {
    check(frames, format)?;
    let mut pixels = vec![0; frames.len() * 3 * format.pixels()];
    if pixels.is_empty() {
        return Ok(pixels);
    }
    let coefficients = Coefficients::new(format);
    for (frame, pixels) in frames.iter().zip(pixels.chunks_exact_mut(3 * format.pixels())) {
        convert(frame, format, &coefficients, pixels);
    }
    Ok(pixels)
}

/// Runs [`on_cpu`] on a device.
///
/// # Errors
/// Those of [`on_cpu`], and `ResourceExhausted` when the batch does not fit the device.
pub fn on_device(device: &Device, frames: &[Frame<'_>], format: &Format) -> Result<Pending<Vec<u8>>> {
    check(frames, format)?;
    let count = frames.len() * format.pixels();
    if count == 0 {
        return Ok(Pending::new(|| Ok(Vec::new())));
    }
    let mut work = Work::new(device)?;
    let mut packed = Vec::with_capacity(frames.len() * packed_bytes(format));
    for frame in frames {
        for (plane, width, height) in planes(frame, format) {
            for line in 0..height {
                packed.extend_from_slice(&plane.bytes[line * plane.stride..][..width]);
            }
        }
    }
    let planes = work.upload(&packed)?;
    let pixels = work.buffer::<[u32; 3]>(count.div_ceil(4))?;
    let params = Params {
        width: format.width,
        height: format.height,
        frames: frames.len() as u32,
        coefficients: Coefficients::new(format),
    };
    work.dispatch(CONVERT, &[&planes, &pixels], &params, grid(count.div_ceil(GROUP_PIXELS)))?;
    work.finish(&pixels, move |bytes| bytes[..3 * count].to_vec())
}

#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct Params {
    width: u32,
    height: u32,
    frames: u32,
    coefficients: Coefficients,
}

/// Returns the planes of `frame`, each with its width and height.
fn planes<'a>(frame: &Frame<'a>, format: &Format) -> [(Plane<'a>, usize, usize); 3] {
    let (width, height) = format.chroma();
    [(frame.y, format.width as usize, format.height as usize), (frame.u, width, height), (frame.v, width, height)]
}

fn packed_bytes(format: &Format) -> usize {
    let (width, height) = format.chroma();
    format.pixels() + 2 * width * height
}

fn check(frames: &[Frame<'_>], format: &Format) -> Result<()> {
    for (place, frame) in frames.iter().enumerate() {
        for (name, (plane, width, height)) in ["Y", "U", "V"].into_iter().zip(planes(frame, format)) {
            let bytes = if height == 0 { 0 } else { (height - 1) * plane.stride + width };
            if plane.stride < width || plane.bytes.len() < bytes {
                return Err(Error::invalid_input(format!(
                    "plane {name} of frame {place} has {} bytes with lines of {}: {width} × {height} samples need more",
                    plane.bytes.len(),
                    plane.stride
                )));
            }
        }
    }
    Ok(())
}

vectorised! {
    fn convert(frame: &Frame<'_>, format: &Format, coefficients: &Coefficients, pixels: &mut [u8]) {
        let width = format.width as usize;
        let (chroma_width, _) = format.chroma();
        for (line, pixels) in pixels.chunks_exact_mut(3 * width).enumerate() {
            let y = &frame.y.bytes[line * frame.y.stride..][..width];
            let u = &frame.u.bytes[line / 2 * frame.u.stride..][..chroma_width];
            let v = &frame.v.bytes[line / 2 * frame.v.stride..][..chroma_width];
            let pairs = pixels.chunks_mut(6).zip(y.chunks(2)).zip(u.iter().zip(v));
            for ((pixels, y), (&u, &v)) in pairs {
                for (pixel, &y) in pixels.chunks_exact_mut(3).zip(y) {
                    pixel.copy_from_slice(&coefficients.rgb(y, u, v));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;

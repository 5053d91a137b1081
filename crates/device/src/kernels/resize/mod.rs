//! Pictures of any size as frames of one size: RGB bytes line by line, three per pixel.
//!
//! The filter is Pillow's `BILINEAR` with its antialiasing: a triangle that is widened by the factor of reduction, so
//! that all source pixels count. Pillow rounds to whole grey levels after each direction; this kernel rounds once, at
//! the end, and is within one grey level of Pillow.
//!
//! This module has no `on_cpu`, because libraries have one that rounds as Pillow does and is faster.

use std::collections::HashMap;

use cenote_base::{Error, Result};

use crate::device::{Device, Shader};
use crate::kernels::grid;
use crate::work::{Pending, Work};

mod filter;

use filter::{ResizeFilter, Section};

const FRAME: Shader = Shader { source: include_str!("resize.wgsl"), entry: "frame", constants: &[] };
/// The lanes of a work group; see the WGSL.
const GROUP_LANES: usize = 64;
/// The pixels that a lane makes; see the WGSL.
const LANE_PIXELS: usize = 4;

/// The size of a picture or a frame, in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageSize {
    /// The width.
    pub width: u32,
    /// The height.
    pub height: u32,
}

impl ImageSize {
    fn pixels(self) -> usize {
        self.width as usize * self.height as usize
    }
}

impl From<(u32, u32)> for ImageSize {
    /// Takes a width and a height, in this order, as image libraries give them.
    fn from((width, height): (u32, u32)) -> Self {
        Self { width, height }
    }
}

/// A picture, the part of it that is resized, and the place of that part in the frame.
#[derive(Debug, Clone, Copy)]
pub struct SourcePicture<'a> {
    /// The RGB bytes line by line, three per pixel.
    pub pixels: &'a [u8],
    /// The width in pixels.
    pub width: u32,
    /// The height in pixels.
    pub height: u32,
    /// The part that is resized. Pixels beside it count as far as the filter reaches.
    pub crop: Crop,
    /// The part of the frame that the picture fills. The rest of the frame is black.
    pub placement: Placement,
}

/// A part of a picture, in pixels and fractions of them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Crop {
    /// The first column.
    pub left: f64,
    /// The first line.
    pub top: f64,
    /// The number of columns.
    pub width: f64,
    /// The number of lines.
    pub height: f64,
}

impl Crop {
    /// Returns the crop that is all of a picture of this size.
    pub fn whole(width: u32, height: u32) -> Self {
        Self { left: 0.0, top: 0.0, width: f64::from(width), height: f64::from(height) }
    }
}

/// A part of a frame, in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placement {
    /// The first column.
    pub left: u32,
    /// The first line.
    pub top: u32,
    /// The number of columns.
    pub width: u32,
    /// The number of lines.
    pub height: u32,
}

/// Resizes each of `pictures` to a frame of `size`. Returns the frames one after the other.
///
/// # Errors
/// `InvalidInput` when the bytes of a picture do not match its size, its crop or its placement is empty or sticks out,
/// or the frame is empty; the message names the picture by its index in the batch. `ResourceExhausted` when the batch
/// does not fit the device.
pub fn on_device(device: &Device, pictures: &[SourcePicture<'_>], size: ImageSize) -> Result<Pending<Vec<u8>>> {
    pictures.iter().enumerate().try_for_each(|(number, picture)| check(number, picture, size))?;
    let pixels = size.pixels();
    if pictures.is_empty() || pixels == 0 {
        return Ok(Pending::new(|| Ok(Vec::new())));
    }
    let lanes = pixels.div_ceil(LANE_PIXELS);
    let [across, down, _] = grid(lanes.div_ceil(GROUP_LANES));
    let params = Params { width: size.width, height: size.height, across: across * GROUP_LANES as u32 };
    // The buffer of a frame too large for this arithmetic is refused below.
    let (frame_bytes, stride) = (pixels.saturating_mul(3), lanes.saturating_mul(3 * LANE_PIXELS));
    let count = pictures.len();

    let mut work = Work::new(device)?;
    let padded_bytes = |picture: &SourcePicture<'_>| picture.pixels.len().next_multiple_of(4);
    let bytes = work.buffer::<u8>(pictures.iter().map(padded_bytes).sum())?;
    let mut filters = Filters::default();
    let (mut entries, mut begin) = (Vec::with_capacity(count), 0);
    for picture in pictures {
        work.write(&bytes, begin as u64, picture.pixels)?;
        let SourcePicture { width, height, crop, placement, .. } = *picture;
        let (columns, lines) = (
            filters.start(width, Section { start: crop.left, extent: crop.width }, placement.width),
            filters.start(height, Section { start: crop.top, extent: crop.height }, placement.height),
        );
        entries.push(PictureEntry {
            first_byte: begin as u32,
            stride: 3 * width,
            columns,
            lines,
            left: placement.left,
            top: placement.top,
            width: placement.width,
            height: placement.height,
        });
        begin += padded_bytes(picture);
    }
    let (entries, spans, weights) =
        (work.upload(&entries)?, work.upload(&filters.spans)?, work.upload(&filters.weights)?);
    let result = work.buffer::<u32>(count.saturating_mul(stride) / 4)?;
    work.dispatch(FRAME, &[&bytes, &entries, &spans, &weights, &result], &params, [across, down, count as u32])?;
    // A frame is padded to a whole number of words.
    work.finish(&result, move |bytes| match stride == frame_bytes {
        true => bytes[..count * stride].to_vec(),
        false => bytes.chunks_exact(stride).take(count).flat_map(|frame| &frame[..frame_bytes]).copied().collect(),
    })
}

#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct Params {
    width: u32,
    height: u32,
    /// The lanes of a row of work groups.
    across: u32,
}

/// A picture as the kernel reads it; see the WGSL.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct PictureEntry {
    first_byte: u32,
    stride: u32,
    columns: u32,
    lines: u32,
    left: u32,
    top: u32,
    width: u32,
    height: u32,
}

fn check(number: usize, picture: &SourcePicture<'_>, frame: ImageSize) -> Result<()> {
    let SourcePicture { pixels, width, height, crop, placement } = *picture;
    let bytes = 3 * u128::from(width) * u128::from(height);
    if pixels.len() as u128 != bytes {
        return Err(Error::invalid_input(format!(
            "picture {number} of {width} × {height} pixels has {} bytes instead of {bytes}",
            pixels.len()
        )));
    }
    // Rounding may push a crop over the edge by a little, which the filters cut off.
    let inside = |start: f64, extent: f64, size: u32| {
        start >= 0.0 && extent > 0.0 && extent.is_finite() && start + extent <= f64::from(size) + 1e-6
    };
    if !inside(crop.left, crop.width, width) || !inside(crop.top, crop.height, height) {
        return Err(Error::invalid_input(format!(
            "picture {number} of {width} × {height} pixels does not contain the crop of {} × {} at {}, {}",
            crop.width, crop.height, crop.left, crop.top
        )));
    }
    let fits = |first: u32, count: u32, size: u32| count > 0 && first < size && count <= size - first;
    if !fits(placement.left, placement.width, frame.width) || !fits(placement.top, placement.height, frame.height) {
        return Err(Error::invalid_input(format!(
            "picture {number} of {} × {} pixels at {}, {} does not fit a frame of {} × {}",
            placement.width, placement.height, placement.left, placement.top, frame.width, frame.height
        )));
    }
    Ok(())
}

/// The filters of a batch one after the other, each made once.
#[derive(Default)]
struct Filters {
    /// The first source pixel, the number of source pixels and the index of the first weight of each target pixel.
    spans: Vec<[u32; 3]>,
    weights: Vec<f32>,
    /// The index of the first span of each filter.
    starts: HashMap<FilterKey, u32>,
}

/// The numbers that determine a filter.
#[derive(PartialEq, Eq, Hash)]
struct FilterKey {
    source: u32,
    start_bits: u64,
    extent_bits: u64,
    target: u32,
}

impl Filters {
    /// Returns the index of the first span of the filter from `section` of `source` pixels to `target` pixels.
    fn start(&mut self, source: u32, section: Section, target: u32) -> u32 {
        let Section { start, extent } = section;
        let key = FilterKey { source, start_bits: start.to_bits(), extent_bits: extent.to_bits(), target };
        *self.starts.entry(key).or_insert_with(|| {
            let filter = ResizeFilter::new(source, section, target);
            let (first, shift) = (self.spans.len() as u32, self.weights.len() as u32);
            self.spans.extend(filter.spans.iter().map(|span| [span.first, span.count, span.weights + shift]));
            self.weights.extend_from_slice(&filter.weights);
            first
        })
    }
}

#[cfg(test)]
mod tests;

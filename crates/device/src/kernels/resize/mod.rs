//! Pictures as models take them: cropped, resized, normalised and channel by channel, in one step; on a device also as
//! plain [`frames`].
//!
//! The filter is Pillow's `BILINEAR` with its antialiasing: a triangle that is widened by the factor of reduction, so
//! that all source pixels count. The picture is cropped first, so pixels outside the crop do not count. Pillow rounds
//! to whole grey levels after each direction; this kernel does not round, and is within one grey level of Pillow.
//!
//! The device agrees with the CPU within [`TOLERANCE`] grey levels before the division by the standard deviation.

use std::collections::HashMap;

use cenote_base::{Error, Result};

use crate::device::{Device, Kernel};
use crate::simd::vectorised;
use crate::work::{Pending, Work};

mod filter;
pub mod frames;

use filter::{Filter, Section};

/// Bound on the difference between device and CPU, in grey levels of 255.
pub const TOLERANCE: f32 = 1e-3;

const RESIZE: Kernel = Kernel { source: include_str!("resize.wgsl"), entry: "resize", constants: &[] };
/// The side of a work group, in pixels; see the WGSL.
const GROUP_SIDE: u32 = 8;

/// A picture, or the part of it that `crop` names.
#[derive(Debug, Clone, Copy)]
pub struct Picture<'a> {
    /// The RGB bytes line by line, three per pixel.
    pub pixels: &'a [u8],
    /// The width in pixels.
    pub width: u32,
    /// The height in pixels.
    pub height: u32,
    /// The part that is resized.
    pub crop: Crop,
}

/// A part of a picture, in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crop {
    /// The first column.
    pub left: u32,
    /// The first line.
    pub top: u32,
    /// The number of columns.
    pub width: u32,
    /// The number of lines.
    pub height: u32,
}

impl<'a> Picture<'a> {
    /// Makes a picture whose crop is all of it.
    pub fn whole(pixels: &'a [u8], width: u32, height: u32) -> Self {
        Self { pixels, width, height, crop: Crop { left: 0, top: 0, width, height } }
    }
}

/// The size and the normalisation of the result.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Target {
    /// The width in pixels.
    pub width: u32,
    /// The height in pixels.
    pub height: u32,
    /// The mean that is subtracted from each channel, on a scale from black at 0 to white at 1.
    pub mean: [f32; 3],
    /// The standard deviation by which each channel is then divided.
    pub deviation: [f32; 3],
}

impl Target {
    /// Returns the count of numbers that one picture becomes.
    fn numbers(&self) -> usize {
        3 * self.width as usize * self.height as usize
    }

    /// Returns the factor of a channel's grey level, and the number that is added then.
    fn scale(&self, channel: usize) -> (f32, f32) {
        let deviation = f64::from(self.deviation[channel]);
        ((1.0 / (255.0 * deviation)) as f32, (-f64::from(self.mean[channel]) / deviation) as f32)
    }
}

/// Resizes `pictures` to pictures × 3 channels × lines × columns (NCHW).
///
/// # Errors
/// `InvalidInput` when the bytes of a picture do not match its size, a crop is empty or sticks out, or the target is
/// empty or divides by zero; the message names the picture by its index in the batch.
pub fn on_cpu(pictures: &[Picture<'_>], target: &Target) -> Result<Vec<f32>> {
    check(pictures, target)?;
    let mut values = vec![0.0; pictures.len() * target.numbers()];
    let mut filters = Filters::default();
    let mut line = Vec::new();
    for (picture, values) in pictures.iter().zip(values.chunks_exact_mut(target.numbers())) {
        let columns = filters.whole(picture.crop.width, target.width);
        let rows = filters.whole(picture.crop.height, target.height);
        let (columns, rows) = (&filters.made[columns], &filters.made[rows]);
        resize(picture, target, columns, rows, &mut line, values);
    }
    Ok(values)
}

/// Runs [`on_cpu`] on a device.
///
/// # Errors
/// Those of [`on_cpu`], and `ResourceExhausted` when the batch does not fit the device.
pub fn on_device<'a>(device: &Device, pictures: &[Picture<'a>], target: &Target) -> Result<Pending<Vec<f32>>> {
    check(pictures, target)?;
    if pictures.is_empty() {
        return Ok(Pending::new(|| Ok(Vec::new())));
    }
    let mut filters = Filters::default();
    let place = Crop { left: 0, top: 0, width: target.width, height: target.height };
    let source = |picture: &Picture<'a>| {
        let (crop, stride) = (picture.crop, 3 * picture.width as usize);
        let first = crop.top as usize * stride + 3 * crop.left as usize;
        let columns = filters.whole(crop.width, target.width);
        let lines = filters.whole(crop.height, target.height);
        Source { pixels: picture.pixels, first, stride, columns, lines, place }
    };
    let sources: Vec<_> = pictures.iter().map(source).collect();
    let channels: [_; 3] = std::array::from_fn(|channel| target.scale(channel));
    let params = Params {
        width: target.width,
        height: target.height,
        across: 0,
        padding: 0,
        scale: [channels[0].0, channels[1].0, channels[2].0, 0.0],
        offset: [channels[0].1, channels[1].1, channels[2].1, 0.0],
    };
    let groups = [target.width.div_ceil(GROUP_SIDE), target.height.div_ceil(GROUP_SIDE), pictures.len() as u32];
    let words = pictures.len() * target.numbers();
    let batch = Batch { kernel: RESIZE, sources, filters, params, groups, words };
    batch.run(device, bytemuck::pod_collect_to_vec)
}

/// A picture on its way to a device.
struct Source<'a> {
    pixels: &'a [u8],
    /// The index of the first byte that is resized.
    first: usize,
    /// Bytes of a line.
    stride: usize,
    /// The index of the filter across.
    columns: usize,
    /// The index of the filter down.
    lines: usize,
    /// The part of the target that the picture fills.
    place: Crop,
}

/// A batch for one of the kernels.
struct Batch<'a> {
    kernel: Kernel,
    sources: Vec<Source<'a>>,
    filters: Filters,
    params: Params,
    /// The grid of work groups.
    groups: [u32; 3],
    /// Words of the result.
    words: usize,
}

impl Batch<'_> {
    /// Uploads the batch and runs its kernel.
    fn run<T>(self, device: &Device, decode: impl FnOnce(&[u8]) -> T + Send + 'static) -> Result<Pending<T>> {
        // `starts` has the index of each filter's first span among the spans of all.
        let (mut spans, mut weights, mut starts) = (Vec::new(), Vec::new(), Vec::new());
        for filter in &self.filters.made {
            let shift = weights.len() as u32;
            starts.push(spans.len() as u32);
            spans.extend(filter.spans.iter().map(|span| [span.first, span.count, span.weights + shift]));
            weights.extend_from_slice(&filter.weights);
        }
        let bytes = |source: &Source<'_>| source.pixels.len().next_multiple_of(4);
        let mut work = Work::new(device)?;
        let pixels = work.buffer::<u8>(self.sources.iter().map(bytes).sum())?;
        let mut placed = Vec::with_capacity(self.sources.len());
        let mut begin = 0;
        for source in &self.sources {
            work.write(&pixels, begin as u64, source.pixels)?;
            let Crop { left, top, width, height } = source.place;
            let (first, stride) = ((begin + source.first) as u32, source.stride as u32);
            placed.push([first, stride, starts[source.columns], starts[source.lines], left, top, width, height]);
            begin += bytes(source);
        }
        let (placed, spans, weights) = (work.upload(&placed)?, work.upload(&spans)?, work.upload(&weights)?);
        let result = work.buffer::<u32>(self.words)?;
        work.dispatch(self.kernel, &[&pixels, &placed, &spans, &weights, &result], &self.params, self.groups)?;
        work.finish(&result, decode)
    }
}

#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct Params {
    width: u32,
    height: u32,
    /// The lanes of a row of work groups, for [`frames`].
    across: u32,
    padding: u32,
    scale: [f32; 4],
    offset: [f32; 4],
}

fn check(pictures: &[Picture<'_>], target: &Target) -> Result<()> {
    if target.width == 0 || target.height == 0 {
        let Target { width, height, .. } = target;
        return Err(Error::invalid_input(format!("a target of {width} × {height} pixels is empty")));
    }
    if target.deviation.contains(&0.0) {
        return Err(Error::invalid_input(format!("a standard deviation of {:?} divides by zero", target.deviation)));
    }
    for (place, Picture { pixels, width, height, crop }) in pictures.iter().enumerate() {
        let bytes = 3 * *width as usize * *height as usize;
        if pixels.len() != bytes {
            return Err(Error::invalid_input(format!(
                "picture {place} of {width} × {height} pixels has {} bytes instead of {bytes}",
                pixels.len()
            )));
        }
        let inside = |first: u32, count: u32, size: u32| count > 0 && first < size && count <= size - first;
        if !inside(crop.left, crop.width, *width) || !inside(crop.top, crop.height, *height) {
            return Err(Error::invalid_input(format!(
                "picture {place} of {width} × {height} pixels does not contain the crop of {} × {} at {}, {}",
                crop.width, crop.height, crop.left, crop.top
            )));
        }
    }
    Ok(())
}

/// The filters of a batch, each made once.
#[derive(Default)]
struct Filters {
    made: Vec<Filter>,
    indexes: HashMap<FilterKey, usize>,
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
    /// Returns the index of the filter from all `source` pixels to `target` pixels.
    fn whole(&mut self, source: u32, target: u32) -> usize {
        self.section(source, Section { start: 0.0, extent: f64::from(source) }, target)
    }

    /// Returns the index of the filter from `section` of `source` pixels to `target` pixels.
    fn section(&mut self, source: u32, section: Section, target: u32) -> usize {
        let Section { start, extent } = section;
        let key = FilterKey { source, start_bits: start.to_bits(), extent_bits: extent.to_bits(), target };
        *self.indexes.entry(key).or_insert_with(|| {
            self.made.push(Filter::new(source, section, target));
            self.made.len() - 1
        })
    }
}

// First down, which vectorises over many columns, then across. `line` is scratch memory.
vectorised! {
    fn resize(
        picture: &Picture<'_>,
        target: &Target,
        columns: &Filter,
        rows: &Filter,
        line: &mut Vec<f32>,
        values: &mut [f32],
    ) {
        let crop = picture.crop;
        let (width, height) = (target.width as usize, target.height as usize);
        let stride = 3 * picture.width as usize;
        let (first_byte, line_bytes) = (3 * crop.left as usize, 3 * crop.width as usize);
        let scales: [_; 3] = std::array::from_fn(|channel| target.scale(channel));
        line.clear();
        line.resize(line_bytes, 0.0);
        for (row, span) in rows.spans.iter().enumerate() {
            line.fill(0.0);
            let sources = picture.pixels.chunks_exact(stride).skip((crop.top + span.first) as usize);
            for (weight, source) in rows.weights(span).iter().zip(sources) {
                let source = &source[first_byte..first_byte + line_bytes];
                line.iter_mut().zip(source).for_each(|(sum, &byte)| *sum += weight * f32::from(byte));
            }
            for (column, span) in columns.spans.iter().enumerate() {
                let mut sum = [0.0f32; 3];
                let pixels = line[3 * span.first as usize..].chunks_exact(3);
                for (weight, pixel) in columns.weights(span).iter().zip(pixels) {
                    for channel in 0..3 {
                        sum[channel] += weight * pixel[channel];
                    }
                }
                for (channel, (scale, offset)) in scales.iter().enumerate() {
                    values[(channel * height + row) * width + column] = sum[channel] * scale + offset;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;

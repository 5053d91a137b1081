//! Pictures as models want them: cropped, resized, normalised and with their channels apart, in one go; on a device also as plain
//! [`frames`].
//!
//! The filter is Pillow's `BILINEAR` with its antialiasing: a triangle that is widened by the factor of reduction, so that all
//! source pixels count. The crop is cut out first, so nothing outside it shows. Other than Pillow, which rounds to whole grey
//! levels after each direction, nothing is rounded: values are within one grey level of Pillow's.
//!
//! The device agrees with the CPU within [`TOLERANCE`] grey levels before the division by the standard deviation.

use std::collections::HashMap;

use cenote_base::{Error, Result};

use crate::device::{Device, Kernel};
use crate::simd::vectorised;
use crate::work::{Pending, Work};

mod filter;
pub mod frames;

use filter::Filter;

/// In grey levels, of which there are 255: how far CPU and device may differ.
pub const TOLERANCE: f32 = 1e-3;

const RESIZE: Kernel = Kernel { source: include_str!("resize.wgsl"), entry: "resize", constants: &[] };
/// The side of a work group, in pixels; see the WGSL.
const GROUP_SIDE: u32 = 8;

/// A picture, or the part of it that `crop` names.
#[derive(Debug, Clone, Copy)]
pub struct Picture<'a> {
    /// RGB bytes by lines, three a pixel.
    pub pixels: &'a [u8],
    /// In pixels.
    pub width: u32,
    /// In pixels.
    pub height: u32,
    /// What is resized.
    pub crop: Crop,
}

/// A part of a picture, in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crop {
    /// The first column.
    pub left: u32,
    /// The first line.
    pub top: u32,
    /// How many columns.
    pub width: u32,
    /// How many lines.
    pub height: u32,
}

impl<'a> Picture<'a> {
    /// A whole picture.
    pub fn whole(pixels: &'a [u8], width: u32, height: u32) -> Self {
        Self { pixels, width, height, crop: Crop { left: 0, top: 0, width, height } }
    }
}

/// What every picture becomes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Target {
    /// In pixels.
    pub width: u32,
    /// In pixels.
    pub height: u32,
    /// Of each channel, where black is 0 and white 1: subtracted.
    pub mean: [f32; 3],
    /// Of each channel: divided by.
    pub deviation: [f32; 3],
}

impl Target {
    /// Numbers of one picture.
    fn numbers(&self) -> usize {
        3 * self.width as usize * self.height as usize
    }

    /// What a channel's grey level is multiplied by, and what is added then.
    fn scale(&self, channel: usize) -> (f32, f32) {
        let deviation = f64::from(self.deviation[channel]);
        ((1.0 / (255.0 * deviation)) as f32, (-f64::from(self.mean[channel]) / deviation) as f32)
    }
}

/// `pictures` × 3 channels × lines × columns (NCHW), one after the other.
///
/// # Errors
/// `InvalidInput` when a picture's bytes are not its size, a crop is empty or sticks out, or the target is empty or divides
/// by zero; the message names the picture by its place.
pub fn on_cpu(pictures: &[Picture<'_>], target: &Target) -> Result<Vec<f32>> {
    check(pictures, target)?;
    let mut values = vec![0.0; pictures.len() * target.numbers()];
    let mut filters = Filters::default();
    let mut line = Vec::new();
    for (picture, values) in pictures.iter().zip(values.chunks_exact_mut(target.numbers())) {
        let columns = filters.place(picture.crop.width, target.width);
        let rows = filters.place(picture.crop.height, target.height);
        let (columns, rows) = (&filters.made[columns], &filters.made[rows]);
        resize(picture, target, columns, rows, &mut line, values);
    }
    Ok(values)
}

/// [`on_cpu`] on a device.
///
/// # Errors
/// As [`on_cpu`], and `ResourceExhausted` when the batch does not fit the device.
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
        let columns = filters.place(crop.width, target.width);
        let lines = filters.place(crop.height, target.height);
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
    let numbers = pictures.len() * target.numbers();
    run(device, RESIZE, (&sources, &filters), &params, (numbers, groups), bytemuck::pod_collect_to_vec)
}

/// A picture on its way to a device.
struct Source<'a> {
    pixels: &'a [u8],
    /// The byte at which what is resized begins.
    first: usize,
    /// Bytes of a line.
    stride: usize,
    /// The places of its filters.
    columns: usize,
    lines: usize,
    /// Where it is in the target.
    place: Crop,
}

/// Uploads a batch and runs one of the kernels, whose result are so many words.
fn run<T>(
    device: &Device,
    kernel: Kernel,
    (sources, filters): (&[Source<'_>], &Filters),
    params: &Params,
    (words, groups): (usize, [u32; 3]),
    decode: impl FnOnce(&[u8]) -> T + Send + 'static,
) -> Result<Pending<T>> {
    // Of each filter, where its spans and weights begin among those of all.
    let (mut spans, mut weights, mut starts) = (Vec::new(), Vec::new(), Vec::new());
    for filter in &filters.made {
        let shift = weights.len() as u32;
        starts.push(spans.len() as u32);
        spans.extend(filter.spans.iter().map(|span| [span.first, span.count, span.weights + shift]));
        weights.extend_from_slice(&filter.weights);
    }
    let bytes = |source: &Source<'_>| source.pixels.len().next_multiple_of(4);
    let mut work = Work::new(device)?;
    let pixels = work.buffer::<u8>(sources.iter().map(bytes).sum())?;
    let mut placed = Vec::with_capacity(sources.len());
    let mut begin = 0;
    for source in sources {
        work.write(&pixels, begin as u64, source.pixels)?;
        let Crop { left, top, width, height } = source.place;
        let (first, stride) = ((begin + source.first) as u32, source.stride as u32);
        placed.push([first, stride, starts[source.columns], starts[source.lines], left, top, width, height]);
        begin += bytes(source);
    }
    let (placed, spans, weights) = (work.upload(&placed)?, work.upload(&spans)?, work.upload(&weights)?);
    let result = work.buffer::<u32>(words)?;
    work.dispatch(kernel, &[&pixels, &placed, &spans, &weights, &result], params, groups)?;
    work.finish(&result, decode)
}

#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct Params {
    width: u32,
    height: u32,
    /// Lanes of a row of work groups, for [`frames`].
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
    places: HashMap<Shape, usize>,
}

/// Of a filter: source pixels, the bits of where the part begins that is resized and of its extent, and target pixels.
type Shape = (u32, [u64; 2], u32);

impl Filters {
    /// The place of the filter from `source` to `target` pixels.
    fn place(&mut self, source: u32, target: u32) -> usize {
        self.place_part(source, (0.0, f64::from(source)), target)
    }

    /// The place of the filter from a part of `source` pixels, its begin and extent, to `target` pixels.
    fn place_part(&mut self, source: u32, (start, extent): (f64, f64), target: u32) -> usize {
        *self.places.entry((source, [start.to_bits(), extent.to_bits()], target)).or_insert_with(|| {
            self.made.push(Filter::new(source, (start, extent), target));
            self.made.len() - 1
        })
    }
}

// Down first, which the processor does for many columns at once, and then across. `line` is scratch.
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

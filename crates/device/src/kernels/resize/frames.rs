//! Pictures of any size as frames of one size: RGB bytes line by line, three per pixel.
//!
//! The filter is that of [`resize`](super); values are rounded once, at the end. This module has no `on_cpu`, because
//! libraries have one that rounds after each direction, which is faster and within one grey level.

use cenote_base::{Error, Result};

use super::filter::Section;
use super::{Batch, Crop, Filters, Params, Source};
use crate::device::{Device, Kernel};
use crate::kernels::grid;
use crate::work::Pending;

const FRAME: Kernel = Kernel { source: include_str!("resize.wgsl"), entry: "frame", constants: &[] };
/// The lanes of a work group; see the WGSL.
const GROUP_LANES: usize = 64;
/// The pixels that a lane makes; see the WGSL.
const LANE_PIXELS: usize = 4;

/// A picture and its place in a frame.
#[derive(Debug, Clone, Copy)]
pub struct Picture<'a> {
    /// The RGB bytes line by line, three per pixel.
    pub pixels: &'a [u8],
    /// The width in pixels.
    pub width: u32,
    /// The height in pixels.
    pub height: u32,
    /// The part that is resized. Pixels beside it count as far as the filter reaches.
    pub part: Part,
    /// The part of the frame that the picture fills. The rest of the frame is black.
    pub place: Crop,
}

/// A part of a picture, in pixels and fractions of them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Part {
    /// The first column.
    pub left: f64,
    /// The first line.
    pub top: f64,
    /// The number of columns.
    pub width: f64,
    /// The number of lines.
    pub height: f64,
}

impl Part {
    /// Makes the part that is all of a picture of this size.
    pub fn whole(width: u32, height: u32) -> Self {
        Self { left: 0.0, top: 0.0, width: f64::from(width), height: f64::from(height) }
    }
}

/// Makes a frame of `width` × `height` pixels of each of `pictures`, one after the other.
///
/// `InvalidInput` when the bytes of a picture do not match its size, its part or its place is empty or sticks out, or
/// the frame is empty; the message names the picture by its index in the batch. `ResourceExhausted` when the batch does
/// not fit the device.
pub fn on_device<'a>(
    device: &Device,
    pictures: &[Picture<'a>],
    (width, height): (u32, u32),
) -> Result<Pending<Vec<u8>>> {
    pictures.iter().enumerate().try_for_each(|(number, picture)| check(number, picture, (width, height)))?;
    let pixels = width as usize * height as usize;
    if pictures.is_empty() || pixels == 0 {
        return Ok(Pending::new(|| Ok(Vec::new())));
    }
    let mut filters = Filters::default();
    let source = |picture: &Picture<'a>| {
        let (part, place) = (picture.part, picture.place);
        let across = Section { start: part.left, extent: part.width };
        let down = Section { start: part.top, extent: part.height };
        let columns = filters.section(picture.width, across, place.width);
        let lines = filters.section(picture.height, down, place.height);
        Source { pixels: picture.pixels, first: 0, stride: 3 * picture.width as usize, columns, lines, place }
    };
    let sources: Vec<_> = pictures.iter().map(source).collect();
    let lanes = pixels.div_ceil(LANE_PIXELS);
    let [across, down, _] = grid(lanes.div_ceil(GROUP_LANES));
    let across_lanes = across * GROUP_LANES as u32;
    let params = Params { width, height, across: across_lanes, padding: 0, scale: [0.0; 4], offset: [0.0; 4] };
    let (count, frame_bytes, stride) = (pictures.len(), 3 * pixels, 3 * LANE_PIXELS * lanes);
    // A frame is padded to a whole number of words.
    let frames = move |bytes: &[u8]| match stride == frame_bytes {
        true => bytes[..count * stride].to_vec(),
        false => bytes.chunks_exact(stride).take(count).flat_map(|frame| &frame[..frame_bytes]).copied().collect(),
    };
    let (groups, words) = ([across, down, count as u32], count * stride / 4);
    Batch { kernel: FRAME, sources, filters, params, groups, words }.run(device, frames)
}

fn check(number: usize, picture: &Picture<'_>, (frame_width, frame_height): (u32, u32)) -> Result<()> {
    let Picture { pixels, width, height, part, place } = *picture;
    let bytes = 3 * width as usize * height as usize;
    if pixels.len() != bytes {
        return Err(Error::invalid_input(format!(
            "picture {number} of {width} × {height} pixels has {} bytes instead of {bytes}",
            pixels.len()
        )));
    }
    // Rounding may push a part over the edge by a little, which the filters cut off.
    let inside = |start: f64, extent: f64, size: u32| {
        start >= 0.0 && extent > 0.0 && extent.is_finite() && start + extent <= f64::from(size) + 1e-6
    };
    if !inside(part.left, part.width, width) || !inside(part.top, part.height, height) {
        return Err(Error::invalid_input(format!(
            "picture {number} of {width} × {height} pixels does not contain the part of {} × {} at {}, {}",
            part.width, part.height, part.left, part.top
        )));
    }
    let fits = |first: u32, count: u32, size: u32| count > 0 && first < size && count <= size - first;
    if !fits(place.left, place.width, frame_width) || !fits(place.top, place.height, frame_height) {
        return Err(Error::invalid_input(format!(
            "picture {number} of {} × {} pixels at {}, {} does not fit a frame of {frame_width} × {frame_height}",
            place.width, place.height, place.left, place.top
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use cenote_base::{ErrorKind, Random};

    use super::*;
    use crate::testing;

    /// Computes the definition in f64: every source pixel under the product of two triangles, in grey levels.
    fn plain(picture: &Picture<'_>, (width, height): (u32, u32)) -> Vec<f64> {
        let weights = |place: u32, source: u32, start: f64, extent: f64, target: u32| -> Vec<f64> {
            let scale = extent / f64::from(target);
            let center = start + (f64::from(place) + 0.5) * scale;
            let weight = |pixel: u32| (1.0 - (f64::from(pixel) + 0.5 - center).abs() / scale.max(1.0)).max(0.0);
            let all: Vec<f64> = (0..source).map(weight).collect();
            let total: f64 = all.iter().sum();
            all.into_iter().map(|weight| weight / total).collect()
        };
        let (part, place) = (picture.part, picture.place);
        let mut levels = Vec::new();
        for y in 0..height {
            for x in 0..width {
                let (x, y) = (x.wrapping_sub(place.left), y.wrapping_sub(place.top));
                if x >= place.width || y >= place.height {
                    levels.extend([0.0; 3]);
                    continue;
                }
                let across = weights(x, picture.width, part.left, part.width, place.width);
                let down = weights(y, picture.height, part.top, part.height, place.height);
                for channel in 0..3 {
                    let mut sum = 0.0;
                    for (line, down) in down.iter().enumerate() {
                        for (column, across) in across.iter().enumerate() {
                            let at = (line * picture.width as usize + column) * 3 + channel;
                            sum += down * across * f64::from(picture.pixels[at]);
                        }
                    }
                    levels.push(sum);
                }
            }
        }
        levels
    }

    #[test]
    fn frames_agree_with_the_definition_at_odd_sizes() {
        let device = testing::device();
        let mut random = Random::new(3);
        let sizes = [(1, 1), (3, 2), (40, 23), (19, 67)];
        let pixels: Vec<_> = sizes.iter().map(|&(w, h)| testing::bytes(&mut random, w * h * 3)).collect();
        for (width, height) in [(1, 1), (5, 3), (8, 8), (33, 7)] {
            let whole = Crop { left: 0, top: 0, width, height };
            let middle =
                Crop { left: width / 3, top: height / 2, width: width.div_ceil(3), height: height.div_ceil(2) };
            let mut pictures = Vec::new();
            for (&(w, h), pixels) in sizes.iter().zip(&pixels) {
                let (w, h) = (w as u32, h as u32);
                let inner = Part { left: f64::from(w) * 0.21, width: f64::from(w) * 0.7, ..Part::whole(w, h) };
                for (part, place) in [(Part::whole(w, h), whole), (inner, whole), (Part::whole(w, h), middle)] {
                    pictures.push(Picture { pixels, width: w, height: h, part, place });
                }
            }
            let found = on_device(&device, &pictures, (width, height)).unwrap().wait().unwrap();
            let exact: Vec<f64> = pictures.iter().flat_map(|picture| plain(picture, (width, height))).collect();
            assert_eq!(found.len(), exact.len());
            for (at, (found, exact)) in found.iter().zip(&exact).enumerate() {
                let off = (f64::from(*found) - exact).abs();
                assert!(off <= 0.5 + f64::from(super::super::TOLERANCE), "{at}: {found}, exactly {exact}");
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_with_its_place() {
        let device = testing::device();
        let pixels = [0; 12];
        let place = Crop { left: 0, top: 0, width: 3, height: 3 };
        let good = Picture { pixels: &pixels, width: 2, height: 2, part: Part::whole(2, 2), place };
        let refused = |picture| {
            let error = on_device(&device, &[good, picture], (3, 3)).err().unwrap();
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            error.message().to_owned()
        };
        assert!(refused(Picture { height: 3, ..good }).contains("picture 1 of 2 × 3 pixels has 12 bytes"));
        for (left, width) in [(-0.1, 1.0), (0.0, 0.0), (1.5, 1.0), (0.0, f64::NAN)] {
            let part = Part { left, width, ..good.part };
            assert!(refused(Picture { part, ..good }).contains("does not contain the part"));
        }
        for (left, width) in [(0, 0), (0, 4), (3, 1), (1, u32::MAX)] {
            let place = Crop { left, width, ..place };
            assert!(refused(Picture { place, ..good }).contains("does not fit a frame of 3 × 3"));
        }
        assert!(on_device(&device, &[], (3, 3)).unwrap().wait().unwrap().is_empty());
    }
}

#![allow(clippy::unwrap_used)]
use cenote_base::{ErrorKind, Random};

use super::*;
use crate::testing;

const MATRICES: [ColourMatrix; 2] = [ColourMatrix::Bt601, ColourMatrix::Bt709];
const RANGES: [Range; 2] = [Range::Limited, Range::Full];

/// Makes the planes of a frame with `gap` bytes behind each line but the last.
struct Planes {
    y: Vec<u8>,
    u: Vec<u8>,
    v: Vec<u8>,
    gap: usize,
    width: usize,
}

impl Planes {
    fn new(random: &mut Random, width: usize, height: usize, gap: usize) -> Self {
        let mut plane = |width: usize, height: usize| testing::bytes(random, (width + gap) * height - gap);
        let (half_width, half_height) = (width.div_ceil(2), height.div_ceil(2));
        let (y, u, v) = (plane(width, height), plane(half_width, half_height), plane(half_width, half_height));
        Self { y, u, v, gap, width }
    }

    fn frame(&self) -> Frame<'_> {
        let chroma_stride = self.width.div_ceil(2) + self.gap;
        Frame {
            y: Plane { bytes: &self.y, stride: self.width + self.gap },
            u: Plane { bytes: &self.u, stride: chroma_stride },
            v: Plane { bytes: &self.v, stride: chroma_stride },
        }
    }
}

/// Computes the formulas of the recommendations in f64.
fn plain(format: &Format, y: u8, u: u8, v: u8) -> [f64; 3] {
    let (kr, kb) = if format.matrix == ColourMatrix::Bt601 { (0.299, 0.114) } else { (0.2126, 0.0722) };
    let (y, u, v) = match format.range {
        Range::Full => (f64::from(y) / 255.0, (f64::from(u) - 128.0) / 255.0, (f64::from(v) - 128.0) / 255.0),
        Range::Limited => {
            ((f64::from(y) - 16.0) / 219.0, (f64::from(u) - 128.0) / 224.0, (f64::from(v) - 128.0) / 224.0)
        }
    };
    let (red, blue) = (y + v * 2.0 * (1.0 - kr), y + u * 2.0 * (1.0 - kb));
    let green = (y - kr * red - kb * blue) / (1.0 - kr - kb);
    [red, green, blue].map(|value| (value * 255.0).clamp(0.0, 255.0))
}

#[test]
fn every_colour_is_right() {
    for (matrix, range) in MATRICES.into_iter().flat_map(|matrix| RANGES.map(|range| (matrix, range))) {
        let format = Format { width: 1, height: 1, matrix, range };
        let coefficients = Coefficients::new(&format);
        for y in (0..=255).step_by(3) {
            for u in (0..=255).step_by(5) {
                for v in (0..=255).step_by(5) {
                    let exact = plain(&format, y, u, v);
                    for (found, exact) in coefficients.rgb(y, u, v).into_iter().zip(exact) {
                        assert!(
                            (f64::from(found) - exact).abs() < 0.51,
                            "{format:?} {y} {u} {v}: {found}, not {exact}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn black_white_and_red_are_what_they_are() {
    let rgb = |matrix, range, y, u, v| Coefficients::new(&Format { width: 1, height: 1, matrix, range }).rgb(y, u, v);
    assert_eq!(rgb(ColourMatrix::Bt601, Range::Limited, 16, 128, 128), [0, 0, 0]);
    assert_eq!(rgb(ColourMatrix::Bt709, Range::Limited, 235, 128, 128), [255, 255, 255]);
    assert_eq!(rgb(ColourMatrix::Bt601, Range::Limited, 81, 90, 240), [254, 0, 0]);
    assert_eq!(rgb(ColourMatrix::Bt709, Range::Limited, 63, 102, 240), [255, 1, 0]);
    assert_eq!(rgb(ColourMatrix::Bt601, Range::Full, 255, 128, 128), [255, 255, 255]);
}

#[test]
fn both_agree_in_every_byte_at_odd_sizes() {
    let device = testing::device();
    // Width, height, frames, gap.
    let sizes = [
        (1, 1, 1, 0),
        (1, 1, 3, 5),
        (2, 2, 1, 0),
        (3, 5, 2, 1),
        (17, 1, 4, 0),
        (1, 31, 2, 3),
        (67, 257, 3, 7),
        (640, 360, 2, 0),
    ];
    for (index, (width, height, count, gap)) in sizes.into_iter().enumerate() {
        let mut random = Random::new(index as u64);
        let planes: Vec<_> = (0..count).map(|_| Planes::new(&mut random, width, height, gap)).collect();
        let frames: Vec<_> = planes.iter().map(Planes::frame).collect();
        for (matrix, range) in MATRICES.into_iter().flat_map(|matrix| RANGES.map(|range| (matrix, range))) {
            let format = Format { width: width as u32, height: height as u32, matrix, range };
            let cpu = on_cpu(&frames, &format).unwrap();
            assert_eq!(cpu.len(), count * width * height * 3);
            assert_eq!(on_device(&device, &frames, &format).unwrap().wait().unwrap(), cpu, "{format:?}");
            // Each pixel by itself, from its own samples.
            for _ in 0..50 {
                let mut below = |bound: usize| random.below(bound as u64) as usize;
                let (frame, x, y) = (below(count), below(width), below(height));
                let planes = &planes[frame];
                let chroma = y / 2 * (width.div_ceil(2) + gap) + x / 2;
                let exact = plain(&format, planes.y[y * (width + gap) + x], planes.u[chroma], planes.v[chroma]);
                let pixel = &cpu[((frame * height + y) * width + x) * 3..][..3];
                for (found, exact) in pixel.iter().zip(exact) {
                    assert!((f64::from(*found) - exact).abs() < 0.51, "{format:?} at {x}, {y}");
                }
            }
        }
    }
}

#[test]
fn nothing_in_nothing_out() {
    let device = testing::device();
    let format = Format { width: 4, height: 4, matrix: ColourMatrix::Bt601, range: Range::Full };
    assert!(on_cpu(&[], &format).unwrap().is_empty());
    assert!(on_device(&device, &[], &format).unwrap().wait().unwrap().is_empty());
    let planes = Planes::new(&mut Random::new(1), 4, 4, 0);
    let empty = Format { height: 0, ..format };
    assert!(on_cpu(&[planes.frame()], &empty).unwrap().is_empty());
    assert!(on_device(&device, &[planes.frame()], &empty).unwrap().wait().unwrap().is_empty());
}

#[test]
fn a_short_plane_is_refused() {
    let planes = Planes::new(&mut Random::new(1), 6, 4, 0);
    let format = Format { width: 6, height: 4, matrix: ColourMatrix::Bt601, range: Range::Full };
    let mut frame = planes.frame();
    frame.v.bytes = &frame.v.bytes[1..];
    let error = on_cpu(&[planes.frame(), frame], &format).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.message().contains("plane V of frame 1"), "{error}");
}

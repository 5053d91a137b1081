#![allow(clippy::unwrap_used)]
use cenote_base::{ErrorKind, Random};

use super::*;
use crate::testing;

/// Bound on the difference from the definition before rounding, in grey levels.
const TOLERANCE: f64 = 1e-3;

/// Computes the definition in f64: every source pixel under the product of two triangles, in grey levels.
fn plain(picture: &SourcePicture<'_>, size: ImageSize) -> Vec<f64> {
    let weights = |place: u32, source: u32, start: f64, extent: f64, target: u32| -> Vec<f64> {
        let scale = extent / f64::from(target);
        let center = start + (f64::from(place) + 0.5) * scale;
        let weight = |pixel: u32| (1.0 - (f64::from(pixel) + 0.5 - center).abs() / scale.max(1.0)).max(0.0);
        let all: Vec<f64> = (0..source).map(weight).collect();
        let total: f64 = all.iter().sum();
        all.into_iter().map(|weight| weight / total).collect()
    };
    let (crop, placement) = (picture.crop, picture.placement);
    let mut levels = Vec::new();
    for y in 0..size.height {
        for x in 0..size.width {
            let (x, y) = (x.wrapping_sub(placement.left), y.wrapping_sub(placement.top));
            if x >= placement.width || y >= placement.height {
                levels.extend([0.0; 3]);
                continue;
            }
            let across = weights(x, picture.width, crop.left, crop.width, placement.width);
            let down = weights(y, picture.height, crop.top, crop.height, placement.height);
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

/// Places a whole picture in a whole frame of `size`.
fn stretched(pixels: &[u8], width: u32, height: u32, size: ImageSize) -> SourcePicture<'_> {
    let placement = Placement { left: 0, top: 0, width: size.width, height: size.height };
    SourcePicture { pixels, width, height, crop: Crop::whole(width, height), placement }
}

#[test]
fn frames_agree_with_the_definition_at_odd_sizes() {
    let device = testing::device();
    let mut random = Random::new(3);
    let sizes = [(1, 1), (3, 2), (40, 23), (19, 67)];
    let pixels: Vec<_> = sizes.iter().map(|&(w, h)| testing::bytes(&mut random, w * h * 3)).collect();
    for (width, height) in [(1, 1), (5, 3), (8, 8), (33, 7)] {
        let size = ImageSize { width, height };
        let middle =
            Placement { left: width / 3, top: height / 2, width: width.div_ceil(3), height: height.div_ceil(2) };
        let mut pictures = Vec::new();
        for (&(w, h), pixels) in sizes.iter().zip(&pixels) {
            let (w, h) = (w as u32, h as u32);
            let whole = stretched(pixels, w, h, size);
            let inner = Crop { left: f64::from(w) * 0.21, width: f64::from(w) * 0.7, ..whole.crop };
            pictures.extend([
                whole,
                SourcePicture { crop: inner, ..whole },
                SourcePicture { placement: middle, ..whole },
            ]);
        }
        let found = on_device(&device, &pictures, size).unwrap().wait().unwrap();
        let exact: Vec<f64> = pictures.iter().flat_map(|picture| plain(picture, size)).collect();
        assert_eq!(found.len(), exact.len());
        for (at, (found, exact)) in found.iter().zip(&exact).enumerate() {
            let off = (f64::from(*found) - exact).abs();
            assert!(off <= 0.5 + TOLERANCE, "{at}: {found}, exactly {exact}");
        }
    }
}

#[test]
fn the_same_size_is_the_same_picture() {
    let pixels = testing::bytes(&mut Random::new(2), 5 * 4 * 3);
    let size = ImageSize { width: 5, height: 4 };
    let picture = stretched(&pixels, 5, 4, size);
    assert_eq!(on_device(&testing::device(), &[picture], size).unwrap().wait().unwrap(), pixels);
}

#[test]
fn what_does_not_fit_is_refused_with_its_place() {
    let device = testing::device();
    let pixels = [0; 12];
    let size = ImageSize { width: 3, height: 3 };
    let good = stretched(&pixels, 2, 2, size);
    let refused = |picture| {
        let error = on_device(&device, &[good, picture], size).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        error.message().to_owned()
    };
    assert!(refused(SourcePicture { height: 3, ..good }).contains("picture 1 of 2 × 3 pixels has 12 bytes"));
    let endless = SourcePicture { width: u32::MAX, height: u32::MAX, ..good };
    assert!(refused(endless).contains("has 12 bytes instead of"));
    for (left, width) in [(-0.1, 1.0), (0.0, 0.0), (1.5, 1.0), (0.0, f64::NAN)] {
        let crop = Crop { left, width, ..good.crop };
        assert!(refused(SourcePicture { crop, ..good }).contains("does not contain the crop"));
    }
    for (left, width) in [(0, 0), (0, 4), (3, 1), (1, u32::MAX)] {
        let placement = Placement { left, width, ..good.placement };
        assert!(refused(SourcePicture { placement, ..good }).contains("does not fit a frame of 3 × 3"));
    }
    assert!(on_device(&device, &[], size).unwrap().wait().unwrap().is_empty());
}

/// A part of a picture, a frame, and the bytes that Pillow 13.0 returns for `crop(…).resize(…, BILINEAR)`.
type FromPillow = (Placement, ImageSize, &'static [u8]);

#[rustfmt::skip]
const FROM_PILLOW: [FromPillow; 2] = [
    (Placement { left: 3, top: 2, width: 17, height: 13 }, ImageSize { width: 5, height: 4 }, &[
        130, 134, 124, 129, 117, 128, 140, 126, 123, 126, 134, 127, 142, 125, 134, 147, 149, 147, 137, 130,
        127, 140, 126, 131, 131, 136, 135, 143, 146, 139, 133, 144, 133, 116, 144, 125, 147, 128, 120, 140,
        132, 143, 133, 127, 129, 150, 140, 131, 145, 149, 107, 154, 142, 104, 150, 141, 121, 150, 127, 135,
    ]),
    (Placement { left: 1, top: 1, width: 3, height: 4 }, ImageSize { width: 5, height: 6 }, &[
        103, 186, 13, 121, 204, 31, 147, 230, 57, 173, 103, 83, 191, 18, 101, 136, 219, 46, 155, 187, 65, 184,
        139, 94, 135, 91, 122, 103, 58, 141, 180, 220, 90, 183, 156, 111, 189, 59, 142, 93, 91, 148, 28, 111,
        152, 224, 94, 134, 162, 99, 156, 68, 108, 191, 76, 142, 97, 82, 165, 34, 140, 95, 178, 114, 120, 152,
        74, 157, 112, 111, 117, 72, 135, 90, 45, 45, 128, 211, 71, 154, 135, 110, 193, 20, 149, 78, 59, 175, 2, 85,
    ]),
];

#[test]
fn pillow_is_within_one_grey_level() {
    let level = |x: u32, y: u32, channel: u32| (x * 37 + y * 59 + channel * 83 + x * y * 7) as u8;
    for (cut, size, expected) in FROM_PILLOW {
        let mut pixels = Vec::new();
        for y in cut.top..cut.top + cut.height {
            for x in cut.left..cut.left + cut.width {
                pixels.extend((0..3).map(|channel| level(x, y, channel)));
            }
        }
        let picture = stretched(&pixels, cut.width, cut.height, size);
        let found = on_device(&testing::device(), &[picture], size).unwrap().wait().unwrap();
        assert_eq!(found.len(), expected.len());
        for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
            assert!(found.abs_diff(*expected) <= 1, "{at}: {found}, {expected} in Pillow");
        }
    }
}

#![allow(clippy::unwrap_used)]
use cenote_base::{ErrorKind, Random};

use super::*;
use crate::testing;

const TARGET: Target = Target { width: 1, height: 1, mean: [0.0; 3], deviation: [1.0; 3] };

/// Resizes `picture` by the definition, in f64: weighs every source pixel of the crop by the product of two triangles.
fn plain(picture: &Picture<'_>, target: &Target) -> Vec<f64> {
    let Crop { left, top, width, height } = picture.crop;
    let weights = |place: u32, source: u32, target: u32| -> Vec<f64> {
        let scale = f64::from(source) / f64::from(target);
        let center = (f64::from(place) + 0.5) * scale;
        let weight = |pixel: u32| (1.0 - (f64::from(pixel) + 0.5 - center).abs() / scale.max(1.0)).max(0.0);
        let all: Vec<f64> = (0..source).map(weight).collect();
        let total: f64 = all.iter().sum();
        all.into_iter().map(|weight| weight / total).collect()
    };
    let columns: Vec<_> = (0..target.width).map(|x| weights(x, width, target.width)).collect();
    let lines: Vec<_> = (0..target.height).map(|y| weights(y, height, target.height)).collect();
    let mut values = Vec::new();
    for channel in 0..3 {
        for line in &lines {
            for column in &columns {
                let mut sum = 0.0;
                for (y, down) in (top..).zip(line) {
                    for (x, across) in (left..).zip(column) {
                        let at = (y as usize * picture.width as usize + x as usize) * 3 + channel;
                        sum += down * across * f64::from(picture.pixels[at]);
                    }
                }
                values.push((sum / 255.0 - f64::from(target.mean[channel])) / f64::from(target.deviation[channel]));
            }
        }
    }
    values
}

/// Returns [`TOLERANCE`] in the unit of the result, which is divided by 255 and by the standard deviation.
fn tolerance(target: &Target) -> f64 {
    let least = target.deviation.iter().copied().fold(f32::INFINITY, f32::min);
    f64::from(TOLERANCE) / 255.0 / f64::from(least)
}

#[test]
fn both_agree_with_the_definition_at_odd_sizes() {
    let device = testing::device();
    let mut random = Random::new(1);
    // The width, height and crop of each source.
    let sources = [
        (1, 1, (0, 0, 1, 1)),
        (2, 3, (1, 0, 1, 3)),
        (17, 13, (0, 0, 17, 13)),
        (67, 31, (5, 7, 59, 23)),
        (31, 129, (30, 128, 1, 1)),
        (257, 101, (1, 1, 255, 97)),
    ];
    let pixels: Vec<_> = sources.map(|(width, height, _)| testing::bytes(&mut random, width * height * 3)).into();
    let pictures: Vec<_> = sources
        .iter()
        .zip(&pixels)
        .map(|(&(width, height, (left, top, crop_width, crop_height)), pixels)| Picture {
            pixels,
            width: width as u32,
            height: height as u32,
            crop: Crop { left, top, width: crop_width, height: crop_height },
        })
        .collect();
    for (width, height) in [(1, 1), (7, 5), (8, 8), (9, 17), (64, 3), (131, 67)] {
        let target = Target { width, height, mean: [0.485, 0.456, 0.406], deviation: [0.229, 0.224, 0.225] };
        let exact: Vec<f64> = pictures.iter().flat_map(|picture| plain(picture, &target)).collect();
        let cpu = on_cpu(&pictures, &target).unwrap();
        let gpu = on_device(&device, &pictures, &target).unwrap().wait().unwrap();
        for found in [&cpu, &gpu] {
            assert_eq!(found.len(), exact.len());
            for (place, (found, exact)) in found.iter().zip(&exact).enumerate() {
                let off = (f64::from(*found) - exact).abs();
                assert!(off <= tolerance(&target), "{place} for {width} × {height}: {found}, exactly {exact}");
            }
        }
        for (cpu, gpu) in cpu.iter().zip(&gpu) {
            assert!(f64::from((cpu - gpu).abs()) <= tolerance(&target));
        }
    }
}

#[test]
fn the_same_size_is_the_same_picture() {
    let pixels = testing::bytes(&mut Random::new(2), 5 * 4 * 3);
    let target = Target { width: 5, height: 4, ..TARGET };
    let picture = Picture::whole(&pixels, 5, 4);
    let gpu = on_device(&testing::device(), &[picture], &target).unwrap().wait().unwrap();
    for values in [on_cpu(&[picture], &target).unwrap(), gpu] {
        for (place, value) in values.iter().enumerate() {
            let (channel, pixel) = (place / 20, place % 20);
            assert!((value * 255.0 - f32::from(pixels[pixel * 3 + channel])).abs() < TOLERANCE);
        }
    }
}

#[test]
fn nothing_in_nothing_out() {
    assert!(on_cpu(&[], &TARGET).unwrap().is_empty());
    assert!(on_device(&testing::device(), &[], &TARGET).unwrap().wait().unwrap().is_empty());
}

#[test]
fn what_does_not_fit_is_refused_with_its_place() {
    let pixels = [0; 12];
    let good = Picture::whole(&pixels, 2, 2);
    let refused = |picture: Picture<'_>, target: &Target| {
        let error = on_cpu(&[good, picture], target).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        error.message().to_owned()
    };
    assert!(refused(Picture::whole(&pixels, 2, 3), &TARGET).contains("picture 1 of 2 × 3 pixels has 12 bytes"));
    for (left, top, width, height) in [(0, 0, 0, 1), (1, 0, 2, 1), (2, 0, 1, 1), (0, 1, 1, 2), (1, 1, u32::MAX, 1)] {
        let picture = Picture { crop: Crop { left, top, width, height }, ..good };
        assert!(refused(picture, &TARGET).contains("does not contain the crop"));
    }
    assert!(refused(good, &Target { width: 0, ..TARGET }).contains("is empty"));
    assert!(refused(good, &Target { deviation: [1.0, 0.0, 1.0], ..TARGET }).contains("divides by zero"));
}

/// A crop, a target size, and the bytes that Pillow 13.0 returns for `crop(…).resize(…, BILINEAR)`.
type FromPillow = (Crop, (u32, u32), &'static [u8]);

#[rustfmt::skip]
const FROM_PILLOW: [FromPillow; 2] = [
    (Crop { left: 3, top: 2, width: 17, height: 13 }, (5, 4), &[
        130, 134, 124, 129, 117, 128, 140, 126, 123, 126, 134, 127, 142, 125, 134, 147, 149, 147, 137, 130,
        127, 140, 126, 131, 131, 136, 135, 143, 146, 139, 133, 144, 133, 116, 144, 125, 147, 128, 120, 140,
        132, 143, 133, 127, 129, 150, 140, 131, 145, 149, 107, 154, 142, 104, 150, 141, 121, 150, 127, 135,
    ]),
    (Crop { left: 1, top: 1, width: 3, height: 4 }, (5, 6), &[
        103, 186, 13, 121, 204, 31, 147, 230, 57, 173, 103, 83, 191, 18, 101, 136, 219, 46, 155, 187, 65, 184,
        139, 94, 135, 91, 122, 103, 58, 141, 180, 220, 90, 183, 156, 111, 189, 59, 142, 93, 91, 148, 28, 111,
        152, 224, 94, 134, 162, 99, 156, 68, 108, 191, 76, 142, 97, 82, 165, 34, 140, 95, 178, 114, 120, 152,
        74, 157, 112, 111, 117, 72, 135, 90, 45, 45, 128, 211, 71, 154, 135, 110, 193, 20, 149, 78, 59, 175, 2, 85,
    ]),
];

#[test]
fn pillow_is_within_one_grey_level() {
    let (width, height) = (23, 17);
    let mut pixels = Vec::new();
    for y in 0..height {
        for x in 0..width {
            pixels.extend((0..3).map(|channel| (x * 37 + y * 59 + channel * 83 + x * y * 7) as u8));
        }
    }
    for (crop, (target_width, target_height), expected) in FROM_PILLOW {
        let picture = Picture { crop, ..Picture::whole(&pixels, width, height) };
        let target = Target { width: target_width, height: target_height, ..TARGET };
        let gpu = on_device(&testing::device(), &[picture], &target).unwrap().wait().unwrap();
        for values in [on_cpu(&[picture], &target).unwrap(), gpu] {
            let plane = expected.len() / 3;
            for (place, expected) in expected.iter().enumerate() {
                let level = values[place % 3 * plane + place / 3] * 255.0;
                assert!((level - f32::from(*expected)).abs() <= 1.0, "{place}: {level}, {expected} in Pillow");
            }
        }
    }
}

#![allow(clippy::unwrap_used, clippy::print_stderr)]
use image::{GrayImage, ImageBuffer, Luma, Rgb, Rgba, RgbaImage};

use super::*;
use crate::testing::{self, FULL, claiming_png, encode, jpeg, scene, with_exif};

/// Decodes `bytes`; with `target` (width, height) possibly scaled down, but not below it.
fn decode_rgb(bytes: &[u8], target: Option<(u32, u32)>) -> Result<RgbImage, String> {
    Decoder::default().decode(bytes, target.map_or(FULL, |(width, height)| DecodeTarget::Cover(width, height)))
}

fn refusal(bytes: &[u8]) -> String {
    decode_rgb(bytes, None).unwrap_err()
}

/// Returns the mean absolute difference of two pictures of one size.
fn difference(a: &RgbImage, b: &RgbImage) -> f64 {
    assert_eq!(a.dimensions(), b.dimensions());
    let sum: u64 = a.as_raw().iter().zip(b.as_raw()).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
    sum as f64 / a.as_raw().len() as f64
}

#[test]
fn lossless_formats_decode_to_their_pixels() {
    let scene = scene(33, 17);
    for format in [ImageFormat::Png, ImageFormat::Bmp, ImageFormat::Tiff, ImageFormat::WebP] {
        assert_eq!(decode_rgb(&encode(scene.clone(), format), None).unwrap(), scene, "{format:?}");
    }
    assert!(difference(&decode_rgb(&jpeg(&scene, 95), None).unwrap(), &scene) < 4.0);
}

#[test]
fn every_kind_of_pixel_becomes_rgb8() {
    let deep: ImageBuffer<Rgb<u16>, Vec<u16>> = ImageBuffer::from_pixel(4, 4, Rgb([65535, 32896, 0]));
    let bytes = encode(DynamicImage::ImageRgb16(deep), ImageFormat::Png);
    assert_eq!(decode_rgb(&bytes, None).unwrap().get_pixel(1, 1), &Rgb([255, 128, 0]));
    let grey = encode(GrayImage::from_pixel(4, 4, Luma([77])), ImageFormat::Png);
    assert_eq!(decode_rgb(&grey, None).unwrap().get_pixel(0, 0), &Rgb([77; 3]));
    let mut clear = RgbaImage::from_pixel(3, 1, Rgba([10, 20, 30, 255]));
    clear.put_pixel(1, 0, Rgba([0, 0, 0, 0]));
    clear.put_pixel(2, 0, Rgba([255, 0, 0, 128]));
    let over = decode_rgb(&encode(clear, ImageFormat::Png), None).unwrap();
    assert_eq!(over.as_raw(), &[10, 20, 30, 255, 255, 255, 255, 127, 127]);
}

#[test]
fn orientation_is_applied() {
    // Top left red, top right green, bottom left blue, bottom right white.
    let stored = RgbImage::from_fn(64, 32, |x, y| match (x < 32, y < 16) {
        (true, true) => Rgb([255, 0, 0]),
        (false, true) => Rgb([0, 255, 0]),
        (true, false) => Rgb([0, 0, 255]),
        (false, false) => Rgb([255, 255, 255]),
    });
    let plain = jpeg(&stored, 95);
    let colour = |pixel: &Rgb<u8>| match pixel.0.map(|value| value > 128) {
        [true, false, false] => 'r',
        [false, true, false] => 'g',
        [false, false, true] => 'b',
        _ => 'w',
    };
    // The corners, line by line, by orientation 1 to 8.
    let corners = ["rgbw", "grwb", "wbgr", "bwrg", "rbgw", "brwg", "wgbr", "gwrb"];
    for (orientation, expected) in (1u16..).zip(corners) {
        for target in [None, Some((8, 8))] {
            let image = decode_rgb(&with_exif(&plain, orientation, ""), target).unwrap();
            let (width, height) = image.dimensions();
            assert_eq!(width > height, orientation < 5, "{orientation}");
            let places = [(0.25, 0.25), (0.75, 0.25), (0.25, 0.75), (0.75, 0.75)];
            let found: String = places
                .iter()
                .map(|(x, y)| colour(image.get_pixel((width as f64 * x) as u32, (height as f64 * y) as u32)))
                .collect();
            assert_eq!(found, expected, "orientation {orientation}");
        }
    }
}

#[test]
fn a_scaled_jpeg_is_the_smallest_that_is_large_enough_and_looks_the_same() {
    let bytes = jpeg(&scene(640, 480), 92);
    let full = decode_rgb(&bytes, None).unwrap();
    assert_eq!(full.dimensions(), (640, 480));
    for (target, size) in [
        ((224, 224), (320, 240)),
        ((160, 120), (160, 120)),
        ((161, 1), (320, 240)),
        ((321, 1), (640, 480)),
        ((9, 9), (80, 60)),
    ] {
        let scaled = decode_rgb(&bytes, Some(target)).unwrap();
        assert_eq!(scaled.dimensions(), size, "{target:?}");
        let reference = image::imageops::thumbnail(&full, size.0, size.1);
        assert!(difference(&scaled, &reference) < 3.0, "{target:?}: {}", difference(&scaled, &reference));
    }
    assert_eq!(decode_rgb(&bytes, Some((4000, 4000))).unwrap().dimensions(), (640, 480), "never enlarged");
    let turned = decode_rgb(&with_exif(&bytes, 6, ""), Some((100, 300))).unwrap();
    assert_eq!(turned.dimensions(), (240, 320), "the target is meant as displayed");
    let within = Decoder::default().decode(&bytes, DecodeTarget::Within(160, 160)).unwrap();
    assert_eq!(within.dimensions(), (160, 120));
}

#[test]
fn cmyk_becomes_rgb() {
    // Inverted, as Adobe's software stores it: 255 stands for no ink.
    let inks = [[0u8, 255, 255, 255], [255, 255, 255, 255], [255, 255, 255, 0], [255, 0, 255, 255]];
    let pixels: Vec<u8> = inks.iter().flat_map(|ink| ink.repeat(16 * 16)).collect();
    let source = turbojpeg::Image {
        pixels: pixels.as_slice(),
        width: 16,
        pitch: 64,
        height: 64,
        format: turbojpeg::PixelFormat::CMYK,
    };
    let mut compressor = turbojpeg::Compressor::new().unwrap();
    compressor.set_subsamp(turbojpeg::Subsamp::None).unwrap();
    let image = decode_rgb(&compressor.compress_to_vec(source).unwrap(), None).unwrap();
    assert_eq!(image.dimensions(), (16, 64));
    for (band, expected) in [[0u8, 255, 255], [255; 3], [0; 3], [255, 0, 255]].iter().enumerate() {
        let found = image.get_pixel(8, band as u32 * 16 + 8).0;
        assert!(found.iter().zip(expected).all(|(a, b)| a.abs_diff(*b) < 12), "{band}: {found:?}");
    }
}

#[test]
fn what_is_too_large_is_refused_before_it_is_allocated() {
    let reason = refusal(&claiming_png(60_000, 60_000));
    assert!(reason.contains("60000 × 60000") && reason.contains("100 megapixels"), "{reason}");
    let mut huge = jpeg(&RgbImage::new(16, 16), 90);
    let frame = huge.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap();
    huge[frame + 5..frame + 9].copy_from_slice(&[0xea, 0x60, 0xea, 0x60]);
    assert!(refusal(&huge).contains("60000 × 60000"), "{}", refusal(&huge));
}

#[test]
fn what_is_no_image_says_what_it_looks_like() {
    assert_eq!(refusal(b""), "the image is empty: 0 bytes");
    let text = refusal(b"Dear reader, this is no picture.");
    assert!(text.contains("\"Dear reader, this is no \""), "{text}");
    assert!(refusal(&[0, 1, 2, 3]).contains("00 01 02 03"));
}

#[test]
fn a_cut_image_is_truncated_in_every_format() {
    let scene = scene(200, 150);
    let mut progressive = turbojpeg::Compressor::new().unwrap();
    progressive.set_progressive(true).unwrap();
    let source = turbojpeg::Image {
        pixels: scene.as_raw().as_slice(),
        width: 200,
        pitch: 600,
        height: 150,
        format: turbojpeg::PixelFormat::RGB,
    };
    for whole in [jpeg(&scene, 90), progressive.compress_to_vec(source).unwrap()] {
        for length in [whole.len() / 2, whole.len() - 20, whole.len() - 2, whole.len() / 20, 3] {
            for target in [None, Some((20, 20))] {
                let reason = decode_rgb(&whole[..length], target).unwrap_err();
                assert!(reason.contains("truncated"), "{length} of {}: {reason}", whole.len());
            }
        }
    }
    for format in [ImageFormat::Png, ImageFormat::Bmp, ImageFormat::Gif, ImageFormat::Tiff, ImageFormat::WebP] {
        let whole = encode(scene.clone(), format);
        assert!(decode_rgb(&whole[..whole.len() / 2], None).is_err(), "{format:?}");
    }
}

#[test]
fn bytes_behind_the_end_do_no_harm() {
    let mut bytes = jpeg(&scene(40, 40), 90);
    bytes.extend(b"trailing bytes of some camera");
    assert!(decode_rgb(&bytes, None).is_ok());
}

#[test]
fn damage_anywhere_is_no_panic() {
    let mut random = cenote_base::Random::new(3);
    // ICO requires an alpha channel.
    let scene = DynamicImage::ImageRgb8(scene(60, 40)).into_rgba8();
    let mut all = vec![with_exif(&jpeg(&DynamicImage::from(scene.clone()).into_rgb8(), 80), 8, "2020:01:01 00:00:00")];
    for format in
        [ImageFormat::Png, ImageFormat::Bmp, ImageFormat::Gif, ImageFormat::Tiff, ImageFormat::WebP, ImageFormat::Ico]
    {
        all.push(encode(scene.clone(), format));
    }
    let mut decoder = Decoder::default();
    for whole in &all {
        for _ in 0..150 {
            let mut bytes = whole.clone();
            for _ in 0..=random.below(8) {
                let place = random.below(bytes.len() as u64) as usize;
                bytes[place] = random.next_u64() as u8;
            }
            bytes.truncate(random.below(bytes.len() as u64 * 2) as usize + 1);
            if let Ok(image) = decoder.decode(&bytes, DecodeTarget::Cover(16, 16)) {
                decoder.recycle(image);
            }
        }
        assert_eq!(decoder.decode(whole, FULL).map(|image| image.dimensions().0.max(60)), Ok(60), "undamaged");
    }
}

#[test]
fn every_file_of_the_shared_formats_decodes_or_says_why_not() {
    for (name, bytes) in testing::format_assets() {
        let decoded = decode_rgb(&bytes, None);
        match &decoded {
            Ok(image) => eprintln!("{name}: {:?}", image.dimensions()),
            Err(reason) => eprintln!("{name}: {reason}"),
        }
        let is_bad = name.starts_with("bad_Bad") || name.contains("trunc_case") || name.contains("broken");
        let may_be_either = is_bad
            || name.contains("truncated")
            || name.contains("oob")
            || name.contains("oversized")
            || name.contains("smile");
        assert!(decoded.is_ok() || may_be_either, "{name}: {decoded:?}");
        assert!(decoded.as_ref().err().is_none_or(|reason| reason.len() > 20), "{name}");
        for target in [(16, 16), (300, 10)] {
            assert_eq!(decode_rgb(&bytes, Some(target)).is_ok(), decoded.is_ok(), "{name} at {target:?}");
        }
    }
}

//! Images for tests: generated, or read from the folder of assets if it is there.

use std::io::Cursor;
use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{ArrayRef, LargeBinaryArray};
use cenote_operator::{BoundOperator, Definition, OperatorSpec, Output, Registry, Rows};
use image::{DynamicImage, ImageFormat, Rgb, RgbImage};

use crate::decode::DecodeTarget;

/// Every pixel of a picture.
pub(crate) const FULL: DecodeTarget = DecodeTarget::Within(u32::MAX, u32::MAX);

/// Binds the operator of `definition` with the parameters of `spec`.
pub(crate) fn bind(definition: Definition, spec: &OperatorSpec) -> BoundOperator {
    let mut registry = Registry::default();
    registry.register(definition);
    registry.bind(spec).unwrap()
}

/// Makes a column of `rows`.
pub(crate) fn column(rows: &[&[u8]]) -> ArrayRef {
    Arc::new(LargeBinaryArray::from_vec(rows.to_vec()))
}

/// Runs `operator` over `rows`.
pub(crate) fn run(operator: &BoundOperator, rows: &[&[u8]]) -> Output {
    operator.worker().unwrap().process(&Rows::new(&[column(rows)])).unwrap()
}

/// Draws a picture with a smooth gradient and a few shapes, so that scaled pictures can be compared and hashes differ.
pub(crate) fn scene(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        let (x, y) = (x as f32 / width as f32, y as f32 / height as f32);
        let disc = (x - 0.3).powi(2) + (y - 0.4).powi(2) < 0.04;
        let band = (0.6..0.8).contains(&x) && y > 0.5;
        let wave = ((x * 9.0).sin() * (y * 7.0).cos() * 40.0) as i32;
        let at = |base: f32| (base as i32 + wave).clamp(0, 255) as u8;
        match (disc, band) {
            (true, _) => Rgb([at(220.0), at(60.0), at(40.0)]),
            (_, true) => Rgb([at(40.0), at(80.0), at(200.0)]),
            _ => Rgb([at(60.0 + 120.0 * x), at(100.0 + 80.0 * y), at(120.0)]),
        }
    })
}

/// Encodes `image` in `format`.
pub(crate) fn encode(image: impl Into<DynamicImage>, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Vec::new();
    image.into().write_to(&mut Cursor::new(&mut bytes), format).unwrap();
    bytes
}

/// Encodes `image` as a JPEG without chroma subsampling.
pub(crate) fn jpeg(image: &RgbImage, quality: i32) -> Vec<u8> {
    let mut compressor = turbojpeg::Compressor::new().unwrap();
    compressor.set_quality(quality).unwrap();
    compressor.set_subsamp(turbojpeg::Subsamp::None).unwrap();
    compressor
        .compress_to_vec(turbojpeg::Image {
            pixels: image.as_raw().as_slice(),
            width: image.width() as usize,
            pitch: image.width() as usize * 3,
            height: image.height() as usize,
            format: turbojpeg::PixelFormat::RGB,
        })
        .unwrap()
}

/// Adds an EXIF block with `orientation`, the time `taken` and a camera to `jpeg`.
pub(crate) fn with_exif(jpeg: &[u8], orientation: u16, taken: &str) -> Vec<u8> {
    let ascii = |text: &str| exif::Value::Ascii(vec![text.as_bytes().to_vec()]);
    let field = |tag, value| exif::Field { tag, ifd_num: exif::In::PRIMARY, value };
    let fields = [
        field(exif::Tag::Orientation, exif::Value::Short(vec![orientation])),
        field(exif::Tag::Make, ascii("Acme")),
        field(exif::Tag::Model, ascii("One")),
        field(exif::Tag::DateTimeOriginal, ascii(taken)),
    ];
    let mut writer = exif::experimental::Writer::new();
    fields.iter().for_each(|field| writer.push_field(field));
    let mut block = Cursor::new(Vec::new());
    writer.write(&mut block, false).unwrap();
    let block = block.into_inner();
    let mut bytes = jpeg[..2].to_vec();
    bytes.extend([0xff, 0xe1]);
    bytes.extend((block.len() as u16 + 8).to_be_bytes());
    bytes.extend(b"Exif\0\0");
    bytes.extend(block);
    bytes.extend(&jpeg[2..]);
    bytes
}

/// Makes a PNG that claims `width` × `height` pixels and has little data.
pub(crate) fn claiming_png(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = encode(RgbImage::new(1, 1), ImageFormat::Png);
    bytes[16..20].copy_from_slice(&width.to_be_bytes());
    bytes[20..24].copy_from_slice(&height.to_be_bytes());
    let sum = crc(&bytes[12..29]);
    bytes[29..33].copy_from_slice(&sum.to_be_bytes());
    bytes
}

fn crc(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |sum, &byte| {
        (0..8).fold(sum ^ u32::from(byte), |sum, _| if sum & 1 == 1 { (sum >> 1) ^ 0xedb8_8320 } else { sum >> 1 })
    })
}

/// Returns rows that no image operator can read.
pub(crate) fn unreadable() -> Vec<Vec<u8>> {
    vec![Vec::new(), b"Dear reader, this is no picture.".to_vec(), vec![7; 300], b"\xff\xd8\xff".to_vec()]
}

/// Returns the good rows of every operator's conformance test.
pub(crate) fn readable() -> Vec<Vec<u8>> {
    let scene = scene(100, 80);
    vec![
        jpeg(&scene, 90),
        encode(scene.clone(), ImageFormat::Png),
        with_exif(&jpeg(&scene, 90), 6, "2024:02:29 12:30:45"),
        encode(RgbImage::new(1, 1), ImageFormat::Bmp),
    ]
}

/// Borrows `rows` as slices.
pub(crate) fn slices(rows: &[Vec<u8>]) -> Vec<&[u8]> {
    rows.iter().map(Vec::as_slice).collect()
}

/// Reads the decoder test images, ordered by name. Says so and returns none if their folder is not there.
pub(crate) fn format_assets() -> Vec<(String, Vec<u8>)> {
    let root = std::env::var_os("CENOTE_ASSETS").map_or_else(|| "../../../shared/assets".into(), PathBuf::from);
    let Ok(folder) = std::fs::read_dir(root.join("image-formats")) else {
        eprintln!("skipped: image-formats is not there; set CENOTE_ASSETS to the folder of assets");
        return Vec::new();
    };
    let mut files: Vec<(String, Vec<u8>)> = folder
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.file_name() != "SOURCE.txt")
        .map(|entry| (entry.file_name().to_string_lossy().into_owned(), std::fs::read(entry.path()).unwrap()))
        .collect();
    files.sort();
    files
}

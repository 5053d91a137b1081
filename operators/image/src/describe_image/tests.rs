#![allow(clippy::unwrap_used)]
use arrow::array::{Array, cast::AsArray};
use arrow::datatypes::{Int32Type, TimestampMicrosecondType};
use cenote_operator::{OperatorSpec, conformance};
use image::RgbImage;

use super::*;
use crate::testing::{self, encode, jpeg, scene, with_exif};

fn run(rows: &[&[u8]]) -> Output {
    testing::run(&testing::bind(definition(), &OperatorSpec::new("describe_image")), rows)
}

#[test]
fn conforms() {
    // A missing time, camera or orientation is null, not an error.
    let (good, bad) = (testing::readable(), testing::unreadable());
    let operator = testing::bind(definition(), &OperatorSpec::new("describe_image"));
    let (good, bad) = (testing::column(&testing::slices(&good)), testing::column(&testing::slices(&bad)));
    conformance::check(&operator, &[good], &[bad]).unwrap();
}

#[test]
fn exif_is_read_and_its_absence_is_null() {
    let plain = jpeg(&scene(64, 48), 90);
    let exif = with_exif(&plain, 6, "2024:02:29 12:30:45");
    let undated = with_exif(&plain, 1, "    :  :     :  :  ");
    let output = run(&[&plain, &exif, &undated]);
    assert_eq!(output.errors, []);
    let number = |column: usize, row: usize| output.columns[column].as_primitive::<Int32Type>().value(row);
    assert_eq!([number(0, 0), number(1, 0)], [64, 48]);
    assert_eq!([number(0, 1), number(1, 1), number(3, 1)], [48, 64, 6], "as displayed");
    assert!(output.columns[3].is_null(0) && output.columns[4].is_null(0) && output.columns[5].is_null(0));
    let taken = output.columns[4].as_primitive::<TimestampMicrosecondType>();
    assert_eq!(taken.value(1), 1_709_209_845_000_000);
    assert!(taken.is_null(2));
    assert_eq!(output.columns[5].as_string::<i32>().value(1), "Acme One");
}

#[test]
fn every_format_is_named_and_measured_without_decoding() {
    let formats = [
        (ImageFormat::Jpeg, "jpeg"),
        (ImageFormat::Png, "png"),
        (ImageFormat::Gif, "gif"),
        (ImageFormat::WebP, "webp"),
        (ImageFormat::Tiff, "tiff"),
        (ImageFormat::Bmp, "bmp"),
        (ImageFormat::Ico, "ico"),
    ];
    for (format, name) in formats {
        let output = run(&[&encode(scene(31, 17), format)]);
        assert_eq!(output.errors, [], "{name}");
        assert_eq!(output.columns[2].as_string::<i32>().value(0), name);
        let number = |column: usize| output.columns[column].as_primitive::<Int32Type>().value(0);
        assert_eq!([number(0), number(1)], [31, 17], "{name}");
    }
    let huge = run(&[&testing::claiming_png(60_000, 60_000)]);
    assert_eq!(huge.columns[0].as_primitive::<Int32Type>().value(0), 60_000, "what it claims costs nothing to say");
}

#[test]
fn a_cut_picture_still_has_its_size() {
    let whole = jpeg(&RgbImage::new(300, 200), 90);
    let output = run(&[&whole[..whole.len() - 30], &whole[..8]]);
    assert_eq!(output.columns[0].as_primitive::<Int32Type>().value(0), 300);
    assert_eq!(output.errors.len(), 1);
    assert!(output.errors[0].reason.contains("truncated"));
}

#[test]
fn the_shared_formats_are_described() {
    for (name, bytes) in testing::format_assets().iter().filter(|(name, _)| !name.starts_with("bad_")) {
        let output = run(&[bytes]);
        if output.errors.is_empty() {
            assert!(output.columns[0].as_primitive::<Int32Type>().value(0) > 0, "{name}");
        }
        if name.starts_with("jpg_portrait_2") {
            let number = |column: usize| output.columns[column].as_primitive::<Int32Type>().value(0);
            assert_eq!(number(3), 2);
            assert!(number(0) < number(1), "a portrait");
        }
    }
}

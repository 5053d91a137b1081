#![allow(clippy::unwrap_used)]
use arrow::array::cast::AsArray;
use arrow::datatypes::Int64Type;
use cenote_operator::{OperatorSpec, conformance};
use image::{ImageFormat, Rgb, RgbImage, imageops};

use super::*;
use crate::testing;

fn hashes(rows: &[&[u8]]) -> Vec<i64> {
    let output = testing::run(&testing::bind(definition(), &OperatorSpec::new("hash_image")), rows);
    assert_eq!(output.errors, []);
    output.columns[0].as_primitive::<Int64Type>().values().to_vec()
}

#[test]
fn conforms() {
    let (good, bad) = (testing::readable(), testing::unreadable());
    let operator = testing::bind(definition(), &OperatorSpec::new("hash_image"));
    let (good, bad) = (testing::column(&testing::slices(&good)), testing::column(&testing::slices(&bad)));
    conformance::check(&operator, &[good], &[bad]).unwrap();
}

#[test]
fn near_pictures_have_near_hashes_and_others_have_not() {
    let scene = testing::scene(640, 480);
    let smaller = imageops::resize(&scene, 200, 150, imageops::FilterType::Triangle);
    let brighter =
        RgbImage::from_fn(640, 480, |x, y| Rgb(scene.get_pixel(x, y).0.map(|value| value.saturating_add(15))));
    let other = imageops::flip_vertical(&scene);
    let rows = [
        testing::encode(scene.clone(), ImageFormat::Png),
        testing::jpeg(&scene, 95),
        testing::jpeg(&scene, 30),
        testing::jpeg(&smaller, 80),
        testing::encode(brighter, ImageFormat::WebP),
        testing::jpeg(&other, 95),
    ];
    let hashes = hashes(&testing::slices(&rows));
    let distances: Vec<u32> = hashes.iter().map(|hash| (hash ^ hashes[0]).count_ones()).collect();
    assert!(distances[1..5].iter().all(|&distance| distance <= 6), "{distances:?}");
    assert!(distances[5] >= 20, "{distances:?}");
    assert!((28..=36).contains(&hashes[0].count_ones()), "a median splits in halves");
}

#[test]
fn one_colour_hashes_to_zero() {
    let grey = testing::encode(RgbImage::from_pixel(50, 50, Rgb([90; 3])), ImageFormat::Png);
    assert_eq!(hashes(&[&grey]), [0]);
}

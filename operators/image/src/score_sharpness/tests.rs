#![allow(clippy::unwrap_used)]
use arrow::array::cast::AsArray;
use arrow::datatypes::Float32Type;
use cenote_operator::{OperatorSpec, conformance};
use image::{ImageFormat, Luma, imageops};

use super::*;
use crate::testing;

#[test]
fn conforms() {
    let (good, bad) = (testing::readable(), testing::unreadable());
    let operator = testing::bind(definition(), &OperatorSpec::new("score_sharpness"));
    let (good, bad) = (testing::column(&testing::slices(&good)), testing::column(&testing::slices(&bad)));
    conformance::check(&operator, &[good], &[bad]).unwrap();
}

#[test]
fn a_blurred_picture_scores_lower() {
    let scene = testing::scene(256, 200);
    let rows = [
        testing::encode(scene.clone(), ImageFormat::Png),
        testing::encode(imageops::blur(&scene, 1.5), ImageFormat::Png),
        testing::encode(imageops::blur(&scene, 5.0), ImageFormat::Png),
        testing::encode(image::RgbImage::new(2, 2), ImageFormat::Png),
    ];
    let output =
        testing::run(&testing::bind(definition(), &OperatorSpec::new("score_sharpness")), &testing::slices(&rows));
    let scores = output.columns[0].as_primitive::<Float32Type>().values().to_vec();
    assert!(scores[0] > 10.0 * scores[1] && scores[1] > scores[2], "{scores:?}");
    assert_eq!(scores[3], 0.0);
}

#[test]
fn the_variance_is_exact() {
    // One white point of 8 on black: Laplacian -32 there, 8 beside it, 0 in the four corners.
    let mut luma = GrayImage::new(5, 5);
    luma.put_pixel(2, 2, Luma([8]));
    assert!((laplacian_variance(&luma) - (32.0 * 32.0 + 4.0 * 64.0) / 9.0).abs() < 1e-3);
}

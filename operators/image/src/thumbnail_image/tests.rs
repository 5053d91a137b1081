#![allow(clippy::unwrap_used)]
use arrow::array::cast::AsArray;
use cenote_operator::{OperatorSpec, Registry, conformance};

use super::*;
use crate::testing;

#[test]
fn conforms() {
    let (good, bad) = (testing::readable(), testing::unreadable());
    let operator = testing::bind(definition(), &OperatorSpec::new("thumbnail_image"));
    let (good, bad) = (testing::column(&testing::slices(&good)), testing::column(&testing::slices(&bad)));
    conformance::check(&operator, &[good], &[bad]).unwrap();
}

#[test]
fn thumbnails_keep_proportions_and_never_grow() {
    let wide = testing::jpeg(&testing::scene(640, 320), 90);
    let turned = testing::with_exif(&wide, 8, "");
    let small = testing::encode(testing::scene(30, 20), image::ImageFormat::Png);
    let thin = testing::encode(testing::scene(1000, 1), image::ImageFormat::Png);
    let operator = testing::bind(definition(), &OperatorSpec::new("thumbnail_image").with("size", 100));
    let output = testing::run(&operator, &[&wide, &turned, &small, &thin]);
    let thumbnails = output.columns[0].as_binary::<i64>();
    let sizes: Vec<(u32, u32)> = thumbnails
        .iter()
        .map(|jpeg| image::load_from_memory(jpeg.unwrap()).unwrap().into_rgb8().dimensions())
        .collect();
    assert_eq!(sizes, [(100, 50), (50, 100), (30, 20), (100, 1)]);
    assert!(thumbnails.value(0).starts_with(&[0xff, 0xd8]) && thumbnails.value(0).len() < 10_000);
}

#[test]
fn wrong_parameters_are_refused() {
    let mut registry = Registry::default();
    registry.register(definition());
    for (name, value) in [("size", 0), ("size", 5000), ("quality", 0), ("quality", 101)] {
        assert!(registry.bind(&OperatorSpec::new("thumbnail_image").with(name, value)).is_err(), "{name} {value}");
    }
}

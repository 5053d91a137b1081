#![allow(clippy::unwrap_used)]
use arrow::datatypes::Int64Type;
use cenote_operator::{OperatorSpec, conformance};

use super::*;
use crate::testing;

fn spec() -> OperatorSpec {
    OperatorSpec::new("extract_keyframes")
}

fn times(output: &Output) -> Vec<i64> {
    output.columns[0].as_primitive::<Int64Type>().values().to_vec()
}

fn picture(output: &Output, row: usize) -> image::RgbImage {
    image::load_from_memory(output.columns[1].as_binary::<i64>().value(row)).unwrap().into_rgb8()
}

#[test]
fn conforms() {
    let (mp4, mkv) = (testing::clip("mp4", 20, 10), testing::clip("matroska", 20, 10));
    let good = testing::column(&[&mp4, &mkv]);
    let bad = testing::column(&[b"", b"not a video at all", &[0u8; 5000], &testing::silence()]);
    conformance::check(&testing::bind(&spec()), &[good], &[bad]).unwrap();
}

#[test]
fn keyframes_come_with_their_times_and_pictures() {
    let mp4 = testing::clip("mp4", 40, 10);
    let output = testing::run(&spec(), &[&mp4]);
    assert_eq!(output.errors, []);
    assert_eq!(times(&output), [0, 1000, 2000, 3000]);
    assert_eq!(output.parents.as_ref().unwrap().values(), &[0, 0, 0, 0]);
    let greys: Vec<u8> = (0..4).map(|row| picture(&output, row).get_pixel(32, 24).0[0]).collect();
    assert!(greys.is_sorted() && greys[0] < 20 && greys[3] > 140, "the clip grows lighter: {greys:?}");
    assert_eq!(picture(&output, 0).dimensions(), (64, 48));
}

#[test]
fn parameters_bound_what_comes_out() {
    let mp4 = testing::clip("mp4", 40, 5);
    assert_eq!(times(&testing::run(&spec().with("min_gap_ms", 0), &[&mp4])).len(), 8);
    assert_eq!(times(&testing::run(&spec().with("min_gap_ms", 1500), &[&mp4])), [0, 1500, 3000]);
    assert_eq!(times(&testing::run(&spec().with("max_frames", 2), &[&mp4])), [0, 500]);
    let small = testing::run(&spec().with("size", 32), &[&mp4, &testing::turned(mp4.clone())]);
    assert_eq!(picture(&small, 0).dimensions(), (32, 24));
    let last = small.columns[1].len() - 1;
    assert_eq!(picture(&small, last).dimensions(), (24, 32), "turned upright");
    for (name, value) in [("max_frames", 0), ("size", 5), ("size", 100_000)] {
        let mut registry = cenote_operator::Registry::default();
        crate::register(&mut registry);
        assert!(registry.bind(&spec().with(name, value)).is_err(), "{name}");
    }
}

#[test]
fn a_cut_clip_keeps_the_keyframes_before_the_cut() {
    let mkv = testing::clip("matroska", 40, 10);
    let whole = testing::run(&spec(), &[&mkv]);
    let output = testing::run(&spec(), &[&mkv[..mkv.len() * 6 / 10]]);
    assert_eq!(output.errors, []);
    let kept = times(&output).len();
    assert!((1..4).contains(&kept), "{kept} of {:?}", times(&whole));
    assert_eq!(times(&output), times(&whole)[..kept]);
}

#[test]
fn a_clip_cut_before_its_first_keyframe_is_an_error_with_a_reason() {
    let mp4 = testing::clip("mp4", 20, 10);
    let output = testing::run(&spec(), &[&mp4[..mp4.len() / 2], &testing::silence()]);
    let reasons: Vec<&str> = output.errors.iter().map(|error| error.reason.as_str()).collect();
    assert!(reasons[0].contains("cut before its index"), "{reasons:?}");
    assert_eq!(reasons[1], "has no video stream");
    assert_eq!(output.columns[0].len(), 0);
}

#[test]
fn every_shared_video_has_keyframes() {
    let names = [
        "asl_book.mkv",
        "asl_eat.mkv",
        "asl_milk.mkv",
        "asl_yes.mkv",
        "av1_video.mkv",
        "bottle-detection.mp4",
        "car-detection.mp4",
        "h265_video.mp4",
        "nasa_13013.mp4",
        "people-detection.gif",
    ];
    for name in names {
        let Some(bytes) = testing::asset(name) else { continue };
        let output = testing::run(&spec(), &[&bytes]);
        assert_eq!(output.errors, [], "{name}");
        let times = times(&output);
        assert!(!times.is_empty() && times.is_sorted() && times[0] < 2000, "{name}: {times:?}");
        let (width, height) = picture(&output, 0).dimensions();
        assert!(width.max(height) <= 320, "{name}: {width} × {height}");
    }
}

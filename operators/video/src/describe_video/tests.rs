#![allow(clippy::unwrap_used)]
use arrow::datatypes::{Float32Type, Int32Type, Int64Type};
use cenote_operator::{OperatorSpec, conformance};

use super::*;
use crate::testing;

fn spec() -> OperatorSpec {
    OperatorSpec::new("describe_video")
}

#[test]
fn conforms() {
    let (mp4, mkv) = (testing::clip("mp4", 20, 10), testing::clip("matroska", 20, 10));
    let good = testing::column(&[&mp4, &mkv]);
    let cut = mp4[..mp4.len() / 2].to_vec();
    let bad = testing::column(&[b"", b"not a video at all", &[0u8; 5000], &testing::silence(), &cut]);
    conformance::check(&testing::bind(&spec()), &[good], &[bad]).unwrap();
}

#[test]
fn a_clip_is_described() {
    let mp4 = testing::clip("mp4", 25, 10);
    let output = testing::run(&spec(), &[&mp4, &testing::turned(mp4.clone()), &testing::silence()]);
    assert_eq!(output.columns[0].as_primitive::<Int64Type>().value(0), 2500);
    let sizes = [1, 2].map(|column| output.columns[column].as_primitive::<Int32Type>().values().to_vec());
    assert_eq!((sizes[0][0], sizes[1][0]), (64, 48));
    assert_eq!((sizes[0][1], sizes[1][1]), (48, 64), "a quarter turn swaps the sides");
    assert_eq!(output.columns[3].as_primitive::<Float32Type>().value(0), 10.0);
    assert_eq!(output.columns[4].as_string::<i32>().value(0), "mpeg4");
    assert!(!output.columns[5].as_boolean().value(0));
    assert_eq!(output.columns[6].as_primitive::<Int64Type>().value(0), 25);
    assert_eq!(output.errors.len(), 1);
    assert_eq!(output.errors[0].reason, "has no video stream");
}

#[test]
fn a_playlist_opens_no_other_file() {
    let playlist = b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/hostname\n#EXT-X-ENDLIST\n";
    let output = testing::run(&spec(), &[playlist, b"ffconcat version 1.0\nfile '/etc/hostname'\n"]);
    assert_eq!(output.errors.len(), 2);
}

#[test]
fn the_shared_videos_are_described() {
    for (name, codec, width, height, has_audio) in [
        ("asl_eat.mkv", None, 0, 0, None),
        ("av1_video.mkv", Some("av1"), 640, 360, None),
        ("bottle-detection.mp4", Some("h264"), 640, 360, None),
        ("car-detection.mp4", Some("h264"), 768, 432, None),
        ("h265_video.mp4", Some("hevc"), 128, 128, None),
        ("nasa_13013.mp4", Some("h264"), 480, 270, Some(true)),
        ("people-detection.gif", Some("gif"), 480, 270, Some(false)),
    ] {
        let Some(bytes) = testing::asset(name) else { continue };
        let output = testing::run(&spec(), &[&bytes]);
        assert_eq!(output.errors, [], "{name}");
        let number = |column: usize| output.columns[column].as_primitive::<Int32Type>().value(0);
        let found = (number(1), number(2));
        assert!(found.0 > 0 && found.1 > 0);
        assert!(width == 0 || found == (width, height), "{name}: {found:?}");
        assert!(codec.is_none_or(|codec| codec == output.columns[4].as_string::<i32>().value(0)), "{name}");
        assert!(has_audio.is_none_or(|has_audio| has_audio == output.columns[5].as_boolean().value(0)), "{name}");
        assert!(output.columns[0].as_primitive::<Int64Type>().value(0) > 0, "{name}");
    }
}

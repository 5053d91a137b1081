//! Unusual and broken pictures and clips: each yields its row or a reason, and the run goes on.

use crate::{TestLake, jpeg, root};

fn made(name: &str) -> Vec<u8> {
    std::fs::read(root().join("crates/cli/tests/media").join(name)).unwrap()
}

/// Returns `jpeg` with an EXIF block that holds only its orientation.
fn turned(jpeg: &[u8], orientation: u8) -> Vec<u8> {
    let mut block = b"Exif\0\0II*\0\x08\0\0\0".to_vec();
    block.extend(b"\x01\0\x12\x01\x03\0\x01\0\0\0");
    block.extend([orientation, 0, 0, 0, 0, 0, 0, 0]);
    let mut bytes = jpeg[..2].to_vec();
    bytes.extend([0xff, 0xe1]);
    bytes.extend((block.len() as u16 + 2).to_be_bytes());
    bytes.extend(block);
    bytes.extend(&jpeg[2..]);
    bytes
}

#[test]
fn unusual_pictures_are_read_and_broken_ones_are_counted() {
    let lake = TestLake::new();
    let whole = jpeg(64, 48);
    lake.write("in/cmyk.jpg", made("cmyk.jpg"));
    lake.write("in/turned.jpg", turned(&whole, 6));
    lake.write("in/zero.jpg", [0]);
    lake.write("in/empty.jpg", []);
    lake.write("in/noise.png", vec![0xa5; 4096]);
    lake.write("in/cut.jpg", &whole[..40]);
    lake.ok(&["ingest", "photos", "in"]);
    lake.write(
        "r.yaml",
        "name: r
steps:
  - { table: photos, operator: describe_image, input: data }
  - { table: photos, operator: thumbnail_image, input: data, params: { size: 32 } }
  - { table: photos, operator: hash_image, input: data }
",
    );
    let run = lake.run(&["run", "r.yaml", "--quiet"]);
    let notes = String::from_utf8(run.stderr).unwrap();
    assert!(run.status.success(), "{notes}");
    assert!(notes.contains("thumbnail_image    6 of 6 rows, 4 failed"), "{notes}");
    assert!(notes.contains("`cenote errors photos` says why"), "{notes}");
    // Rotated by its orientation: width and height are swapped.
    let good = lake.json(
        "SELECT name, width, height, orientation, phash IS NOT NULL AS hashed
         FROM photos WHERE thumbnail IS NOT NULL ORDER BY name",
    );
    assert_eq!(
        good,
        [
            serde_json::json!({"name": "cmyk.jpg", "width": 40, "height": 30, "orientation": null, "hashed": true}),
            serde_json::json!({"name": "turned.jpg", "width": 48, "height": 64, "orientation": 6, "hashed": true}),
        ]
    );
    let errors = lake.json("SELECT row_key, operator, reason FROM cenote_errors WHERE table_name = 'photos'");
    let failed = |name: &str| errors.iter().filter(|row| row["row_key"].as_str().unwrap().contains(name)).count();
    for name in ["zero.jpg", "empty.jpg", "noise.png", "cut.jpg"] {
        assert!(failed(name) >= 2, "{name}: {errors:?}");
    }
    assert_eq!(failed("cmyk.jpg") + failed("turned.jpg"), 0, "{errors:?}");
}

#[test]
fn clips_without_picture_or_end_do_not_stop_a_run() {
    let lake = TestLake::new();
    let clip = made("clip.mp4");
    lake.write("in/clip.mp4", &clip);
    lake.write("in/cut.mp4", &clip[..clip.len() / 2]);
    lake.write("in/head.mp4", &clip[..600]);
    lake.write("in/sound.mp4", made("sound.mp4"));
    lake.write("in/text.mp4", "these are words");
    lake.ok(&["ingest", "clips", "in"]);
    lake.write(
        "r.yaml",
        "name: r
steps:
  - { table: clips, operator: describe_video, input: data }
  - { table: clips, operator: extract_keyframes, input: data, into: frames }
",
    );
    let run = lake.run(&["run", "r.yaml", "--quiet"]);
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let frames = lake.json("SELECT path, count(*) AS frames FROM frames GROUP BY path ORDER BY path");
    assert_eq!(frames.len(), 2, "{frames:?}");
    assert_eq!(frames[0], serde_json::json!({"path": "in/clip.mp4", "frames": 3}));
    assert_eq!(frames[1]["path"], "in/cut.mp4");
    assert!((1..3).contains(&frames[1]["frames"].as_i64().unwrap()), "{frames:?}");
    let errors =
        lake.json("SELECT row_key, reason FROM cenote_errors WHERE operator = 'extract_keyframes' ORDER BY row_key");
    let keys: Vec<&str> = errors.iter().map(|row| row["row_key"].as_str().unwrap()).collect();
    assert_eq!(keys, [r#"["in/head.mp4"]"#, r#"["in/sound.mp4"]"#, r#"["in/text.mp4"]"#]);
    assert_eq!(errors[1]["reason"], "has no video stream");
}

#[test]
fn a_device_gives_what_the_cpu_gives() {
    let lake = TestLake::new();
    for number in 0..20 {
        lake.write(&format!("in/{number:02}.jpg"), jpeg(40 + 7 * number, 60 + 3 * number));
    }
    lake.write("in/broken.jpg", [0]);
    let recipe = "name: r\nsteps:\n  \
                  - { table: photos, operator: hash_image, input: data }\n  \
                  - { table: photos, operator: resize_image, input: data, \
                  params: { width: 31, height: 24, fit: cover } }\n";
    lake.write("r.yaml", recipe);
    let (mut hashes, mut pixels) = (Vec::new(), Vec::new());
    for device in ["cpu", "software"] {
        let at = ["--lake", device];
        lake.ok(&[&at[..], &["init"]].concat());
        lake.ok(&[&at[..], &["ingest", "photos", "in"]].concat());
        let plan = lake.run(&[&at[..], &["run", "r.yaml", "--dry-run", "1", "--device", device]].concat());
        let plan = String::from_utf8(plan.stderr).unwrap();
        assert_eq!(plan.contains("a share of a gpu"), device == "software", "{plan}");
        lake.ok(&[&at[..], &["run", "r.yaml", "--quiet", "--device", device, "--trace", "trace.json"]].concat());
        // The device's thread.
        let trace = std::fs::read_to_string(lake.0.path().join("trace.json")).unwrap();
        assert_eq!(trace.contains("cenote-gpu-0"), device == "software", "{trace}");
        let query = "SELECT name, phash, pixels FROM photos ORDER BY name";
        let rows = lake.ok(&[&at[..], &["sql", query, "--format", "json"]].concat());
        let rows = rows.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        let rows: Vec<_> = rows.collect();
        hashes.push(rows.iter().map(|row| row["phash"].as_i64()).collect::<Vec<_>>());
        let levels = |row: &serde_json::Value| -> Vec<i64> {
            row["pixels"].as_array().into_iter().flatten().map(|level| level.as_i64().unwrap()).collect()
        };
        pixels.push(rows.iter().map(levels).collect::<Vec<_>>());
        let errors = lake.ok(&[&at[..], &["errors", "photos"]].concat());
        assert!(errors.contains("broken.jpg"), "{errors}");
    }
    assert_eq!(hashes[0].iter().flatten().count(), 20);
    for (cpu, device) in hashes[0].iter().zip(&hashes[1]) {
        assert_eq!(cpu.is_some(), device.is_some());
        let differ = (cpu.unwrap_or(0) ^ device.unwrap_or(0)).count_ones();
        assert!(differ <= 2, "{cpu:?} and {device:?}");
    }
    assert_eq!(pixels[0].iter().filter(|levels| levels.len() == 31 * 24 * 3).count(), 20);
    for (cpu, device) in pixels[0].iter().zip(&pixels[1]) {
        assert_eq!(cpu.len(), device.len());
        assert!(cpu.iter().zip(device).all(|(cpu, device)| cpu.abs_diff(*device) <= 1));
    }
}

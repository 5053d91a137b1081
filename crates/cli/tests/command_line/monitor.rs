//! Observing a working process: from another process, and afterwards in a timeline.
#![cfg(target_os = "linux")]

use std::process::{Command, Stdio};

use crate::{TestLake, jpeg};

const RECIPE: &str = "name: r
steps:
  - { table: photos, operator: thumbnail_image, input: data, params: { size: 400 } }
  - { table: photos, operator: score_sharpness, input: data }
";

fn lake_of_pictures(count: u16) -> TestLake {
    let lake = TestLake::new();
    let picture = jpeg(1600, 1200);
    for number in 0..count {
        // Bytes after the end of a JPEG make the files differ.
        lake.write(&format!("in/{number:03}.jpg"), [picture.as_slice(), &number.to_le_bytes()].concat());
    }
    lake.ok(&["ingest", "photos", "in", "--quiet"]);
    lake.write("r.yaml", RECIPE);
    lake
}

#[test]
fn top_shows_a_run_from_outside_until_sigterm_ends_it() {
    let lake = lake_of_pictures(300);
    let sockets = tempfile::tempdir().unwrap();
    let top = || {
        let output = lake.command(&["top", "--once"]).env("XDG_RUNTIME_DIR", sockets.path()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(top(), "nothing runs\n");

    let mut run = lake.command(&["run", "r.yaml", "--cpus", "1"]);
    let run = run.env("XDG_RUNTIME_DIR", sockets.path()).stderr(Stdio::piped()).spawn().unwrap();
    let seen = loop {
        let page = top();
        if page.contains("  stage   ") && page.contains("  runs    ") {
            break page;
        }
    };
    assert!(seen.starts_with(&format!("process {}: cenote run r.yaml --cpus 1 on lake, ", run.id())), "{seen}");
    assert!(seen.contains("/300, ") && seen.contains(": photos: thumbnail_image, score_sharpness\n"), "{seen}");
    assert!(seen.contains("  runs    thumbnail_image, score_sharpness for "), "{seen}");
    assert!(seen.contains("  cpu     1 of 1 cores held, "), "{seen}");

    assert!(Command::new("kill").args(["-TERM", &run.id().to_string()]).status().unwrap().success());
    let ended = run.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(1));
    let notes = String::from_utf8_lossy(&ended.stderr);
    assert!(
        notes.ends_with(
            "stopping; what is committed stays, and the next run resumes there\nerror: the run was cancelled\n"
        ),
        "{notes}"
    );
    assert_eq!(top(), "nothing runs\n");
}

#[test]
fn a_timeline_has_every_task_on_its_thread() {
    let lake = lake_of_pictures(70);
    lake.ok(&["run", "r.yaml", "--trace", "trace.json", "--cpus", "2"]);
    let trace = std::fs::read_to_string(lake.0.path().join("trace.json")).unwrap();
    let trace: serde_json::Value = serde_json::from_str(&trace).unwrap();
    let events = trace.as_array().unwrap();
    let tasks = events.iter().filter(|event| event["ph"] == "X" && event["name"] == "thumbnail_image, score_sharpness");
    // Pieces have 64 rows at most.
    assert!(tasks.clone().count() >= 2, "{events:?}");
    for task in tasks {
        let is_name = |event: &&serde_json::Value| event["ph"] == "M" && event["tid"] == task["tid"];
        let name = events.iter().find(is_name).unwrap()["args"]["name"].as_str().unwrap();
        assert!(name.starts_with("cenote-cpu-"), "{name}");
    }
    lake.fails(&["run", "r.yaml", "--trace", "none/trace.json"], 1);
}

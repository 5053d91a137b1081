//! Closed pipes and Ctrl-C.
#![cfg(target_os = "linux")]

use std::io::Read;
use std::process::{Child, Command, Stdio};

use crate::{TestLake, jpeg};

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let lake = TestLake::new();
    lake.write("in/a.txt", "words");
    lake.ok(&["ingest", "notes", "in"]);
    // More than a pipe buffers.
    let numbers = "SELECT path, i FROM notes, (SELECT unnest(range(0, 100000)) AS i) n";
    for format in ["csv", "json", "arrow", "table"] {
        let mut child = lake.command(&["sql", numbers, "--format", format]);
        let mut child = child.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut start = [0; 4];
        let mut output = child.stdout.take().unwrap();
        output.read_exact(&mut start).unwrap();
        drop(output);
        let end = child.wait_with_output().unwrap();
        assert_eq!(String::from_utf8_lossy(&end.stderr), "", "{format}");
        assert!(end.status.success(), "{format}");
    }
}

#[test]
fn a_full_device_is_an_error_and_a_full_log_is_none() {
    let full = || std::fs::OpenOptions::new().write(true).open("/dev/full");
    let (Ok(results), Ok(notes)) = (full(), full()) else {
        eprintln!("skipped: this system has no /dev/full");
        return;
    };
    let lake = TestLake::new();
    let output = lake.command(&["operators"]).stdout(results).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).starts_with("error: write results: "));
    lake.write("in/a.txt", "words");
    assert!(lake.command(&["ingest", "notes", "in"]).stderr(notes).status().unwrap().success());
}

/// Sends SIGINT to `child` as soon as it handles the signal; returns whether it did not end before.
fn interrupt(child: &mut Child) -> bool {
    let process = format!("/proc/{}/status", child.id());
    let listens = || {
        let status = std::fs::read_to_string(&process).ok()?;
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"))?.trim().to_owned();
        // SIGINT is number 2: the second bit.
        Some(u64::from_str_radix(&caught, 16).unwrap() & 2 != 0)
    };
    while !listens().unwrap_or(false) {
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        std::thread::yield_now();
    }
    Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success()
}

#[test]
fn ctrl_c_ends_a_run_and_the_next_one_goes_on() {
    let lake = TestLake::new();
    let picture = jpeg(1600, 1200);
    for number in 0..200u8 {
        // Bytes after the end of a JPEG make the files differ.
        lake.write(&format!("in/{number:03}.jpg"), [picture.as_slice(), &[number]].concat());
    }
    lake.ok(&["ingest", "photos", "in", "--quiet"]);
    lake.write(
        "r.yaml",
        "name: r
steps:
  - { table: photos, operator: thumbnail_image, input: data, params: { size: 800 } }
  - { table: photos, operator: score_sharpness, input: data }
",
    );
    let mut child = lake.command(&["run", "r.yaml", "--cpus", "1"]).stderr(Stdio::piped()).spawn().unwrap();
    let pressed = interrupt(&mut child);
    let output = child.wait_with_output().unwrap();
    let notes = String::from_utf8_lossy(&output.stderr);
    // A very fast machine may be done first; the signal must not kill the process.
    assert!(matches!(output.status.code(), Some(0 | 1)), "{}: {notes}", output.status);
    if pressed && output.status.code() == Some(1) {
        assert!(
            notes.contains("what is committed stays") && notes.lines().last().unwrap().starts_with("error: "),
            "{notes}"
        );
    }
    let rows = lake.json("SELECT count(*) AS n, count(DISTINCT path) AS keys FROM photos");
    assert_eq!(rows[0], serde_json::json!({"n": 200, "keys": 200}));
    lake.ok(&["run", "r.yaml", "--quiet"]);
    let rows = lake.json("SELECT count(thumbnail) AS thumbnails, count(sharpness) AS scores FROM photos");
    assert_eq!(rows[0], serde_json::json!({"thumbnails": 200, "scores": 200}));
}

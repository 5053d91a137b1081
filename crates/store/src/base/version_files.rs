//! The files that a version of a base on a local disk names, and syncing them before the version exists.

use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};

use cenote_base::{Context, Result};
use lance::Dataset;
use lance::index::DatasetIndexExt;
use lance_io::local::to_local_path;
use lance_table::format::{Fragment, IndexMetadata, Manifest};
use lance_table::io::deletion::relative_deletion_file_path;

use crate::blocking::blocking;
use crate::errors::lance_error;
use crate::files::durable;

const DATA: &str = "data";
const INDICES: &str = "_indices";

/// The files that a version names, as paths relative to the dataset.
#[derive(Debug, Default)]
pub(crate) struct VersionFiles {
    files: HashSet<PathBuf>,
    /// Directories whose files the version names by the directory alone, or through a file of the same stem.
    directories: HashSet<PathBuf>,
}

impl VersionFiles {
    /// Returns the files of the version that `manifest` and `indices` describe.
    pub(crate) fn new(manifest: &Manifest, indices: &[IndexMetadata]) -> Self {
        let mut all = Self::default();
        manifest.fragments.iter().for_each(|fragment| all.add(fragment));
        all.directories.extend(indices.iter().map(|index| Path::new(INDICES).join(index.uuid.to_string())));
        all
    }

    /// Returns the files of `dataset`.
    pub(crate) async fn of(dataset: &Dataset) -> Result<Self> {
        let indices = dataset.load_indices().await.map_err(lance_error)?;
        let mut all = Self::new(dataset.manifest(), &indices);
        if dataset.manifest().transaction_section.is_none() {
            all.add_transaction(dataset.manifest());
        }
        Ok(all)
    }

    /// Adds the file of the transaction that made the version, which is needed if the manifest has no copy of it.
    pub(crate) fn add_transaction(&mut self, manifest: &Manifest) {
        let name = manifest.transaction_file.iter().filter(|name| !name.is_empty());
        self.files.extend(name.map(|name| Path::new("_transactions").join(name)));
    }

    /// Returns the files of `fragments` alone.
    pub(crate) fn of_fragments(fragments: &[Fragment]) -> Self {
        let mut all = Self::default();
        fragments.iter().for_each(|fragment| all.add(fragment));
        all
    }

    fn add(&mut self, fragment: &Fragment) {
        for file in fragment.referenced_lance_files().filter(|file| file.base_id.is_none()) {
            let path = Path::new(DATA).join(&file.path);
            // Holds media that do not fit into the file itself.
            self.directories.insert(path.with_extension(""));
            self.files.insert(path);
        }
        if let Some(deletions) = fragment.deletion_file.as_ref().filter(|file| file.base_id.is_none()) {
            self.files.insert(relative_deletion_file_path(fragment.id, deletions).into());
        }
    }

    /// Syncs the files that `before`, an earlier version of the same dataset, does not name, and the directories that
    /// lead to them from the dataset's parent.
    ///
    /// # Errors
    /// `NotFound` when a file does not exist.
    pub(crate) async fn sync(self, dataset: PathBuf, before: Option<Self>) -> Result<()> {
        let (files, directories) = blocking(move || self.added(&dataset, before)).await?;
        durable::sync(files, directories).await
    }

    /// Returns the files and directories that [`sync`](Self::sync) syncs.
    fn added(&self, dataset: &Path, before: Option<Self>) -> Result<(Vec<PathBuf>, BTreeSet<PathBuf>)> {
        let mut directories = BTreeSet::new();
        if before.is_none() {
            directories.extend([Some(dataset), dataset.parent()].into_iter().flatten().map(Path::to_owned));
        }
        let before = before.unwrap_or_default();
        // Directories whose names are durable, because something in them is.
        let mut named = HashSet::from([Path::new("")]);
        named.extend(before.files.iter().chain(&before.directories).filter_map(|path| path.parent()));

        let mut files: Vec<PathBuf> = self.files.difference(&before.files).cloned().collect();
        for directory in self.directories.difference(&before.directories) {
            list(dataset, directory, &mut files)?;
        }
        for file in &files {
            for directory in file.ancestors().skip(1) {
                if !directories.insert(dataset.join(directory)) || named.contains(directory) {
                    break;
                }
            }
        }
        Ok((files.into_iter().map(|file| dataset.join(file)).collect(), directories))
    }
}

/// Adds the files below `directory` of `dataset`, if it exists.
fn list(dataset: &Path, directory: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let path = dataset.join(directory);
    let entries = match std::fs::read_dir(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries.context(|| format!("list {}", path.display()))?,
    };
    for entry in entries {
        let entry = entry?;
        let below = directory.join(entry.file_name());
        match entry.file_type()?.is_dir() {
            true => list(dataset, &below, files)?,
            false => files.push(below),
        }
    }
    Ok(())
}

/// Syncs what `new` names and `old` does not, and `new` itself: a tool that syncs nothing may have made it.
pub(crate) async fn sync_adopted(old: &Dataset, new: &Dataset) -> Result<()> {
    let store = new.object_store(None).await.map_err(lance_error)?;
    if !store.has_direct_local_paths() {
        return Ok(());
    }
    let dataset = PathBuf::from(to_local_path(&new.branch_location().path));
    let before = VersionFiles::of(old).await?;
    VersionFiles::of(new).await?.sync(dataset, Some(before)).await?;
    let manifest = PathBuf::from(to_local_path(&new.manifest_location().path));
    let versions = manifest.parent().map(Path::to_owned);
    durable::sync(vec![manifest], versions.into_iter().collect()).await
}

/// Syncs rows that were staged for `dataset`, so that they are durable before they are committed.
pub(crate) async fn sync_staged(dataset: &Dataset, fragments: &[Fragment]) -> Result<()> {
    let store = dataset.object_store(None).await.map_err(lance_error)?;
    if !store.has_direct_local_paths() {
        return Ok(());
    }
    let path = PathBuf::from(to_local_path(&dataset.branch_location().path));
    VersionFiles::of_fragments(fragments).sync(path, Some(VersionFiles::of(dataset).await?)).await
}

/// Runs `work`, which writes new files of `dataset`, as [`durable::flushing`] does.
///
/// # Errors
/// Those of `work`, or of a failed write.
pub(crate) async fn flushing<T>(dataset: &Dataset, work: impl Future<Output = Result<T>>) -> Result<T> {
    let store = dataset.object_store(None).await.map_err(lance_error)?;
    if !store.has_direct_local_paths() {
        return work.await;
    }
    let path = PathBuf::from(to_local_path(&dataset.branch_location().path));
    durable::flushing([DATA, INDICES].map(|folder| path.join(folder)).to_vec(), work).await
}

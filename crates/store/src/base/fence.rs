//! The fence: a commit to a base must follow the newest version that its process knows.
//!
//! Lance rebases a commit onto those of other processes if their rows do not overlap. That would be wrong here: two
//! folds of the same writes would each insert them. A process that lost its lease, or was overtaken by another tool,
//! fails instead, and then loads the version that it did not know.
//!
//! A commit also syncs the files that its version names before the version exists.

use std::fmt::Debug;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use futures::stream::BoxStream;
use lance::io::{ObjectStore, ObjectStoreParams};
use lance_core::{Error, Result};
use lance_io::local::to_local_path;
use lance_table::format::{IndexMetadata, Manifest, Transaction};
use lance_table::io::commit::{
    CommitError, CommitHandler, ManifestLocation, ManifestNamingScheme, ManifestWriter, commit_handler_from_url,
};
use lance_table::io::manifest::{read_manifest, read_manifest_indexes};
use object_store::path::Path;

use crate::base::version_files::VersionFiles;

/// A gate that takes the right to commit, only for the duration of the commit.
#[async_trait]
pub(crate) trait CommitGate: Debug + Send + Sync {
    /// Waits for the right to commit `version` of the base.
    ///
    /// # Errors
    /// `CommitConflict` when the base has moved; `Conflict` when files that it names may be gone.
    async fn enter(self: Arc<Self>, version: u64) -> std::result::Result<Box<dyn EnteredGate>, CommitError>;
}

/// The right to commit the next version.
#[async_trait]
pub(crate) trait EnteredGate: Send {
    /// Logs `version`, which was committed, and releases the right.
    async fn log(self: Box<Self>, version: u64) -> std::result::Result<(), CommitError>;
}

/// A commit handler that admits only the next version.
#[derive(Debug)]
pub(crate) struct Fence {
    inner: Arc<dyn CommitHandler>,
    known: Arc<AtomicU64>,
    /// Takes the right to commit when Lance is about to commit; without a gate, the caller holds the right.
    gate: Option<Arc<dyn CommitGate>>,
}

impl Fence {
    /// Makes the fence of the dataset at `uri`, of which no version is known yet.
    pub(crate) async fn new(uri: &str, params: ObjectStoreParams) -> Result<Self> {
        Ok(Self { inner: commit_handler_from_url(uri, &Some(params)).await?, known: Arc::default(), gate: None })
    }

    /// Returns this fence with `gate` in front of it.
    pub(crate) fn behind(&self, gate: Arc<dyn CommitGate>) -> Self {
        Self { inner: Arc::clone(&self.inner), known: Arc::clone(&self.known), gate: Some(gate) }
    }

    /// Returns whether `version` is the next one.
    pub(crate) fn is_next(&self, version: u64) -> bool {
        version == self.known.load(Ordering::Acquire) + 1
    }

    /// Records a version that was committed.
    pub(crate) fn learn(&self, version: u64) {
        self.known.fetch_max(version, Ordering::AcqRel);
    }

    /// Syncs `files`, which version `version` is about to name, except for those that the version before it names.
    async fn sync_files(&self, files: VersionFiles, version: u64, base: &Path, store: &ObjectStore) -> Result<()> {
        let before = match version - 1 {
            0 => None,
            version => {
                let location = self.inner.resolve_version_location(base, version, &store.inner).await?;
                let manifest = read_manifest(store, &location.path, location.size).await?;
                let indices = read_manifest_indexes(store, &location, &manifest).await?;
                Some(VersionFiles::new(&manifest, &indices))
            }
        };
        let synced = files.sync(PathBuf::from(to_local_path(base)), before).await;
        synced.map_err(|error| Error::io_source(Box::new(error)))
    }
}

#[async_trait]
impl CommitHandler for Fence {
    fn is_version_not_found_definitive(&self) -> bool {
        self.inner.is_version_not_found_definitive()
    }

    fn propagate_commit_error_after_success(&self) -> bool {
        self.inner.propagate_commit_error_after_success()
    }

    async fn resolve_latest_location(&self, base: &Path, store: &ObjectStore) -> Result<ManifestLocation> {
        self.inner.resolve_latest_location(base, store).await
    }

    async fn resolve_version_location(
        &self,
        base: &Path,
        version: u64,
        store: &dyn object_store::ObjectStore,
    ) -> Result<ManifestLocation> {
        self.inner.resolve_version_location(base, version, store).await
    }

    async fn version_exists(
        &self,
        base: &Path,
        version: u64,
        store: &dyn object_store::ObjectStore,
        naming: ManifestNamingScheme,
    ) -> Result<bool> {
        self.inner.version_exists(base, version, store, naming).await
    }

    fn list_detached_manifest_locations<'a>(
        &self,
        base: &Path,
        store: &'a ObjectStore,
    ) -> BoxStream<'a, Result<ManifestLocation>> {
        self.inner.list_detached_manifest_locations(base, store)
    }

    fn list_manifest_locations<'a>(
        &self,
        base: &Path,
        store: &'a ObjectStore,
        sorted_descending: bool,
    ) -> BoxStream<'a, Result<ManifestLocation>> {
        self.inner.list_manifest_locations(base, store, sorted_descending)
    }

    fn list_manifest_locations_since<'a>(
        &self,
        base: &Path,
        store: &'a ObjectStore,
        since: u64,
    ) -> BoxStream<'a, Result<ManifestLocation>> {
        self.inner.list_manifest_locations_since(base, store, since)
    }

    async fn commit(
        &self,
        manifest: &mut Manifest,
        indices: Option<Vec<IndexMetadata>>,
        base: &Path,
        store: &ObjectStore,
        writer: ManifestWriter,
        naming: ManifestNamingScheme,
        transaction: Option<Transaction>,
    ) -> std::result::Result<ManifestLocation, CommitError> {
        let version = manifest.version;
        if store.has_direct_local_paths() {
            let mut files = VersionFiles::new(manifest, indices.as_deref().unwrap_or_default());
            if transaction.is_none() {
                files.add_transaction(manifest);
            }
            self.sync_files(files, version, base, store).await?;
        }
        let entered = match &self.gate {
            Some(gate) => Some(Arc::clone(gate).enter(version).await?),
            None if self.is_next(version) => None,
            None => {
                let what = format!("another process committed version {} of the base; try again", version - 1);
                return Err(CommitError::OtherError(Error::commit_conflict_source(version, what.into())));
            }
        };
        let location = self.inner.commit(manifest, indices, base, store, writer, naming, transaction).await?;
        self.learn(version);
        if let Some(entered) = entered {
            entered.log(version).await?;
        }
        Ok(location)
    }

    async fn delete(&self, base: &Path) -> Result<()> {
        self.inner.delete(base).await
    }
}

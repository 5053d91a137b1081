//! The indexes in memory: their graphs, which searches and upkeep share.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::sync::Arc;

use cenote_base::{Progress, Result};
use cenote_store::Snapshot;

use super::Indexes;
use crate::build::watch::silent;
use crate::catalog::{Catalog, Index};
use crate::kind::VectorOptions;
use crate::vector::resident::graph::ResidentIndex;
use crate::vector::resident::graph::refresh::RefreshOptions;
use crate::vector::resident::saved;

impl Indexes {
    /// Returns the graph of `index`, whose options are `options`: an empty one if it is not in memory yet.
    pub(crate) fn resident(&self, snapshot: &Snapshot, index: &Index, options: &VectorOptions) -> Arc<ResidentIndex> {
        let key = (snapshot.identity(), index.name.clone());
        let field = index.definition.field;
        let mut residents = self.shared.residents.lock();
        if let Some(known) = residents.get(&key).filter(|known| known.is_of(field, options)) {
            return Arc::clone(known);
        }
        let made = Arc::new(ResidentIndex::new(snapshot.base().uri(), field, options.clone()));
        residents.insert(key, Arc::clone(&made));
        made
    }

    /// Starts to refresh `index` in the background, unless a refresh is running.
    pub(crate) fn spawn_refresh(&self, snapshot: &Snapshot, index: &Index, resident: &ResidentIndex) {
        // An index that did not fit still does not: only upkeep and explicit requests try again.
        if resident.is_refreshing() || resident.failure().is_some() {
            return;
        }
        let definition = index.definition.clone();
        let index = Index { name: index.name.clone(), column: index.column.clone(), definition, built: None };
        let (indexes, snapshot) = (self.clone(), snapshot.clone());
        tokio::spawn(async move {
            // Concurrent searches need threads too.
            let threads = (indexes.shared.options.threads / 2).max(1);
            if let Err(error) = indexes.refresh_resident(&snapshot, &index, threads, &silent()).await {
                let what = "the index cannot be brought into memory: searches continue without it";
                tracing::warn!(%error, index = index.name, "{what}");
            }
        });
    }

    /// Brings `index` up to `snapshot` in memory, with all threads.
    pub(crate) async fn make_resident(
        &self,
        snapshot: &Snapshot,
        index: &Index,
        progress: &Arc<dyn Progress>,
    ) -> Result<()> {
        self.refresh_resident(snapshot, index, self.shared.options.threads, progress).await
    }

    async fn refresh_resident(
        &self,
        snapshot: &Snapshot,
        index: &Index,
        threads: usize,
        progress: &Arc<dyn Progress>,
    ) -> Result<()> {
        let Some(options) = index.definition.kind.resident_options() else { return Ok(()) };
        let resident = self.resident(snapshot, index, options);
        let fragments = self.fragments(snapshot).await?;
        let others: u64 = {
            let (table, uri) = (snapshot.identity(), snapshot.base().uri());
            let mut residents = self.shared.residents.lock();
            // A former table at the same location no longer needs its graphs.
            residents.retain(|(owner, _), known| *owner == table || known.table_uri() != uri);
            let others = residents.values().filter(|other| !Arc::ptr_eq(other, &resident));
            others.map(|other| other.capacity_bytes()).sum()
        };
        let options = RefreshOptions {
            capacity_bytes: self.shared.options.memory_bytes_max.0.saturating_sub(others),
            file: self.file(snapshot, &index.name),
            threads,
            save_every: self.shared.options.save_every,
            progress: Arc::clone(progress),
            examined: self.shared.examined.clone(),
        };
        Box::pin(resident.refresh(snapshot, index, &fragments, &options)).await
    }

    /// Drops the graphs of indexes that `catalog`, of `snapshot`, no longer has: another process dropped them.
    pub(super) fn forget_dropped(&self, snapshot: &Snapshot, catalog: &Catalog) {
        let is_known = |name: &String| catalog.indexes.iter().any(|index| index.name == *name);
        let dropped: Vec<String> = {
            let residents = self.shared.residents.lock();
            let ours = residents.iter().filter(|((table, _), _)| *table == snapshot.identity());
            // An index that is being created has a graph before it is in a catalog.
            let dropped = ours.filter(|((_, name), resident)| !is_known(name) && !resident.is_refreshing());
            dropped.map(|((_, name), _)| name.clone()).collect()
        };
        dropped.iter().for_each(|name| self.forget(snapshot, name));
    }

    /// Drops the graph of index `name`, in memory and on disk, if the index is resident.
    pub(super) fn forget(&self, snapshot: &Snapshot, name: &str) {
        let key = (snapshot.identity(), name.to_owned());
        self.shared.residents.lock().remove(&key);
        if let Some(file) = self.file(snapshot, name) {
            saved::remove(&file);
        }
    }

    /// Returns the file in which the graph of index `name` is saved.
    fn file(&self, snapshot: &Snapshot, name: &str) -> Option<PathBuf> {
        let mut hasher = DefaultHasher::new();
        (snapshot.base().uri(), name).hash(&mut hasher);
        let directory = self.shared.options.directory.as_ref()?;
        Some(directory.join(format!("{:016x}.json", hasher.finish())))
    }
}

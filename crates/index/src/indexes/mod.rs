//! The indexes of a store's tables, and the caches that searches share.
//!
//! Upkeep and the indexes in memory have a file each. This part does not know how a search finds its rows.

mod residents;
mod upkeep;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use cenote_base::sync::Mutex;
use cenote_base::{Error, ErrorKind, Result};
use cenote_store::{Filter, Snapshot, Table};
use lance::dataset::scanner::RowAddrTreeMap;

use crate::catalog::{Catalog, IndexInfo, outline};
use crate::options::IndexOptions;
use crate::rows::cache::Cache;
use crate::rows::filtered::{FilterCache, FilteredRows};
use crate::rows::fragments::{Examined, Fragments};
use crate::rows::row_set;
use crate::text::unindexed::UnindexedTextCache;
use crate::vector::partition::FilteredPositions;
use crate::vector::resident::graph::ResidentIndex;
use crate::vector::unindexed::UnindexedVectorCache;

/// Bases whose catalogs are cached, at most. A catalog keeps opened indexes and some bits per row.
const CATALOGS_MAX: usize = 16;
/// The part of the cached bytes for rows that satisfy filters: `1 / FILTERED_SHARE`.
const FILTERED_SHARE: usize = 6;
/// The part of the cached bytes for the positions of those rows in indexes on disk: `1 / POSITIONS_SHARE`.
const POSITIONS_SHARE: usize = 6;
/// Caches of unindexed vectors (2) and texts (5), each of which takes an equal part of the rest.
const UNINDEXED_CACHES: usize = 7;

/// The indexes of any number of tables. Cheap to clone; clones share what is in memory.
#[derive(Clone)]
pub struct Indexes {
    shared: Arc<Shared>,
}

struct Shared {
    options: IndexOptions,
    catalogs: Cache<Catalog>,
    fragments: Cache<Fragments>,
    examined: Examined,
    /// The indexes in memory, by the identity of the table and the name of the index.
    residents: Mutex<HashMap<(u64, String), Arc<ResidentIndex>>>,
    unindexed_vectors: UnindexedVectorCache,
    unindexed_texts: UnindexedTextCache,
    filtered: FilterCache,
    positions: Cache<FilteredPositions>,
}

impl fmt::Debug for Indexes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Indexes").field("options", &self.shared.options).finish_non_exhaustive()
    }
}

impl Default for Indexes {
    fn default() -> Self {
        Self::new(IndexOptions::default())
    }
}

impl Indexes {
    /// Makes an empty registry with `options`.
    pub fn new(options: IndexOptions) -> Self {
        let bytes = options.cache_bytes_max.0 as usize;
        let unindexed_bytes = (bytes - bytes / FILTERED_SHARE - bytes / POSITIONS_SHARE) / UNINDEXED_CACHES;
        let examined = Examined::default();
        let shared = Shared {
            catalogs: Cache::new(CATALOGS_MAX),
            fragments: Cache::new(CATALOGS_MAX),
            residents: Mutex::default(),
            unindexed_vectors: UnindexedVectorCache::new(unindexed_bytes, examined.clone()),
            unindexed_texts: UnindexedTextCache::new(unindexed_bytes, examined.clone()),
            filtered: FilterCache::new(bytes / FILTERED_SHARE, examined.clone()),
            positions: Cache::new(bytes / POSITIONS_SHARE),
            examined,
            options,
        };
        Self { shared: Arc::new(shared) }
    }

    pub(crate) fn unindexed_vectors(&self) -> &UnindexedVectorCache {
        &self.shared.unindexed_vectors
    }

    pub(crate) fn unindexed_texts(&self) -> &UnindexedTextCache {
        &self.shared.unindexed_texts
    }

    /// Returns the rows of `snapshot` that satisfy `filter`.
    pub(crate) async fn filtered(&self, snapshot: &Snapshot, filter: &Filter) -> Result<FilteredRows> {
        let fragments = self.fragments(snapshot).await?;
        self.shared.filtered.rows(snapshot, &fragments, filter).await
    }

    pub(crate) fn positions(&self) -> &Cache<FilteredPositions> {
        &self.shared.positions
    }

    pub(crate) fn examined(&self) -> &Examined {
        &self.shared.examined
    }

    /// Returns the number of rows that were read so far to fill the caches of searches: of live rows, of filtered rows
    /// and of rows that no index has. It grows with what is written, not with the size of the tables.
    pub fn rows_examined(&self) -> u64 {
        self.shared.examined.rows()
    }

    /// Returns the fragments of the base of `snapshot`, with their live rows.
    pub(crate) async fn fragments(&self, snapshot: &Snapshot) -> Result<Arc<Fragments>> {
        let known = &self.shared.fragments;
        if let Some(known) = known.get(snapshot, "") {
            return Ok(known);
        }
        let former = known.last(snapshot, "");
        let fragments = Fragments::read(snapshot.base(), former.as_deref(), &self.shared.examined);
        let fragments = Arc::new(Box::pin(fragments).await?);
        known.put_lasting(snapshot, "", &fragments, 1);
        Ok(fragments)
    }

    /// Returns the indexes of `snapshot`.
    pub(crate) async fn catalog(&self, snapshot: &Snapshot) -> Result<Arc<Catalog>> {
        if let Some(known) = self.shared.catalogs.get(snapshot, "") {
            return Ok(known);
        }
        let catalog = Arc::new(Box::pin(Catalog::read(snapshot)).await?);
        self.shared.catalogs.put(snapshot, "", &catalog, 1);
        Ok(catalog)
    }

    /// Lists the indexes of `snapshot` by name, with the rows that each lacks.
    pub async fn list(&self, snapshot: &Snapshot) -> Result<Vec<IndexInfo>> {
        let catalog = self.catalog(snapshot).await?;
        if catalog.indexes.is_empty() {
            return Ok(Vec::new());
        }
        let rows = snapshot.count(None).await?;
        let fragments = self.fragments(snapshot).await?;
        let superseded = snapshot.superseded().as_ref();
        let mut indexes = Vec::with_capacity(catalog.indexes.len());
        for index in &catalog.indexes {
            let mut info = outline(snapshot, index);
            info.rows_unindexed = rows;
            let uncovered = |uncovered: &RowAddrTreeMap| {
                row_set::count(&(uncovered.clone() - superseded)) + snapshot.changed_rows()
            };
            if let Some(options) = index.definition.kind.resident_options() {
                let resident = self.resident(snapshot, index, options);
                info.memory_bytes = resident.memory_bytes();
                info.failure = resident.failure();
                if let Some(view) = resident.view(snapshot, &fragments).await? {
                    let known = snapshot.changed_rows().saturating_sub(snapshot.changed_rows_since(view.changed_to));
                    info.rows_unindexed = uncovered(&view.coverage.uncovered) - known;
                    let of_base = snapshot.version_of_base(snapshot.base().version().version);
                    info.built_to = of_base.max(view.changed_to);
                }
            } else if let Some(built) = &index.built {
                info.rows_unindexed = uncovered(&built.coverage(&fragments).await?.uncovered);
            }
            info.rows_indexed = rows - info.rows_unindexed;
            indexes.push(info);
        }
        Ok(indexes)
    }

    /// Does what [`list`](Self::list) does, without counting rows.
    pub async fn outlines(&self, snapshot: &Snapshot) -> Result<Vec<IndexInfo>> {
        let catalog = self.catalog(snapshot).await?;
        Ok(catalog.indexes.iter().map(|index| outline(snapshot, index)).collect())
    }

    /// Drops what is kept in memory and on disk for the indexes of `table`, which is about to be dropped.
    pub async fn forget_table(&self, table: &Table) -> Result<()> {
        let snapshot = table.snapshot().await?;
        for index in &self.catalog(&snapshot).await?.indexes {
            self.forget(&snapshot, &index.name);
        }
        let (table, shared) = (snapshot.identity(), &self.shared);
        shared.catalogs.forget(table);
        shared.fragments.forget(table);
        shared.unindexed_vectors.forget(table);
        shared.unindexed_texts.forget(table);
        shared.filtered.forget(table);
        shared.positions.forget(table);
        Ok(())
    }
}

/// Returns whether `error` may come from an unreadable index, without which the search can continue.
pub(crate) fn is_of_index(error: &Error) -> bool {
    !matches!(error.kind(), ErrorKind::Cancelled | ErrorKind::InvalidInput)
}

/// Logs that a search continues without an index.
pub(crate) fn warn_unreadable(name: &str, error: &Error) {
    tracing::warn!(%error, index = name, "the index cannot be read: searches compare every row until it is rebuilt");
}

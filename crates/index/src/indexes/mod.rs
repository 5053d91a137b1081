//! The indexes of a store's tables: their creation, upkeep and removal, and the caches that searches share.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::sync::Arc;

use cenote_base::sync::Mutex;
use cenote_base::{Error, ErrorKind, Progress, Result};
use cenote_store::{Filter, Snapshot, Table, lance_error};
use lance::Dataset;
use lance::dataset::scanner::RowAddrTreeMap;
use lance::index::DatasetIndexExt;

use crate::build::check::check_column;
use crate::build::create::{BuildOutcome, build_index};
use crate::build::merge::{SEGMENTS_MAX, extend};
use crate::build::params::LanceIndex;
use crate::build::segments::{self, count_vectors, segment_rows};
use crate::build::watch::silent;
use crate::catalog::{Catalog, Index, IndexInfo, outline};
use crate::definition::{IndexDefinition, Measured, PROPERTY_PREFIX, SearchSettings};
use crate::kind::{IndexKind, VectorOptions};
use crate::options::IndexOptions;
use crate::rows::cache::Cache;
use crate::rows::filtered::{FilterCache, FilteredRows};
use crate::rows::fragments::{Examined, Fragments};
use crate::rows::row_set;
use crate::spec::IndexSpec;
use crate::text::unindexed::UnindexedTextCache;
use crate::vector::partition::FilteredPositions;
use crate::vector::resident::graph::ResidentIndex;
use crate::vector::resident::graph::refresh::RefreshOptions;
use crate::vector::resident::saved;
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

    /// Creates the index `spec` of `table` from its newest version, and replaces an index of the same name, column and
    /// use. An index over a column without values is defined but not built: searches are exact, and upkeep builds it
    /// when there are values. Writes and searches continue meanwhile; a build that fails leaves the former index in
    /// place. A first build that was interrupted resumes when the index is created again, or at the next upkeep.
    ///
    /// # Errors
    /// `NotFound` for an unknown column; `InvalidInput` for a column whose type the index cannot cover, or an option
    /// out of range; `Unsupported` for a combination that cannot be built; `AlreadyExists` when another index has the
    /// name; `ResourceExhausted`, with the figures, for one that does not fit into memory.
    pub async fn create(&self, table: &Table, spec: &IndexSpec) -> Result<IndexInfo> {
        self.create_watched(table, spec, &silent()).await
    }

    /// Does what [`create`](Self::create) does, and reports to `progress`.
    pub async fn create_watched(
        &self,
        table: &Table,
        spec: &IndexSpec,
        progress: &Arc<dyn Progress>,
    ) -> Result<IndexInfo> {
        let name = spec.effective_name();
        let snapshot = table.snapshot().await?;
        check_column(table.name(), snapshot.schema(), spec)?;
        let catalog = self.catalog(&snapshot).await?;
        if let Some(other) = catalog.indexes.iter().find(|index| index.name == name)
            && (other.column != spec.column || !other.definition.kind.is_same_use(&spec.kind))
        {
            return Err(Error::already_exists(format!(
                "index `{name}` covers column `{}` ({}); choose another name or drop it",
                other.column, other.definition.kind
            )));
        }
        let field = snapshot.base().schema().field(&spec.column).map(|field| field.id);
        let field = field.ok_or_else(|| Error::internal(format!("column `{}` has no number", spec.column)))?;
        let definition = IndexDefinition::new(field, spec.kind.clone());
        let about = |error: Error| error.context(format!("build index `{name}` on column `{}`", spec.column));
        if spec.kind.is_resident() {
            // Built before it is defined, so that an index that does not fit is never defined. An interrupted build
            // resumes from its saved graph.
            if catalog.indexes.iter().any(|index| index.name == name) {
                self.forget(&snapshot, &name);
            }
            let index = Index { name: name.clone(), column: spec.column.clone(), definition, built: None };
            table.fold().await?;
            self.make_resident(&table.snapshot().await?, &index, progress).await.map_err(about)?;
            let is_built = catalog.indexes.iter().any(|index| index.name == name && index.built.is_some());
            let make = async |dataset: &mut Dataset| {
                if is_built {
                    dataset.drop_index(&name).await.map_err(lance_error)?;
                }
                define(dataset, &name, &index.definition).await
            };
            table.maintain(make).await.map_err(about)?;
        } else {
            let make = async |dataset: &mut Dataset| {
                let former = IndexDefinition::read_one(dataset.config(), &name)?;
                let resumes = former.is_some_and(|former| former.is_unfinished && former.kind == spec.kind);
                if !resumes {
                    self.build(dataset, &name, &spec.column, &definition, progress).await?;
                }
                Ok(())
            };
            Box::pin(table.maintain(make)).await.map_err(about)?;
            self.finish(table, &name, progress).await.map_err(about)?;
        }
        let indexes = self.list(&table.snapshot().await?).await?;
        let index = indexes.into_iter().find(|index| index.name == name);
        index.ok_or_else(|| Error::internal(format!("index `{name}` is not there after it was built")))
    }

    /// Drops index `name`. Running searches continue to use it.
    ///
    /// # Errors
    /// `NotFound`, with the names of the indexes of the table.
    pub async fn remove(&self, table: &Table, name: &str) -> Result<()> {
        let snapshot = table.snapshot().await?;
        let is_built = self.catalog(&snapshot).await?.find(table.name(), name)?.built.is_some();
        self.forget(&snapshot, name);
        let remove = async |dataset: &mut Dataset| {
            if is_built {
                dataset.drop_index(name).await.map_err(lance_error)?;
            }
            undefine(dataset, name).await
        };
        table.maintain(remove).await
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

    /// Brings every index of `table` up to date. New rows are added to an index. An index is rebuilt if it lacks more
    /// rows than it has, has too many segments, or was trained on a much smaller table. A current index, and one whose
    /// column has no values, are left as they are.
    pub async fn optimize(&self, table: &Table) -> Result<()> {
        let snapshot = table.snapshot().await?;
        let catalog = self.catalog(&snapshot).await?;
        let (mut append, mut rebuild, mut resident) = (Vec::new(), Vec::new(), Vec::new());
        for info in self.list(&snapshot).await? {
            let index = catalog.find(table.name(), &info.name)?;
            if index.definition.kind.is_resident() {
                resident.push(index);
            } else if index.definition.is_unfinished {
                self.finish(table, &index.name, &silent()).await?;
            } else if info.rows_unindexed > info.rows_indexed
                || info.segments > SEGMENTS_MAX
                || index.definition.is_outgrown(info.rows_indexed + info.rows_unindexed)
            {
                rebuild.push(index);
            } else if info.rows_unindexed > 0 {
                append.push(index);
            }
        }
        if !catalog.orphans.is_empty() {
            let forget = async |dataset: &mut Dataset| {
                for name in &catalog.orphans {
                    undefine(dataset, name).await?;
                }
                Ok(())
            };
            table.maintain(forget).await?;
        }
        if !append.is_empty() {
            let options = &self.shared.options;
            Box::pin(table.maintain(async |dataset| extend(dataset, append, options).await)).await?;
        }
        for index in rebuild {
            self.rebuild_index(table, index).await?;
        }
        if !resident.is_empty() {
            table.fold().await?;
            let snapshot = table.snapshot().await?;
            for index in resident {
                self.make_resident(&snapshot, index, &silent()).await?;
            }
        }
        Ok(())
    }

    /// Rebuilds every index of `table` from its rows, by its own definition, so that no index holds values of rows that
    /// are gone.
    pub async fn rebuild(&self, table: &Table) -> Result<()> {
        let catalog = self.catalog(&table.snapshot().await?).await?;
        for index in &catalog.indexes {
            if index.definition.kind.is_resident() {
                self.forget(&table.snapshot().await?, &index.name);
                table.fold().await?;
                self.make_resident(&table.snapshot().await?, index, &silent()).await?;
            } else {
                self.rebuild_index(table, index).await?;
            }
        }
        Ok(())
    }

    /// Builds index `name` by `definition`, and stores the definition.
    async fn build(
        &self,
        dataset: &mut Dataset,
        name: &str,
        column: &str,
        definition: &IndexDefinition,
        progress: &Arc<dyn Progress>,
    ) -> Result<BuildOutcome> {
        let outcome = build_index(dataset, name, column, &definition.kind, &self.shared.options, progress);
        let outcome = Box::pin(outcome).await?;
        let rows = dataset.count_rows(None).await.map_err(lance_error)?;
        let definition =
            IndexDefinition { rows, is_unfinished: outcome == BuildOutcome::Begun, covered: 0, ..definition.clone() };
        define(dataset, name, &definition).await?;
        Ok(outcome)
    }

    /// Rebuilds `index`. An index whose column no longer has values keeps its definition alone.
    pub(crate) async fn rebuild_index(&self, table: &Table, index: &Index) -> Result<()> {
        // The settings were measured on other partitions.
        let definition = IndexDefinition {
            search: SearchSettings::default(),
            measured: index.definition.measured.map(|measured| Measured { rows: 0, ..measured }),
            ..index.definition.clone()
        };
        let rebuild_index = async |dataset: &mut Dataset| {
            let outcome = self.build(dataset, &index.name, &index.column, &definition, &silent()).await?;
            if outcome == BuildOutcome::Empty && index.built.is_some() {
                dataset.drop_index(&index.name).await.map_err(lance_error)?;
            }
            Ok(())
        };
        Box::pin(table.maintain(rebuild_index)).await?;
        self.finish(table, &index.name, &silent()).await
    }

    /// Builds the missing segments of index `name`, if its first build is unfinished. Writes continue between them.
    async fn finish(&self, table: &Table, name: &str, progress: &Arc<dyn Progress>) -> Result<()> {
        let stage = format!("{name}: segments");
        let mut has_begun = false;
        loop {
            let snapshot = table.snapshot().await?;
            let definition = IndexDefinition::read_one(snapshot.properties(), name)?;
            if !definition.is_some_and(|definition| definition.is_unfinished) {
                break;
            }
            if !has_begun {
                has_begun = true;
                progress.begin(&stage, None);
            }
            let added = Box::pin(table.maintain(async |dataset| self.add_segment(dataset, name, progress).await)).await;
            let Some(rows) = added.inspect_err(|_| progress.end(&stage))? else { break };
            progress.advance(&stage, rows as u64);
        }
        if has_begun {
            progress.end(&stage);
        }
        Ok(())
    }

    /// Builds the next segment of index `name`. Returns the number of its rows, or `None` where the index or its column
    /// is gone.
    async fn add_segment(
        &self,
        dataset: &mut Dataset,
        name: &str,
        progress: &Arc<dyn Progress>,
    ) -> Result<Option<usize>> {
        let Some(mut definition) = IndexDefinition::read_one(dataset.config(), name)? else { return Ok(None) };
        let Some(column) = dataset.schema().field_by_id(definition.field).map(|field| field.name.clone()) else {
            return Ok(None);
        };
        let options = &self.shared.options;
        let rows_max = |rows: usize| segment_rows(rows, options.segment_rows).unwrap_or(usize::MAX);
        let rows = if let IndexKind::Vector(_) = &definition.kind {
            let rows_max = rows_max(count_vectors(dataset, &column).await?);
            let added = segments::add_vector_segment(dataset, name, rows_max).await?;
            definition.is_unfinished = added.is_unfinished;
            added.rows
        } else {
            let covered = segments::covered(dataset, &dataset.load_indices_by_name(name).await.map_err(lance_error)?);
            // After a patch of the column, a scalar index would find stale values in an older segment as soon as
            // another one covers the fragment. A full-text search restricts each segment to its own fragments.
            let is_patched = matches!(definition.kind, IndexKind::Scalar(_))
                && segments::fingerprint(&covered) != definition.covered;
            let all = dataset.fragment_bitmap().as_ref().clone();
            let rows_max = rows_max(segments::count_rows(dataset, &all));
            let fragments = match is_patched {
                true => all,
                false => segments::first_fragments(dataset, &(all - &covered), rows_max),
            };
            if !fragments.is_empty() {
                let index = LanceIndex::new(&definition.kind, options)?;
                segments::build_segment(dataset, name, &column, &index, &fragments, progress).await?;
            }
            let covered = segments::covered(dataset, &dataset.load_indices_by_name(name).await.map_err(lance_error)?);
            definition.is_unfinished = covered != *dataset.fragment_bitmap().as_ref();
            definition.covered = if definition.is_unfinished { segments::fingerprint(&covered) } else { 0 };
            segments::count_rows(dataset, &fragments)
        };
        define(dataset, name, &definition).await?;
        Ok(Some(rows))
    }

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

    /// Drops the graph of index `name`, in memory and on disk, if the index is resident.
    fn forget(&self, snapshot: &Snapshot, name: &str) {
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

    /// Stores `definition` as that of index `name`.
    pub(crate) async fn define(&self, table: &Table, name: &str, definition: &IndexDefinition) -> Result<()> {
        table.maintain(async |dataset| define(dataset, name, definition).await).await
    }
}

async fn define(dataset: &mut Dataset, name: &str, definition: &IndexDefinition) -> Result<()> {
    let (key, text) = definition.to_property(name)?;
    if dataset.config().get(&key) == Some(&text) {
        return Ok(());
    }
    dataset.update_config(BTreeMap::from([(key, Some(text))])).await.map(drop).map_err(lance_error)
}

async fn undefine(dataset: &mut Dataset, name: &str) -> Result<()> {
    let key = format!("{PROPERTY_PREFIX}{name}");
    if !dataset.config().contains_key(&key) {
        return Ok(());
    }
    dataset.update_config(BTreeMap::from([(key, None::<String>)])).await.map(drop).map_err(lance_error)
}

/// Returns whether `error` may come from an unreadable index, without which the search can continue.
pub(crate) fn is_of_index(error: &Error) -> bool {
    !matches!(error.kind(), ErrorKind::Cancelled | ErrorKind::InvalidInput)
}

/// Logs that a search continues without an index.
pub(crate) fn warn_unreadable(name: &str, error: &Error) {
    tracing::warn!(%error, index = name, "the index cannot be read: searches compare every row until it is rebuilt");
}

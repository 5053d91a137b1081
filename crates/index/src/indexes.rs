//! The indexes of a store's tables: what is done to them, and what searches keep in memory.

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
use crate::definition::{Definition, Measured, PROPERTY_PREFIX, SearchSettings};
use crate::kind::IndexKind;
use crate::options::IndexOptions;
use crate::rows::cache::Cache;
use crate::rows::filtered::{FilterCache, FilteredRows};
use crate::rows::fragments::{Examined, Fragments};
use crate::rows::row_set;
use crate::spec::IndexSpec;
use crate::text::unindexed::UnindexedTextCache;
use crate::vector::partition::FilteredPositions;
use crate::vector::resident::graph::{RefreshOptions, ResidentIndex};
use crate::vector::resident::saved;
use crate::vector::unindexed::UnindexedVectorCache;

/// The catalogs of so many bases are kept, each with some bits for a row of its base, and its indexes open.
const CATALOGS_MAX: usize = 16;
/// Of what searches keep, one in so many bytes is for rows that satisfy filters.
const FILTERED_SHARE: usize = 6;
/// And one for where those are in indexes on disk.
const POSITIONS_SHARE: usize = 6;
/// The caches of unindexed vectors and texts, which share the rest.
const UNINDEXED_CACHES: usize = 7;
/// Makes, keeps and searches the indexes of any number of tables. Cheap to clone; clones share what is in memory.
#[derive(Clone)]
pub struct Indexes {
    shared: Arc<Shared>,
}

struct Shared {
    options: IndexOptions,
    catalogs: Cache<Catalog>,
    fragments: Cache<Fragments>,
    examined: Examined,
    /// By the table's identity and the index's name.
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
    /// With nothing in memory yet.
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

    /// The rows of `snapshot` that satisfy `filter`.
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

    /// How many rows were looked at so far to make what searches keep: which rows are live, which satisfy filters, what
    /// no index has seen. It grows with what is written, not with what is there.
    pub fn rows_examined(&self) -> u64 {
        self.shared.examined.rows()
    }

    /// The fragments of the base of `snapshot`, with their live rows.
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

    pub(crate) async fn catalog(&self, snapshot: &Snapshot) -> Result<Arc<Catalog>> {
        if let Some(known) = self.shared.catalogs.get(snapshot, "") {
            return Ok(known);
        }
        let catalog = Arc::new(Box::pin(Catalog::read(snapshot)).await?);
        self.shared.catalogs.put(snapshot, "", &catalog, 1);
        Ok(catalog)
    }

    /// Makes the index `spec` of `table`, from its newest version; one of the same name is replaced when its column and
    /// sort are the same. An index of a column that holds nothing yet is made all the same: searches are exact, and
    /// upkeep builds it when there is something. Writes and searches go on meanwhile; when the build fails, what was
    /// there before stays. A first build that was cut off goes on where it was, when it is asked for again or at the
    /// next upkeep.
    ///
    /// # Errors
    /// `NotFound` for an unknown column; `InvalidInput` for a column whose type the index cannot cover, or an option
    /// out of range; `Unsupported` for a combination that cannot be built; `AlreadyExists` when another index has the
    /// name; `ResourceExhausted`, with the figures, for one that does not fit into memory.
    pub async fn create(&self, table: &Table, spec: &IndexSpec) -> Result<IndexInfo> {
        self.create_watched(table, spec, &silent()).await
    }

    /// As [`create`](Self::create), and tells `progress` how far it is.
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
        let definition = Definition::new(field, spec.kind.clone());
        let about = |error: Error| error.context(format!("build index `{name}` on column `{}`", spec.column));
        if spec.kind.is_resident() {
            // Built before it is defined: what does not fit is not there. A build that was cut off goes on.
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
                let former = Definition::read_one(dataset.config(), &name)?;
                let goes_on = former.is_some_and(|former| former.is_unfinished && former.kind == spec.kind);
                if !goes_on {
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

    /// Drops the index called `name`. Searches that have begun go on.
    ///
    /// # Errors
    /// `NotFound`, naming the indexes there are.
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

    /// The indexes of `snapshot`, by name, with how late each is.
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

    /// [`list`](Self::list) without counting rows.
    pub async fn outlines(&self, snapshot: &Snapshot) -> Result<Vec<IndexInfo>> {
        let catalog = self.catalog(snapshot).await?;
        Ok(catalog.indexes.iter().map(|index| outline(snapshot, index)).collect())
    }

    /// Brings every index of `table` up to date. What is new is added to an index as it is; an index that has not seen
    /// more rows than it has, lies in too many pieces, or learned from a table much smaller, is built anew. An index
    /// that is current is left alone, and so is one whose column has nothing to build from.
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
            self.renew(table, index).await?;
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

    /// Builds every index of `table` anew from its rows, by its own definition: nothing is left in them of rows that
    /// are gone.
    pub async fn rebuild(&self, table: &Table) -> Result<()> {
        let catalog = self.catalog(&table.snapshot().await?).await?;
        for index in &catalog.indexes {
            if index.definition.kind.is_resident() {
                self.forget(&table.snapshot().await?, &index.name);
                table.fold().await?;
                self.make_resident(&table.snapshot().await?, index, &silent()).await?;
            } else {
                self.renew(table, index).await?;
            }
        }
        Ok(())
    }

    /// Builds index `name` as it is asked to be.
    async fn build(
        &self,
        dataset: &mut Dataset,
        name: &str,
        column: &str,
        definition: &Definition,
        progress: &Arc<dyn Progress>,
    ) -> Result<BuildOutcome> {
        let outcome = build_index(dataset, name, column, &definition.kind, &self.shared.options, progress);
        let outcome = Box::pin(outcome).await?;
        let rows = dataset.count_rows(None).await.map_err(lance_error)?;
        let definition =
            Definition { rows, is_unfinished: outcome == BuildOutcome::Begun, covered: 0, ..definition.clone() };
        define(dataset, name, &definition).await?;
        Ok(outcome)
    }

    /// Builds `index` anew. One whose column holds nothing any more keeps its definition and nothing else.
    pub(crate) async fn renew(&self, table: &Table, index: &Index) -> Result<()> {
        // How hard to look was measured on other parts.
        let definition = Definition {
            search: SearchSettings::default(),
            measured: index.definition.measured.map(|measured| Measured { rows: 0, ..measured }),
            ..index.definition.clone()
        };
        let renew = async |dataset: &mut Dataset| {
            let outcome = self.build(dataset, &index.name, &index.column, &definition, &silent()).await?;
            if outcome == BuildOutcome::Empty && index.built.is_some() {
                dataset.drop_index(&index.name).await.map_err(lance_error)?;
            }
            Ok(())
        };
        Box::pin(table.maintain(renew)).await?;
        self.finish(table, &index.name, &silent()).await
    }

    /// Builds the pieces that are missing of index `name`, if it is built piece by piece. Writes go on between them.
    async fn finish(&self, table: &Table, name: &str, progress: &Arc<dyn Progress>) -> Result<()> {
        let stage = format!("{name}: segments");
        let mut has_begun = false;
        loop {
            let snapshot = table.snapshot().await?;
            let definition = Definition::read_one(snapshot.properties(), name)?;
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

    /// Builds the next piece of index `name`; how many rows it has, or `None` where the index or its column is gone.
    async fn add_segment(
        &self,
        dataset: &mut Dataset,
        name: &str,
        progress: &Arc<dyn Progress>,
    ) -> Result<Option<usize>> {
        let Some(mut definition) = Definition::read_one(dataset.config(), name)? else { return Ok(None) };
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
            // Of a row whose column was patched since a piece had it, Lance would find in that piece what it was, as
            // soon as another piece covers its file. A search of texts looks in each piece for its own files alone.
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

    /// The state of index `index` in memory.
    pub(crate) fn resident(
        &self,
        snapshot: &Snapshot,
        index: &Index,
        options: &crate::kind::VectorOptions,
    ) -> Arc<ResidentIndex> {
        let key = (snapshot.identity(), index.name.clone());
        let field = index.definition.field;
        let mut residents = self.shared.residents.lock();
        let known = residents.get(&key).filter(|known| known.field == field && known.options == *options);
        if let Some(known) = known {
            return Arc::clone(known);
        }
        let made = Arc::new(ResidentIndex::new(snapshot.base().uri(), field, options.clone()));
        residents.insert(key, Arc::clone(&made));
        made
    }

    /// Starts to bring index `index` up to date when it is not, unless somebody does.
    pub(crate) fn spawn_refresh(&self, snapshot: &Snapshot, index: &Index, resident: &ResidentIndex) {
        // What did not fit does not fit: upkeep and whoever asks for it try again.
        if resident.is_busy() || resident.failure().is_some() {
            return;
        }
        let definition = index.definition.clone();
        let index = Index { name: index.name.clone(), column: index.column.clone(), definition, built: None };
        let (indexes, snapshot) = (self.clone(), snapshot.clone());
        tokio::spawn(async move {
            // Those who search meanwhile need threads too.
            let threads = (indexes.shared.options.threads / 2).max(1);
            if let Err(error) = indexes.refresh_resident(&snapshot, &index, threads, &silent()).await {
                tracing::warn!(%error, index = index.name, "the index is not in memory; searches go on without it");
            }
        });
    }

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
            // A table that was there before under this name needs its graphs no more.
            residents.retain(|(of, _), known| *of == table || known.table_uri != uri);
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

    /// Drops what is kept of `table` outside of it, in memory and on disk: for one that is about to be dropped.
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

    /// Drops what is in memory and on disk of the resident index called `name`, if it is one.
    fn forget(&self, snapshot: &Snapshot, name: &str) {
        let key = (snapshot.identity(), name.to_owned());
        self.shared.residents.lock().remove(&key);
        if let Some(file) = self.file(snapshot, name) {
            saved::remove(&file);
        }
    }

    fn file(&self, snapshot: &Snapshot, name: &str) -> Option<PathBuf> {
        let mut hasher = DefaultHasher::new();
        (snapshot.base().uri(), name).hash(&mut hasher);
        let directory = self.shared.options.directory.as_ref()?;
        Some(directory.join(format!("{:016x}.json", hasher.finish())))
    }

    /// Keeps `definition` as that of index `name`.
    pub(crate) async fn define(&self, table: &Table, name: &str, definition: &Definition) -> Result<()> {
        table.maintain(async |dataset| define(dataset, name, definition).await).await
    }
}

async fn define(dataset: &mut Dataset, name: &str, definition: &Definition) -> Result<()> {
    let (key, text) = definition.to_property(name)?;
    if dataset.config().get(&key) == text.as_ref() {
        return Ok(());
    }
    dataset.update_config(BTreeMap::from([(key, text)])).await.map(drop).map_err(lance_error)
}

async fn undefine(dataset: &mut Dataset, name: &str) -> Result<()> {
    let key = format!("{PROPERTY_PREFIX}{name}");
    if !dataset.config().contains_key(&key) {
        return Ok(());
    }
    dataset.update_config(BTreeMap::from([(key, None::<String>)])).await.map(drop).map_err(lance_error)
}

/// Whether `error` may come from an index that cannot be read, so that a search goes on without it.
pub(crate) fn is_of_index(error: &Error) -> bool {
    !matches!(error.kind(), ErrorKind::Cancelled | ErrorKind::InvalidInput)
}

/// Says that a search goes on without an index.
pub(crate) fn unreadable(name: &str, error: &Error) {
    tracing::warn!(%error, index = name, "the index cannot be read: every row is compared until it is built anew");
}

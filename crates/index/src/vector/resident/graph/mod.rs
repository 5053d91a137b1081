//! The vectors of one column as a graph in memory, kept current while the table is written.
//!
//! The labels of the graph are row ids. The graph is complete for some fragments of the base, each known by the data
//! file that holds the column, and for versions of the base from some version on: a search skips rows that were deleted
//! later. It is also complete for the change store up to some version. Rows of other fragments and later writes are
//! uncovered and compared one by one, until [`ResidentIndex::refresh`] adds them. A row that changes gets a new row id
//! or, when its column was patched in place, a new data file. So a change never rebuilds the graph, and a search never
//! finds a row by a stale vector. A row that a fold moves into the base keeps its node under the new id.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use cenote_base::sync::{Mutex, RwLock};
use cenote_base::{ByteSize, Error, ErrorKind, Progress, Result};
use cenote_graph::{Graph, GraphOptions, GraphStrategy, LabelFilter, LabelSelection, VectorValues};
use cenote_store::{ROW_ID, ScanRequest, Snapshot, Version, lance_error, row_ids_after};
use futures::TryStreamExt;
use lance::Dataset;
use lance::dataset::scanner::RowAddrTreeMap;
use lance_select::RowSetOps;
use roaring::RoaringBitmap;

use super::saved::{SavedGraph, Subject, remove, restore, save};
use crate::blocking::blocking;
use crate::catalog::Index;
use crate::hits::Hit;
use crate::kind::VectorOptions;
use crate::metric::Metric;
use crate::rows::cache::Cache;
use crate::rows::coverage::Coverage;
use crate::rows::filtered::{FilteredBase, FilteredRows};
use crate::rows::fragments::{Examined, Fragments, rows_of};
use crate::rows::row_set;
use crate::vector::exact::{QueryVector, RowVectors, VectorNumbers, VectorShape, VectorType, vector_type};

/// The capacity of a new graph: `CAPACITY_FACTOR` times the bytes that the current rows take, so that it can grow.
const CAPACITY_FACTOR: u64 = 2;
/// Deleted vectors are removed from the graph when they are more than `1 / DELETED_SHARE` of the live ones.
const DELETED_SHARE: usize = 8;
/// The graph is saved when `1 / SAVED_SHARE` of its rows have changed since the last save, which bounds what is written
/// while it grows to a few times its final size.
const SAVED_SHARE: usize = 4;
/// The default width of a walk: `EF_FACTOR · k`, at least `EF_MIN`.
pub(in crate::vector) const EF_FACTOR: usize = 4;
pub(in crate::vector) const EF_MIN: usize = 128;
/// Bytes of cached coverages, for all bases together.
const COVERAGE_BYTES_MAX: usize = 32 << 20;
/// Bytes of cached selections of filtered rows, for all bases together.
const SELECTION_BYTES_MAX: usize = 16 << 20;
/// Rows of one batch of a build: few, so that a cancelled build stops soon.
const BATCH_ROWS: usize = 2048;

/// The bounds of a refresh, and where it reports and saves.
pub(crate) struct RefreshOptions {
    pub(crate) capacity_bytes: u64,
    pub(crate) file: Option<PathBuf>,
    pub(crate) threads: usize,
    /// Minimum time between two saves during a build.
    pub(crate) save_every: Duration,
    pub(crate) progress: Arc<dyn Progress>,
    pub(crate) examined: Examined,
}

/// A graph, and the rows that it is complete for.
struct GraphState {
    graph: Arc<Graph>,
    /// The fragments that the graph is complete for, each with the data file that holds the column.
    covered: HashMap<u32, String>,
    /// The rows of the base that the graph may have; `None` where that is not known.
    base_rows: Option<RowAddrTreeMap>,
    /// The first version of the base that the graph is complete for: it has dropped rows of earlier versions.
    complete_from: u64,
    /// The version whose live rows of the change store the graph has, under their ids there.
    changed_to: Version,
    /// The number of changes to `covered` and `complete_from`, by which cached results are known to be stale.
    epoch: u64,
}

/// A vector index in memory. It belongs to one table: a table that is created again under the same name has another.
pub(crate) struct ResidentIndex {
    /// The location of the table.
    table_uri: String,
    field: i32,
    options: VectorOptions,
    state: RwLock<Option<GraphState>>,
    /// Held while the graph is changed.
    writer: tokio::sync::Mutex<()>,
    failure: Mutex<Option<String>>,
    unsaved: Mutex<usize>,
    coverages: Cache<EpochCoverage>,
    selections: Cache<EpochSelection>,
    /// The rows of the change store that the graph has, by the hash of their vectors. Only changed under `writer`.
    changed_labels: Arc<Mutex<LabelsByVector>>,
}

/// The coverage of a base by the graph at `epoch`.
#[derive(Debug)]
struct EpochCoverage {
    epoch: u64,
    coverage: Arc<Coverage>,
}

/// The nodes of the graph, at `epoch`, of the rows of a base that satisfy a filter.
#[derive(Debug)]
struct EpochSelection {
    epoch: u64,
    filtered_base: Weak<FilteredBase>,
    selection: Arc<LabelSelection>,
}

/// Labels by the hashes of their vectors.
type LabelsByVector = HashMap<u64, Vec<u64>>;

/// The parameters of a search through the graph.
#[derive(Debug, Clone, Copy)]
pub(in crate::vector) struct GraphSearch {
    /// The number of rows wanted.
    pub(in crate::vector) k: usize,
    /// The width of the walk: the candidates it keeps.
    pub(in crate::vector) ef: usize,
}

/// The rows of one snapshot that the graph has.
pub(crate) struct ResidentView {
    epoch: u64,
    pub(crate) coverage: Arc<Coverage>,
    /// The version up to which the graph has the rows of the change store.
    pub(crate) changed_to: Version,
}

impl ResidentIndex {
    pub(crate) fn new(table_uri: &str, field: i32, options: VectorOptions) -> Self {
        Self {
            table_uri: table_uri.to_owned(),
            field,
            options,
            state: RwLock::default(),
            writer: tokio::sync::Mutex::default(),
            failure: Mutex::default(),
            unsaved: Mutex::default(),
            coverages: Cache::new(COVERAGE_BYTES_MAX),
            selections: Cache::new(SELECTION_BYTES_MAX),
            changed_labels: Arc::default(),
        }
    }

    /// Returns whether this is the index of `field` with `options`.
    pub(crate) fn is_of(&self, field: i32, options: &VectorOptions) -> bool {
        self.field == field && self.options == *options
    }

    /// Returns the location of the table.
    pub(crate) fn table_uri(&self) -> &str {
        &self.table_uri
    }

    /// Returns the capacity of the graph in bytes; 0 without a graph.
    pub(crate) fn capacity_bytes(&self) -> u64 {
        let state = self.state.read();
        state.as_ref().map_or(0, |state| state.graph.options().capacity_bytes)
    }

    /// Returns the size of the graph in bytes, if there is one.
    pub(crate) fn memory_bytes(&self) -> Option<u64> {
        let state = self.state.read();
        state.as_ref().map(|state| state.graph.memory_bytes())
    }

    /// Returns the error of the last refresh, if it failed.
    pub(crate) fn failure(&self) -> Option<String> {
        self.failure.lock().clone()
    }

    /// Returns whether a refresh is running.
    pub(crate) fn is_refreshing(&self) -> bool {
        self.writer.try_lock().is_err()
    }

    /// Returns the rows of `snapshot` that the graph has; `None` where it is not complete for that base.
    pub(crate) async fn view(&self, snapshot: &Snapshot, fragments: &Arc<Fragments>) -> Result<Option<ResidentView>> {
        let base = snapshot.base();
        let (epoch, changed_to, covered) = {
            let state = self.state.read();
            let Some(state) = state.as_ref().filter(|state| state.complete_from <= base.version().version) else {
                return Ok(None);
            };
            // The graph lacks rows of the change store that were gone at a later version.
            let changed_to = if state.changed_to <= snapshot.version() { state.changed_to } else { Version(0) };
            if let Some(known) = self.coverages.get(snapshot, "").filter(|known| known.epoch == state.epoch) {
                return Ok(Some(ResidentView {
                    epoch: state.epoch,
                    coverage: Arc::clone(&known.coverage),
                    changed_to,
                }));
            }
            let files = column_files(base, self.field);
            let fits = |(id, file): &(&u32, &String)| state.covered.get(*id) == Some(*file);
            (state.epoch, changed_to, files.iter().filter(fits).map(|(id, _)| *id).collect::<RoaringBitmap>())
        };
        let coverage = Arc::new(Coverage::new(fragments, covered).await?);
        let bytes = coverage.covered.serialized_size() + coverage.uncovered.serialized_size();
        self.coverages.put(snapshot, "", &Arc::new(EpochCoverage { epoch, coverage: Arc::clone(&coverage) }), bytes);
        Ok(Some(ResidentView { epoch, coverage, changed_to }))
    }

    /// Returns the nearest of the rows that `view` of `snapshot` has and that are among `filtered`; `None` when the
    /// graph has changed since `view` was made. Blocks.
    pub(in crate::vector) fn nearest(
        &self,
        snapshot: &Snapshot,
        view: &ResidentView,
        vector: &QueryVector,
        search: GraphSearch,
        filtered: Option<&FilteredRows>,
    ) -> Result<Option<Vec<Hit>>> {
        let GraphSearch { k, ef } = search;
        let state = self.state.read();
        let is_as_seen = |state: &&GraphState| {
            state.epoch == view.epoch && (view.changed_to == state.changed_to || view.changed_to.0 == 0)
        };
        let Some(state) = state.as_ref().filter(is_as_seen) else { return Ok(None) };
        let (covered, superseded) = (&view.coverage.covered, snapshot.superseded());
        let (changes, changes_end) = (row_ids_after(Version(0)), row_ids_after(view.changed_to));
        let matches = |row: u64| {
            let is_live = match row >= changes {
                true => row < changes_end && snapshot.is_changed(row),
                false => covered.contains(row) && !superseded.contains(row),
            };
            is_live && filtered.is_none_or(|filtered| filtered.contains(row))
        };
        let rows = row_set::count(covered) + snapshot.changed_rows();
        let most = filtered.map_or(rows, |filtered| filtered.count().min(rows));
        let selectivity = most as f64 / state.graph.len().max(1) as f64;
        let values = match self.options.metric {
            Metric::Hamming => VectorValues::Bits(&vector.bytes),
            _ => VectorValues::Floats(&vector.floats),
        };
        let test = LabelFilter::Test { matches: &matches, selectivity };
        let exact = |rows: Vec<u64>| {
            let rows: Vec<u64> = rows.into_iter().filter(|row| matches(*row)).collect();
            state.graph.search_exact(values, k, LabelFilter::Labels(&rows))
        };
        let selection = filtered.map(|filtered| self.selection(snapshot, view, state, filtered, search)).transpose()?;
        let hits = match (filtered, selection.flatten()) {
            (Some(filtered), Some(selection)) => {
                let mut hits = state.graph.search_selection(values, k, &selection, |row| !superseded.contains(row))?;
                hits.extend(exact(row_set::ids(filtered.changes())?)?);
                hits
            }
            // An exact search compares the matching rows alone, and need not test all nodes of the graph.
            (Some(filtered), None) if state.graph.strategy(k, ef, test) == GraphStrategy::Exact => {
                exact(filtered.ids()?)?
            }
            _ => state.graph.search(values, k, ef, test)?,
        };
        let hits = hits.into_iter();
        Ok(Some(hits.map(|hit| Hit { row_id: hit.label, distance: Some(hit.distance), score: None }).collect()))
    }

    /// Returns the nodes of the rows of the base that are among `filtered`, superseded ones included, if the filter is
    /// used again and comparing all of them is quicker than a walk.
    fn selection(
        &self,
        snapshot: &Snapshot,
        view: &ResidentView,
        state: &GraphState,
        filtered: &FilteredRows,
        GraphSearch { k, ef }: GraphSearch,
    ) -> Result<Option<Arc<LabelSelection>>> {
        let is_quick = |rows: usize| state.graph.is_quicker_selected(k, ef, rows);
        let Some(filtered_base) = filtered.repeated().filter(|base| is_quick(base.count)) else { return Ok(None) };
        let bytes = filtered_base.count * LabelSelection::LABEL_BYTES + filtered_base.text.len();
        if !self.selections.has_room_for(bytes) {
            return Ok(None);
        }
        let is_it = |known: &Arc<EpochSelection>| {
            known.epoch == view.epoch && known.filtered_base.as_ptr() == Arc::as_ptr(filtered_base)
        };
        if let Some(known) = self.selections.get(snapshot, &filtered_base.text).filter(is_it) {
            return Ok(Some(Arc::clone(&known.selection)));
        }
        let mut rows = row_set::ids(filtered.base())?;
        rows.retain(|row| view.coverage.covered.contains(*row));
        let selection = Arc::new(state.graph.select(&rows));
        let selected = EpochSelection {
            epoch: view.epoch,
            filtered_base: Arc::downgrade(filtered_base),
            selection: Arc::clone(&selection),
        };
        self.selections.put(snapshot, &filtered_base.text, &Arc::new(selected), bytes);
        Ok(Some(selection))
    }

    /// Brings the graph up to `snapshot`: builds it, restores it from disk, or adds what is new. Searches continue.
    ///
    /// # Errors
    /// `ResourceExhausted`, with the figures, when the graph does not fit; it is then dropped.
    pub(crate) async fn refresh(
        &self,
        snapshot: &Snapshot,
        index: &Index,
        fragments: &Fragments,
        refresh: &RefreshOptions,
    ) -> Result<()> {
        let _turn = self.writer.lock().await;
        let refreshed = match self.update(snapshot, index, fragments, refresh).await {
            // The graph has outgrown its capacity: rebuild it with all the memory that is free.
            Err(error) if error.kind() == ErrorKind::ResourceExhausted && self.memory_bytes().is_some() => {
                self.clear(refresh);
                self.update(snapshot, index, fragments, refresh).await
            }
            refreshed => refreshed,
        };
        if let Err(error) = &refreshed
            && error.kind() == ErrorKind::ResourceExhausted
        {
            self.clear(refresh);
        }
        *self.failure.lock() = refreshed.as_ref().err().map(ToString::to_string);
        refreshed
    }

    /// Drops the graph, in memory and on disk.
    fn clear(&self, refresh: &RefreshOptions) {
        *self.state.write() = None;
        self.changed_labels.lock().clear();
        refresh.file.iter().for_each(|file| remove(file));
    }

    async fn update(
        &self,
        snapshot: &Snapshot,
        index: &Index,
        fragments: &Fragments,
        refresh: &RefreshOptions,
    ) -> Result<()> {
        let base = snapshot.base();
        let (field, version) = (self.field, base.version().version);
        let files = column_files(base, field);
        if self.memory_bytes().is_none()
            && let Some(saved) = self.restore(snapshot, refresh).await
        {
            let SavedGraph { graph, covered, complete_from } = saved;
            let (stage, rows) = (format!("{}: restore", index.name), graph.len() as u64);
            refresh.progress.begin(&stage, Some(rows));
            refresh.progress.advance(&stage, rows);
            refresh.progress.end(&stage);
            let changes = row_ids_after(Version(0));
            for label in graph.labels().into_iter().filter(|label| *label >= changes) {
                graph.delete(label);
            }
            self.set(Arc::new(graph), covered, None, complete_from);
        }
        let known = {
            let mut state = self.state.write();
            // A graph none of whose fragments are left is not worth updating.
            let is_useful = |state: &GraphState| {
                let is_none = files.is_empty() || state.covered.is_empty();
                is_none || files.iter().any(|(id, file)| state.covered.get(id) == Some(file))
            };
            match state.as_mut().filter(|state| is_useful(state) || state.complete_from > version) {
                Some(state) if state.complete_from > version => return Ok(()),
                Some(state) => {
                    let is_behind = state.covered != files || state.complete_from != version;
                    if is_behind {
                        // The update drops rows of earlier versions.
                        state.covered.retain(|id, file| files.get(id) == Some(file));
                        state.complete_from = version;
                        state.epoch += 1;
                    }
                    Some((Arc::clone(&state.graph), is_behind))
                }
                None => None,
            }
        };
        let (graph, is_behind) = match known {
            Some(known) => known,
            None => {
                let graph = Arc::new(Graph::new(self.graph_options(snapshot, index, refresh)?)?);
                self.set(Arc::clone(&graph), HashMap::new(), Some(RowAddrTreeMap::new()), version);
                (graph, true)
            }
        };
        let mut changes = 0;
        if is_behind {
            changes = self.add_base(snapshot, index, &graph, fragments, &files, refresh).await?;
        }
        self.add_changes(snapshot, index, &graph, refresh.threads).await?;
        if graph.deleted() * DELETED_SHARE > graph.len() {
            let (graph, threads) = (Arc::clone(&graph), refresh.threads);
            blocking(move || Ok(graph.consolidate(threads))).await?;
        }
        let unsaved = {
            let mut unsaved = self.unsaved.lock();
            *unsaved += changes;
            *unsaved
        };
        if unsaved * SAVED_SHARE >= graph.len().max(1) {
            self.save(snapshot, &graph, refresh).await?;
            *self.unsaved.lock() = 0;
        }
        Ok(())
    }

    /// Saves `graph` with the fragments and the version that it is complete for.
    async fn save(&self, snapshot: &Snapshot, graph: &Arc<Graph>, refresh: &RefreshOptions) -> Result<()> {
        let Some(file) = refresh.file.clone() else { return Ok(()) };
        let saved = {
            let state = self.state.read();
            let Some(GraphState { covered, complete_from, .. }) = state.as_ref() else { return Ok(()) };
            SavedGraph { graph: Arc::clone(graph), covered: covered.clone(), complete_from: *complete_from }
        };
        let subject = self.subject(snapshot);
        blocking(move || save(&file, subject, &saved)).await
    }

    /// Restores the saved graph, if there is one for this index and it can be read.
    async fn restore(&self, snapshot: &Snapshot, refresh: &RefreshOptions) -> Option<SavedGraph<Graph>> {
        let (file, capacity) = (refresh.file.clone()?, refresh.capacity_bytes);
        let subject = self.subject(snapshot);
        match blocking(move || restore(&file, &subject, capacity)).await {
            Ok(saved) => saved,
            Err(error) => {
                // The graph is rebuilt from the table.
                tracing::warn!(%error, "a saved graph cannot be read");
                None
            }
        }
    }

    fn subject(&self, snapshot: &Snapshot) -> Subject {
        Subject { table: snapshot.identity(), field: self.field, options: self.options.clone() }
    }

    fn set(
        &self,
        graph: Arc<Graph>,
        covered: HashMap<u32, String>,
        base_rows: Option<RowAddrTreeMap>,
        complete_from: u64,
    ) {
        let mut state = self.state.write();
        let epoch = state.as_ref().map_or(0, |state| state.epoch + 1);
        *state = Some(GraphState { graph, covered, base_rows, complete_from, changed_to: Version(0), epoch });
        self.changed_labels.lock().clear();
    }

    fn shape(&self, snapshot: &Snapshot, index: &Index) -> Result<VectorShape> {
        let VectorType { width, .. } = vector_type(snapshot, &index.column)?;
        Ok(VectorShape { metric: self.options.metric, width })
    }

    fn graph_options(&self, snapshot: &Snapshot, index: &Index, refresh: &RefreshOptions) -> Result<GraphOptions> {
        let VectorType { width, .. } = vector_type(snapshot, &index.column)?;
        let bits = if self.options.metric == Metric::Hamming { 8 } else { 1 };
        let mut options = GraphOptions::new(width * bits, self.options.metric);
        options.m = self.options.m.unwrap_or(options.m);
        options.ef_construction = self.options.ef_construction.unwrap_or(options.ef_construction);
        let rows: usize = snapshot.base().fragments().iter().filter_map(|fragment| fragment.num_rows()).sum();
        let rows = rows + snapshot.changed_rows();
        let needed = Graph::bytes_for(&options, rows);
        if needed > refresh.capacity_bytes {
            return Err(Error::resource_exhausted(format!(
                "index `{}` over {rows} rows takes about {} in memory, and {} are free for such indexes: give more \
                 memory or choose an index on disk",
                index.name,
                ByteSize(needed),
                ByteSize(refresh.capacity_bytes)
            )));
        }
        options.capacity_bytes = needed.saturating_mul(CAPACITY_FACTOR).min(refresh.capacity_bytes);
        Ok(options)
    }

    /// Brings `graph` up to the base of `snapshot`, whose column is in `files`. Returns the number of rows that
    /// changed.
    async fn add_base(
        &self,
        snapshot: &Snapshot,
        index: &Index,
        graph: &Arc<Graph>,
        fragments: &Fragments,
        files: &HashMap<u32, String>,
        refresh: &RefreshOptions,
    ) -> Result<usize> {
        let base = snapshot.base();
        let (new, base_rows): (Vec<u32>, _) = {
            let mut state = self.state.write();
            let covered = state.as_ref().map(|state| &state.covered);
            let is_new = |id: &&u32| covered.is_none_or(|covered| !covered.contains_key(id));
            let new = files.keys().filter(is_new).copied().collect();
            // Unknown until the update is complete.
            (new, state.as_mut().and_then(|state| state.base_rows.take()))
        };
        let all = rows_of(fragments.all());
        let (target, examined) = (Arc::clone(graph), refresh.examined.clone());
        let (mut changes, all) = blocking(move || {
            let gone = match base_rows {
                Some(base_rows) => row_set::ids(&(base_rows - &all))?,
                None => {
                    let labels = target.labels();
                    examined.add(labels.len());
                    let changes = row_ids_after(Version(0));
                    labels.into_iter().filter(|label| *label < changes && !all.contains(*label)).collect()
                }
            };
            examined.add(gone.len());
            Ok((gone.into_iter().filter(|label| target.delete(*label)).count(), all))
        })
        .await?;
        if !new.is_empty() {
            let shape = self.shape(snapshot, index)?;
            let fragments = base.fragments().iter().filter(|fragment| new.contains(&(fragment.id as u32)));
            let fragments: Vec<_> = fragments.cloned().collect();
            let rows = fragments.iter().map(|fragment| fragment.num_rows()).sum::<Option<usize>>();
            let (stage, progress) = (format!("{}: insert", index.name), &refresh.progress);
            progress.begin(&stage, rows.map(|rows| rows as u64));
            let mut scanner = base.scan();
            scanner.with_fragments(fragments).batch_size(BATCH_ROWS);
            scanner.project(&[&index.column]).map_err(lance_error)?.with_row_id();
            let mut batches = scanner.try_into_stream().await.map_err(lance_error)?;
            let (mut saved, mut unsaved) = (Instant::now(), 0);
            while let Some(batch) = batches.try_next().await.map_err(lance_error)? {
                debug_assert!(batch.column_by_name(ROW_ID).is_some());
                let (target, changed, current) =
                    (Arc::clone(graph), Arc::clone(&self.changed_labels), snapshot.clone());
                let (rows, threads) = (batch.num_rows(), refresh.threads);
                refresh.examined.add(rows);
                let taken = blocking(move || {
                    let mut vectors = RowVectors::new(shape);
                    let without = vectors.read(&batch)?;
                    let emptied = without.into_iter().filter(|row| target.delete(*row)).count();
                    // Finds the row's node under its id in the change store, from which a fold moved it.
                    let folded = |values: VectorValues<'_>| {
                        let mut changed = changed.lock();
                        let labels = changed.get_mut(&hash(values))?;
                        let is_it = |label: &u64| !current.is_changed(*label) && target.holds(*label, values);
                        let at = labels.iter().position(is_it)?;
                        Some(labels.swap_remove(at))
                    };
                    Ok(emptied + insert(&target, &vectors, shape.metric, threads, folded)?)
                })
                .await?;
                (changes, unsaved) = (changes + taken, unsaved + taken);
                progress.advance(&stage, rows as u64);
                if saved.elapsed() >= refresh.save_every && unsaved * SAVED_SHARE >= graph.len() {
                    self.save(snapshot, graph, refresh).await?;
                    (saved, unsaved) = (Instant::now(), 0);
                }
            }
            progress.end(&stage);
        }
        let mut state = self.state.write();
        if let Some(state) = state.as_mut() {
            state.covered.clone_from(files);
            state.base_rows = Some(all);
            state.epoch += 1;
        }
        Ok(changes)
    }

    /// Brings `graph` up to the change store of `snapshot`.
    async fn add_changes(&self, snapshot: &Snapshot, index: &Index, graph: &Arc<Graph>, threads: usize) -> Result<()> {
        let from = {
            let state = self.state.read();
            state.as_ref().map_or(Version(0), |state| state.changed_to)
        };
        if snapshot.version() <= from {
            return Ok(());
        }
        let shape = self.shape(snapshot, index)?;
        let request = ScanRequest::default().columns([&index.column]).with_row_id().batch_rows(BATCH_ROWS);
        for batch in snapshot.changed_since(from, &request).await? {
            let (graph, changed) = (Arc::clone(graph), Arc::clone(&self.changed_labels));
            blocking(move || {
                let mut vectors = RowVectors::new(shape);
                vectors.read(&batch)?;
                insert(&graph, &vectors, shape.metric, threads, |_| None)?;
                let mut changed = changed.lock();
                for (row, row_id) in vectors.row_ids.iter().enumerate() {
                    changed.entry(hash(vectors.values(row))).or_default().push(*row_id);
                }
                Ok(())
            })
            .await?;
        }
        {
            let mut state = self.state.write();
            if let Some(state) = state.as_mut() {
                state.changed_to = snapshot.version();
            }
        }
        // Searches no longer use the rows of the change store that are gone.
        let (graph, changed, snapshot) = (Arc::clone(graph), Arc::clone(&self.changed_labels), snapshot.clone());
        blocking(move || {
            changed.lock().retain(|_, labels| {
                let (kept, gone): (Vec<u64>, Vec<u64>) = labels.iter().partition(|label| snapshot.is_changed(**label));
                for label in gone {
                    graph.delete(label);
                }
                *labels = kept;
                !labels.is_empty()
            });
            Ok(())
        })
        .await
    }
}

fn hash(values: VectorValues<'_>) -> u64 {
    let mut hasher = DefaultHasher::new();
    match values {
        VectorValues::Floats(floats) => floats.iter().for_each(|float| float.to_bits().hash(&mut hasher)),
        VectorValues::Bits(bytes) => bytes.hash(&mut hasher),
    }
    hasher.finish()
}

/// Inserts `vectors` into `graph`, but for those that it has unchanged. Returns the number of rows that changed.
/// `folded` may know an obsolete label of the same vector, whose node is reused. A vector without a cosine distance is
/// left out.
fn insert(
    graph: &Graph,
    vectors: &RowVectors,
    metric: Metric,
    threads: usize,
    folded: impl Fn(VectorValues<'_>) -> Option<u64>,
) -> Result<usize> {
    let has_distance = |values: VectorValues<'_>| match values {
        VectorValues::Floats(numbers) => {
            numbers.iter().all(|number| number.is_finite())
                && (metric != Metric::Cosine || numbers.iter().any(|number| *number != 0.0))
        }
        VectorValues::Bits(_) => true,
    };
    let (mut emptied, mut moved, mut labels, mut new) = (0, Vec::new(), Vec::new(), VectorNumbers::new(metric));
    for (row, row_id) in vectors.row_ids.iter().enumerate() {
        let values = vectors.values(row);
        if !has_distance(values) {
            emptied += usize::from(graph.delete(*row_id));
        } else if !graph.holds(*row_id, values) {
            match folded(values) {
                Some(label) => moved.push((label, *row_id)),
                None => {
                    labels.push(*row_id);
                    new.extend(values);
                }
            }
        }
    }
    let moved = graph.relabel(&moved);
    graph.insert_batch(&labels, new.all(), threads)?;
    Ok(emptied + moved + labels.len())
}

/// Returns the data file of each fragment that holds `field`; an empty name where none does, and the field is null in
/// all rows of the fragment.
fn column_files(base: &Dataset, field: i32) -> HashMap<u32, String> {
    let ids = base.schema().field_by_id(field).map_or_else(Vec::new, |field| {
        let mut ids = vec![field.id];
        ids.extend(field.children.iter().map(|child| child.id));
        ids
    });
    let file = |fragment: &lance::table::format::Fragment| {
        let holds = |file: &&lance::table::format::DataFile| file.fields.iter().any(|id| ids.contains(id));
        fragment.files.iter().find(holds).map_or_else(String::new, |file| file.path.clone())
    };
    base.fragments().iter().map(|fragment| (fragment.id as u32, file(fragment))).collect()
}

//! One column's vectors as a graph in memory, kept current as the base moves.
//!
//! The graph's labels are row ids. It is complete for some files of the base, known by the data file that holds the
//! column, and from some version of the base on: rows that are deleted later are passed over by whoever asks. It is
//! complete for the change store up to some write too. What other files hold and later writes is late, and compared one
//! by one, until [`ResidentIndex::refresh`] takes it in. A row that changes gets a new row id or, when a column was patched
//! in place, a new data file; so the graph is never rebuilt for a change, and never holds a row's former vector unseen.
//! A row that a fold moves into the base keeps its place in the graph under its new id.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use cenote_base::sync::{Mutex, RwLock};
use cenote_base::{ByteSize, Error, ErrorKind, Progress, Result};
use cenote_graph::{Filter, Graph, Options, Selection, Strategy, Values};
use cenote_store::{ROW_ID, ScanRequest, Snapshot, Version, lance_error, row_ids_after};
use futures::TryStreamExt;
use lance::Dataset;
use lance::dataset::scanner::RowAddrTreeMap;
use lance_select::RowSetOps;
use roaring::RoaringBitmap;

use super::saved::{SavedGraph, Subject, remove, restore, save};
use crate::blocking::blocking;
use crate::catalog::{Coverage, Index};
use crate::hits::Hit;
use crate::kind::VectorOptions;
use crate::metric::Metric;
use crate::rows::cache::Cache;
use crate::rows::filtered::{FilteredBase, FilteredRows};
use crate::rows::fragments::{Examined, Fragments, rows_of};
use crate::rows::row_set;
use crate::vector::exact::{Numbers, QueryVector, VectorShape, VectorType, Vectors, vector_type};

/// A graph gets room for so many times the vectors there are, so that it can grow.
const ROOM: u64 = 2;
/// Deleted vectors are taken out of the graph when there are so many to one that is there.
const DELETED_SHARE: usize = 8;
/// The graph is written to disk when `1 / SAVED_SHARE` of its rows have changed since the last time, which refresh what
/// is written while it grows to a few times its final size.
const SAVED_SHARE: usize = 4;
/// Width of a walk where nothing else is known: so many times k, and at least this.
pub(crate) const EF_FACTOR: usize = 4;
pub(crate) const EF_MIN: usize = 128;
/// What lists of rows may take, all bases together.
const COVERAGE_BYTES_MAX: usize = 32 << 20;
/// And where the graph has those that satisfy filters.
const SELECTION_BYTES_MAX: usize = 16 << 20;
/// MaskFilter that one batch of a build has: short, so that a build stops soon after its caller did.
const BATCH_ROWS: usize = 2048;

/// Where a resident index may be, and how large; and who hears how far its build is.
pub(crate) struct RefreshOptions {
    pub(crate) capacity_bytes: u64,
    pub(crate) file: Option<PathBuf>,
    pub(crate) threads: usize,
    /// The least time between two saves of a build.
    pub(crate) save_every: Duration,
    pub(crate) progress: Arc<dyn Progress>,
    pub(crate) examined: Examined,
}

/// A graph, and what it is complete for.
struct GraphState {
    graph: Arc<Graph>,
    /// The file that holds the column, by fragment.
    covered: HashMap<u32, String>,
    /// The rows of the base that it may have, if that is known.
    held: Option<RowAddrTreeMap>,
    /// Versions of the base before this one had rows that the graph has no more.
    complete_from: u64,
    /// It has the rows of the change store that are live at this version, under their ids there.
    changed_to: Version,
    /// Counts changes of the base's part.
    epoch: u64,
}

/// A vector index in memory, of one table: another one of the same name has another.
pub(crate) struct ResidentIndex {
    /// Where the table is.
    pub(crate) table_uri: String,
    pub(crate) field: i32,
    pub(crate) options: VectorOptions,
    state: RwLock<Option<GraphState>>,
    /// Taken by whoever changes the graph.
    turn: tokio::sync::Mutex<()>,
    failure: Mutex<Option<String>>,
    unsaved: Mutex<usize>,
    coverages: Cache<EpochCoverage>,
    selections: Cache<EpochSelection>,
    /// The rows of the change store that the graph has, by the hash of their vectors; changed by whoever has the turn.
    changed_labels: Arc<Mutex<LabelsByVector>>,
}

/// The rows of a base that the graph held at `epoch`.
#[derive(Debug)]
struct EpochCoverage {
    epoch: u64,
    coverage: Arc<Coverage>,
}

/// The places in the graph, at some epoch, of the rows of a base that satisfy a filter.
#[derive(Debug)]
struct EpochSelection {
    epoch: u64,
    of: Weak<FilteredBase>,
    selection: Arc<Selection>,
}

/// Labels by the hashes of their vectors.
type LabelsByVector = HashMap<u64, Vec<u64>>;

/// The parameters of a search through the graph.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GraphSearch {
    /// The number of rows wanted.
    pub(crate) k: usize,
    /// The width of the walk: the candidates it keeps.
    pub(crate) ef: usize,
}

/// What a graph can do for one snapshot.
pub(crate) struct GraphView {
    epoch: u64,
    pub(crate) coverage: Arc<Coverage>,
    /// The graph lacks the rows of the change store that were written after this.
    pub(crate) changed_to: Version,
}

impl ResidentIndex {
    pub(crate) fn new(table_uri: &str, field: i32, options: VectorOptions) -> Self {
        Self {
            table_uri: table_uri.to_owned(),
            field,
            options,
            state: RwLock::default(),
            turn: tokio::sync::Mutex::default(),
            failure: Mutex::default(),
            unsaved: Mutex::default(),
            coverages: Cache::new(COVERAGE_BYTES_MAX),
            selections: Cache::new(SELECTION_BYTES_MAX),
            changed_labels: Arc::default(),
        }
    }

    /// Bytes that the graph was given; 0 when there is none.
    pub(crate) fn capacity_bytes(&self) -> u64 {
        let state = self.state.read();
        state.as_ref().map_or(0, |state| state.graph.options().capacity_bytes)
    }

    /// Bytes that the graph takes, if there is one.
    pub(crate) fn memory_bytes(&self) -> Option<u64> {
        let state = self.state.read();
        state.as_ref().map(|state| state.graph.memory_bytes())
    }

    /// Why there is no graph.
    pub(crate) fn failure(&self) -> Option<String> {
        self.failure.lock().clone()
    }

    pub(crate) fn fail(&self, error: Option<&Error>) {
        *self.failure.lock() = error.map(ToString::to_string);
    }

    /// Whether somebody changes the graph just now.
    pub(crate) fn is_busy(&self) -> bool {
        self.turn.try_lock().is_err()
    }

    /// Which rows of `snapshot` the graph has; `None` when it is none for that base.
    pub(crate) async fn view(&self, snapshot: &Snapshot, fragments: &Arc<Fragments>) -> Result<Option<GraphView>> {
        let base = snapshot.base();
        let (epoch, changed_to, covered) = {
            let state = self.state.read();
            let Some(state) = state.as_ref().filter(|state| state.complete_from <= base.version().version) else {
                return Ok(None);
            };
            // MaskFilter that were no more at the later version may be missing.
            let changed_to = if state.changed_to <= snapshot.version() { state.changed_to } else { Version(0) };
            if let Some(known) = self.coverages.get(snapshot, "").filter(|known| known.epoch == state.epoch) {
                return Ok(Some(GraphView { epoch: state.epoch, coverage: Arc::clone(&known.coverage), changed_to }));
            }
            let files = column_files(base, self.field);
            let fits = |(id, file): &(&u32, &String)| state.covered.get(*id) == Some(*file);
            (state.epoch, changed_to, files.iter().filter(fits).map(|(id, _)| *id).collect::<RoaringBitmap>())
        };
        let coverage = Arc::new(Coverage::new(fragments, covered).await?);
        let bytes = coverage.covered.serialized_size() + coverage.uncovered.serialized_size();
        self.coverages.put(snapshot, "", &Arc::new(EpochCoverage { epoch, coverage: Arc::clone(&coverage) }), bytes);
        Ok(Some(GraphView { epoch, coverage, changed_to }))
    }

    /// The nearest of the rows that `view` of `snapshot` has and that are `filtered`, by a walk of width `ef` at first;
    /// `None` when the graph has changed since. Blocks.
    pub(crate) fn nearest(
        &self,
        snapshot: &Snapshot,
        view: &GraphView,
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
        let (changes, unseen) = (row_ids_after(Version(0)), row_ids_after(view.changed_to));
        let matches = |row: u64| {
            let is_live = match row >= changes {
                true => row < unseen && snapshot.is_changed(row),
                false => covered.contains(row) && !superseded.contains(row),
            };
            is_live && filtered.is_none_or(|filtered| filtered.contains(row))
        };
        let rows = row_set::count(covered) + snapshot.changed_rows();
        let most = filtered.map_or(rows, |filtered| filtered.count().min(rows));
        let selectivity = most as f64 / state.graph.len().max(1) as f64;
        let values = match self.options.metric {
            Metric::Hamming => Values::Bits(&vector.bytes),
            _ => Values::Floats(&vector.floats),
        };
        let test = Filter::Test { matches: &matches, selectivity };
        let exact = |rows: Vec<u64>| {
            let rows: Vec<u64> = rows.into_iter().filter(|row| matches(*row)).collect();
            state.graph.search_exact(values, k, Filter::Labels(&rows))
        };
        let selection = filtered.map(|filtered| self.selection(snapshot, view, state, filtered, search)).transpose()?;
        let hits = match (filtered, selection.flatten()) {
            (Some(filtered), Some(selection)) => {
                let mut hits = state.graph.search_selection(values, k, &selection, |row| !superseded.contains(row))?;
                hits.extend(exact(row_set::ids(filtered.changes())?)?);
                hits
            }
            // Where each is compared the graph need not test all that it has.
            (Some(filtered), None) if state.graph.strategy(k, ef, test) == Strategy::Exact => exact(filtered.ids()?)?,
            _ => state.graph.search(values, k, ef, test)?,
        };
        let hits = hits.into_iter();
        Ok(Some(hits.map(|hit| Hit { row_id: hit.label, distance: Some(hit.distance), score: None }).collect()))
    }

    /// Where the graph has those of `filtered` that are in the base, superseded ones too, if to compare all of them is
    /// quicker than a walk and they are asked for again.
    fn selection(
        &self,
        snapshot: &Snapshot,
        view: &GraphView,
        state: &GraphState,
        filtered: &FilteredRows,
        GraphSearch { k, ef }: GraphSearch,
    ) -> Result<Option<Arc<Selection>>> {
        let is_quick = |rows: usize| state.graph.is_quicker_selected(k, ef, rows);
        let Some(filtered_base) = filtered.repeated().filter(|base| is_quick(base.count)) else { return Ok(None) };
        let bytes = filtered_base.count * Selection::LABEL_BYTES + filtered_base.text.len();
        if !self.selections.has_room_for(bytes) {
            return Ok(None);
        }
        let is_it =
            |known: &Arc<EpochSelection>| known.epoch == view.epoch && known.of.as_ptr() == Arc::as_ptr(filtered_base);
        if let Some(known) = self.selections.get(snapshot, &filtered_base.text).filter(is_it) {
            return Ok(Some(Arc::clone(&known.selection)));
        }
        let mut rows = row_set::ids(filtered.base())?;
        rows.retain(|row| view.coverage.covered.contains(*row));
        let selection = Arc::new(state.graph.select(&rows));
        let (epoch, of) = (view.epoch, Arc::downgrade(filtered_base));
        let selected = EpochSelection { epoch, of, selection: Arc::clone(&selection) };
        self.selections.put(snapshot, &filtered_base.text, &Arc::new(selected), bytes);
        Ok(Some(selection))
    }

    /// Brings the graph up to `snapshot`: makes it, reads it from disk, or takes in what is new. Searches go on.
    ///
    /// # Errors
    /// `ResourceExhausted`, with the figures, when it does not fit; then there is no graph.
    pub(crate) async fn refresh(
        &self,
        snapshot: &Snapshot,
        index: &Index,
        fragments: &Fragments,
        refresh: &RefreshOptions,
    ) -> Result<()> {
        let _turn = self.turn.lock().await;
        let refreshed = match self.update(snapshot, index, fragments, refresh).await {
            // What was asked for has grown out of its room: once more, with the room that there is.
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
        self.fail(refreshed.as_ref().err());
        refreshed
    }

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
            // A graph of files that are all gone teaches nothing.
            let teaches = |state: &GraphState| {
                let is_none = files.is_empty() || state.covered.is_empty();
                is_none || files.iter().any(|(id, file)| state.covered.get(id) == Some(file))
            };
            match state.as_mut().filter(|state| teaches(state) || state.complete_from > version) {
                Some(state) if state.complete_from > version => return Ok(()),
                Some(state) => {
                    let is_behind = state.covered != files || state.complete_from != version;
                    if is_behind {
                        // From here on rows of older versions may be missing.
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

    /// Writes `graph` to disk, with what it is complete for.
    async fn save(&self, snapshot: &Snapshot, graph: &Arc<Graph>, refresh: &RefreshOptions) -> Result<()> {
        let Some(file) = refresh.file.clone() else { return Ok(()) };
        let saved = {
            let state = self.state.read();
            let Some(GraphState { covered, complete_from, .. }) = state.as_ref() else { return Ok(()) };
            SavedGraph { graph: Arc::clone(graph), covered: covered.clone(), complete_from: *complete_from }
        };
        let of = self.subject(snapshot);
        blocking(move || save(&file, of, &saved)).await
    }

    async fn restore(&self, snapshot: &Snapshot, refresh: &RefreshOptions) -> Option<SavedGraph<Graph>> {
        let (file, capacity) = (refresh.file.clone()?, refresh.capacity_bytes);
        let of = self.subject(snapshot);
        match blocking(move || restore(&file, &of, capacity)).await {
            Ok(saved) => saved,
            Err(error) => {
                // It is built anew from the table.
                tracing::warn!(%error, "a saved graph cannot be read");
                None
            }
        }
    }

    fn subject(&self, snapshot: &Snapshot) -> Subject {
        Subject { table: snapshot.identity(), field: self.field, options: self.options.clone() }
    }

    fn set(&self, graph: Arc<Graph>, covered: HashMap<u32, String>, held: Option<RowAddrTreeMap>, complete_from: u64) {
        let mut state = self.state.write();
        let epoch = state.as_ref().map_or(0, |state| state.epoch + 1);
        *state = Some(GraphState { graph, covered, held, complete_from, changed_to: Version(0), epoch });
        self.changed_labels.lock().clear();
    }

    fn shape(&self, snapshot: &Snapshot, index: &Index) -> Result<VectorShape> {
        let VectorType { width, .. } = vector_type(snapshot, &index.column)?;
        Ok(VectorShape { metric: self.options.metric, width })
    }

    fn graph_options(&self, snapshot: &Snapshot, index: &Index, refresh: &RefreshOptions) -> Result<Options> {
        let VectorType { width, .. } = vector_type(snapshot, &index.column)?;
        let bits = if self.options.metric == Metric::Hamming { 8 } else { 1 };
        let mut options = Options::new(width * bits, self.options.metric.to_graph());
        options.m = self.options.m.unwrap_or(options.m);
        options.ef_construction = self.options.ef_construction.unwrap_or(options.ef_construction);
        let rows: usize = snapshot.base().fragments().iter().filter_map(|fragment| fragment.num_rows()).sum();
        let rows = rows + snapshot.changed_rows();
        let needed = Graph::bytes_for(&options, rows);
        if needed > refresh.capacity_bytes {
            return Err(Error::resource_exhausted(format!(
                "index `{}` over {rows} rows takes about {} in memory, and {} are free for such indexes: give more memory or \
                 choose an index on disk",
                index.name,
                ByteSize(needed),
                ByteSize(refresh.capacity_bytes)
            )));
        }
        options.capacity_bytes = needed.saturating_mul(ROOM).min(refresh.capacity_bytes);
        Ok(options)
    }

    /// Makes `graph` hold what the base of `snapshot` does, whose column is in `files`; how many rows that changed.
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
        let (new, held): (Vec<u32>, _) = {
            let mut state = self.state.write();
            let covered = state.as_ref().map(|state| &state.covered);
            let is_new = |id: &&u32| covered.is_none_or(|covered| !covered.contains_key(id));
            let new = files.keys().filter(is_new).copied().collect();
            // Not known again before all is taken in.
            (new, state.as_mut().and_then(|state| state.held.take()))
        };
        let all = rows_of(fragments.all());
        let (walked, examined) = (Arc::clone(graph), refresh.examined.clone());
        let (mut changes, all) = blocking(move || {
            let gone = match held {
                Some(held) => row_set::ids(&(held - &all))?,
                None => {
                    let labels = walked.labels();
                    examined.add(labels.len());
                    let changes = row_ids_after(Version(0));
                    labels.into_iter().filter(|label| *label < changes && !all.contains(*label)).collect()
                }
            };
            examined.add(gone.len());
            Ok((gone.into_iter().filter(|label| walked.delete(*label)).count(), all))
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
                let (into, changed, of) = (Arc::clone(graph), Arc::clone(&self.changed_labels), snapshot.clone());
                let (rows, threads) = (batch.num_rows(), refresh.threads);
                refresh.examined.add(rows);
                let taken = blocking(move || {
                    let mut vectors = Vectors::new(shape);
                    let without = vectors.read(&batch)?;
                    let emptied = without.into_iter().filter(|row| into.delete(*row)).count();
                    // A row that was in the change store, and is in the base now.
                    let former = |values: Values<'_>| {
                        let mut changed = changed.lock();
                        let labels = changed.get_mut(&hash(values))?;
                        let is_it = |label: &u64| !of.is_changed(*label) && into.holds(*label, values);
                        let at = labels.iter().position(is_it)?;
                        Some(labels.swap_remove(at))
                    };
                    Ok(emptied + insert(&into, &vectors, shape.metric, threads, former)?)
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
            state.held = Some(all);
            state.epoch += 1;
        }
        Ok(changes)
    }

    /// Makes `graph` hold the change store of `snapshot`.
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
                let mut vectors = Vectors::new(shape);
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
        // No search relies on the others any more.
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

fn hash(values: Values<'_>) -> u64 {
    let mut hasher = DefaultHasher::new();
    match values {
        Values::Floats(floats) => floats.iter().for_each(|float| float.to_bits().hash(&mut hasher)),
        Values::Bits(bytes) => bytes.hash(&mut hasher),
    }
    hasher.finish()
}

/// Puts those of `vectors` into `graph` that it does not have as they are; how many that were. `former` may know a
/// label with the vector that is needed no more. A vector without a direction has no cosine distance, and is left out.
fn insert(
    graph: &Graph,
    vectors: &Vectors,
    metric: Metric,
    threads: usize,
    former: impl Fn(Values<'_>) -> Option<u64>,
) -> Result<usize> {
    let has_distance = |values: Values<'_>| match values {
        Values::Floats(numbers) => {
            numbers.iter().all(|number| number.is_finite())
                && (metric != Metric::Cosine || numbers.iter().any(|number| *number != 0.0))
        }
        Values::Bits(_) => true,
    };
    let (mut emptied, mut moved, mut labels, mut new) = (0, Vec::new(), Vec::new(), Numbers::new(metric));
    for (row, row_id) in vectors.row_ids.iter().enumerate() {
        let values = vectors.values(row);
        if !has_distance(values) {
            emptied += usize::from(graph.delete(*row_id));
        } else if !graph.holds(*row_id, values) {
            match former(values) {
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

/// The data file that holds field `field`, by fragment. A field that a fragment does not hold is null in all its rows.
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

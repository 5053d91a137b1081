//! One column's vectors as a graph in memory, kept current as the base moves.
//!
//! The graph's labels are row ids. It is complete for some files of the base, known by the data file that holds the column, and
//! from some version of the base on: rows that are deleted later are passed over by whoever asks. What other files hold is late,
//! and compared one by one, until [`Resident::refresh`] takes it in. A row that changes gets a new row id or, when a column was
//! patched in place, a new data file; so the graph is never rebuilt for a change, and never holds a row's former vector unseen.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use cenote_base::{ByteSize, Error, ErrorKind, Result};
use cenote_graph::{Filter, Graph, Options, Values};
use cenote_store::{ROW_ID, Snapshot, lance_error};
use futures::TryStreamExt;
use lance::Dataset;
use lance::dataset::scanner::RowAddrTreeMap;
use lance_select::RowSetOps;
use roaring::RoaringBitmap;

use crate::cache::Cache;
use crate::catalog::{Index, Live};
use crate::hits::Hit;
use crate::kind::{IndexKind, VectorOptions};
use crate::live;
use crate::resident_file::{Saved, remove, restore, save};
use crate::spec::Metric;
use crate::vectors::{Numbers, Probe, Vectors, vector_type};

/// A graph gets room for so many times the vectors there are, so that it can grow.
const ROOM: u64 = 2;
/// Deleted vectors are taken out of the graph when there are so many to one that is there.
const DELETED_SHARE: usize = 8;
/// The graph is written to disk when so many to one of its rows have changed since.
const SAVED_SHARE: usize = 16;
/// Width of a walk where nothing else is known: so many times k, and at least this.
pub(crate) const EF_FACTOR: usize = 4;
pub(crate) const EF_MIN: usize = 128;
/// What lists of rows may take, all bases together.
const LIVE_BYTES_MAX: usize = 32 << 20;
/// Rows that one batch of a build has: short, so that a build stops soon after its caller did.
const BATCH_ROWS: usize = 2048;

/// Where a resident index may be, and how large.
#[derive(Debug, Clone)]
pub(crate) struct Bounds {
    pub(crate) capacity_bytes: u64,
    pub(crate) file: Option<PathBuf>,
    pub(crate) threads: usize,
}

/// A graph, and what it is complete for.
struct State {
    graph: Arc<Graph>,
    /// The file that holds the column, by fragment.
    covered: HashMap<u32, String>,
    /// Versions of the base before this one had rows that the graph has no more.
    complete_from: u64,
    /// Counts changes of the two above.
    epoch: u64,
}

/// A vector index in memory.
pub(crate) struct Resident {
    pub(crate) field: i32,
    pub(crate) options: VectorOptions,
    state: RwLock<Option<State>>,
    /// Taken by whoever changes the graph.
    turn: tokio::sync::Mutex<()>,
    failure: Mutex<Option<String>>,
    unsaved: Mutex<usize>,
    live: Cache<Live>,
}

/// What a graph can do for one base.
pub(crate) struct View {
    epoch: u64,
    pub(crate) live: Arc<Live>,
}

impl View {
    /// What the graph is complete for has changed so many times.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }
}

impl Resident {
    pub(crate) fn new(field: i32, options: VectorOptions) -> Self {
        Self {
            field,
            options,
            state: RwLock::default(),
            turn: tokio::sync::Mutex::default(),
            failure: Mutex::default(),
            unsaved: Mutex::default(),
            live: Cache::new(LIVE_BYTES_MAX),
        }
    }

    /// Bytes that the graph was given; 0 when there is none.
    pub(crate) fn capacity_bytes(&self) -> u64 {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        state.as_ref().map_or(0, |state| state.graph.options().capacity_bytes)
    }

    /// Bytes that the graph takes, if there is one.
    pub(crate) fn memory_bytes(&self) -> Option<u64> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        state.as_ref().map(|state| state.graph.memory_bytes())
    }

    /// Why there is no graph.
    pub(crate) fn failure(&self) -> Option<String> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn fail(&self, error: Option<&Error>) {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = error.map(ToString::to_string);
    }

    /// Whether somebody changes the graph just now.
    pub(crate) fn is_busy(&self) -> bool {
        self.turn.try_lock().is_err()
    }

    /// Which rows of the base of `snapshot` the graph has; `None` when it is none for that base.
    pub(crate) async fn view(&self, snapshot: &Snapshot) -> Result<Option<View>> {
        let base = snapshot.base();
        let (epoch, fragments) = {
            let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
            let Some(state) = state.as_ref().filter(|state| state.complete_from <= base.version().version) else {
                return Ok(None);
            };
            let files = column_files(base, self.field);
            let fits = |(id, file): &(&u32, &String)| state.covered.get(*id) == Some(*file);
            (state.epoch, files.iter().filter(fits).map(|(id, _)| *id).collect::<RoaringBitmap>())
        };
        let name = epoch.to_string();
        if let Some(live) = self.live.get(snapshot, &name) {
            return Ok(Some(View { epoch, live }));
        }
        let late = base.fragment_bitmap().as_ref() - &fragments;
        let (covered, late) =
            futures::future::try_join(live::rows_in(base, fragments), live::rows_in(base, late)).await?;
        let bytes = covered.serialized_size() + late.serialized_size();
        let live = Arc::new(Live { covered, late });
        self.live.put(snapshot, &name, &live, bytes);
        Ok(Some(View { epoch, live }))
    }

    /// The nearest of the rows that `view` covers, that are not in `superseded` and that are `wanted`, by a walk of width `ef` at
    /// first; `None` when the graph has changed since. Blocks.
    pub(crate) fn nearest(
        &self,
        view: &View,
        probe: &Probe,
        k: usize,
        ef: usize,
        superseded: &RowAddrTreeMap,
        wanted: Option<&RowAddrTreeMap>,
    ) -> Result<Option<Vec<Hit>>> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let Some(state) = state.as_ref().filter(|state| state.epoch == view.epoch) else { return Ok(None) };
        let covered = &view.live.covered;
        let matches = |row: u64| {
            covered.contains(row) && !superseded.contains(row) && wanted.is_none_or(|wanted| wanted.contains(row))
        };
        let rows = live::count(covered);
        let wanted = wanted.map_or(rows, |wanted| live::count(wanted).min(rows));
        let selectivity = wanted as f64 / state.graph.len().max(1) as f64;
        let values = match self.options.metric {
            Metric::Hamming => Values::Bits(&probe.bytes),
            _ => Values::Floats(&probe.floats),
        };
        let hits = state.graph.search(values, k, ef, Filter::Test { matches: &matches, selectivity })?;
        let hits = hits.into_iter();
        Ok(Some(hits.map(|hit| Hit { row_id: hit.label, distance: Some(hit.distance), score: None }).collect()))
    }

    /// Brings the graph up to the base of `snapshot`: makes it, reads it from disk, or takes in what is new. Searches go on.
    ///
    /// # Errors
    /// `ResourceExhausted`, with the figures, when it does not fit; then there is no graph.
    pub(crate) async fn refresh(&self, snapshot: &Snapshot, index: &Index, bounds: &Bounds) -> Result<()> {
        let _turn = self.turn.lock().await;
        let refreshed = match self.bring_up(snapshot, index, bounds).await {
            // What was asked for has grown out of its room: once more, with the room that there is.
            Err(error) if error.kind() == ErrorKind::ResourceExhausted && self.memory_bytes().is_some() => {
                self.clear(bounds);
                self.bring_up(snapshot, index, bounds).await
            }
            refreshed => refreshed,
        };
        if let Err(error) = &refreshed
            && error.kind() == ErrorKind::ResourceExhausted
        {
            self.clear(bounds);
        }
        self.fail(refreshed.as_ref().err());
        refreshed
    }

    fn clear(&self, bounds: &Bounds) {
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = None;
        bounds.file.iter().for_each(|file| remove(file));
    }

    async fn bring_up(&self, snapshot: &Snapshot, index: &Index, bounds: &Bounds) -> Result<()> {
        let base = snapshot.base();
        let (field, version) = (self.field, base.version().version);
        let files = column_files(base, field);
        if self.memory_bytes().is_none()
            && let Some(saved) = self.restore(bounds).await
            // Or else it is of a table that was there before under the same name.
            && saved.covered.iter().any(|(id, file)| files.get(id) == Some(file))
        {
            let Saved { graph, covered, complete_from } = saved;
            self.set(Arc::new(graph), covered, complete_from);
        }
        let graph = {
            let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
            // A graph of files that are all gone teaches nothing.
            let is_of =
                |state: &State| files.is_empty() || files.iter().any(|(id, file)| state.covered.get(id) == Some(file));
            match state.as_mut().filter(|state| is_of(state) || state.complete_from > version) {
                Some(state) if state.complete_from > version => return Ok(()),
                Some(state) => {
                    if state.covered == files && state.complete_from == version {
                        return Ok(());
                    }
                    // From here on rows of older versions may be missing.
                    state.covered.retain(|id, file| files.get(id) == Some(file));
                    state.complete_from = version;
                    state.epoch += 1;
                    Some(Arc::clone(&state.graph))
                }
                None => None,
            }
        };
        let graph = match graph {
            Some(graph) => graph,
            None => {
                let graph = Arc::new(Graph::new(self.graph_options(snapshot, index, bounds)?)?);
                self.set(Arc::clone(&graph), HashMap::new(), version);
                graph
            }
        };
        let changes = self.take_in(snapshot, index, &graph, &files, bounds.threads).await?;
        let unsaved = {
            let mut unsaved = self.unsaved.lock().unwrap_or_else(PoisonError::into_inner);
            *unsaved += changes;
            *unsaved
        };
        if unsaved * SAVED_SHARE >= graph.len().max(1)
            && let Some(file) = bounds.file.clone()
        {
            let saved = Saved { graph: Arc::clone(&graph), covered: files, complete_from: version };
            let options = self.options.clone();
            blocking(move || save(&file, field, &options, &saved)).await?;
            *self.unsaved.lock().unwrap_or_else(PoisonError::into_inner) = 0;
        }
        Ok(())
    }

    async fn restore(&self, bounds: &Bounds) -> Option<Saved<Graph>> {
        let (file, capacity) = (bounds.file.clone()?, bounds.capacity_bytes);
        let (field, options) = (self.field, self.options.clone());
        match blocking(move || restore(&file, field, &options, capacity)).await {
            Ok(saved) => saved,
            Err(error) => {
                // It is built anew from the table.
                tracing::warn!(%error, "a saved graph cannot be read");
                None
            }
        }
    }

    fn set(&self, graph: Arc<Graph>, covered: HashMap<u32, String>, complete_from: u64) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let epoch = state.as_ref().map_or(0, |state| state.epoch + 1);
        *state = Some(State { graph, covered, complete_from, epoch });
    }

    fn graph_options(&self, snapshot: &Snapshot, index: &Index, bounds: &Bounds) -> Result<Options> {
        let (_, width) = vector_type(snapshot, &index.column)?;
        let bits = if self.options.metric == Metric::Hamming { 8 } else { 1 };
        let mut options = Options::new(width * bits, self.options.metric.to_graph());
        options.m = self.options.m.unwrap_or(options.m);
        options.ef_construction = self.options.ef_construction.unwrap_or(options.ef_construction);
        let rows = snapshot.base().fragments().iter().filter_map(|fragment| fragment.num_rows()).sum();
        let needed = Graph::bytes_for(&options, rows);
        if needed > bounds.capacity_bytes {
            return Err(Error::resource_exhausted(format!(
                "index `{}` over {rows} rows takes about {} in memory, and {} are free for such indexes: give more memory or \
                 choose an index on disk",
                index.name,
                ByteSize(needed),
                ByteSize(bounds.capacity_bytes)
            )));
        }
        options.capacity_bytes = needed.saturating_mul(ROOM).min(bounds.capacity_bytes);
        Ok(options)
    }

    /// Makes `graph` hold what the base of `snapshot` does, whose column is in `files`; how many rows that changed.
    async fn take_in(
        &self,
        snapshot: &Snapshot,
        index: &Index,
        graph: &Arc<Graph>,
        files: &HashMap<u32, String>,
        threads: usize,
    ) -> Result<usize> {
        let base = snapshot.base();
        let new: Vec<u32> = {
            let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
            let covered = state.as_ref().map(|state| &state.covered);
            files.keys().filter(|id| covered.is_none_or(|covered| !covered.contains_key(id))).copied().collect()
        };
        let all = live::rows_in(base, base.fragment_bitmap().as_ref().clone()).await?;
        let (walked, metric) = (Arc::clone(graph), self.options.metric);
        let mut changes = blocking(move || {
            let gone: Vec<u64> = walked.labels().into_iter().filter(|label| !all.contains(*label)).collect();
            Ok(gone.into_iter().filter(|label| walked.delete(*label)).count())
        })
        .await?;
        if !new.is_empty() {
            let (_, width) = vector_type(snapshot, &index.column)?;
            let fragments = base.fragments().iter().filter(|fragment| new.contains(&(fragment.id as u32)));
            let mut scanner = base.scan();
            scanner.with_fragments(fragments.cloned().collect()).batch_size(BATCH_ROWS);
            scanner.project(&[&index.column]).map_err(lance_error)?.with_row_id();
            let mut batches = scanner.try_into_stream().await.map_err(lance_error)?;
            while let Some(batch) = batches.try_next().await.map_err(lance_error)? {
                debug_assert!(batch.column_by_name(ROW_ID).is_some());
                let graph = Arc::clone(graph);
                changes += blocking(move || {
                    let mut vectors = Vectors::new(metric, width);
                    let without = vectors.read(&batch)?;
                    let emptied = without.into_iter().filter(|row| graph.delete(*row)).count();
                    Ok(emptied + insert(&graph, &vectors, metric, width, threads)?)
                })
                .await?;
            }
        }
        {
            let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
            if let Some(state) = state.as_mut() {
                state.covered.clone_from(files);
                state.epoch += 1;
            }
        }
        if graph.deleted() * DELETED_SHARE > graph.len() {
            let graph = Arc::clone(graph);
            blocking(move || Ok(graph.consolidate(threads))).await?;
        }
        Ok(changes)
    }
}

/// Puts those of `vectors` into `graph` that it does not have as they are; how many that were. A vector without a direction has
/// no cosine distance, and is left out.
fn insert(graph: &Graph, vectors: &Vectors, metric: Metric, width: usize, threads: usize) -> Result<usize> {
    let rows = vectors.row_ids.iter().copied().enumerate();
    match &vectors.numbers {
        Numbers::Floats(numbers) => {
            let of = |row: usize| &numbers[row * width..][..width];
            let has_distance = |row: usize| {
                of(row).iter().all(|number| number.is_finite())
                    && (metric != Metric::Cosine || of(row).iter().any(|number| *number != 0.0))
            };
            let (new, rest): (Vec<_>, Vec<_>) = rows.partition(|(row, _)| has_distance(*row));
            let emptied = rest.into_iter().filter(|(_, row_id)| graph.delete(*row_id)).count();
            let new: Vec<_> = new.into_iter().filter(|(row, row_id)| !graph.holds(*row_id, of(*row))).collect();
            let labels: Vec<u64> = new.iter().map(|(_, row_id)| *row_id).collect();
            let values: Vec<f32> = new.iter().flat_map(|(row, _)| of(*row)).copied().collect();
            graph.insert_batch(&labels, &values, threads)?;
            Ok(emptied + labels.len())
        }
        Numbers::Bytes(numbers) => {
            let of = |row: usize| &numbers[row * width..][..width];
            let new: Vec<_> = rows.filter(|(row, row_id)| !graph.holds(*row_id, of(*row))).collect();
            let labels: Vec<u64> = new.iter().map(|(_, row_id)| *row_id).collect();
            let values: Vec<u8> = new.iter().flat_map(|(row, _)| of(*row)).copied().collect();
            graph.insert_batch(&labels, &values, threads)?;
            Ok(labels.len())
        }
    }
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

pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|source| Error::internal("index work ended early").with_source(source))?
}

/// The options of a resident index.
pub(crate) fn resident_options(kind: &IndexKind) -> Option<&VectorOptions> {
    match kind {
        IndexKind::Vector(options) if kind.is_resident() => Some(options),
        _ => None,
    }
}

//! The upkeep of a resident graph: its build, its restoration from disk, and what later versions of the table add.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cenote_base::{ByteSize, Error, ErrorKind, Progress, Result};
use cenote_graph::{Graph, GraphOptions, Relabelling, VectorValues};
use cenote_store::{ROW_ID, ScanRequest, Snapshot, Version, blocking, lance_error, row_ids_after};
use futures::TryStreamExt;
use lance::dataset::scanner::RowAddrTreeMap;
use lance_select::RowSetOps;

use super::{GraphState, ResidentIndex, column_files};
use crate::catalog::Index;
use crate::metric::Metric;
use crate::rows::fragments::{Examined, Fragments, rows_of};
use crate::rows::row_set;
use crate::vector::exact::{RowVectors, VectorNumbers, VectorShape, VectorType, vector_type};
use crate::vector::resident::saved::{SavedGraph, Subject, remove, restore, save};

/// The capacity of a new graph: `CAPACITY_FACTOR` times the bytes that the current rows take, so that it can grow.
const CAPACITY_FACTOR: u64 = 2;
/// Deleted vectors are removed from the graph when they are more than `1 / DELETED_SHARE` of the live ones.
const DELETED_SHARE: usize = 8;
/// The graph is saved when `1 / SAVED_SHARE` of its rows have changed since the last save, which bounds what is written
/// while it grows to a few times its final size.
const SAVED_SHARE: usize = 4;
/// Rows of one batch of a build: few, so that a cancelled build stops soon.
const BATCH_ROWS: usize = 2048;

/// The bounds of a refresh, and where it reports and saves.
pub(crate) struct RefreshOptions {
    /// Bytes that the graph takes, at most.
    pub(crate) capacity_bytes: u64,
    /// The manifest of the saved graph; `None`: it is not saved.
    pub(crate) file: Option<PathBuf>,
    pub(crate) threads: usize,
    /// Minimum time between two saves during a build.
    pub(crate) save_every: Duration,
    pub(crate) progress: Arc<dyn Progress>,
    pub(crate) examined: Examined,
}

impl ResidentIndex {
    /// Brings the graph up to `snapshot`: builds it, restores it from disk, or adds what is new. Searches continue.
    ///
    /// # Errors
    /// `ResourceExhausted`, with the figures, when the graph does not fit; it is then dropped.
    pub(crate) async fn refresh(
        &self,
        snapshot: &Snapshot,
        index: &Index,
        fragments: &Fragments,
        options: &RefreshOptions,
    ) -> Result<()> {
        let _turn = self.writer.lock().await;
        let refresh = Refresh { resident: self, snapshot, index, fragments, options };
        let refreshed = match refresh.run().await {
            // The graph has outgrown its capacity: rebuild it with all the memory that is free.
            Err(error) if error.kind() == ErrorKind::ResourceExhausted && self.memory_bytes().is_some() => {
                refresh.clear();
                refresh.run().await
            }
            refreshed => refreshed,
        };
        if let Err(error) = &refreshed
            && error.kind() == ErrorKind::ResourceExhausted
        {
            refresh.clear();
        }
        *self.failure.lock() = refreshed.as_ref().err().map(ToString::to_string);
        refreshed
    }
}

/// A refresh under way.
struct Refresh<'a> {
    resident: &'a ResidentIndex,
    /// The version that the graph is brought up to.
    snapshot: &'a Snapshot,
    index: &'a Index,
    /// The fragments of the snapshot's base.
    fragments: &'a Fragments,
    options: &'a RefreshOptions,
}

impl Refresh<'_> {
    /// Drops the graph, in memory and on disk.
    fn clear(&self) {
        *self.resident.state.write() = None;
        self.resident.changed_labels.lock().clear();
        self.options.file.iter().for_each(|file| remove(file));
    }

    async fn run(&self) -> Result<()> {
        let base = self.snapshot.base();
        let (field, version) = (self.resident.field, base.version().version);
        let files = column_files(base, field);
        if self.resident.memory_bytes().is_none()
            && let Some(saved) = self.restore().await
        {
            let SavedGraph { graph, covered, complete_from } = saved;
            let (stage, rows) = (format!("{}: restore", self.index.name), graph.len() as u64);
            self.options.progress.begin(&stage, Some(rows));
            self.options.progress.advance(&stage, rows);
            self.options.progress.end(&stage);
            let changes = row_ids_after(Version(0));
            let graph = blocking(move || {
                for label in graph.labels().into_iter().filter(|label| *label >= changes) {
                    graph.delete(label);
                }
                Ok(graph)
            })
            .await?;
            self.set(Arc::new(graph), covered, None, complete_from);
        }
        let known = {
            let mut state = self.resident.state.write();
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
                let graph = Arc::new(Graph::new(self.graph_options()?)?);
                self.set(Arc::clone(&graph), HashMap::new(), Some(RowAddrTreeMap::new()), version);
                (graph, true)
            }
        };
        let mut changes = 0;
        if is_behind {
            changes = self.add_base(&graph, &files).await?;
        }
        self.add_changes(&graph).await?;
        if graph.deleted() * DELETED_SHARE > graph.len() {
            let (graph, threads) = (Arc::clone(&graph), self.options.threads);
            blocking(move || Ok(graph.consolidate(threads))).await?;
        }
        let unsaved = {
            let mut unsaved = self.resident.unsaved.lock();
            *unsaved += changes;
            *unsaved
        };
        if unsaved * SAVED_SHARE >= graph.len().max(1) {
            self.save(&graph).await?;
            *self.resident.unsaved.lock() = 0;
        }
        Ok(())
    }

    /// Saves `graph` with the fragments and the version that it is complete for.
    async fn save(&self, graph: &Arc<Graph>) -> Result<()> {
        let Some(file) = self.options.file.clone() else { return Ok(()) };
        let saved = {
            let state = self.resident.state.read();
            let Some(GraphState { covered, complete_from, .. }) = state.as_ref() else { return Ok(()) };
            SavedGraph { graph: Arc::clone(graph), covered: covered.clone(), complete_from: *complete_from }
        };
        let subject = self.subject();
        blocking(move || save(&file, subject, &saved)).await
    }

    /// Restores the saved graph, if there is one for this index and it can be read.
    async fn restore(&self) -> Option<SavedGraph<Graph>> {
        let (file, capacity) = (self.options.file.clone()?, self.options.capacity_bytes);
        let subject = self.subject();
        match blocking(move || restore(&file, &subject, capacity)).await {
            Ok(saved) => saved,
            Err(error) => {
                // The graph is rebuilt from the table.
                tracing::warn!(%error, "a saved graph cannot be read");
                None
            }
        }
    }

    fn subject(&self) -> Subject {
        Subject { table: self.snapshot.identity(), field: self.resident.field, options: self.resident.options.clone() }
    }

    fn set(
        &self,
        graph: Arc<Graph>,
        covered: HashMap<u32, String>,
        base_rows: Option<RowAddrTreeMap>,
        complete_from: u64,
    ) {
        let mut state = self.resident.state.write();
        let epoch = state.as_ref().map_or(0, |state| state.epoch + 1);
        *state = Some(GraphState { graph, covered, base_rows, complete_from, changed_to: Version(0), epoch });
        self.resident.changed_labels.lock().clear();
    }

    fn shape(&self) -> Result<VectorShape> {
        let VectorType { width, .. } = vector_type(self.snapshot, &self.index.column)?;
        Ok(VectorShape { metric: self.resident.options.metric, width })
    }

    fn graph_options(&self) -> Result<GraphOptions> {
        let VectorType { width, .. } = vector_type(self.snapshot, &self.index.column)?;
        let bits = if self.resident.options.metric == Metric::Hamming { 8 } else { 1 };
        let mut options = GraphOptions::new(width * bits, self.resident.options.metric);
        options.m = self.resident.options.m.unwrap_or(options.m);
        options.ef_construction = self.resident.options.ef_construction.unwrap_or(options.ef_construction);
        let rows: usize = self.snapshot.base().fragments().iter().filter_map(|fragment| fragment.num_rows()).sum();
        let rows = rows + self.snapshot.changed_rows();
        let needed = Graph::bytes_for(&options, rows);
        if needed > self.options.capacity_bytes {
            return Err(Error::resource_exhausted(format!(
                "index `{}` over {rows} rows takes about {} in memory, and {} are free for such indexes: give more \
                 memory or choose an index on disk",
                self.index.name,
                ByteSize(needed),
                ByteSize(self.options.capacity_bytes)
            )));
        }
        options.capacity_bytes = needed.saturating_mul(CAPACITY_FACTOR).min(self.options.capacity_bytes);
        Ok(options)
    }

    /// Brings `graph` up to the base of the snapshot, whose column is in `files`. Returns the number of rows that
    /// changed.
    async fn add_base(&self, graph: &Arc<Graph>, files: &HashMap<u32, String>) -> Result<usize> {
        let base = self.snapshot.base();
        let (new, base_rows): (Vec<u32>, _) = {
            let mut state = self.resident.state.write();
            let covered = state.as_ref().map(|state| &state.covered);
            let is_new = |id: &&u32| covered.is_none_or(|covered| !covered.contains_key(id));
            let new = files.keys().filter(is_new).copied().collect();
            // Unknown until the update is complete.
            (new, state.as_mut().and_then(|state| state.base_rows.take()))
        };
        let all = rows_of(self.fragments.all());
        let (target, examined) = (Arc::clone(graph), self.options.examined.clone());
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
            let shape = self.shape()?;
            let fragments = base.fragments().iter().filter(|fragment| new.contains(&(fragment.id as u32)));
            let fragments: Vec<_> = fragments.cloned().collect();
            let rows = fragments.iter().map(|fragment| fragment.num_rows()).sum::<Option<usize>>();
            let (stage, progress) = (format!("{}: insert", self.index.name), &self.options.progress);
            progress.begin(&stage, rows.map(|rows| rows as u64));
            let mut scanner = base.scan();
            scanner.with_fragments(fragments).batch_size(BATCH_ROWS);
            scanner.project(&[&self.index.column]).map_err(lance_error)?.with_row_id();
            let mut batches = scanner.try_into_stream().await.map_err(lance_error)?;
            let (mut saved, mut unsaved) = (Instant::now(), 0);
            while let Some(batch) = batches.try_next().await.map_err(lance_error)? {
                debug_assert!(batch.column_by_name(ROW_ID).is_some());
                let (target, changed, current) =
                    (Arc::clone(graph), Arc::clone(&self.resident.changed_labels), self.snapshot.clone());
                let (rows, threads) = (batch.num_rows(), self.options.threads);
                self.options.examined.add(rows);
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
                if saved.elapsed() >= self.options.save_every && unsaved * SAVED_SHARE >= graph.len() {
                    self.save(graph).await?;
                    (saved, unsaved) = (Instant::now(), 0);
                }
            }
            progress.end(&stage);
        }
        let mut state = self.resident.state.write();
        if let Some(state) = state.as_mut() {
            state.covered.clone_from(files);
            state.base_rows = Some(all);
            state.epoch += 1;
        }
        Ok(changes)
    }

    /// Brings `graph` up to the change store of the snapshot.
    async fn add_changes(&self, graph: &Arc<Graph>) -> Result<()> {
        let from = {
            let state = self.resident.state.read();
            state.as_ref().map_or(Version(0), |state| state.changed_to)
        };
        if self.snapshot.version() <= from {
            return Ok(());
        }
        let (shape, threads) = (self.shape()?, self.options.threads);
        let request = ScanRequest::default().columns([&self.index.column]).with_row_id().batch_rows(BATCH_ROWS);
        for batch in self.snapshot.changed_since(from, &request).await? {
            let (graph, changed) = (Arc::clone(graph), Arc::clone(&self.resident.changed_labels));
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
            let mut state = self.resident.state.write();
            if let Some(state) = state.as_mut() {
                state.changed_to = self.snapshot.version();
            }
        }
        // Searches no longer use the rows of the change store that are gone.
        let (graph, changed, snapshot) =
            (Arc::clone(graph), Arc::clone(&self.resident.changed_labels), self.snapshot.clone());
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
                Some(label) => moved.push(Relabelling { from: label, to: *row_id }),
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

//! The vectors of one column as a graph in memory, kept current while the table is written.
//!
//! The labels of the graph are row ids. The graph is complete for some fragments of the base, each known by the data
//! file that holds the column, and for versions of the base from some version on: a search skips rows that were deleted
//! later. It is also complete for the change store up to some version. Rows of other fragments and later writes are
//! uncovered and compared one by one, until [`ResidentIndex::refresh`] adds them. A row that changes gets a new row id
//! or, when its column was patched in place, a new data file. So a change never rebuilds the graph, and a search never
//! finds a row by a stale vector. A row that a fold moves into the base keeps its node under the new id.

pub(crate) mod refresh;
pub(in crate::vector) mod search;

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use cenote_base::Result;
use cenote_base::sync::{Mutex, RwLock};
use cenote_graph::{Graph, LabelSelection};
use cenote_store::{Snapshot, Version};
use lance::Dataset;
use lance::dataset::scanner::RowAddrTreeMap;
use roaring::RoaringBitmap;

use crate::kind::VectorOptions;
use crate::rows::cache::Cache;
use crate::rows::coverage::Coverage;
use crate::rows::filtered::FilteredBase;
use crate::rows::fragments::Fragments;

/// Bytes of cached coverages, for all bases together.
const COVERAGE_BYTES_MAX: usize = 32 << 20;
/// Bytes of cached selections of filtered rows, for all bases together.
const SELECTION_BYTES_MAX: usize = 16 << 20;

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

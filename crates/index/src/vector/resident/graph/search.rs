//! The search of a resident graph.

use std::sync::Arc;

use cenote_base::Result;
use cenote_graph::{GraphStrategy, LabelFilter, LabelSelection, VectorValues};
use cenote_store::{Snapshot, Version, row_ids_after};
use lance_select::RowSetOps;

use super::{EpochSelection, GraphState, ResidentIndex, ResidentView};
use crate::hits::Hit;
use crate::metric::Metric;
use crate::rows::filtered::FilteredRows;
use crate::rows::row_set;
use crate::vector::exact::QueryVector;

/// The default width of a walk: `EF_FACTOR · k`, at least `EF_MIN`.
pub(in crate::vector) const EF_FACTOR: usize = 4;
pub(in crate::vector) const EF_MIN: usize = 128;

/// The parameters of a search through the graph.
#[derive(Debug, Clone, Copy)]
pub(in crate::vector) struct GraphSearch {
    /// The number of rows wanted.
    pub(in crate::vector) k: usize,
    /// The width of the walk: the candidates it keeps.
    pub(in crate::vector) ef: usize,
}

impl ResidentIndex {
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
}

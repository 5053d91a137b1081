//! Which rows satisfy a filter: those of a base are found once for many searches.

use std::sync::Arc;

use cenote_base::Result;
use cenote_store::{Filter, Snapshot};
use lance::dataset::scanner::RowAddrTreeMap;
use lance_select::RowSetOps;

use crate::cache::Cache;
use crate::live;

/// A filter takes so many bytes for each that it is written with: some are trees.
const FILTER_BYTES: usize = 16;

/// Filters that were asked for, with the rows of a base that satisfy them.
#[derive(Debug)]
pub(crate) struct Filtered(Cache<Satisfying>);

/// The rows of a base that satisfy a filter, superseded ones too.
#[derive(Debug)]
pub(crate) struct Satisfying {
    filter: Filter,
    /// How it is written. Two expressions may be written alike.
    pub(crate) text: String,
    pub(crate) rows: RowAddrTreeMap,
    pub(crate) count: usize,
}

/// The rows of a snapshot that satisfy a filter.
#[derive(Debug)]
pub(crate) struct Wanted {
    base: Arc<Satisfying>,
    superseded: Arc<RowAddrTreeMap>,
    changes: RowAddrTreeMap,
    count: usize,
    is_known: bool,
}

impl Filtered {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self(Cache::new(bytes_max))
    }

    /// The rows of `snapshot` that satisfy `filter`.
    pub(crate) async fn rows(&self, snapshot: &Snapshot, filter: &Filter) -> Result<Wanted> {
        let changes = live::satisfying_changes(snapshot, filter).await?;
        let text = filter.to_string();
        let known = self.0.get(snapshot, &text).filter(|known| known.filter == *filter);
        let is_known = known.is_some();
        let base = match known {
            Some(known) => known,
            None => {
                let rows = live::satisfying_base(snapshot.base(), filter).await?;
                let count = live::count(&rows);
                let base = Arc::new(Satisfying { filter: filter.clone(), text, rows, count });
                if snapshot.is_steady(filter)? {
                    let bytes = base.rows.serialized_size() + FILTER_BYTES * base.text.len();
                    self.0.put(snapshot, &base.text, &base, bytes);
                }
                base
            }
        };
        let superseded = Arc::clone(snapshot.superseded());
        let gone = live::count(&(superseded.as_ref().clone() & &base.rows));
        let count = base.count - gone + live::count(&changes);
        Ok(Wanted { base, superseded, changes, count, is_known })
    }
}

impl Wanted {
    pub(crate) fn contains(&self, row: u64) -> bool {
        self.base.rows.contains(row) && !self.superseded.contains(row) || self.changes.contains(row)
    }

    /// How many they are.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Their ids, ascending.
    pub(crate) fn ids(&self) -> Result<Vec<u64>> {
        let mut ids = live::ids(&self.base.rows)?;
        ids.retain(|row| !self.superseded.contains(*row));
        ids.extend(live::ids(&self.changes)?);
        Ok(ids)
    }

    /// Those of the base, superseded ones too.
    pub(crate) fn base(&self) -> &RowAddrTreeMap {
        &self.base.rows
    }

    /// Those of the change store.
    pub(crate) fn changes(&self) -> &RowAddrTreeMap {
        &self.changes
    }

    /// Those of the base, if they were asked for before, and so may be once more: the same value each time.
    pub(crate) fn repeated(&self) -> Option<&Arc<Satisfying>> {
        self.is_known.then_some(&self.base)
    }
}

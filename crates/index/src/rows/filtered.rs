//! The rows that satisfy a filter. Those of a base are found once for many searches, those of a fragment once for many
//! bases.

use std::sync::Arc;

use cenote_base::Result;
use cenote_store::{Filter, Snapshot};
use lance::dataset::scanner::RowAddrTreeMap;
use lance_select::RowSetOps;

use super::cache::Cache;
use super::fragments::{Examined, Fragments, PerFragment, scan};
use super::row_set;

/// Bytes that a filter takes in memory, for each byte of its text: some are trees.
const FILTER_BYTES: usize = 16;

/// The cached filters, with the rows of a base that satisfy them.
#[derive(Debug)]
pub(crate) struct FilterCache {
    kept: Cache<FilteredBase>,
    examined: Examined,
}

/// The rows of a base that satisfy a filter, superseded ones included.
#[derive(Debug)]
pub(crate) struct FilteredBase {
    filter: Filter,
    /// The text of the filter. Two different expressions may have the same text.
    pub(crate) text: String,
    /// The hash of the columns of the base: see [`Fragments::schema`].
    schema: u64,
    /// The rows of each fragment, some of which may have been deleted since they were found.
    by_fragment: PerFragment<RowAddrTreeMap>,
    pub(crate) rows: RowAddrTreeMap,
    pub(crate) count: usize,
}

/// The rows of a snapshot that satisfy a filter.
#[derive(Debug)]
pub(crate) struct FilteredRows {
    base: Arc<FilteredBase>,
    superseded: Arc<RowAddrTreeMap>,
    changes: RowAddrTreeMap,
    count: usize,
    is_known: bool,
}

impl FilterCache {
    pub(crate) fn new(bytes_max: usize, examined: Examined) -> Self {
        Self { kept: Cache::new(bytes_max), examined }
    }

    /// Drops the entries of the table with identity `table`.
    pub(crate) fn forget(&self, table: u64) {
        self.kept.forget(table);
    }

    /// Returns the rows of `snapshot`, whose base has `fragments`, that satisfy `filter`.
    pub(crate) async fn rows(
        &self,
        snapshot: &Snapshot,
        fragments: &Fragments,
        filter: &Filter,
    ) -> Result<FilteredRows> {
        let changes = row_set::satisfying_changes(snapshot, filter).await?;
        let text = filter.to_string();
        let is_it = |known: &Arc<FilteredBase>| known.filter == *filter && known.schema == fragments.schema();
        let known = self.kept.last(snapshot, &text).filter(is_it);
        let is_known = known.is_some();
        let base = match known {
            Some(known) if known.by_fragment.are_of(fragments.all()) => known,
            known => {
                let base = Arc::new(self.find(snapshot, fragments, filter, text, known.as_deref()).await?);
                if snapshot.is_steady(filter)? {
                    self.kept.put_lasting(snapshot, &base.text, &base, base.bytes());
                }
                base
            }
        };
        let superseded = Arc::clone(snapshot.superseded());
        let gone = row_set::count(&(superseded.as_ref().clone() & &base.rows));
        let count = base.count - gone + row_set::count(&changes);
        Ok(FilteredRows { base, superseded, changes, count, is_known })
    }

    /// Finds the rows that satisfy `filter`: only those of fragments that `known` does not have are read.
    async fn find(
        &self,
        snapshot: &Snapshot,
        fragments: &Fragments,
        filter: &Filter,
        text: String,
        known: Option<&FilteredBase>,
    ) -> Result<FilteredBase> {
        let (mut by_fragment, missing) = PerFragment::carried(known.map(|known| &known.by_fragment), fragments.all());
        let base = snapshot.base();
        let found = match missing.len() {
            0 => RowAddrTreeMap::new(),
            // Scalar indexes help to filter a whole table, not some of its fragments.
            all if all == fragments.all().len() => {
                row_set::satisfying(base.scan(), snapshot.full_schema(), filter).await?
            }
            _ => {
                let mut scanner = scan(base, &missing);
                scanner.use_scalar_index(false);
                row_set::satisfying(scanner, snapshot.full_schema(), filter).await?
            }
        };
        for fragment in missing {
            self.examined.add(row_set::count(fragment.rows()));
            let found = fragment.rows().clone() & &found;
            by_fragment.push(fragment, found);
        }
        let live: Vec<RowAddrTreeMap> =
            by_fragment.iter().map(|entry| entry.value.as_ref().clone() & entry.fragment.rows()).collect();
        let rows = RowAddrTreeMap::union_all(&live.iter().collect::<Vec<_>>());
        let count = row_set::count(&rows);
        Ok(FilteredBase { filter: filter.clone(), text, schema: fragments.schema(), by_fragment, rows, count })
    }
}

impl FilteredBase {
    fn bytes(&self) -> usize {
        let by_fragment: usize = self.by_fragment.iter().map(|entry| entry.value.serialized_size()).sum();
        by_fragment + self.rows.serialized_size() + FILTER_BYTES * self.text.len()
    }
}

impl FilteredRows {
    pub(crate) fn contains(&self, row: u64) -> bool {
        self.base.rows.contains(row) && !self.superseded.contains(row) || self.changes.contains(row)
    }

    /// Returns the number of rows.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Returns the ids of the rows, ascending.
    pub(crate) fn ids(&self) -> Result<Vec<u64>> {
        let mut ids = row_set::ids(&self.base.rows)?;
        ids.retain(|row| !self.superseded.contains(*row));
        ids.extend(row_set::ids(&self.changes)?);
        Ok(ids)
    }

    /// Returns the rows of the base, superseded ones included.
    pub(crate) fn base(&self) -> &RowAddrTreeMap {
        &self.base.rows
    }

    /// Returns the rows of the change store.
    pub(crate) fn changes(&self) -> &RowAddrTreeMap {
        &self.changes
    }

    /// Returns the rows of the base if the filter was used before, and so may be used again: the same value each time.
    pub(crate) fn repeated(&self) -> Option<&Arc<FilteredBase>> {
        self.is_known.then_some(&self.base)
    }
}

//! Which rows satisfy a filter: those of a base are found once for many searches, and those of a fragment once for many
//! bases.

use std::sync::Arc;

use cenote_base::Result;
use cenote_store::{Filter, Snapshot};
use lance::dataset::scanner::RowAddrTreeMap;
use lance_select::RowSetOps;

use super::cache::Cache;
use super::fragments::{Examined, Fragments, PerFragment, scan};
use super::row_set;

/// A filter takes so many bytes for each that it is written with: some are trees.
const FILTER_BYTES: usize = 16;

/// Filters that were asked for, with the rows of a base that satisfy them.
#[derive(Debug)]
pub(crate) struct FilterCache {
    kept: Cache<FilteredBase>,
    examined: Examined,
}

/// The rows of a base that satisfy a filter, superseded ones too.
#[derive(Debug)]
pub(crate) struct FilteredBase {
    filter: Filter,
    /// How it is written. Two expressions may be written alike.
    pub(crate) text: String,
    /// What the columns are that it names.
    schema: u64,
    /// By fragment; among them are rows that were deleted since they were found.
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

    /// Drops what belongs to the table of this identity.
    pub(crate) fn forget(&self, table: u64) {
        self.kept.forget(table);
    }

    /// The rows of `snapshot` that satisfy `filter`, where its base has `fragments`.
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

    /// Finds the rows of the fragments that `known` does not have.
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
            // Scalar indexes help to look through a table, and not through a part of it.
            all if all == fragments.all().len() => row_set::satisfying(base.scan(), filter).await?,
            _ => {
                let mut scanner = scan(base, &missing);
                scanner.use_scalar_index(false);
                row_set::satisfying(scanner, filter).await?
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

    /// How many they are.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Their ids, ascending.
    pub(crate) fn ids(&self) -> Result<Vec<u64>> {
        let mut ids = row_set::ids(&self.base.rows)?;
        ids.retain(|row| !self.superseded.contains(*row));
        ids.extend(row_set::ids(&self.changes)?);
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
    pub(crate) fn repeated(&self) -> Option<&Arc<FilteredBase>> {
        self.is_known.then_some(&self.base)
    }
}

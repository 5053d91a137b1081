//! Which rows satisfy a filter: those of a base are found once for many searches, and those of a fragment once for many
//! bases.

use std::sync::Arc;

use cenote_base::Result;
use cenote_store::{Filter, Snapshot};
use lance::dataset::scanner::RowAddrTreeMap;
use lance_select::RowSetOps;

use super::cache::Cache;
use super::fragments::{Examined, Fragments, Parts, scan};
use super::row_set;

/// A filter takes so many bytes for each that it is written with: some are trees.
const FILTER_BYTES: usize = 16;

/// Filters that were asked for, with the rows of a base that satisfy them.
#[derive(Debug)]
pub(crate) struct Filtered {
    kept: Cache<Satisfying>,
    examined: Examined,
}

/// The rows of a base that satisfy a filter, superseded ones too.
#[derive(Debug)]
pub(crate) struct Satisfying {
    filter: Filter,
    /// How it is written. Two expressions may be written alike.
    pub(crate) text: String,
    /// What the columns are that it names.
    schema: u64,
    /// By fragment; among them are rows that were deleted since they were found.
    parts: Parts<RowAddrTreeMap>,
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
    pub(crate) fn new(bytes_max: usize, examined: Examined) -> Self {
        Self { kept: Cache::new(bytes_max), examined }
    }

    /// Drops what belongs to the table of this identity.
    pub(crate) fn forget(&self, table: u64) {
        self.kept.forget(table);
    }

    /// The rows of `snapshot` that satisfy `filter`, where its base has `fragments`.
    pub(crate) async fn rows(&self, snapshot: &Snapshot, fragments: &Fragments, filter: &Filter) -> Result<Wanted> {
        let changes = row_set::satisfying_changes(snapshot, filter).await?;
        let text = filter.to_string();
        let is_it = |known: &Arc<Satisfying>| known.filter == *filter && known.schema == fragments.schema();
        let known = self.kept.last(snapshot, &text).filter(is_it);
        let is_known = known.is_some();
        let base = match known {
            Some(known) if known.parts.are_of(fragments.all()) => known,
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
        Ok(Wanted { base, superseded, changes, count, is_known })
    }

    /// Finds the rows of the fragments that `known` does not have.
    async fn find(
        &self,
        snapshot: &Snapshot,
        fragments: &Fragments,
        filter: &Filter,
        text: String,
        known: Option<&Satisfying>,
    ) -> Result<Satisfying> {
        let (mut parts, missing) = Parts::carried(known.map(|known| &known.parts), fragments.all());
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
            parts.push(fragment, found);
        }
        let live: Vec<RowAddrTreeMap> =
            parts.iter().map(|part| part.value.as_ref().clone() & part.fragment.rows()).collect();
        let rows = RowAddrTreeMap::union_all(&live.iter().collect::<Vec<_>>());
        let count = row_set::count(&rows);
        Ok(Satisfying { filter: filter.clone(), text, schema: fragments.schema(), parts, rows, count })
    }
}

impl Satisfying {
    fn bytes(&self) -> usize {
        let parts: usize = self.parts.iter().map(|part| part.value.serialized_size()).sum();
        parts + self.rows.serialized_size() + FILTER_BYTES * self.text.len()
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
    pub(crate) fn repeated(&self) -> Option<&Arc<Satisfying>> {
        self.is_known.then_some(&self.base)
    }
}

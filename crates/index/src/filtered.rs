//! Which rows of a base satisfy a filter, found once for many searches.

use std::sync::Arc;

use cenote_base::Result;
use cenote_store::{Filter, Snapshot};
use lance::dataset::scanner::RowAddrTreeMap;

use crate::cache::Cache;
use crate::live;

/// A filter takes so many bytes for each that it is written with: some are trees.
const FILTER_BYTES: usize = 16;

/// Filters that were asked for, with the rows of a base that satisfy them.
#[derive(Debug)]
pub(crate) struct Filtered(Cache<Known>);

#[derive(Debug)]
struct Known {
    filter: Filter,
    rows: RowAddrTreeMap,
}

impl Filtered {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self(Cache::new(bytes_max))
    }

    /// The rows of `snapshot` that satisfy `filter`, in the base and in the change store; of the base also superseded ones.
    pub(crate) async fn rows(&self, snapshot: &Snapshot, filter: &Filter) -> Result<RowAddrTreeMap> {
        let changes = live::satisfying_changes(snapshot, filter).await?;
        let name = filter.to_string();
        // Two expressions may be written alike.
        if let Some(known) = self.0.get(snapshot, &name).filter(|known| known.filter == *filter) {
            return Ok(known.rows.clone() | changes);
        }
        let rows = live::satisfying_base(snapshot.base(), filter).await?;
        let known = Arc::new(Known { filter: filter.clone(), rows });
        if snapshot.is_steady(filter)? {
            let bytes = known.rows.serialized_size() + FILTER_BYTES * name.len();
            self.0.put(snapshot, &name, &known, bytes);
        }
        Ok(known.rows.clone() | changes)
    }
}

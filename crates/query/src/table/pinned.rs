//! The tables of a store as one query sees them: each pinned to the version that was newest when it was first asked
//! for.

use std::collections::HashMap;
use std::sync::Arc;

use cenote_base::sync::Mutex;
use cenote_base::{Error, Result, unknown};
use cenote_index::{IndexInfo, Indexes};
use cenote_store::{Snapshot, Store};

/// A table at one version, with its indexes.
#[derive(Debug)]
pub(crate) struct PinnedTable {
    pub name: String,
    pub snapshot: Snapshot,
    /// The indexes of the version, without their counts of rows.
    pub indexes: Vec<IndexInfo>,
    /// The number of rows of the version.
    pub rows: usize,
    /// The searcher of the table's indexes.
    pub searcher: Indexes,
}

/// The tables that one query sees.
#[derive(Debug)]
pub(crate) struct Pinned {
    store: Store,
    indexes: Indexes,
    names: Vec<String>,
    /// Table functions, which the planner first looks up as tables.
    functions: Vec<String>,
    tables: Mutex<HashMap<String, Arc<PinnedTable>>>,
}

impl Pinned {
    pub(crate) async fn new(store: Store, indexes: Indexes, functions: Vec<String>) -> Result<Arc<Self>> {
        let names = store.tables().await?;
        Ok(Arc::new(Self { store, indexes, names, functions, tables: Mutex::default() }))
    }

    /// Returns the table `name`, which the first call pins.
    pub(crate) async fn pin(&self, name: &str) -> Result<Arc<PinnedTable>> {
        if let Some(table) = self.get(name) {
            return Ok(table);
        }
        if !self.has_table(name) {
            return Err(self.unknown(name));
        }
        let snapshot = self.store.table(name).await?.snapshot().await?;
        let indexes = self.indexes.outlines(&snapshot).await?;
        let rows = snapshot.count(None).await?;
        let table =
            Arc::new(PinnedTable { name: name.to_owned(), snapshot, indexes, rows, searcher: self.indexes.clone() });
        // Another call may have pinned it meanwhile. That one wins: a query sees one version of a table.
        let mut tables = self.tables.lock();
        Ok(Arc::clone(tables.entry(name.to_owned()).or_insert(table)))
    }

    /// Returns the table `name` if it is pinned.
    pub(crate) fn get(&self, name: &str) -> Option<Arc<PinnedTable>> {
        self.tables.lock().get(name).cloned()
    }

    /// Returns the names of all tables of the store.
    pub(super) fn names(&self) -> &[String] {
        &self.names
    }

    /// Returns whether the store has a table `name`.
    pub(super) fn has_table(&self, name: &str) -> bool {
        self.names.iter().any(|known| known == name)
    }

    /// Returns whether `name` is a table function.
    pub(super) fn has_function(&self, name: &str) -> bool {
        self.functions.iter().any(|known| known == name)
    }

    /// Makes the error for a table that the store does not have, naming the tables it has.
    pub(crate) fn unknown(&self, name: &str) -> Error {
        unknown("table", name, self.names.iter().map(String::as_str))
    }
}

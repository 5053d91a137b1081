//! The state that all handles of a store share: its open tables, and the caches of these tables.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cenote_base::sync::Mutex;
use cenote_base::{Error, Result};
use futures::FutureExt;
use tokio::sync::OnceCell;

use crate::base::pages::Pages;
use crate::base::sessions::Sessions;
use crate::leases::lease::{Lease, Leases};
use crate::state::location::Location;
use crate::state::table_state::{FoldFollower, TableOptions, TableState};

/// The open tables of a store, and what they share.
#[derive(Debug)]
pub(crate) struct Shared {
    location: Location,
    sessions: Arc<Sessions>,
    pages: Arc<Pages>,
    table_options: TableOptions,
    follower: Option<Arc<dyn FoldFollower>>,
    /// See [`StoreOptions::idle_tables_max`](crate::StoreOptions::idle_tables_max).
    idle_tables_max: usize,
    open: OpenTables,
}

/// The tables in use: all handles of a table share one state.
#[derive(Debug, Default)]
struct OpenTables {
    tables: Mutex<HashMap<String, OpenTable>>,
    /// Held while idle tables are closed, so that no two tasks close the same one.
    closing: tokio::sync::Mutex<()>,
    /// The number of uses so far, which numbers the next one.
    uses: AtomicU64,
}

/// The state of a table, set once the table has been opened.
type StateCell = Arc<OnceCell<Arc<TableState>>>;

/// A table in use.
#[derive(Debug, Default)]
struct OpenTable {
    state: StateCell,
    /// The number of the table's last use.
    used: u64,
}

/// The right to create or drop a table: the leases of its log and its base.
pub(crate) struct WholeTable {
    pub(crate) leases: Leases,
    pub(crate) held: [Lease; 2],
}

impl OpenTables {
    /// Returns the states of all open tables.
    fn states(&self) -> Vec<Arc<TableState>> {
        self.tables.lock().values().filter_map(|table| table.state.get().cloned()).collect()
    }

    /// Returns the state of table `name` if it is open.
    fn get(&self, name: &str) -> Option<Arc<TableState>> {
        self.tables.lock().get(name).and_then(|table| table.state.get().cloned())
    }

    /// Records a use of table `name`. Returns its cell, and whether the table was not in use before.
    fn use_table(&self, name: &str) -> (StateCell, bool) {
        let mut tables = self.tables.lock();
        let is_new = !tables.contains_key(name);
        let table = tables.entry(name.to_owned()).or_default();
        table.used = self.uses.fetch_add(1, Ordering::Relaxed);
        (Arc::clone(&table.state), is_new)
    }

    /// Makes the next use open table `name` again.
    fn forget(&self, name: &str) {
        self.tables.lock().remove(name);
    }

    /// Makes the next use open table `name` again, unless it was already reopened.
    fn forget_cell(&self, name: &str, cell: &StateCell) {
        let mut tables = self.tables.lock();
        if tables.get(name).is_some_and(|table| Arc::ptr_eq(&table.state, cell)) {
            tables.remove(name);
        }
    }

    /// Returns the idle tables beyond `idle_max`, least recently used first.
    fn excess(&self, idle_max: usize) -> Vec<(String, StateCell)> {
        let mut idle: Vec<(u64, String, StateCell)> = {
            let tables = self.tables.lock();
            if tables.len() <= idle_max {
                return Vec::new();
            }
            let is_idle = |table: &OpenTable| table.state.get().is_some_and(TableState::is_idle);
            let idle = tables.iter().filter(|(_, table)| is_idle(table));
            idle.map(|(name, table)| (table.used, name.clone(), Arc::clone(&table.state))).collect()
        };
        idle.sort_unstable_by_key(|(used, ..)| *used);
        let excess = idle.len().saturating_sub(idle_max);
        idle.into_iter().take(excess).map(|(_, name, cell)| (name, cell)).collect()
    }

    /// Removes table `name`, unless it is in use by now, was reopened, or has writes that nothing would fold. Returns
    /// whether it was removed: the caller then has the only handle of its state.
    fn close(&self, name: &str, cell: &StateCell, state: &Arc<TableState>, is_folded: bool) -> bool {
        let mut tables = self.tables.lock();
        let is_idle = tables.get(name).is_some_and(|table| {
            // One reference in the map and one here.
            Arc::ptr_eq(&table.state, cell) && Arc::strong_count(cell) == 2 && TableState::is_idle(state)
        });
        let is_closed = is_idle && !(is_folded && state.has_changes());
        if is_closed {
            tables.remove(name);
        }
        is_closed
    }
}

impl Shared {
    /// Makes the state of a store without open tables; `follower` runs after folds.
    pub(crate) fn new(
        location: Location,
        sessions: Arc<Sessions>,
        pages: Arc<Pages>,
        table_options: TableOptions,
        idle_tables_max: usize,
        follower: Option<Arc<dyn FoldFollower>>,
    ) -> Self {
        Self { location, sessions, pages, table_options, follower, idle_tables_max, open: OpenTables::default() }
    }

    pub(crate) fn location(&self) -> &Location {
        &self.location
    }

    pub(crate) fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// Makes the next use open table `name` again, because another table takes its place.
    pub(crate) fn forget(&self, name: &str) {
        self.open.forget(name);
    }

    /// Releases the leases of all open tables.
    pub(crate) async fn release(&self) -> Result<()> {
        for state in self.open.states() {
            state.location().leases.release().await?;
        }
        Ok(())
    }

    /// Takes the leases for creating or dropping table `name`: those of its log and its base.
    pub(crate) async fn whole_table(&self, name: &str) -> Result<WholeTable> {
        // The leases of a table in use belong to its state; creating or dropping takes separate ones.
        if let Some(state) = self.open.get(name) {
            state.location().leases.release().await?;
        }
        let (leases, wait) = (self.location.table(name).leases, self.table_options.writer_wait_max);
        let held = async { Ok([leases.base(wait).await?, leases.writer(wait).await?]) };
        let held = held.await.map_err(|error: Error| error.context(format!("table `{name}`")))?;
        Ok(WholeTable { leases, held })
    }

    /// Returns the state of table `name` in this process, opening it if necessary.
    ///
    /// # Errors
    /// `NotFound` when the table does not exist.
    pub(crate) async fn state(&self, name: &str) -> Result<Arc<TableState>> {
        loop {
            let (cell, is_new) = self.open.use_table(name);
            if is_new {
                self.close_idle().boxed().await;
            }
            let state = cell.get_or_try_init(|| self.open_state(name).boxed()).await;
            let state = state.map_err(|error| error.context(format!("open table `{name}`")));
            match state {
                Ok(state) if !state.is_gone()? => return Ok(Arc::clone(state)),
                // Another process dropped it, and may have made another table under its name.
                Ok(_) => self.open.forget_cell(name, &cell),
                Err(error) => {
                    self.open.forget_cell(name, &cell);
                    return Err(error);
                }
            }
        }
    }

    async fn open_state(&self, name: &str) -> Result<Arc<TableState>> {
        if !self.location.has_table(name).boxed().await? {
            return Err(Error::not_found(format!("table `{name}` was dropped")));
        }
        let location = self.location.table(name);
        let (sessions, pages) = (Arc::clone(&self.sessions), Arc::clone(&self.pages));
        let (options, follower) = (self.table_options.clone(), self.follower.clone());
        TableState::open(name.to_owned(), location, sessions, pages, options, follower).await
    }

    /// Closes the least recently used idle tables beyond `idle_tables_max`, unless another task is doing so. A table
    /// that is used meanwhile stays open.
    async fn close_idle(&self) {
        let Ok(_closing) = self.open.closing.try_lock() else { return };
        for (name, cell) in self.open.excess(self.idle_tables_max) {
            let Some(state) = cell.get() else { continue };
            // Once the table is closed, nothing in this process would fold it.
            let folded = if state.has_changes() { state.fold().boxed().await } else { Ok(()) };
            if let Err(error) = &folded {
                tracing::warn!(%error, table = name, "the writes of a closed table stay in its log");
            }
            // Its lease is released once it is closed, and nothing in this process can write under it.
            if self.open.close(&name, &cell, state, folded.is_ok())
                && let Err(error) = state.location().leases.release().await
            {
                tracing::warn!(%error, table = name, "a lease was not released: others wait until it runs out");
            }
        }
    }
}

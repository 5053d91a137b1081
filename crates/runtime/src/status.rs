//! A lake at a glance.

use cenote_base::{ErrorKind, Result};
use cenote_engine::ErrorTable;
use cenote_index::{IndexInfo, Indexes};
use cenote_scheduler::Usage;
use cenote_store::{Store, UpkeepStatus, Version};

/// The state of a lake's tables and of its scheduler.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct LakeStatus {
    /// The tables, sorted by name.
    pub tables: Vec<TableStatus>,
    /// The resources that operators may hold, and those they hold now.
    pub usage: Usage,
}

/// The state of one table.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct TableStatus {
    /// The table's name.
    pub name: String,
    /// The rows of the newest version.
    pub rows: usize,
    /// The newest version.
    pub version: Version,
    /// The bytes on disk of all versions together, and of the log.
    pub bytes: u64,
    /// The writes that are not folded yet, and the upkeep under way.
    pub upkeep: UpkeepStatus,
    /// The oldest version that can be read.
    pub oldest: Version,
    /// The rows that could not be processed.
    pub errors: usize,
    /// The table's indexes.
    pub indexes: Vec<IndexInfo>,
}

/// Reads the state of every table of `store`, one after the other.
pub(crate) async fn tables(store: &Store, indexes: &Indexes) -> Result<Vec<TableStatus>> {
    let mut tables = Vec::new();
    for name in store.tables().await? {
        match table(store, indexes, &name).await {
            Ok(status) => tables.push(status),
            // It was dropped meanwhile.
            Err(error) if error.kind() == ErrorKind::NotFound && !store.tables().await?.contains(&name) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(tables)
}

async fn table(store: &Store, indexes: &Indexes, name: &str) -> Result<TableStatus> {
    let table = store.table(name).await?;
    let snapshot = table.snapshot().await?;
    Ok(TableStatus {
        rows: snapshot.count(None).await?,
        version: snapshot.version(),
        bytes: store.bytes(name).await?,
        upkeep: table.upkeep().await?,
        oldest: snapshot.oldest_version(),
        errors: ErrorTable::new(store, name, &snapshot).rows().await?.num_rows(),
        indexes: indexes.list(&snapshot).await?,
        name: name.to_owned(),
    })
}

//! A lake at a glance.

use cenote_base::Result;
use cenote_index::{IndexInfo, Indexes};
use cenote_scheduler::Usage;
use cenote_store::{Store, UpkeepStatus, Version};

use crate::lake::Lake;

/// Every table of a lake, and what the scheduler holds.
#[derive(Debug, Clone)]
pub struct LakeStatus {
    /// By name.
    pub tables: Vec<TableStatus>,
    /// What operators may hold, and hold now.
    pub usage: Usage,
}

/// One table.
#[derive(Debug, Clone)]
pub struct TableStatus {
    /// Its name.
    pub name: String,
    /// Rows of the newest version.
    pub rows: usize,
    /// The newest version.
    pub version: Version,
    /// Bytes on disk, all versions together, and the log.
    pub bytes: u64,
    /// What is written and not folded into the base, and what is done about it.
    pub upkeep: UpkeepStatus,
    /// The oldest version that can be read.
    pub oldest: Version,
    /// Rows that could not be processed.
    pub errors: usize,
    /// Its indexes.
    pub indexes: Vec<IndexInfo>,
}

pub(crate) async fn status(lake: &Lake, store: &Store, indexes: &Indexes) -> Result<LakeStatus> {
    let mut tables = Vec::new();
    for name in store.tables().await? {
        let table = store.table(&name).await?;
        let snapshot = table.snapshot().await?;
        tables.push(TableStatus {
            rows: snapshot.count(None).await?,
            version: snapshot.version(),
            bytes: store.bytes(&name).await?,
            upkeep: table.upkeep().await?,
            oldest: snapshot.oldest_version(),
            errors: lake.errors(&name).await?.num_rows(),
            indexes: indexes.list(&snapshot).await?,
            name,
        });
    }
    Ok(LakeStatus { tables, usage: lake.scheduler().usage() })
}

//! A lake at a glance.

use std::path::Path;

use cenote_base::{Context, Result};
use cenote_index::IndexInfo;
use cenote_scheduler::Usage;
use cenote_store::{Store, Version};

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
    /// Keys that were written and are not folded into the base.
    pub unfolded: usize,
    /// The oldest version that can be read.
    pub oldest: Version,
    /// Rows that could not be processed.
    pub errors: usize,
    /// Its indexes.
    pub indexes: Vec<IndexInfo>,
}

pub(crate) async fn status(lake: &Lake, store: &Store) -> Result<LakeStatus> {
    let mut tables = Vec::new();
    for name in store.tables().await? {
        let table = store.table(&name).await?;
        let snapshot = table.snapshot().await?;
        let base = std::path::PathBuf::from(snapshot.base().uri());
        let measure = move || Ok(directory_bytes(&base)? + directory_bytes(&base.with_extension("changes"))?);
        let bytes: Result<u64> = tokio::task::spawn_blocking(measure)
            .await
            .map_err(|source| cenote_base::Error::internal("measure a table").with_source(source))?;
        tables.push(TableStatus {
            rows: snapshot.count(None).await?,
            version: snapshot.version(),
            bytes: bytes?,
            unfolded: table.unfolded().await?.keys,
            oldest: snapshot.oldest_version(),
            errors: lake.errors(&name).await?.num_rows(),
            indexes: cenote_index::list(&snapshot).await?,
            name,
        });
    }
    Ok(LakeStatus { tables, usage: lake.scheduler().usage() })
}

fn directory_bytes(directory: &Path) -> Result<u64> {
    let mut bytes = 0;
    let mut open = vec![directory.to_path_buf()];
    while let Some(path) = open.pop() {
        for entry in std::fs::read_dir(&path).context(|| format!("list {}", path.display()))? {
            let entry = entry?;
            match entry.metadata() {
                Ok(metadata) if metadata.is_dir() => open.push(entry.path()),
                Ok(metadata) => bytes += metadata.len(),
                // A file that a writer replaced meanwhile.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(bytes)
}

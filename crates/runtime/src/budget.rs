//! The shares of a lake's memory budget. Each is stated here and nowhere else.

use cenote_base::{ByteSize, Error, Result, memory_available_bytes};

/// The smallest budget in which a run can hold one piece of input, one of output, and a model.
pub(crate) const MIN: ByteSize = ByteSize::mib(256);
/// The largest budget that a lake takes by default.
const DEFAULT_MAX: ByteSize = ByteSize::mib(4096);
/// The parts of the budget, of which each share is a multiple.
const PARTS: u64 = 64;
/// A table's writers wait when its unfolded writes take `FOLDS_HELD · fold()` bytes.
const FOLDS_HELD: u64 = 4;

/// The bytes that each part of a lake may hold in memory; they add up to the budget. The program's code, and ONNX
/// Runtime with its weights, come on top.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Budget {
    total: ByteSize,
    /// Workers of operators and the rows of runs, reserved through the scheduler.
    pub(crate) work: ByteSize,
    /// Indexes in memory.
    pub(crate) graphs: ByteSize,
    /// Rows that the build of an index on disk gathers.
    pub(crate) builds: ByteSize,
    /// Sorts, joins and aggregations of SQL.
    pub(crate) queries: ByteSize,
    /// Pages of indexes on disk.
    pub(crate) index_pages: ByteSize,
    /// Pages of rows.
    pub(crate) pages: ByteSize,
    /// Unfolded writes.
    pub(crate) changes: ByteSize,
    /// Manifests and page tables.
    pub(crate) metadata: ByteSize,
    /// Caches of searches.
    pub(crate) searches: ByteSize,
}

impl Budget {
    /// Divides `total` into its shares.
    pub(crate) fn of(total: ByteSize) -> Self {
        let parts = |count: u64| ByteSize(total.0 / PARTS * count);
        Self {
            total,
            work: parts(32),
            graphs: parts(12),
            builds: parts(6),
            queries: parts(4),
            index_pages: parts(3),
            pages: parts(3),
            changes: parts(2),
            metadata: parts(1),
            searches: parts(1),
        }
    }

    /// Returns the bytes of a table's writes that start a fold.
    pub(crate) fn fold(&self) -> ByteSize {
        ByteSize(self.changes.0 / FOLDS_HELD)
    }

    /// Returns the bytes of media that one row of a run may hold, a part of `work`.
    pub(crate) fn row(&self) -> ByteSize {
        ByteSize(self.total.0 / 32)
    }

    /// Returns the bytes that the sessions of one model may hold, on top of the budget: a small budget has few
    /// sessions.
    pub(crate) fn sessions(&self) -> ByteSize {
        ByteSize(self.total.0 / 4)
    }

    /// Returns the bytes of files in one commit of an ingest, a part of `work`, and so the size of the largest file.
    pub(crate) fn file(&self) -> ByteSize {
        ByteSize(self.total.0 / 16)
    }
}

/// Returns the budget that is `wanted`, or by default a quarter of the memory of the machine or container.
///
/// # Errors
/// `InvalidInput` for a budget below the smallest.
pub(crate) async fn total(wanted: Option<ByteSize>) -> Result<ByteSize> {
    if let Some(wanted) = wanted {
        if wanted < MIN {
            return Err(Error::invalid_input(format!("a memory budget of {wanted} is too small: give {MIN} or more")));
        }
        return Ok(wanted);
    }
    let cgroup = tokio::fs::read_to_string("/sys/fs/cgroup/memory.max").await.ok();
    let meminfo = tokio::fs::read_to_string("/proc/meminfo").await.ok();
    // Where neither file can be read, the smallest budget is safe.
    let available = memory_available_bytes(cgroup.as_deref(), meminfo.as_deref()).unwrap_or(0);
    Ok(ByteSize(available / 4).clamp(MIN, DEFAULT_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shares_add_up_to_the_budget() {
        for mib in [256, 300, 1024, 4096, 100_000] {
            // Every field is named, so that a new share cannot be left out.
            let Budget { total, work, graphs, builds, queries, index_pages, pages, changes, metadata, searches } =
                Budget::of(ByteSize::mib(mib));
            let shares = [work, graphs, builds, queries, index_pages, pages, changes, metadata, searches];
            assert_eq!(shares.iter().map(|share| share.0).sum::<u64>(), total.0, "{total}");
        }
    }
}

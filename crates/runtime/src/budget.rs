//! How a lake's memory budget is shared out. Each share is stated here, and nowhere else.

use cenote_base::ByteSize;

/// The budget is divided into this many parts.
const PARTS: u64 = 64;
/// A table's writers wait when it holds this many folds' worth of writes.
const FOLDS_HELD: u64 = 4;

/// What each part of a lake may hold in memory. The shares add up to the budget. The code of the program, and ONNX
/// Runtime with its weights, come on top of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Budget {
    total: ByteSize,
    /// Workers of operators and the rows of runs, all of which ask the scheduler.
    pub(crate) work: ByteSize,
    /// Indexes in memory.
    pub(crate) graphs: ByteSize,
    /// What a build of an index on disk gathers.
    pub(crate) builds: ByteSize,
    /// Sorts, joins and aggregations of SQL.
    pub(crate) queries: ByteSize,
    /// Pages of indexes on disk.
    pub(crate) index_pages: ByteSize,
    /// Pages of rows.
    pub(crate) pages: ByteSize,
    /// Writes that are not folded yet.
    pub(crate) changes: ByteSize,
    /// Manifests and page tables.
    pub(crate) metadata: ByteSize,
    /// What searches keep for the next ones.
    pub(crate) searches: ByteSize,
}

impl Budget {
    /// The shares of `total`.
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

    /// What a table's writes may hold before they are folded.
    pub(crate) fn fold(&self) -> ByteSize {
        ByteSize(self.changes.0 / FOLDS_HELD)
    }

    /// The media that one row of a run may hold: a part of `work`.
    pub(crate) fn row(&self) -> ByteSize {
        ByteSize(self.total.0 / 32)
    }

    /// The sessions of one model. They come on top of the budget, so a small one has few of them.
    pub(crate) fn sessions(&self) -> ByteSize {
        ByteSize(self.total.0 / 4)
    }

    /// The files of one commit of an ingest, which is a part of `work`, and so the largest file.
    pub(crate) fn file(&self) -> ByteSize {
        ByteSize(self.total.0 / 16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shares_add_up_to_the_budget() {
        for mib in [256, 300, 1024, 4096, 100_000] {
            // Every field is named, so that a new share is counted too.
            let Budget { total, work, graphs, builds, queries, index_pages, pages, changes, metadata, searches } =
                Budget::of(ByteSize::mib(mib));
            let shares = [work, graphs, builds, queries, index_pages, pages, changes, metadata, searches];
            assert_eq!(shares.iter().map(|share| share.0).sum::<u64>(), total.0, "{total}");
        }
    }
}

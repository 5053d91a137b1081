//! Row ids: the numbers that name rows within a snapshot, and the column that holds them.

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::UInt64Type;
use cenote_base::{Error, Result};

use crate::version::Version;

/// The column of row ids (`UInt64`) in a scan. A row id names a row of its snapshot, and the same row of other
/// snapshots until that row is folded.
pub const ROW_ID: &str = "_rowid";

/// The bit that marks a row id of the change store. The version of the row's write and the row's place in that write
/// follow, so a row has one id in all snapshots and processes until it is folded.
const CHANGED: u64 = 1 << 63;
/// Bits of a row id that hold the row's place in its write.
const PLACE_BITS: u32 = 24;
/// Maximum rows of a write to the change store; larger writes go to the base.
pub(crate) const WRITE_ROWS_MAX: usize = 1 << PLACE_BITS;

/// The parts of a row id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RowId {
    /// A row of the base, by its stable row id in Lance.
    Base(u64),
    /// A row of the change store: the version that its write made, and its place in that write.
    Changed { version: u64, row: usize },
}

impl RowId {
    pub(crate) fn is_changed(self) -> bool {
        matches!(self, Self::Changed { .. })
    }
}

impl From<u64> for RowId {
    fn from(row_id: u64) -> Self {
        if row_id & CHANGED == 0 {
            return Self::Base(row_id);
        }
        let row = (row_id & (WRITE_ROWS_MAX as u64 - 1)) as usize;
        Self::Changed { version: (row_id & !CHANGED) >> PLACE_BITS, row }
    }
}

impl From<RowId> for u64 {
    fn from(row_id: RowId) -> Self {
        match row_id {
            RowId::Base(row_id) => row_id,
            RowId::Changed { version, row } => CHANGED | version << PLACE_BITS | row as Self,
        }
    }
}

/// Returns the lowest row id that a write after `version` can have while its rows are not folded.
pub fn row_ids_after(version: Version) -> u64 {
    RowId::Changed { version: version.0 + 1, row: 0 }.into()
}

/// Returns the row ids of `batch`, which a scan returned.
pub(crate) fn row_ids(batch: &RecordBatch) -> Result<&[u64]> {
    let ids = batch.column_by_name(ROW_ID).and_then(|column| column.as_primitive_opt::<UInt64Type>());
    Ok(ids.ok_or_else(|| Error::internal("the scan returned no row ids"))?.values())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_id_survives_the_round_trip_through_its_parts() {
        let changed = RowId::Changed { version: 7, row: WRITE_ROWS_MAX - 1 };
        for row_id in [RowId::Base(0), RowId::Base(u64::from(u32::MAX) + 1), changed] {
            assert_eq!(RowId::from(u64::from(row_id)), row_id);
        }
        assert!(u64::from(changed) < row_ids_after(Version(7)));
        assert_eq!(RowId::from(row_ids_after(Version(7))), RowId::Changed { version: 8, row: 0 });
    }
}

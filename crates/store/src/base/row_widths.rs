//! The widths of a fragment's rows, from the metadata of its files.
//!
//! An average hides a few wide rows among many narrow ones. The metadata tells the size of each page, and a page whose
//! values may be wide has an index of where each row begins.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;

use bytes::Bytes;
use cenote_base::Result;
use lance::dataset::fragment::FileFragment;
use lance_core::datatypes::Schema;
use lance_io::scheduler::{ScanScheduler, SchedulerConfig};

use crate::errors::lance_error;

/// Bytes of a stored value from which its row has a run of its own.
pub(crate) const WIDE_BYTES: u64 = 32 << 10;
/// Bytes that a value takes in memory in addition to its stored bytes: its offset.
const OFFSET_BYTES: u64 = 8;

/// Rows of a fragment in succession that are about equally wide.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RowRun {
    pub(crate) rows: Range<u64>,
    /// Average bytes of a row.
    pub(crate) row_bytes: u64,
}

impl RowRun {
    pub(crate) fn bytes(&self) -> u64 {
        (self.rows.end - self.rows.start) * self.row_bytes
    }

    /// Appends the run to `runs`, the runs before it, joining it with the last one if their rows are similarly wide.
    pub(crate) fn append_to(self, runs: &mut Vec<Self>) {
        match runs.last_mut() {
            Some(last) if last.row_bytes <= 2 * self.row_bytes && self.row_bytes <= 2 * last.row_bytes => {
                let bytes = last.bytes() + self.bytes();
                last.rows.end = self.rows.end;
                last.row_bytes = bytes / (last.rows.end - last.rows.start).max(1);
            }
            _ => runs.push(self),
        }
    }
}

/// Reads how many bytes the values of `columns` take, as they are stored, in each of the `rows` rows of `fragment`.
pub(super) async fn stored(fragment: &FileFragment, columns: &Schema, rows: u64) -> Result<Vec<RowRun>> {
    let base = fragment.dataset();
    let fields: HashSet<i32> = columns.field_ids().into_iter().collect();
    let mut steps = Steps::default();
    steps.add(0..rows, 0);
    for file in &fragment.metadata().files {
        let columns = file.fields.iter().zip(file.column_indices.iter());
        let columns = columns.filter(|(field, _)| fields.contains(field));
        let columns: Vec<usize> = columns.filter_map(|(_, column)| usize::try_from(*column).ok()).collect();
        if columns.is_empty() || file.base_id.is_some() {
            continue;
        }
        let store = base.object_store(None).await.map_err(lance_error)?;
        let scheduler = ScanScheduler::new(store.clone(), SchedulerConfig::max_bandwidth(&store));
        let path = base.data_dir().join(file.path.as_str());
        let opened = scheduler.open_file(&path, &file.file_size_bytes).await.map_err(lance_error)?;
        let metadata = Box::pin(fragment.get_file_metadata(&opened)).await.map_err(lance_error)?;
        for column in columns.into_iter().filter_map(|column| metadata.column_infos.get(column)) {
            let (mut pages, mut first) = (Vec::new(), 0);
            for page in column.page_infos.iter() {
                pages.push(Page { rows: first..first + page.num_rows, buffers: &page.buffer_offsets_and_sizes });
                first += page.num_rows;
            }
            let indexes = pages.iter().filter_map(Page::index).collect();
            let indexes = opened.submit_request(indexes, 0).await.map_err(lance_error)?;
            let mut indexes = indexes.into_iter();
            for page in pages {
                let index = page.index().and_then(|_| indexes.next());
                page.add_to(&mut steps, index);
            }
        }
    }
    Ok(steps.runs())
}

/// A page of a column: its rows, and the places and sizes of its buffers in the file.
struct Page<'a> {
    rows: Range<u64>,
    buffers: &'a [(u64, u64)],
}

impl Page<'_> {
    /// Returns where the file holds what may be the index of the page's rows. Only a page with such an index has two
    /// buffers, the second of which has an equally wide number for each row and one for the end.
    fn index(&self) -> Option<Range<u64>> {
        let entries = self.rows.end - self.rows.start + 1;
        match self.buffers {
            [(_, values), (start, bytes)]
                if *values >= WIDE_BYTES && bytes % entries == 0 && [1, 2, 4, 8].contains(&(bytes / entries)) =>
            {
                Some(*start..start + bytes)
            }
            _ => None,
        }
    }

    /// Adds the bytes of the rows, which `index` tells if it is one.
    fn add_to(&self, steps: &mut Steps, index: Option<Bytes>) {
        let count = self.rows.end - self.rows.start;
        let bytes: u64 = self.buffers.iter().map(|(_, bytes)| bytes).sum();
        let values = self.buffers.first().map_or(0, |(_, bytes)| *bytes);
        let sizes = index.and_then(|index| row_sizes(&index, count, values)).unwrap_or_default();
        let wide = sizes.iter().zip(self.rows.start..).filter(|(size, _)| **size >= WIDE_BYTES);
        let (mut wide_rows, mut wide_bytes) = (0, 0);
        for (size, row) in wide.clone() {
            (wide_rows, wide_bytes) = (wide_rows + 1, wide_bytes + size);
            steps.add(row..row + 1, size + OFFSET_BYTES);
        }
        let others = bytes.saturating_sub(wide_bytes) / (count - wide_rows).max(1) + OFFSET_BYTES;
        let mut first = self.rows.start;
        for row in wide.map(|(_, row)| row).chain([self.rows.end]) {
            steps.add(first..row, others);
            first = row + 1;
        }
    }
}

/// Returns the bytes of each of `rows` rows by `index`, numbers that say where each begins in `bytes` bytes; `None` if
/// they do not.
fn row_sizes(index: &[u8], rows: u64, bytes: u64) -> Option<Vec<u64>> {
    let width = index.len() / (usize::try_from(rows).ok()? + 1);
    let starts = index.chunks_exact(width.max(1)).map(|entry| {
        let mut number = [0; 8];
        number[..entry.len()].copy_from_slice(entry);
        u64::from_le_bytes(number)
    });
    let starts: Vec<u64> = starts.collect();
    let sizes = starts.windows(2).map(|pair| pair[1].checked_sub(pair[0])).collect::<Option<Vec<_>>>()?;
    (starts.first() == Some(&0) && starts.last() == Some(&bytes)).then_some(sizes)
}

/// The rows at which the bytes per row change, and by how much.
#[derive(Default)]
struct Steps(BTreeMap<u64, i64>);

impl Steps {
    fn add(&mut self, rows: Range<u64>, row_bytes: u64) {
        if !rows.is_empty() {
            *self.0.entry(rows.start).or_default() += row_bytes as i64;
            *self.0.entry(rows.end).or_default() -= row_bytes as i64;
        }
    }

    fn runs(self) -> Vec<RowRun> {
        let (mut runs, mut row_bytes) = (Vec::new(), 0);
        let ends: Vec<u64> = self.0.keys().skip(1).copied().collect();
        for ((start, step), end) in self.0.into_iter().zip(ends) {
            row_bytes += step;
            RowRun { rows: start..end, row_bytes: row_bytes as u64 }.append_to(&mut runs);
        }
        runs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_of_rows_is_recognised_by_its_numbers() {
        assert_eq!(row_sizes(&[0, 2, 2, 9], 3, 9), Some(vec![2, 0, 7]));
        assert_eq!(row_sizes(&[0, 0, 0, 1, 4, 1], 2, 260), Some(vec![256, 4]));
        for (index, bytes) in [([0, 2, 1, 9], 9), ([0, 2, 2, 9], 8), ([1, 2, 2, 9], 9)] {
            assert_eq!(row_sizes(&index, 3, bytes), None, "{index:?}");
        }
    }
}

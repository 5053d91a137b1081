//! Reading chosen rows in pieces of bounded size.

use std::ops::Range;

use arrow::array::RecordBatch;
use cenote_base::{Error, Result};
use cenote_scheduler::Sender;
use cenote_store::{Snapshot, is_blob};

/// Rows of one piece, at most: enough to share the cost of a call, few enough to spread over cores.
const CHUNK_ROWS_MAX: usize = 64;
/// Rows of a table without media whose width is still unknown.
const CHUNK_ROWS_FIRST: usize = 8;

/// Some rows of a table, in the order of their row ids.
#[derive(Debug)]
pub(crate) struct Chunk {
    pub(crate) row_ids: Vec<u64>,
    /// The columns asked for. Media that was too large to read is null here.
    pub(crate) rows: RecordBatch,
    /// Position and reason of each row whose media is larger than one piece may be.
    pub(crate) too_large: Vec<(usize, String)>,
}

/// Sends the rows `row_ids` in pieces that hold at most `bytes_max` bytes of media each.
///
/// Stops without error when the receiver is gone: whoever closed it has the reason.
pub(crate) async fn read(
    snapshot: Snapshot,
    row_ids: Vec<u64>,
    columns: Vec<String>,
    bytes_max: u64,
    sender: Sender<Chunk>,
) -> Result<()> {
    let schema = snapshot.full_schema();
    let media: Vec<&String> = columns.iter().filter(|name| schema.field_with_name(name).is_ok_and(is_blob)).collect();
    let mut rows_next = CHUNK_ROWS_FIRST;
    let mut at = 0;
    while at < row_ids.len() {
        let window = &row_ids[at..(at + if media.is_empty() { rows_next } else { CHUNK_ROWS_MAX }).min(row_ids.len())];
        let mut sizes = vec![0; window.len()];
        for column in &media {
            for (total, size) in sizes.iter_mut().zip(snapshot.blob_sizes(column, window).await?) {
                *total += size;
            }
        }
        for range in pack(&sizes, bytes_max) {
            let (ids, sizes) = (&window[range.clone()], &sizes[range]);
            let chunk = read_chunk(&snapshot, ids, sizes, &columns, &media, bytes_max).await?;
            let bytes = chunk.rows.get_array_memory_size() as u64;
            rows_next = (bytes_max * ids.len() as u64 / bytes.max(1)).clamp(1, CHUNK_ROWS_MAX as u64) as usize;
            if sender.send(chunk, bytes).await.is_err() {
                return Ok(());
            }
        }
        at += window.len();
    }
    Ok(())
}

async fn read_chunk(
    snapshot: &Snapshot,
    ids: &[u64],
    sizes: &[u64],
    columns: &[String],
    media: &[&String],
    bytes_max: u64,
) -> Result<Chunk> {
    let row_ids = ids.to_vec();
    if let ([size], true) = (sizes, ids.len() == 1)
        && *size > bytes_max
    {
        let plain: Vec<String> = columns.iter().filter(|name| !media.contains(name)).cloned().collect();
        let read = snapshot.take(ids, &plain).await?;
        let reason = format!("its media holds {size} bytes, and a row may hold {bytes_max} in this memory budget");
        return Ok(Chunk { row_ids, rows: with_null_media(snapshot, &read, columns)?, too_large: vec![(0, reason)] });
    }
    Ok(Chunk { row_ids, rows: snapshot.take(ids, columns).await?, too_large: Vec::new() })
}

fn with_null_media(snapshot: &Snapshot, read: &RecordBatch, columns: &[String]) -> Result<RecordBatch> {
    let wrong = |source| Error::internal("fill oversized media").with_source(source);
    let indices = columns.iter().map(|name| snapshot.full_schema().index_of(name)).collect::<Result<Vec<_>, _>>();
    let schema = snapshot.full_schema().project(&indices.map_err(wrong)?).map_err(wrong)?;
    let arrays = schema.fields().iter().map(|field| match read.column_by_name(field.name()) {
        Some(column) => std::sync::Arc::clone(column),
        None => arrow::array::new_null_array(field.data_type(), read.num_rows()),
    });
    let arrays = arrays.collect();
    RecordBatch::try_new(schema.into(), arrays).map_err(wrong)
}

/// Consecutive ranges whose sizes add up to at most `bytes_max`; a larger single row stands alone.
fn pack(sizes: &[u64], bytes_max: u64) -> Vec<Range<usize>> {
    let mut ranges = Vec::new();
    let (mut start, mut bytes) = (0, 0u64);
    for (row, size) in sizes.iter().enumerate() {
        if row > start && bytes.saturating_add(*size) > bytes_max {
            ranges.push(start..row);
            (start, bytes) = (row, 0);
        }
        bytes = bytes.saturating_add(*size);
    }
    if start < sizes.len() {
        ranges.push(start..sizes.len());
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packing_keeps_every_row_and_the_bound() {
        assert!(pack(&[], 10).is_empty());
        assert_eq!(pack(&[4, 4, 4, 20, 1, 9, 1], 10), [0..2, 2..3, 3..4, 4..6, 6..7]);
        assert_eq!(pack(&[0, 0, 0, 1], 0), [0..3, 3..4]);
    }
}

//! Reading chosen rows in pieces of bounded size.

use std::sync::Arc;

use arrow::array::{RecordBatch, new_null_array};
use cenote_base::{Result, pack};
use cenote_operator::RowError;
use cenote_scheduler::Sender;
use cenote_store::{Snapshot, is_blob};

use super::output_row_bytes::OutputRowBytes;
use crate::fault::internal;

/// Rows of one piece, at most: enough to share the cost of a call, few enough to spread over cores.
const PIECE_ROWS_MAX: usize = 64;
/// Rows of one piece, at most, until the size of a row and of its outputs is measured.
const PIECE_ROWS_FIRST: usize = 8;

/// Bounds of a piece.
#[derive(Debug)]
pub(super) struct PieceBounds {
    /// Bytes of media that a row may hold, at most: larger media is not read.
    pub(super) row_bytes_max: u64,
    /// Bytes of a piece of several rows, and of what is made of it, at most.
    pub(super) bytes_max: u64,
    /// The bytes that are made of a row.
    pub(super) made: Arc<OutputRowBytes>,
}

impl PieceBounds {
    /// Returns the maximum number of rows in a piece, by the bytes that are made of a row.
    fn rows_max(&self) -> usize {
        let most = if self.made.is_measured() { PIECE_ROWS_MAX } else { PIECE_ROWS_FIRST };
        ((self.bytes_max / self.made.expected().max(1)) as usize).clamp(1, most)
    }
}

/// Some rows of a table, in the order of their row ids.
#[derive(Debug)]
pub(super) struct RowPiece {
    pub(super) row_ids: Vec<u64>,
    /// The requested columns. Media that was too large to read is null.
    pub(super) rows: RecordBatch,
    /// The rows, by position, whose media was too large to read.
    pub(super) too_large: Vec<RowError>,
}

/// Sends the rows `row_ids` in pieces.
///
/// Stops without error when the receiver is gone: the side that dropped it reports the reason.
pub(super) async fn read(
    snapshot: Snapshot,
    row_ids: Vec<u64>,
    columns: Vec<String>,
    bounds: PieceBounds,
    sender: Sender<RowPiece>,
) -> Result<()> {
    let schema = snapshot.full_schema();
    let media: Vec<&String> = columns.iter().filter(|name| schema.field_with_name(name).is_ok_and(is_blob)).collect();
    let mut rows_next = PIECE_ROWS_FIRST;
    let mut at = 0;
    while at < row_ids.len() {
        let window = if media.is_empty() { rows_next.min(bounds.rows_max()) } else { PIECE_ROWS_MAX };
        let window = &row_ids[at..(at + window).min(row_ids.len())];
        let mut sizes = vec![0; window.len()];
        for column in &media {
            for (total, size) in sizes.iter_mut().zip(snapshot.blob_sizes(column, window).await?) {
                *total += size;
            }
        }
        // Media above `row_bytes_max` gets a piece of its own.
        for range in pack(&sizes, bounds.bytes_max.min(bounds.row_bytes_max), bounds.rows_max()) {
            let (ids, sizes) = (&window[range.clone()], &sizes[range]);
            let piece = read_piece(&snapshot, ids, sizes, &columns, &media, bounds.row_bytes_max).await?;
            let bytes = piece.rows.get_array_memory_size() as u64;
            rows_next = (bounds.bytes_max * ids.len() as u64 / bytes.max(1)).clamp(1, PIECE_ROWS_MAX as u64) as usize;
            if sender.send(piece, bytes).await.is_err() {
                return Ok(());
            }
        }
        at += window.len();
    }
    Ok(())
}

async fn read_piece(
    snapshot: &Snapshot,
    ids: &[u64],
    sizes: &[u64],
    columns: &[String],
    media: &[&String],
    row_bytes_max: u64,
) -> Result<RowPiece> {
    let row_ids = ids.to_vec();
    if let ([size], true) = (sizes, ids.len() == 1)
        && *size > row_bytes_max
    {
        let plain: Vec<String> = columns.iter().filter(|name| !media.contains(name)).cloned().collect();
        let read = snapshot.take(ids, &plain).await?;
        let reason = format!("its media holds {size} bytes, and a row may hold {row_bytes_max} in this memory budget");
        let rows = with_null_media(snapshot, &read, columns)?;
        return Ok(RowPiece { row_ids, rows, too_large: vec![RowError { row: 0, reason }] });
    }
    Ok(RowPiece { row_ids, rows: snapshot.take(ids, columns).await?, too_large: Vec::new() })
}

/// Returns `read` with null for each of `columns` that it lacks.
fn with_null_media(snapshot: &Snapshot, read: &RecordBatch, columns: &[String]) -> Result<RecordBatch> {
    let wrong = internal("fill oversized media");
    let indices = columns.iter().map(|name| snapshot.full_schema().index_of(name)).collect::<Result<Vec<_>, _>>();
    let schema = snapshot.full_schema().project(&indices.map_err(&wrong)?).map_err(&wrong)?;
    let arrays = schema.fields().iter().map(|field| match read.column_by_name(field.name()) {
        Some(column) => Arc::clone(column),
        None => new_null_array(field.data_type(), read.num_rows()),
    });
    let arrays = arrays.collect();
    RecordBatch::try_new(schema.into(), arrays).map_err(wrong)
}

//! Reading chosen rows in pieces of bounded size.

use std::sync::Arc;

use arrow::array::RecordBatch;
use cenote_base::{Error, Result, pack};
use cenote_scheduler::Sender;
use cenote_store::{Snapshot, is_blob};

use super::intake::RowBytes;

/// Rows of one piece, at most: enough to share the cost of a call, few enough to spread over cores.
const CHUNK_ROWS_MAX: usize = 64;
/// Rows of one piece while it is unknown what rows take, or what becomes of them.
const CHUNK_ROWS_FIRST: usize = 8;

/// How large pieces are.
#[derive(Debug)]
pub(crate) struct Pieces {
    /// Bytes of media that a row may hold: what is larger is not read.
    pub(crate) row_bytes_max: u64,
    /// Bytes of a piece with more than one row, and of what is made of it.
    pub(crate) bytes_max: u64,
    /// What is made of a row.
    pub(crate) made: Arc<RowBytes>,
}

impl Pieces {
    /// Rows of a piece, by what is made of them.
    fn rows_max(&self) -> usize {
        let most = if self.made.is_known() { CHUNK_ROWS_MAX } else { CHUNK_ROWS_FIRST };
        ((self.bytes_max / self.made.expected().max(1)) as usize).clamp(1, most)
    }
}

/// Some rows of a table, in the order of their row ids.
#[derive(Debug)]
pub(crate) struct Chunk {
    pub(crate) row_ids: Vec<u64>,
    /// The columns asked for. Media that was too large to read is null here.
    pub(crate) rows: RecordBatch,
    /// Position and reason of each row whose media is larger than one piece may be.
    pub(crate) too_large: Vec<(usize, String)>,
}

/// Sends the rows `row_ids` in pieces.
///
/// Stops without error when the receiver is gone: whoever closed it has the reason.
pub(crate) async fn read(
    snapshot: Snapshot,
    row_ids: Vec<u64>,
    columns: Vec<String>,
    bounds: Pieces,
    sender: Sender<Chunk>,
) -> Result<()> {
    let schema = snapshot.full_schema();
    let media: Vec<&String> = columns.iter().filter(|name| schema.field_with_name(name).is_ok_and(is_blob)).collect();
    let mut rows_next = CHUNK_ROWS_FIRST;
    let mut at = 0;
    while at < row_ids.len() {
        let window = if media.is_empty() { rows_next.min(bounds.rows_max()) } else { CHUNK_ROWS_MAX };
        let window = &row_ids[at..(at + window).min(row_ids.len())];
        let mut sizes = vec![0; window.len()];
        for column in &media {
            for (total, size) in sizes.iter_mut().zip(snapshot.blob_sizes(column, window).await?) {
                *total += size;
            }
        }
        // Media that is too large to read then stands alone.
        for range in pack(&sizes, bounds.bytes_max.min(bounds.row_bytes_max), bounds.rows_max()) {
            let (ids, sizes) = (&window[range.clone()], &sizes[range]);
            let chunk = read_chunk(&snapshot, ids, sizes, &columns, &media, bounds.row_bytes_max).await?;
            let bytes = chunk.rows.get_array_memory_size() as u64;
            rows_next = (bounds.bytes_max * ids.len() as u64 / bytes.max(1)).clamp(1, CHUNK_ROWS_MAX as u64) as usize;
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
    row_bytes_max: u64,
) -> Result<Chunk> {
    let row_ids = ids.to_vec();
    if let ([size], true) = (sizes, ids.len() == 1)
        && *size > row_bytes_max
    {
        let plain: Vec<String> = columns.iter().filter(|name| !media.contains(name)).cloned().collect();
        let read = snapshot.take(ids, &plain).await?;
        let reason = format!("its media holds {size} bytes, and a row may hold {row_bytes_max} in this memory budget");
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

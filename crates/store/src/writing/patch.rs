//! Updates: new values in some columns of existing rows.
//!
//! Where that writes less, the columns are rewritten for whole files beside the other columns, which stay as they are,
//! and the rows keep their row ids. Elsewhere, for example where few rows of a file change, the rows are written whole
//! under new ids: to the change store, or to files of their own when they are large. Values are read and written in
//! steps of a few megabytes, however large they are.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, UInt32Array, new_null_array};
use arrow::compute::{interleave, take_record_batch};
use arrow::datatypes::{Field, UInt64Type};
use cenote_base::{Error, Result};
use futures::stream::{Stream, try_unfold};
use futures::{FutureExt, TryStreamExt};
use lance::Dataset;
use lance::dataset::fragment::FileFragment;
use lance::dataset::scanner::DatasetRecordBatchStream;
use lance::dataset::transaction::{Operation, UpdateMode, UpdatedFragmentOffsets};
use lance_core::ROW_ADDR;
use lance_core::utils::address::RowAddress;
use lance_table::format::{DataFile, Fragment};

use crate::base::dataset::schemas;
use crate::base::dataset::{addresses, commit, replace, stage};
use crate::blocking::blocking;
use crate::errors::{arrow_error, lance_error};
use crate::faults::Faults;
use crate::reading::snapshot::Snapshot;
use crate::row_id::WRITE_ROWS_MAX;
use crate::rows::primary_key::PrimaryKey;
use crate::rows::schema;

/// Rows are patched in place if at least `1 / PATCH_ROWS_DIVISOR` of the rows of their files change. Otherwise they are
/// rewritten whole, as they are when every column is set, which leaves nothing in place.
const PATCH_ROWS_DIVISOR: usize = 16;
/// Columns are patched in place when that writes at most this many times the bytes of the whole rows. Whole rows cost
/// more later: they get new ids, which indexes must follow, and leave gaps, which joins of files must close.
const PATCH_BYTES_FACTOR: u64 = 4;
/// Bytes up to which a patch in place is always preferred.
const PATCH_BYTES_FREE: u64 = 4 << 20;
/// Rows that are written whole are read and written in pieces of about `PIECE_BYTES` and at most `PIECE_ROWS_MAX` rows,
/// each a file.
const PIECE_BYTES: u64 = 64 << 20;
const PIECE_ROWS_MAX: usize = 65_536;
/// New and old values are merged in steps of about `STEP_BYTES` and at most `STEP_ROWS_MAX` rows.
const STEP_BYTES: usize = 8 << 20;
const STEP_ROWS_MAX: usize = 16_384;
/// Marks a row of a file that the update does not touch.
const UNTOUCHED: u32 = u32::MAX;

/// Returns whether an update by `batch` should go to the base, because it is large itself, touches many rows of their
/// files, or touches large rows: the change store would write whole rows, and the fold would write them again.
pub(crate) async fn fits_base(snapshot: &Snapshot, batch: &RecordBatch, bulk_bytes: u64) -> Result<bool> {
    if batch.get_array_memory_size() as u64 >= bulk_bytes || batch.num_rows() > WRITE_ROWS_MAX {
        return Ok(true);
    }
    let row_ids: Vec<u64> = snapshot.locate(batch).await?.into_iter().flatten().collect();
    let has_media = snapshot.full_schema().fields().iter().any(|field| schema::is_blob(field));
    if has_media && patches_in_place(snapshot, batch, &row_ids).await? {
        return Ok(true);
    }
    Ok(row_bytes(snapshot, &row_ids).await?.into_iter().sum::<u64>() >= bulk_bytes)
}

/// Returns whether to rewrite the columns of `batch`, new values of the rows `row_ids`, for all rows of their files.
async fn patches_in_place(snapshot: &Snapshot, batch: &RecordBatch, row_ids: &[u64]) -> Result<bool> {
    let (base, addresses) = (snapshot.base(), snapshot.reader().addresses().await?);
    let found: Vec<RowAddress> = row_ids.iter().filter_map(|row_id| addresses.get(*row_id)).collect();
    let fragments: BTreeSet<u32> = found.iter().map(|address| address.fragment_id()).collect();
    // Deleted rows are rewritten too.
    let rows = |id: u32| base.get_fragment(id as usize).and_then(|file| file.metadata().physical_rows).unwrap_or(0);
    let written: usize = fragments.into_iter().map(rows).sum();
    if found.is_empty() || found.len() * PATCH_ROWS_DIVISOR < written {
        return Ok(false);
    }
    let value_bytes = (batch.get_array_memory_size() / batch.num_rows().max(1)) as u64;
    let in_place = written as u64 * value_bytes;
    if in_place <= PATCH_BYTES_FREE {
        return Ok(true);
    }
    let kept: u64 = row_bytes(snapshot, row_ids).await?.into_iter().sum();
    Ok(in_place <= PATCH_BYTES_FACTOR * (kept + found.len() as u64 * value_bytes))
}

/// Returns roughly how many bytes each of these rows has, media included, without reading the rows. A row of the change
/// store counts only its media.
async fn row_bytes(snapshot: &Snapshot, row_ids: &[u64]) -> Result<Vec<u64>> {
    let (base, addresses) = (snapshot.base(), snapshot.reader().addresses().await?);
    let mut average: HashMap<u32, u64> = HashMap::new();
    let mut of_file = |address: RowAddress| {
        *average.entry(address.fragment_id()).or_insert_with_key(|id| {
            let Some(file) = base.get_fragment(*id as usize) else { return 0 };
            let bytes = file.metadata().files.iter().map(|file| file.file_size_bytes.get().map_or(0, u64::from));
            bytes.sum::<u64>() / file.metadata().physical_rows.unwrap_or(1).max(1) as u64
        })
    };
    let mut bytes: Vec<u64> = row_ids.iter().map(|row_id| addresses.get(*row_id).map_or(0, &mut of_file)).collect();
    for column in snapshot.full_schema().fields().iter().filter(|field| schema::is_blob(field)) {
        let media = snapshot.blob_sizes(column.name(), row_ids).await?;
        bytes.iter_mut().zip(media).for_each(|(bytes, media)| *bytes += media);
    }
    Ok(bytes)
}

/// Reads the rows `row_ids` whole, in the logical schema, with the columns of `given` (one row for each) replacing
/// their own.
pub(crate) async fn whole_rows(snapshot: &Snapshot, given: &RecordBatch, row_ids: &[u64]) -> Result<RecordBatch> {
    let logical = snapshot.full_schema();
    let others = logical.fields().iter().map(|field| field.name().clone());
    let others: Vec<String> = others.filter(|name| given.schema_ref().index_of(name).is_err()).collect();
    let kept = snapshot.take(row_ids, &others).boxed().await?;
    let columns = logical.fields().iter().map(|field| {
        let column = given.column_by_name(field.name()).or_else(|| kept.column_by_name(field.name()));
        column.cloned().ok_or_else(|| Error::internal(format!("an update lost column `{}`", field.name())))
    });
    RecordBatch::try_new(Arc::clone(logical), columns.collect::<Result<Vec<_>>>()?).map_err(arrow_error)
}

/// Sets columns of the rows with the keys of `batch` (in the logical schema), all of which are in the base under
/// `row_ids`.
pub(crate) async fn patch(
    snapshot: &Snapshot,
    key: &PrimaryKey,
    batch: RecordBatch,
    row_ids: &[u64],
    faults: &Faults,
) -> Result<Dataset> {
    let is_part = batch.num_columns() < snapshot.full_schema().fields().len();
    if is_part && patches_in_place(snapshot, &batch, row_ids).await? {
        let batch = schema::to_stored_batch(&batch, &schemas(snapshot.base()).1)?;
        let addresses = addresses(snapshot.reader(), row_ids).await?;
        return patch_columns(snapshot.base(), key, &batch, &addresses, faults).await;
    }
    rewrite_rows(snapshot, &batch, row_ids, faults).await
}

/// Rewrites the rows `row_ids` whole, with the columns of `batch` replacing their own.
async fn rewrite_rows(snapshot: &Snapshot, batch: &RecordBatch, row_ids: &[u64], faults: &Faults) -> Result<Dataset> {
    let (base, stored) = (snapshot.base(), schemas(snapshot.base()).1);
    // Storage order, so that each piece is read from one place.
    let addresses = addresses(snapshot.reader(), row_ids).await?;
    let mut order: Vec<u32> = (0..).take(addresses.len()).collect();
    order.sort_unstable_by_key(|row| u64::from(addresses[*row as usize]));
    let sorted: Vec<u64> = order.iter().map(|row| row_ids[*row as usize]).collect();
    let batch = take_record_batch(batch, &UInt32Array::from(order)).map_err(arrow_error)?;
    let bytes = row_bytes(snapshot, &sorted).await?;
    let (mut fragments, mut start) = (Vec::new(), 0);
    while start < sorted.len() {
        let mut room = PIECE_BYTES;
        let fitting = bytes[start..].iter().take(PIECE_ROWS_MAX).take_while(|bytes| {
            let fits = room > 0;
            room = room.saturating_sub(**bytes);
            fits
        });
        let rows = fitting.count();
        let whole = whole_rows(snapshot, &batch.slice(start, rows), &sorted[start..start + rows]).await?;
        fragments.extend(stage(base, vec![schema::to_stored_batch(&whole, &stored)?], faults).await?);
        start += rows;
    }
    replace(snapshot.reader(), row_ids, fragments, faults).await
}

/// Rewrites the columns of `batch`, except the key, for the files of the rows at `addresses`. Lance's merge could do
/// this too, but sorts the whole batch first, in memory that large values do not fit in.
async fn patch_columns(
    dataset: &Arc<Dataset>,
    key: &PrimaryKey,
    batch: &RecordBatch,
    addresses: &[RowAddress],
    faults: &Faults,
) -> Result<Dataset> {
    let keys: BTreeSet<String> = key.columns().into_iter().collect();
    let values = (0..batch.num_columns()).filter(|column| !keys.contains(batch.schema_ref().field(*column).name()));
    let values = Arc::new(batch.project(&values.collect::<Vec<_>>()).map_err(arrow_error)?);
    let mut touched: BTreeMap<u32, Vec<PatchedRow>> = BTreeMap::new();
    for (row, address) in (0..).zip(addresses) {
        touched.entry(address.fragment_id()).or_default().push(PatchedRow { offset: address.row_offset(), row });
    }
    let (mut updated_fragments, mut fields_modified, mut offsets) = (Vec::new(), BTreeSet::new(), HashMap::new());
    for (id, rows) in touched {
        let file = dataset.get_fragment(id as usize);
        let file = file.ok_or_else(|| Error::corrupt(format!("fragment {id} is missing from the base")))?;
        let (fragment, fields) = rewrite(dataset, file, &values, &rows).boxed().await?;
        updated_fragments.push(fragment);
        fields_modified.extend(fields);
        offsets.insert(u64::from(id), rows.iter().map(|patched| patched.offset).collect());
    }
    let operation = Operation::Update {
        removed_fragment_ids: Vec::new(),
        updated_fragments,
        new_fragments: Vec::new(),
        fields_modified: fields_modified.into_iter().collect(),
        compacted_sstables: Vec::new(),
        fields_for_preserving_frag_bitmap: Vec::new(),
        update_mode: Some(UpdateMode::RewriteColumns),
        inserted_rows_filter: None,
        updated_fragment_offsets: Some(UpdatedFragmentOffsets(offsets)),
    };
    commit(dataset, operation, faults).await
}

/// A row of a file that gets new values, and these values.
struct PatchedRow {
    /// Offset of the row in the file.
    offset: u32,
    /// Row of the batch that holds its new values.
    row: u32,
}

/// Writes `values`, none of them media, into `file` at `rows`. Returns the new fragment and the fields that changed.
async fn rewrite(
    dataset: &Arc<Dataset>,
    file: FileFragment,
    values: &Arc<RecordBatch>,
    rows: &[PatchedRow],
) -> Result<(Fragment, Vec<u32>)> {
    let fields = values.schema_ref().fields();
    let names: Vec<&str> = fields.iter().map(|field| field.name().as_str()).collect();
    let row_bytes = values.get_array_memory_size() / values.num_rows().max(1);
    let step_rows = (STEP_BYTES / row_bytes.max(1)).clamp(1, STEP_ROWS_MAX);
    let mut row_at = vec![UNTOUCHED; file.physical_rows().await.map_err(lance_error)?];
    for patched in rows {
        row_at[patched.offset as usize] = patched.row;
    }
    let old = match file.metadata().num_rows() {
        // All live rows get new values.
        Some(live) if live == rows.len() => None,
        _ => {
            let mut scanner = dataset.scan();
            scanner.with_fragments(vec![file.metadata().clone()]).project(&names).map_err(lance_error)?;
            scanner.with_row_address().scan_in_order(true).batch_size(step_rows).strict_batch_size(true);
            scanner.batch_readahead(1).fragment_readahead(1).io_buffer_size(4 * STEP_BYTES as u64);
            Some(scanner.try_into_stream().await.map_err(lance_error)?)
        }
    };
    let joined = Joined { values: Arc::clone(values), row_at: row_at.into(), next: 0, step_rows, old, read: None };
    let schema = dataset.schema().project(&names).map_err(lance_error)?;
    let written = file.write_columns(joined.batches(), &schema).await.map_err(lance_error)?;
    Ok(with_file(file.metadata().clone(), written.1))
}

/// Returns `fragment` with the columns of `file` replacing those in its other files, and the fields of these columns.
fn with_file(mut fragment: Fragment, file: DataFile) -> (Fragment, Vec<u32>) {
    /// Lance's marker for a field that another file holds.
    const OBSOLETE: i32 = -2;
    for other in &mut fragment.files {
        let rest = |field: &i32| if file.fields.contains(field) { OBSOLETE } else { *field };
        other.fields = other.fields.iter().map(rest).collect();
    }
    fragment.files.retain(|other| other.fields.iter().any(|field| *field != OBSOLETE));
    let fields = file.fields.iter().filter_map(|field| u32::try_from(*field).ok()).collect();
    fragment.files.push(file);
    (fragment, fields)
}

/// The columns of one file in row order: new values, old ones, and arbitrary values for deleted rows.
struct Joined {
    values: Arc<RecordBatch>,
    /// For each row of the file, its row in `values` or [`UNTOUCHED`].
    row_at: Arc<[u32]>,
    next: usize,
    step_rows: usize,
    /// The old values that are needed, with their addresses, in row order.
    old: Option<DatasetRecordBatchStream>,
    /// Old values that were read and not yet merged.
    read: Option<RecordBatch>,
}

impl Joined {
    fn batches(self) -> impl Stream<Item = lance::Result<RecordBatch>> + Send {
        try_unfold(self, |mut joined| async move {
            let batch = joined.step().await.map_err(|error| lance::Error::wrapped(Box::new(error)))?;
            Ok(batch.map(|batch| (batch, joined)))
        })
    }

    async fn step(&mut self) -> Result<Option<RecordBatch>> {
        if let (None, Some(old)) = (&self.read, &mut self.old) {
            self.read = old.try_next().await.map_err(lance_error)?;
            if self.read.is_none() {
                self.old = None;
            }
        }
        let limit = (self.next + self.step_rows).min(self.row_at.len());
        let (old, end) = match self.read.take() {
            Some(read) => {
                let addresses = addresses_of(&read)?;
                let rows = addresses.partition_point(|address| row_offset(*address) < limit);
                if rows < addresses.len() {
                    // Many deleted rows precede the rest.
                    self.read = Some(read.slice(rows, addresses.len() - rows));
                    (Some(read.slice(0, rows)), limit)
                } else {
                    let end = addresses.last().map_or(self.next, |last| row_offset(*last) + 1);
                    (Some(read), end)
                }
            }
            // The rest are new values, and deleted rows behind the last old value.
            None if self.next == limit => return Ok(None),
            None => (None, limit),
        };
        let (values, row_at, rows) = (Arc::clone(&self.values), Arc::clone(&self.row_at), self.next..end);
        self.next = end;
        blocking(move || join(&values, old.as_ref(), &row_at, rows)).await.map(Some)
    }
}

/// Merges new and old values of `rows`.
fn join(values: &RecordBatch, old: Option<&RecordBatch>, row_at: &[u32], rows: Range<usize>) -> Result<RecordBatch> {
    let new = &row_at[rows.clone()];
    let first = new.first().copied().unwrap_or(UNTOUCHED);
    if first != UNTOUCHED && new.iter().zip(first..).all(|(row, expected)| *row == expected) {
        return Ok(values.slice(first as usize, new.len()));
    }
    // 0: a new value, 1: an old value, 2: a deleted row.
    let mut sources: Vec<(usize, usize)> =
        new.iter().map(|row| if *row == UNTOUCHED { (2, 0) } else { (0, *row as usize) }).collect();
    if let Some(old) = old {
        for (index, address) in addresses_of(old)?.iter().enumerate() {
            let source = &mut sources[row_offset(*address) - rows.start];
            if *source == (2, 0) {
                *source = (1, index);
            }
        }
    }
    let column = |(field, new): (&Arc<Field>, &ArrayRef)| {
        let lost = || Error::internal(format!("the scan returned no column `{}`", field.name()));
        let gap = if field.is_nullable() { new_null_array(field.data_type(), 1) } else { new.slice(0, 1) };
        let kept = match old {
            Some(old) => Arc::clone(old.column_by_name(field.name()).ok_or_else(lost)?),
            None => new.slice(0, 0),
        };
        interleave(&[new.as_ref(), kept.as_ref(), gap.as_ref()], &sources).map_err(arrow_error)
    };
    let columns = values.schema_ref().fields().iter().zip(values.columns()).map(column).collect::<Result<_>>()?;
    RecordBatch::try_new(values.schema(), columns).map_err(arrow_error)
}

fn addresses_of(batch: &RecordBatch) -> Result<&[u64]> {
    let addresses = batch.column_by_name(ROW_ADDR).and_then(|column| column.as_primitive_opt::<UInt64Type>());
    Ok(addresses.ok_or_else(|| Error::internal("the scan returned no row addresses"))?.values())
}

fn row_offset(address: u64) -> usize {
    RowAddress::from(address).row_offset() as usize
}

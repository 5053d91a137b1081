//! Columns of rows that are there get new values, and the rows keep their row ids.
//!
//! Where many of the rows of a file change, their columns are written anew beside the others, which stay as they are; where few do, the
//! rows are written whole. Columns are read and written in steps of some megabytes, however large their values are.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, new_null_array};
use arrow::compute::interleave;
use arrow::datatypes::{Field, UInt64Type};
use cenote_base::{Error, Result};
use futures::stream::{Stream, try_unfold};
use futures::{FutureExt, TryStreamExt};
use lance::Dataset;
use lance::dataset::fragment::FileFragment;
use lance::dataset::scanner::DatasetRecordBatchStream;
use lance::dataset::transaction::{Operation, UpdateMode, UpdatedFragmentOffsets};
use lance::dataset::{MergeInsertBuilder, MergeInsertWriteMode, WhenMatched, WhenNotMatched};
use lance_core::ROW_ADDR;
use lance_core::utils::address::RowAddress;
use lance_table::format::{DataFile, Fragment};

use crate::Faults;
use crate::base::{addresses, commit};
use crate::fault::{arrow_error, lance_error};
use crate::key::PrimaryKey;
use crate::pages::RowReader;
use crate::state::blocking;

/// An update that touches at least one row in so many of its fragments' rows patches columns in place; a sparser one
/// rewrites its rows whole, and so does one of every column, which leaves nothing in place.
const PATCH_ROWS_DIVISOR: usize = 16;
/// New and old values are joined in steps of about so many bytes and at most so many rows.
const STEP_BYTES: usize = 8 << 20;
const STEP_ROWS_MAX: usize = 16_384;
/// What a file has for a row that the update does not touch.
const UNTOUCHED: u32 = u32::MAX;

/// Sets columns of the rows whose keys `batch` (in the stored schema) has; all of them are there, under `row_ids`.
pub(crate) async fn patch(
    reader: &RowReader,
    key: &PrimaryKey,
    batch: RecordBatch,
    row_ids: &[u64],
    faults: &Faults,
) -> Result<Dataset> {
    let dataset = reader.base();
    let addresses = addresses(reader, row_ids).await?;
    let fragments: BTreeSet<u32> = addresses.iter().map(|address| address.fragment_id()).collect();
    let rows = |id: u32| dataset.get_fragment(id as usize).and_then(|file| file.metadata().num_rows()).unwrap_or(0);
    let touched: usize = fragments.into_iter().map(rows).sum();
    let is_part = batch.num_columns() < dataset.schema().fields.len();
    if is_part && row_ids.len() * PATCH_ROWS_DIVISOR >= touched {
        return patch_columns(dataset, key, &batch, &addresses, faults).await;
    }
    let mut merge = MergeInsertBuilder::try_new(Arc::clone(dataset), key.columns()).map_err(lance_error)?;
    merge.when_matched(WhenMatched::UpdateAll).when_not_matched(WhenNotMatched::DoNothing).use_index(false);
    let job = merge.write_mode(MergeInsertWriteMode::RewriteRows).try_build().map_err(lance_error)?;
    faults.check("base.commit")?;
    let (patched, _) = job.execute_batches(vec![batch]).await.map_err(lance_error)?;
    faults.check("base.committed")?;
    Ok(Arc::unwrap_or_clone(patched))
}

/// Writes the columns of `batch`, other than the key, anew for the files of the rows at `addresses`. Lance's merge would do it too, and
/// sort all of the batch first, in memory that large values do not fit in.
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
    let mut touched: BTreeMap<u32, Vec<(u32, u32)>> = BTreeMap::new();
    for (row, address) in (0..).zip(addresses) {
        touched.entry(address.fragment_id()).or_default().push((address.row_offset(), row));
    }
    let (mut updated_fragments, mut fields_modified, mut offsets) = (Vec::new(), BTreeSet::new(), HashMap::new());
    for (id, rows) in touched {
        let file = dataset.get_fragment(id as usize);
        let file = file.ok_or_else(|| Error::corrupt(format!("the base names fragment {id} and has none")))?;
        let (fragment, fields) = rewrite(dataset, file, &values, &rows).boxed().await?;
        updated_fragments.push(fragment);
        fields_modified.extend(fields);
        offsets.insert(u64::from(id), rows.iter().map(|(offset, _)| *offset).collect());
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

/// `file` with `values`, none of them media, at `rows`, each an offset in it and a row of the values; and which fields have changed.
async fn rewrite(
    dataset: &Arc<Dataset>,
    file: FileFragment,
    values: &Arc<RecordBatch>,
    rows: &[(u32, u32)],
) -> Result<(Fragment, Vec<u32>)> {
    let fields = values.schema_ref().fields();
    let names: Vec<&str> = fields.iter().map(|field| field.name().as_str()).collect();
    let row_bytes = values.get_array_memory_size() / values.num_rows().max(1);
    let step_rows = (STEP_BYTES / row_bytes.max(1)).clamp(1, STEP_ROWS_MAX);
    let mut row_at = vec![UNTOUCHED; file.physical_rows().await.map_err(lance_error)?];
    for (offset, row) in rows {
        row_at[*offset as usize] = *row;
    }
    let old = match file.metadata().num_rows() {
        // Nothing is left of it.
        Some(live) if live == rows.len() => None,
        _ => {
            let mut scanner = dataset.scan();
            scanner.with_fragments(vec![file.metadata().clone()]).project(&names).map_err(lance_error)?;
            scanner.with_row_address().scan_in_order(true).batch_size(step_rows).strict_batch_size(true);
            scanner.batch_readahead(1).fragment_readahead(1).io_buffer_size(4 * STEP_BYTES as u64);
            Some(scanner.try_into_stream().await.map_err(lance_error)?)
        }
    };
    let joined = Joined { values: Arc::clone(values), row_at: row_at.into(), next: 0, step_rows, old };
    let schema = dataset.schema().project(&names).map_err(lance_error)?;
    let written = file.write_columns(joined.batches(), &schema).await.map_err(lance_error)?;
    Ok(with_file(file.metadata().clone(), written.1))
}

/// `fragment` with the columns of `file`, instead of those that other files of it have, and their fields.
fn with_file(mut fragment: Fragment, file: DataFile) -> (Fragment, Vec<u32>) {
    /// What Lance takes for a field that another file has.
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

/// The columns of one file, row by row as they lie there: new values, old ones, and anything for deleted rows.
struct Joined {
    values: Arc<RecordBatch>,
    /// For each row of the file its row in `values`, or [`UNTOUCHED`].
    row_at: Arc<[u32]>,
    next: usize,
    step_rows: usize,
    /// The old values that are needed, with their addresses, in order.
    old: Option<DatasetRecordBatchStream>,
}

impl Joined {
    fn batches(self) -> impl Stream<Item = lance::Result<RecordBatch>> + Send {
        try_unfold(self, |mut joined| async move {
            let batch = joined.step().await.map_err(|error| lance::Error::wrapped(Box::new(error)))?;
            Ok(batch.map(|batch| (batch, joined)))
        })
    }

    async fn step(&mut self) -> Result<Option<RecordBatch>> {
        let old = match &mut self.old {
            Some(old) => old.try_next().await.map_err(lance_error)?,
            None => None,
        };
        let end = match &old {
            Some(old) => addresses_of(old)?.last().map_or(self.next, |last| row_offset(*last) + 1),
            // Rows that are new, and deleted ones behind the last that is old.
            None => (self.next + self.step_rows).min(self.row_at.len()),
        };
        if old.is_none() {
            self.old = None;
            if self.next == end {
                return Ok(None);
            }
        }
        let (values, row_at, rows) = (Arc::clone(&self.values), Arc::clone(&self.row_at), self.next..end);
        self.next = end;
        blocking(move || join(&values, old.as_ref(), &row_at, rows)).await.map(Some)
    }
}

/// The values of `rows`.
fn join(values: &RecordBatch, old: Option<&RecordBatch>, row_at: &[u32], rows: Range<usize>) -> Result<RecordBatch> {
    let new = &row_at[rows.clone()];
    let first = new.first().copied().unwrap_or(UNTOUCHED);
    if first != UNTOUCHED && new.iter().zip(first..).all(|(row, expected)| *row == expected) {
        return Ok(values.slice(first as usize, new.len()));
    }
    // 0 for a new value, 1 for an old one, 2 for a row that is deleted.
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
        let lost = || Error::internal(format!("the scan gave no column `{}`", field.name()));
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
    Ok(addresses.ok_or_else(|| Error::internal("the scan gave no row addresses"))?.values())
}

fn row_offset(address: u64) -> usize {
    RowAddress::from(address).row_offset() as usize
}

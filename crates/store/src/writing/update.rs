//! Updates: the rows and columns that an update sets, and the columns that become void with them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch, UInt32Array, new_null_array};
use arrow::compute::take_record_batch;
use arrow::datatypes::{DataType, FieldRef, Int64Type, Schema};
use cenote_base::Result;
use lance::Dataset;

use crate::base::dataset;
use crate::errors::arrow_error;
use crate::properties::{self, VOID};
use crate::reading::snapshot::Snapshot;
use crate::row_id::RowId;
use crate::rows::schema;

/// Rows compared by value at a time; their columns may hold media.
const COMPARED_ROWS: usize = 64;

/// New values of some columns.
#[derive(Debug)]
pub(crate) struct Update {
    /// The key and the new values, checked, with one row per key.
    pub(crate) batch: RecordBatch,
    /// The columns that the values were computed from, and the earlier snapshot in which they were read. Rows whose
    /// values in these columns have changed since are skipped.
    pub(crate) read: Option<(Snapshot, Vec<String>)>,
}

impl Update {
    /// Returns the values to set in `now`, including voided columns, and the ids of their rows.
    pub(crate) async fn at(&self, now: &Snapshot) -> Result<(RecordBatch, Vec<u64>)> {
        let keys = now.primary_key().project(&self.batch)?;
        let mut found = now.locate(&keys).await?;
        if let Some((then, columns)) = &self.read {
            let unchanged = now.unchanged_since(then, &keys, columns).await?;
            found.iter_mut().zip(unchanged).filter(|(_, unchanged)| !unchanged).for_each(|(row, _)| *row = None);
        }
        let rows = (0u32..).zip(&found).filter_map(|(row, id)| Some((row, (*id)?)));
        let (rows, row_ids): (Vec<u32>, Vec<u64>) = rows.unzip();
        let batch = match rows.len() == self.batch.num_rows() {
            true => self.batch.clone(),
            false => take_record_batch(&self.batch, &UInt32Array::from(rows)).map_err(arrow_error)?,
        };
        Ok((void_dependents(now, batch, &row_ids).await?, row_ids))
    }
}

/// Returns `batch`, which sets the rows `row_ids`, with a column of void values added for each column that depends on
/// one of the batch's.
async fn void_dependents(snapshot: &Snapshot, batch: RecordBatch, row_ids: &[u64]) -> Result<RecordBatch> {
    let dependents = snapshot.dependents()?;
    let schema = batch.schema();
    let changed = schema.fields().iter().filter_map(|field| dependents.get(field.name())).flatten();
    // A dependent column may have been dropped meanwhile.
    let is_stored = |name: &&String| snapshot.full_schema().index_of(name).is_ok() && schema.index_of(name).is_err();
    let void: BTreeSet<String> = changed.filter(is_stored).cloned().collect();
    if void.is_empty() || row_ids.is_empty() {
        return Ok(batch);
    }
    let wanted = schema::project(snapshot.full_schema(), &Vec::from_iter(void))?;
    let is_number = |field: &&FieldRef| field.data_type() == &DataType::Int64;
    let numbers: Vec<String> = wanted.fields().iter().filter(is_number).map(|field| field.name().clone()).collect();
    let former = snapshot.take(row_ids, &numbers).await?;
    let columns = wanted.fields().iter().map(|field| match former.column_by_name(field.name()) {
        Some(former) => Arc::new(former.as_primitive::<Int64Type>().unary::<_, Int64Type>(|_| VOID)) as ArrayRef,
        None => new_null_array(field.data_type(), row_ids.len()),
    });
    let columns = batch.columns().iter().cloned().chain(columns).collect();
    let fields: Vec<FieldRef> = schema.fields().iter().chain(wanted.fields()).cloned().collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).map_err(arrow_error)
}

impl Snapshot {
    /// Returns the value of [`DEPENDENTS_PROPERTY`](crate::DEPENDENTS_PROPERTY): for each column, the columns that
    /// become void when it changes.
    ///
    /// # Errors
    /// `Corrupt` when the value cannot be parsed.
    pub fn dependents(&self) -> Result<BTreeMap<String, BTreeSet<String>>> {
        properties::dependents(self.properties())
    }

    /// Returns for each of `keys` (the primary key's columns) whether it has a row whose `columns` are as they were in
    /// `then`, an earlier snapshot of the table.
    ///
    /// A row that has kept its id and its files is unchanged. Other rows, which were written, or moved by a fold or a
    /// join of files, are compared by value.
    ///
    /// # Errors
    /// `NotFound` for a column that the table does not have.
    pub async fn unchanged_since(&self, then: &Snapshot, keys: &RecordBatch, columns: &[String]) -> Result<Vec<bool>> {
        let (before, now) = (then.locate(keys).await?, self.locate(keys).await?);
        let mut unchanged = vec![false; keys.num_rows()];
        // Positions in `keys`: of rows with the same id in both bases, and of rows to compare.
        let (mut kept, mut compared) = (Vec::new(), Vec::new());
        let is_one_base = Arc::ptr_eq(then.base(), self.base());
        for (at, ids) in before.iter().zip(&now).enumerate() {
            match ids {
                (Some(before), Some(now)) if before == now && (is_one_base || RowId::from(*now).is_changed()) => {
                    unchanged[at] = true;
                }
                (Some(before), Some(now)) if before == now => kept.push((at, *now)),
                (Some(_), Some(_)) => compared.push(at),
                _ => {}
            }
        }
        let row_ids: Vec<u64> = kept.iter().map(|(_, row_id)| *row_id).collect();
        let addresses = dataset::addresses(self.reader(), &row_ids).await?;
        let mut known = BTreeMap::new();
        for ((at, _), address) in kept.into_iter().zip(addresses) {
            let fragment = u64::from(address.fragment_id());
            let is_same = *known.entry(fragment).or_insert_with(|| {
                let files = files(then.base(), fragment, columns);
                files.is_some() && files == self::files(self.base(), fragment, columns)
            });
            match is_same {
                true => unchanged[at] = true,
                false => compared.push(at),
            }
        }
        for part in compared.chunks(COMPARED_ROWS) {
            let of = |ids: &[Option<u64>]| part.iter().filter_map(|at| ids[*at]).collect::<Vec<_>>();
            let (before, now) = (then.take(&of(&before), columns).await?, self.take(&of(&now), columns).await?);
            for (row, at) in part.iter().enumerate() {
                unchanged[*at] = before.slice(row, 1) == now.slice(row, 1);
            }
        }
        Ok(unchanged)
    }
}

/// Returns the files of a fragment that hold `columns`; `None` if the base lacks the fragment or a column.
fn files<'a>(base: &'a Dataset, fragment: u64, columns: &[String]) -> Option<Vec<&'a str>> {
    let fragment = base.fragments().iter().find(|other| other.id == fragment)?;
    let mut files = Vec::new();
    for column in columns {
        let field = base.schema().field(column)?;
        let has = |file: &&lance_table::format::DataFile| file.fields.contains(&field.id);
        files.push(fragment.files.iter().find(has)?.path.as_str());
    }
    Some(files)
}

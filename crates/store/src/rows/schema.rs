//! The schema that callers see, and the one that Lance stores.
//!
//! A blob column is `LargeBinary` to callers and a Lance blob (v2) on disk: small values are in the data file, larger
//! ones beside it, and a scan that does not name the column never reads their bytes.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::datatypes::{DataType, Field, Float16Type, Float32Type, Float64Type, Schema, SchemaRef};
use cenote_base::{Error, Result};
use lance::BlobArrayBuilder;

use crate::errors::{arrow_error, lance_error};
use crate::rows::column::{self, HIDDEN_PREFIX};
use crate::rows::primary_key::PrimaryKey;
use crate::rows::{buffers, cast};

/// The field metadata that marks a media column; its value is `blob`.
pub const BLOB_TYPE_KEY: &str = "cenote:type";

const EXTENSION_NAME_KEY: &str = "ARROW:extension:name";
const LANCE_BLOB: &str = "lance.blob.v2";

/// Makes a nullable media column: bytes kept apart from the other columns.
pub fn blob_field(name: &str) -> Field {
    let metadata = HashMap::from([(BLOB_TYPE_KEY.to_owned(), "blob".to_owned())]);
    Field::new(name, DataType::LargeBinary, true).with_metadata(metadata)
}

/// Returns whether `field` is a media column, in a caller's schema or in a stored one.
pub fn is_blob(field: &Field) -> bool {
    field.metadata().get(BLOB_TYPE_KEY).is_some_and(|value| value == "blob")
        || field.metadata().get(EXTENSION_NAME_KEY).is_some_and(|name| name == LANCE_BLOB)
}

/// Returns the bytes of a value of `data_type` in memory, null or not, if all its values have one size; otherwise 0.
pub fn fixed_bytes(data_type: &DataType) -> u64 {
    match data_type {
        DataType::FixedSizeList(item, length) => fixed_bytes(item.data_type()) * u64::try_from(*length).unwrap_or(0),
        DataType::FixedSizeBinary(length) => u64::try_from(*length).unwrap_or(0),
        DataType::Struct(fields) => fields.iter().map(|field| fixed_bytes(field.data_type())).sum(),
        DataType::Boolean => 1,
        other => other.primitive_width().unwrap_or(0) as u64,
    }
}

/// Returns the minimum bytes of a row of `schema` in memory; nulls take fewer on disk.
pub(crate) fn row_bytes_min(schema: &Schema) -> u64 {
    schema.fields().iter().map(|field| fixed_bytes(field.data_type())).sum()
}

/// Converts a caller's schema to its stored form.
pub(crate) fn to_stored(schema: &Schema, key: &PrimaryKey) -> Schema {
    let fields = schema
        .fields()
        .iter()
        .map(|field| if is_blob(field) { Arc::new(lance::blob_field(field.name(), true)) } else { Arc::clone(field) });
    Schema::new(key.annotate(fields))
}

/// Converts a stored schema to the caller's form, including Cenote's own columns.
pub(crate) fn to_logical(schema: &Schema) -> Schema {
    let fields = schema.fields().iter().map(|field| {
        if is_blob(field) {
            Arc::new(blob_field(field.name()))
        } else {
            // Lance marks primary keys in the metadata of fields; callers get them from `Snapshot::primary_key`.
            Arc::new(field.as_ref().clone().with_metadata(HashMap::new()))
        }
    });
    Schema::new(fields.collect::<Vec<_>>())
}

/// Returns `schema` without Cenote's own columns.
pub(crate) fn visible(schema: &Schema) -> Schema {
    Schema::new(
        schema.fields().iter().filter(|field| !field.name().starts_with(HIDDEN_PREFIX)).cloned().collect::<Vec<_>>(),
    )
}

/// The treatment of columns that a batch lacks: they become null, or are left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Missing {
    Null,
    Absent,
}

/// Checks `batch` and returns it with the columns, order and types of the logical schema, [cast](cast::exact) where
/// nothing is lost.
pub(crate) fn check_batch(batch: &RecordBatch, logical: &Schema, missing: Missing) -> Result<RecordBatch> {
    if let Some(unknown) = batch.schema().fields().iter().find(|field| logical.index_of(field.name()).is_err()) {
        let known = visible(logical).fields().iter().map(|f| f.name().clone()).collect::<Vec<_>>().join(", ");
        return Err(Error::invalid_input(format!("the table has no column `{}`; it has {known}", unknown.name())));
    }
    if let Some(column) = column::repeated(batch.schema_ref().fields().iter().map(|field| field.name())) {
        return Err(Error::invalid_input(format!("column `{column}` is given twice: give each column once")));
    }
    let mut fields = Vec::with_capacity(logical.fields().len());
    let mut columns = Vec::with_capacity(logical.fields().len());
    for field in logical.fields() {
        let column = match batch.column_by_name(field.name()) {
            Some(column) => cast::exact(column, field)?,
            None if missing == Missing::Absent => continue,
            None if field.is_nullable() => new_null_array(field.data_type(), batch.num_rows()),
            None => {
                return Err(Error::invalid_input(format!(
                    "column `{}` must be given: it is not nullable",
                    field.name()
                )));
            }
        };
        if !field.is_nullable() && column.null_count() > 0 {
            return Err(Error::invalid_input(format!("column `{}` holds a null and is not nullable", field.name())));
        }
        check_vectors(&column, field)?;
        columns.push(column);
        fields.push(Arc::clone(field));
    }
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    let checked = RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options);
    buffers::canonical(buffers::compact(checked.map_err(arrow_error)?)?)
}

/// Returns the rows of `column`, if it holds vectors, whose vector no table takes: one with a number that is missing,
/// NaN or infinite, to which distances would be meaningless.
pub fn bad_vectors(column: &ArrayRef) -> Vec<usize> {
    use DataType::{Float16, Float32, Float64, Int8, UInt8};
    let Some(list) = column.as_fixed_size_list_opt() else { return Vec::new() };
    let numbers = list.values();
    let are_vectors = matches!(numbers.data_type(), Float16 | Float32 | Float64 | Int8 | UInt8);
    // Usually all numbers are present and finite; the values under a null vector may be anything.
    if !are_vectors || is_finite(numbers) {
        return Vec::new();
    }
    let width = list.value_length() as usize;
    let is_bad = |row: &usize| list.is_valid(*row) && !is_finite(&numbers.slice(row * width, width));
    (0..list.len()).filter(is_bad).collect()
}

/// Refuses the vectors that [`bad_vectors`] names.
fn check_vectors(column: &ArrayRef, field: &Field) -> Result<()> {
    let rows: Vec<String> = bad_vectors(column).into_iter().take(10).map(|row| row.to_string()).collect();
    if rows.is_empty() {
        return Ok(());
    }
    Err(Error::invalid_input(format!(
        "column `{}` holds vectors with numbers that are NaN, infinite or null, in rows {}: fix or omit those rows",
        field.name(),
        rows.join(", ")
    )))
}

/// Returns whether all of `numbers` are present and finite.
fn is_finite(numbers: &ArrayRef) -> bool {
    // Without an early exit, so that the loop is vectorised.
    let is_finite = match numbers.data_type() {
        DataType::Float16 => {
            numbers.as_primitive::<Float16Type>().values().iter().fold(true, |all, n| all & n.is_finite())
        }
        DataType::Float32 => {
            numbers.as_primitive::<Float32Type>().values().iter().fold(true, |all, n| all & n.is_finite())
        }
        DataType::Float64 => {
            numbers.as_primitive::<Float64Type>().values().iter().fold(true, |all, n| all & n.is_finite())
        }
        _ => true,
    };
    is_finite && numbers.null_count() == 0
}

/// Converts a checked `batch` to the stored form, with blobs wrapped.
pub(crate) fn to_stored_batch(batch: &RecordBatch, stored: &Schema) -> Result<RecordBatch> {
    let mut fields = Vec::with_capacity(batch.num_columns());
    let mut columns = Vec::with_capacity(batch.num_columns());
    for (field, column) in batch.schema_ref().fields().iter().zip(batch.columns()) {
        columns.push(if is_blob(field) { wrap_blobs(column)? } else { Arc::clone(column) });
        fields.push(Arc::new(stored.field_with_name(field.name()).map_err(arrow_error)?.clone()));
    }
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options).map_err(arrow_error)
}

fn wrap_blobs(column: &ArrayRef) -> Result<ArrayRef> {
    let bytes = column.as_binary::<i64>();
    let mut builder = BlobArrayBuilder::new(bytes.len());
    for value in bytes {
        match value {
            Some(value) => builder.push_bytes(value),
            None => builder.push_null(),
        }
        .map_err(lance_error)?;
    }
    builder.finish().map_err(lance_error)
}

/// Projects `schema` to `columns`, in their order; a repeated column appears once, at its first position.
pub(crate) fn project(schema: &Schema, columns: &[String]) -> Result<SchemaRef> {
    let fields = columns.iter().map(|name| {
        schema.fields().find(name).map(|(_, field)| Arc::clone(field)).ok_or_else(|| {
            let known = visible(schema).fields().iter().map(|f| f.name().clone()).collect::<Vec<_>>().join(", ");
            Error::not_found(format!("no column `{name}`; the table has {known}"))
        })
    });
    let mut fields = fields.collect::<Result<Vec<_>>>()?;
    let mut seen = HashSet::new();
    fields.retain(|field| seen.insert(field.name().clone()));
    Ok(Arc::new(Schema::new(fields)))
}

/// Converts `batch` to the columns of `schema`: columns that it lacks are null, others are dropped.
pub(crate) fn conform(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    let columns = schema.fields().iter().map(|field| match batch.column_by_name(field.name()) {
        Some(column) => cast::exact(column, field),
        None => Ok(new_null_array(field.data_type(), batch.num_rows())),
    });
    let columns = columns.collect::<Result<Vec<_>>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options).map_err(arrow_error)
}

/// Returns the bytes of the values of `batch` in memory, which may be only a part of what its buffers hold.
pub(crate) fn value_bytes(batch: &RecordBatch) -> u64 {
    batch.columns().iter().map(array_bytes).sum()
}

/// Returns the bytes of the values of `array` in memory, as [`value_bytes`] does.
pub(crate) fn array_bytes(array: &ArrayRef) -> u64 {
    let items = |items: &ArrayRef, first: usize, end: usize| array_bytes(&items.slice(first, end - first));
    let offsets = match array.data_type() {
        DataType::List(_) | DataType::Map(..) => 4 * array.len() as u64,
        DataType::LargeList(_) => 8 * array.len() as u64,
        _ => 0,
    };
    offsets
        + match array.data_type() {
            DataType::List(_) => {
                let list = array.as_list::<i32>();
                let ends = list.value_offsets();
                items(list.values(), ends[0] as usize, ends[list.len()] as usize)
            }
            DataType::LargeList(_) => {
                let list = array.as_list::<i64>();
                let ends = list.value_offsets();
                items(list.values(), ends[0] as usize, ends[list.len()] as usize)
            }
            DataType::Map(..) => {
                let map = array.as_map();
                let ends = map.value_offsets();
                let entries: ArrayRef = Arc::new(map.entries().clone());
                items(&entries, ends[0] as usize, ends[map.len()] as usize)
            }
            DataType::FixedSizeList(..) => array_bytes(array.as_fixed_size_list().values()),
            DataType::Struct(_) => array.as_struct().columns().iter().map(array_bytes).sum(),
            // Arrow cannot tell for a few types: then what the buffers hold is the bound.
            _ => array.to_data().get_slice_memory_size().unwrap_or(array.get_buffer_memory_size()) as u64,
        }
}

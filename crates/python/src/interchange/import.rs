//! Arrays and streams received over Arrow's C interface.
//!
//! Arrow's own conversion panics for a sliced struct within a struct or a fixed-size list, because it applies the slice
//! twice. This module applies slices to the children of such arrays first, which leaves none to apply.

#![expect(unsafe_code, reason = "the C interface hands over pointers; each block says why it may be followed")]

use std::ffi::CStr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayData, ArrayRef, AsArray, RecordBatch, RecordBatchOptions, RecordBatchReader, make_array,
};
use arrow::datatypes::{DataType, Schema, SchemaRef};
use arrow::error::{ArrowError, Result};
use arrow::ffi::{FFI_ArrowArray, FFI_ArrowSchema, from_ffi_and_data_type};
use arrow::ffi_stream::FFI_ArrowArrayStream;
use cenote_runtime::arrow;

/// Makes an array from `data`.
///
/// # Errors
/// `CDataInterface` for buffers that do not fit the type.
pub(crate) fn array(data: ArrayData) -> Result<ArrayRef> {
    let mut data = settle(data)?;
    let make = AssertUnwindSafe(|| {
        data.align_buffers();
        make_array(data)
    });
    catch_unwind(make).map_err(|_| ArrowError::CDataInterface("the buffers do not fit the type".to_owned()))
}

/// Applies the slices of structs and fixed-size lists in `data`, at any depth, to their children.
fn settle(data: ArrayData) -> Result<ArrayData> {
    let values_per_row = match data.data_type() {
        DataType::Struct(_) => Some(1),
        DataType::FixedSizeList(_, width) => usize::try_from(*width).ok(),
        _ => None,
    };
    let (offset, rows) = (data.offset(), data.len());
    let child = |child: &ArrayData| match values_per_row {
        Some(values) => settle(slice(child, offset * values, rows * values)?),
        None => settle(child.clone()),
    };
    let children = data.child_data().iter().map(child).collect::<Result<Vec<_>>>()?;
    let offset = if values_per_row.is_some() { 0 } else { offset };
    let builder = data.into_builder().offset(offset).child_data(children);
    // SAFETY: the same values in the same order. Structs and fixed-size lists have no buffers that an offset would
    // apply to, and their nulls are kept as those of the rows from the first on.
    Ok(unsafe { builder.build_unchecked() })
}

/// Slices `rows` rows of `data` from `start` on. Unlike `ArrayData::slice`, it leaves the children of structs alone.
fn slice(data: &ArrayData, start: usize, rows: usize) -> Result<ArrayData> {
    if start + rows > data.len() {
        return Err(ArrowError::CDataInterface(format!(
            "a nested array has {} values, and its parent needs {}",
            data.len(),
            start + rows
        )));
    }
    let nulls = data.nulls().map(|nulls| nulls.slice(start, rows));
    let builder = data.clone().into_builder().offset(data.offset() + start).len(rows).nulls(nulls);
    // SAFETY: the rows lie within `data`, whose buffers and children are unchanged.
    Ok(unsafe { builder.build_unchecked() })
}

/// A reader of a stream of the C interface.
pub(crate) struct StreamReader {
    stream: FFI_ArrowArrayStream,
    schema: SchemaRef,
}

impl StreamReader {
    /// Reads the schema.
    pub(crate) fn new(mut stream: FFI_ArrowArrayStream) -> Result<Self> {
        let get_schema = stream.get_schema.ok_or_else(released)?;
        let mut schema = FFI_ArrowSchema::empty();
        // SAFETY: a stream that was not released may be asked for its schema, which goes where none is yet.
        let code = unsafe { get_schema(&raw mut stream, &raw mut schema) };
        if code != 0 {
            return Err(last_error(&mut stream, code));
        }
        let schema = Arc::new(Schema::try_from(&schema)?);
        Ok(Self { stream, schema })
    }

    /// Reads the next batch, if there is one.
    fn read(&mut self) -> Result<Option<RecordBatch>> {
        let get_next = self.stream.get_next.ok_or_else(released)?;
        let mut rows = FFI_ArrowArray::empty();
        // SAFETY: a stream that was not released may be asked for its next array, which goes where none is yet.
        let code = unsafe { get_next(&raw mut self.stream, &raw mut rows) };
        if code != 0 {
            return Err(last_error(&mut self.stream, code));
        }
        if rows.is_released() {
            return Ok(None);
        }
        // SAFETY: the interface says that the arrays of a stream are structs of its schema.
        let data = unsafe { from_ffi_and_data_type(rows, DataType::Struct(self.schema.fields().clone())) }?;
        let rows = array(data)?;
        let (_, columns, _) = rows.as_struct().clone().into_parts();
        let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
        RecordBatch::try_new_with_options(SchemaRef::clone(&self.schema), columns, &options).map(Some)
    }
}

impl Iterator for StreamReader {
    type Item = Result<RecordBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read().transpose()
    }
}

impl RecordBatchReader for StreamReader {
    fn schema(&self) -> SchemaRef {
        SchemaRef::clone(&self.schema)
    }
}

fn released() -> ArrowError {
    ArrowError::CDataInterface("the stream was read already".to_owned())
}

/// Returns the error of the last call on `stream`, which failed with `code`.
fn last_error(stream: &mut FFI_ArrowArrayStream, code: i32) -> ArrowError {
    // SAFETY: a stream has this function for use after an error; the text, if any, lives until the next call.
    let text = stream.get_last_error.and_then(|get_last_error| unsafe {
        let text = get_last_error(stream);
        (!text.is_null()).then(|| CStr::from_ptr(text).to_string_lossy().into_owned())
    });
    ArrowError::CDataInterface(text.unwrap_or_else(|| format!("the stream failed with code {code}")))
}

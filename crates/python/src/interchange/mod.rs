//! Arrow in and out: by the PyCapsule interface, which moves structures and copies no buffers, and as bytes for
//! `pickle`.
//!
//! This part does not know lakes, tables or streams.
//!
//! <https://arrow.apache.org/docs/format/CDataInterface/PyCapsuleInterface.html>

#![expect(unsafe_code, reason = "the C interface hands over pointers; each block says why it may be followed")]

mod import;
pub(crate) mod pickle;

use std::ffi::CStr;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchReader, StructArray};
use arrow::datatypes::{Field, Schema, SchemaRef};
use arrow::ffi::{FFI_ArrowArray, FFI_ArrowSchema, from_ffi, to_ffi};
use arrow::ffi_stream::FFI_ArrowArrayStream;
use cenote_runtime::arrow;
use pyo3::prelude::*;
use pyo3::types::{PyCapsule, PyCapsuleMethods};

use self::import::StreamReader;
use crate::fault;

const SCHEMA: &CStr = c"arrow_schema";
const ARRAY: &CStr = c"arrow_array";
const STREAM: &CStr = c"arrow_array_stream";

/// A reader of batches of one schema.
pub(crate) type Reader = Box<dyn RecordBatchReader + Send>;

/// Moves the structure out of a capsule, and leaves `empty` in its place.
fn take<T>(capsule: &Bound<'_, PyAny>, name: &'static CStr, empty: T) -> PyResult<T> {
    let capsule = capsule.cast::<PyCapsule>().map_err(PyErr::from)?;
    let pointer = capsule.pointer_checked(Some(name))?.cast::<T>();
    // SAFETY: by its name the capsule holds a valid structure of this type, and the interface lets a consumer move it
    // out; `empty` has no release callback, so the capsule's destructor has nothing to release.
    Ok(unsafe { std::ptr::replace(pointer.as_ptr(), empty) })
}

/// Returns a reader of `data`, which has `__arrow_c_stream__` or `__arrow_c_array__`.
pub(crate) fn reader(data: &Bound<'_, PyAny>) -> PyResult<Reader> {
    if data.hasattr("__arrow_c_stream__")? {
        let capsule = data.call_method0("__arrow_c_stream__")?;
        let stream = take(&capsule, STREAM, FFI_ArrowArrayStream::empty())?;
        return Ok(Box::new(StreamReader::new(stream).map_err(fault::arrow)?));
    }
    if data.hasattr("__arrow_c_array__")? {
        let array = array(data)?;
        let rows: Option<&StructArray> = array.as_struct_opt();
        let rows =
            rows.ok_or_else(|| fault::invalid(format!("rows are a struct array, found {}", array.data_type())))?;
        let batch = RecordBatch::from(rows);
        let schema = batch.schema();
        return Ok(Box::new(arrow::array::RecordBatchIterator::new([Ok(batch)], schema)));
    }
    let what = data.get_type().fully_qualified_name()?;
    Err(fault::invalid(format!(
        "a {what} is not Arrow data: give a table, a data frame or a record batch of pyarrow, pandas, Polars or \
         DuckDB, or anything with `__arrow_c_stream__`"
    )))
}

/// Returns the array of `data`, which has `__arrow_c_array__`.
pub(crate) fn array(data: &Bound<'_, PyAny>) -> PyResult<ArrayRef> {
    let (schema, array): (Bound<'_, PyAny>, Bound<'_, PyAny>) = data.call_method0("__arrow_c_array__")?.extract()?;
    let schema = take(&schema, SCHEMA, FFI_ArrowSchema::empty())?;
    let array = take(&array, ARRAY, FFI_ArrowArray::empty())?;
    // SAFETY: both came from capsules of their names, and the interface says that they fit each other.
    let data = unsafe { from_ffi(array, &schema) }.map_err(fault::arrow)?;
    import::array(data).map_err(fault::arrow)
}

/// Returns the schema of `data`, which has `__arrow_c_schema__`.
pub(crate) fn schema(data: &Bound<'_, PyAny>) -> PyResult<SchemaRef> {
    if !data.hasattr("__arrow_c_schema__")? {
        let what = data.get_type().fully_qualified_name()?;
        return Err(fault::invalid(format!(
            "a {what} is not a schema: give a dict from column to type, a pyarrow schema, or anything with \
             `__arrow_c_schema__`"
        )));
    }
    let schema = take(&data.call_method0("__arrow_c_schema__")?, SCHEMA, FFI_ArrowSchema::empty())?;
    Ok(Arc::new(Schema::try_from(&schema).map_err(fault::arrow)?))
}

/// Returns the type of `data`, which has `__arrow_c_schema__`, as a field.
pub(crate) fn field(data: &Bound<'_, PyAny>) -> PyResult<Field> {
    if !data.hasattr("__arrow_c_schema__")? {
        let what = data.repr()?;
        return Err(fault::invalid(format!(
            "{what} is not a column type: use one of `cenote`, `str`, `int`, or a pyarrow type"
        )));
    }
    let schema = take(&data.call_method0("__arrow_c_schema__")?, SCHEMA, FFI_ArrowSchema::empty())?;
    Field::try_from(&schema).map_err(fault::arrow)
}

pub(crate) fn export_schema<'py>(py: Python<'py>, schema: &Schema) -> PyResult<Bound<'py, PyCapsule>> {
    PyCapsule::new_with_value(py, FFI_ArrowSchema::try_from(schema).map_err(fault::arrow)?, SCHEMA)
}

pub(crate) fn export_stream(py: Python<'_>, reader: Reader) -> PyResult<Bound<'_, PyCapsule>> {
    PyCapsule::new_with_value(py, FFI_ArrowArrayStream::new(reader), STREAM)
}

pub(crate) type ArrayCapsules<'py> = (Bound<'py, PyCapsule>, Bound<'py, PyCapsule>);

pub(crate) fn export_array<'py>(py: Python<'py>, array: &dyn Array, field: &Field) -> PyResult<ArrayCapsules<'py>> {
    let (data, _) = to_ffi(&array.to_data()).map_err(fault::arrow)?;
    let schema = FFI_ArrowSchema::try_from(field).map_err(fault::arrow)?;
    Ok((PyCapsule::new_with_value(py, schema, SCHEMA)?, PyCapsule::new_with_value(py, data, ARRAY)?))
}

/// An array on its way to a library that reads `__arrow_c_array__`.
#[pyclass(frozen, module = "cenote._native")]
pub(crate) struct ArrowArray {
    array: ArrayRef,
    field: Field,
}

impl ArrowArray {
    pub(crate) fn new(array: ArrayRef, field: Field) -> Self {
        Self { array, field }
    }
}

#[pymethods]
impl ArrowArray {
    #[pyo3(signature = (requested_schema=None))]
    fn __arrow_c_array__<'py>(
        &self,
        py: Python<'py>,
        requested_schema: Option<Bound<'py, PyAny>>,
    ) -> PyResult<ArrayCapsules<'py>> {
        drop(requested_schema);
        export_array(py, self.array.as_ref(), &self.field)
    }
}

/// The columns of a table or a result, with their types.
#[pyclass(frozen, module = "cenote._native", name = "Schema")]
pub(crate) struct PySchema(pub(crate) SchemaRef);

#[pymethods]
impl PySchema {
    fn __arrow_c_schema__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyCapsule>> {
        export_schema(py, &self.0)
    }

    /// Returns (name, type in Arrow's notation, whether nullable, whether media) of each column.
    fn fields(&self) -> Vec<(String, String, bool, bool)> {
        let field = |field: &Arc<Field>| {
            (field.name().clone(), field.data_type().to_string(), field.is_nullable(), cenote_runtime::is_blob(field))
        };
        self.0.fields().iter().map(field).collect()
    }

    fn __eq__(&self, other: &Bound<'_, PyAny>) -> bool {
        other.cast::<Self>().is_ok_and(|other| other.get().0 == self.0)
    }
}

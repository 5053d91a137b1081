//! Columns, rows and tensors between processes: what `pickle` takes, as worker processes of PyTorch send their batches.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::buffer::{Buffer, MutableBuffer};
use arrow::datatypes::{Schema, SchemaRef};
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use cenote_runtime::arrow;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::fault;
use crate::rows::{Column, Rows};
use crate::tensor::Tensor;

/// Batches in Arrow's stream format.
fn written<'py>(py: Python<'py>, schema: &Schema, batches: &[RecordBatch]) -> PyResult<Bound<'py, PyBytes>> {
    let mut bytes = Vec::new();
    let mut writer = StreamWriter::try_new(&mut bytes, schema).map_err(fault::arrow)?;
    for batch in batches {
        writer.write(batch).map_err(fault::arrow)?;
    }
    writer.finish().map_err(fault::arrow)?;
    Ok(PyBytes::new(py, &bytes))
}

fn read(bytes: &[u8]) -> PyResult<(SchemaRef, Vec<RecordBatch>)> {
    let reader = StreamReader::try_new(bytes, None).map_err(fault::arrow)?;
    let schema = reader.schema();
    Ok((schema, reader.collect::<Result<Vec<_>, _>>().map_err(fault::arrow)?))
}

/// What a pickled thing is made again by, and of what.
pub(crate) type Reduced<'py, Arguments> = (Bound<'py, PyAny>, Arguments);

fn maker<'py>(py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyAny>> {
    py.import("cenote._native")?.getattr(name)
}

pub(crate) fn reduce_rows<'py>(
    py: Python<'py>,
    schema: &Schema,
    batches: &[RecordBatch],
) -> PyResult<Reduced<'py, (Bound<'py, PyBytes>,)>> {
    Ok((maker(py, "unpickle_rows")?, (written(py, schema, batches)?,)))
}

pub(crate) fn reduce_column<'py>(py: Python<'py>, column: &Column) -> PyResult<Reduced<'py, (Bound<'py, PyBytes>,)>> {
    let schema = Arc::new(Schema::new(vec![Arc::clone(&column.field)]));
    let batch = RecordBatch::try_new(Arc::clone(&schema), vec![Arc::clone(&column.array)]).map_err(fault::arrow)?;
    Ok((maker(py, "unpickle_column")?, (written(py, &schema, &[batch])?,)))
}

/// The numbers of a tensor, its shape and its type, and which rows have a value.
pub(crate) type TensorParts<'py> = (Bound<'py, PyBytes>, Vec<i64>, String, Option<Vec<bool>>);

pub(crate) fn reduce_tensor<'py>(py: Python<'py>, tensor: &Tensor) -> PyResult<Reduced<'py, TensorParts<'py>>> {
    let parts = (PyBytes::new(py, tensor.bytes()), tensor.shape(), tensor.dtype(), tensor.valid());
    Ok((maker(py, "unpickle_tensor")?, parts))
}

#[pyfunction]
pub(crate) fn unpickle_rows(bytes: &[u8]) -> PyResult<Rows> {
    let (schema, batches) = read(bytes)?;
    Ok(Rows::new(schema, batches))
}

#[pyfunction]
pub(crate) fn unpickle_column(bytes: &[u8]) -> PyResult<Column> {
    let (schema, batches) = read(bytes)?;
    match (batches.first(), schema.fields().first()) {
        (Some(batch), Some(field)) => Ok(Column { array: Arc::clone(batch.column(0)), field: Arc::clone(field) }),
        _ => Err(fault::invalid("these bytes hold no column")),
    }
}

#[pyfunction]
pub(crate) fn unpickle_tensor(
    bytes: &[u8],
    shape: Vec<i64>,
    dtype: &str,
    valid: Option<Vec<bool>>,
) -> PyResult<Tensor> {
    // Aligned for every type of number.
    let mut memory = MutableBuffer::new(bytes.len());
    memory.extend_from_slice(bytes);
    Tensor::of_bytes(Buffer::from(memory), shape, dtype, valid)
}

//! Columns, rows and tensors between processes: what `pickle` takes, as worker processes of PyTorch send their batches.

use std::sync::Arc;

use arrow::array::{Array, RecordBatch};
use arrow::buffer::{Buffer, MutableBuffer};
use arrow::datatypes::{Schema, SchemaRef};
use arrow::ipc::reader::StreamDecoder;
use arrow::ipc::writer::StreamWriter;
use bytes::Bytes;
use cenote_runtime::arrow;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::PyBytes;

use crate::fault;
use crate::rows::{Column, Rows};
use crate::tensor::Tensor;

/// Batches in Arrow's stream format.
fn written(schema: &Schema, batches: &[RecordBatch]) -> PyResult<Vec<u8>> {
    let columns = batches.iter().flat_map(RecordBatch::columns);
    let size = columns.map(|column| column.to_data().get_slice_memory_size()).sum::<Result<usize, _>>();
    let mut bytes = Vec::with_capacity(size.map_err(fault::arrow)?);
    let mut writer = StreamWriter::try_new(&mut bytes, schema).map_err(fault::arrow)?;
    for batch in batches {
        writer.write(batch).map_err(fault::arrow)?;
    }
    writer.finish().map_err(fault::arrow)?;
    Ok(bytes)
}

/// What was written; the arrays are in its memory.
fn read(mut bytes: Buffer) -> PyResult<(SchemaRef, Vec<RecordBatch>)> {
    let (mut decoder, mut batches) = (StreamDecoder::new(), Vec::new());
    while !bytes.is_empty() {
        batches.extend(decoder.decode(&mut bytes).map_err(fault::arrow)?);
    }
    decoder.finish().map_err(fault::arrow)?;
    let schema = decoder.schema().ok_or_else(|| fault::invalid("these bytes hold no rows"))?;
    Ok((schema, batches))
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
    Ok((maker(py, "unpickle_rows")?, (PyBytes::new(py, &written(schema, batches)?),)))
}

/// Its bytes as a tensor: of what is sent to another process, `cenote.torch` shares the memory of tensors.
pub(crate) fn reduce_column<'py>(py: Python<'py>, column: &Column) -> PyResult<Reduced<'py, (Tensor,)>> {
    let schema = Arc::new(Schema::new(vec![Arc::clone(&column.field)]));
    let batch = RecordBatch::try_new(Arc::clone(&schema), vec![Arc::clone(&column.array)]).map_err(fault::arrow)?;
    let bytes = written(&schema, &[batch])?;
    let shape = vec![bytes.len() as i64];
    Ok((maker(py, "unpickle_column")?, (Tensor::of_bytes(Buffer::from_vec(bytes), shape, "|u1", None)?,)))
}

/// The numbers of a tensor, its shape and its type, and which rows have a value.
pub(crate) type TensorParts<'py> = (Bound<'py, PyBytes>, Vec<i64>, String, Option<Vec<bool>>);

pub(crate) fn reduce_tensor<'py>(py: Python<'py>, tensor: &Tensor) -> PyResult<Reduced<'py, TensorParts<'py>>> {
    let parts = (PyBytes::new(py, tensor.bytes()), tensor.shape(), tensor.dtype(), tensor.valid());
    Ok((maker(py, "unpickle_tensor")?, parts))
}

#[pyfunction]
pub(crate) fn unpickle_rows(bytes: PyBackedBytes) -> PyResult<Rows> {
    let (schema, batches) = read(Buffer::from(Bytes::from_owner(bytes)))?;
    Ok(Rows::new(schema, batches))
}

#[pyfunction]
pub(crate) fn unpickle_column(bytes: &Tensor) -> PyResult<Column> {
    let nothing = || fault::invalid("these bytes hold no column");
    let (schema, batches) = read(bytes.buffer().ok_or_else(nothing)?)?;
    match (batches.first(), schema.fields().first()) {
        (Some(batch), Some(field)) => Ok(Column { array: Arc::clone(batch.column(0)), field: Arc::clone(field) }),
        _ => Err(nothing()),
    }
}

#[pyfunction]
pub(crate) fn unpickle_tensor(
    bytes: &[u8],
    shape: Vec<i64>,
    dtype: &str,
    valid: Option<Vec<bool>>,
) -> PyResult<Tensor> {
    // Aligned for every type of number, and not Python's own memory: whoever has a tensor may change it.
    let mut memory = MutableBuffer::new(bytes.len());
    memory.extend_from_slice(bytes);
    Tensor::of_bytes(Buffer::from(memory), shape, dtype, valid)
}

//! Arrow data as bytes for `pickle`, by which worker processes of PyTorch send their batches.

use arrow::array::{Array, RecordBatch};
use arrow::buffer::Buffer;
use arrow::datatypes::{Schema, SchemaRef};
use arrow::ipc::reader::StreamDecoder;
use arrow::ipc::writer::StreamWriter;
use cenote_runtime::arrow;
use pyo3::prelude::*;

use crate::fault;

/// The answer of `__reduce__`: the function that makes the object again, and its arguments.
pub(crate) type Reduced<'py, Arguments> = (Bound<'py, PyAny>, Arguments);

/// Returns the native function `name`, which makes a pickled object again.
pub(crate) fn maker<'py>(py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyAny>> {
    py.import("cenote._native")?.getattr(name)
}

/// Writes batches in Arrow's stream format.
pub(crate) fn write(schema: &Schema, batches: &[RecordBatch]) -> PyResult<Vec<u8>> {
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

/// Reads what [`write`] wrote; the arrays share the memory of `bytes`.
pub(crate) fn read(mut bytes: Buffer) -> PyResult<(SchemaRef, Vec<RecordBatch>)> {
    let (mut decoder, mut batches) = (StreamDecoder::new(), Vec::new());
    while !bytes.is_empty() {
        batches.extend(decoder.decode(&mut bytes).map_err(fault::arrow)?);
    }
    decoder.finish().map_err(fault::arrow)?;
    let schema = decoder.schema().ok_or_else(|| fault::invalid("these bytes hold no rows"))?;
    Ok((schema, batches))
}

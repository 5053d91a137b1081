//! The serialised form of an object: an Arrow IPC stream of one batch.

use std::io::{Read, Write};
use std::sync::Arc;

use arrow::array::{AsArray, LargeBinaryArray, RecordBatch};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, Schema};
use arrow::error::ArrowError;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use cenote_base::{Error, Result};

use super::value::Value;

/// The column that holds the bytes of an object without rows.
const BYTES_COLUMN: &str = "_cenote_bytes";

/// Writes `value` as an Arrow IPC stream.
pub(crate) fn encode(value: &Value, to: &mut dyn Write) -> Result<()> {
    let batch = match value {
        Value::Batch(batch) => batch.clone(),
        Value::Bytes(bytes) => {
            let column = LargeBinaryArray::new(OffsetBuffer::from_lengths([bytes.len()]), bytes.clone(), None);
            let schema = Schema::new(vec![Field::new(BYTES_COLUMN, DataType::LargeBinary, false)]);
            RecordBatch::try_new(Arc::new(schema), vec![Arc::new(column)]).map_err(encoding_failed)?
        }
    };
    let mut writer = StreamWriter::try_new(to, batch.schema_ref()).map_err(encoding_failed)?;
    writer.write(&batch).and_then(|()| writer.finish()).map_err(encoding_failed)
}

fn encoding_failed(source: ArrowError) -> Error {
    match source {
        ArrowError::IoError(_, source) => Error::from(source),
        source => Error::unsupported("the object cannot be written as Arrow IPC").with_source(source),
    }
}

/// Reads an object that [`encode`] wrote.
///
/// # Errors
/// `Corrupt` when the bytes are not what [`encode`] writes.
pub(crate) fn decode(from: &mut dyn Read) -> Result<Value> {
    let corrupt = |source| Error::corrupt("the bytes are not an Arrow IPC stream").with_source(source);
    let mut batches = StreamReader::try_new(from, None).map_err(corrupt)?;
    let Some(batch) = batches.next().transpose().map_err(corrupt)? else {
        return Err(Error::corrupt("the Arrow IPC stream holds no batch"));
    };
    if batch.num_columns() == 1 && batch.schema_ref().field(0).name() == BYTES_COLUMN && batch.num_rows() == 1 {
        let column = batch.column(0).as_binary_opt::<i64>();
        let column = column.ok_or_else(|| Error::corrupt("the column of plain bytes is of another type"))?;
        let (start, end) = (column.value_offsets()[0] as usize, column.value_offsets()[1] as usize);
        return Ok(Value::Bytes(column.values().slice_with_length(start, end - start)));
    }
    Ok(Value::Batch(batch))
}

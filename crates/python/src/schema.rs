//! Schemas from type names.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use cenote_runtime::{arrow, blob_field};
use pyo3::prelude::*;

use crate::fault::invalid;
use crate::interchange::{self, PySchema};

/// Makes a schema from (name, type) pairs. A type is a name such as `string` or `vector:512`, or has
/// `__arrow_c_schema__`.
#[pyfunction]
pub(crate) fn schema(columns: Vec<(String, Bound<'_, PyAny>)>) -> PyResult<PySchema> {
    if let Some((name, _)) = columns.iter().find(|(name, _)| name.contains('\0')) {
        return Err(invalid(format!("column `{}`: a name cannot contain a zero byte", name.escape_debug())));
    }
    let field = |(name, kind): &(String, Bound<'_, PyAny>)| match kind.extract::<String>() {
        Ok(kind) => parse(name, &kind),
        Err(_) => {
            let schema = interchange::field(kind)?;
            Ok(schema.with_name(name))
        }
    };
    let fields = columns.iter().map(field).collect::<PyResult<Vec<Field>>>()?;
    Ok(PySchema(Arc::new(Schema::new(fields))))
}

fn parse(name: &str, kind: &str) -> PyResult<Field> {
    if kind == "media" {
        return Ok(blob_field(name));
    }
    let wrong = || {
        invalid(format!(
            "column `{name}` has an unknown type `{kind}`: use string, bytes, bool, int8 … int64, uint8 … uint64, \
             float16, float32, float64, date, timestamp, media, vector:N, or a type of pyarrow"
        ))
    };
    let data_type = match kind {
        "string" => DataType::Utf8,
        "bytes" => DataType::Binary,
        "bool" => DataType::Boolean,
        "int8" => DataType::Int8,
        "int16" => DataType::Int16,
        "int32" => DataType::Int32,
        "int64" => DataType::Int64,
        "uint8" => DataType::UInt8,
        "uint16" => DataType::UInt16,
        "uint32" => DataType::UInt32,
        "uint64" => DataType::UInt64,
        "float16" => DataType::Float16,
        "float32" => DataType::Float32,
        "float64" => DataType::Float64,
        "date" => DataType::Date32,
        "timestamp" => DataType::Timestamp(TimeUnit::Microsecond, None),
        _ => {
            let width = kind.strip_prefix("vector:").and_then(|width| width.parse::<i32>().ok());
            let width = width.filter(|width| *width > 0).ok_or_else(wrong)?;
            DataType::FixedSizeList(Arc::new(Field::new("item", DataType::Float32, true)), width)
        }
    };
    Ok(Field::new(name, data_type, true))
}
